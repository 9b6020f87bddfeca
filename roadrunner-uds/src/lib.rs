//! Roadrunner on one host: payloads between linear memories of two processes over UNIX sockets

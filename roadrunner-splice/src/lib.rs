//! Roadrunner between hosts: payloads between linear memories over TCP with vmsplice and splice

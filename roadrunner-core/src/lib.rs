//! The Transfer trait and its contract: payloads between WebAssembly linear memories without serialisation

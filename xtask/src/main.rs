//! The runner of this repository.
fn main() {}

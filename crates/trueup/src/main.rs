//! The Trueup server.
fn main() {}

//! The `onair` command.
fn main() {}

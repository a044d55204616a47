//! Clients of others, with code generated from `proto/` by their own tools: one file a language. Each is fetched on
//! first use, so that `cargo test` alone is enough.

mod go;
#[allow(dead_code)] // what is for servers that come and go
mod http;
mod prometheus;
mod python;
mod scenario;
mod server;
mod tools;

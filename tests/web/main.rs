//! The HTTP front as the web's own tools see it: a validator of OpenAPI, a fuzzer by that document, and a browser. Each
//! tool is fetched on first use; one that cannot be had is told, and its test is skipped.

#[path = "../clients/http.rs"]
mod http;
#[allow(dead_code)] // what only clients of gRPC need
#[path = "../clients/server.rs"]
mod server;
#[allow(dead_code)] // what every machine can have
#[path = "../clients/tools.rs"]
mod tools;

mod browser;
mod document;
mod fuzz;
mod page;

//! The OpenAPI document of a running server: valid, with examples that are what their schemas say and that work.

use std::process::Command;

use crate::{
    server::Server,
    tools::{self, top},
};

#[test]
fn it_is_valid_and_its_examples_work() {
    let Some(python) = tools::offered("openapi") else { return };
    let server = Server::start();
    let mut judge = Command::new(python);
    judge.arg("-B").arg(top().join("tests/web/document.py")).arg(format!("http://{}", server.address()));
    let said = tools::run(&mut judge);
    assert!(said.contains("examples ran"), "{said}");
    print!("{said}");
}

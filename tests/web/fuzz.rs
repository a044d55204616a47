//! A fuzzer that reads the OpenAPI document asks whatever that allows, and what it does not allow: no fault of the
//! server, and no status, type, header or body that the document lacks.

use std::{env, process::Command};

use crate::{
    server::Server,
    tools::{self, top},
};

/// How long it may go on, in seconds, and the number that it begins with: the same each time but in a long run.
fn effort() -> [String; 2] {
    let given = |name: &str, otherwise: &str| env::var(name).unwrap_or_else(|_| otherwise.to_owned());
    [given("ONAIR_FUZZ_SECONDS", "40"), given("ONAIR_FUZZ_SEED", "1")]
}

#[test]
fn schemathesis_finds_no_fault() {
    let Some(python) = tools::offered("openapi") else { return };
    let [seconds, seed] = effort();
    let (server, home, here) = (Server::start(), tempfile::tempdir().unwrap(), top().join("tests/web"));
    let mut fuzzer = Command::new(python.with_file_name("schemathesis"));
    // What it keeps of a run goes with the directory.
    fuzzer.current_dir(home.path()).env("PYTHONPATH", &here).env("PYTHONDONTWRITEBYTECODE", "1");
    fuzzer.arg("--config-file").arg(here.join("schemathesis.toml"));
    fuzzer.args(["run", &format!("http://{}/v1/openapi.json", server.address())]);
    fuzzer.args(["--no-color", "--seed", &seed, "--max-time", &seconds]);
    let output = fuzzer.output().unwrap();
    // It shows whole requests, and some are long.
    let said = String::from_utf8_lossy(&output.stdout);
    let said: String = said.lines().map(|line| line.chars().take(400).chain(['\n']).collect::<String>()).collect();
    println!("{said}");
    assert!(
        output.status.success(),
        "{}\nthe server's log:\n{}",
        String::from_utf8_lossy(&output.stderr),
        server.log()
    );
}

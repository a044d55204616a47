//! Go, with stubs by buf and the two usual plugins, which the client's module names as its tools.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    scenario,
    tools::{run, tool, top},
};

/// The client, built from a copy of its module with the stubs beside it. Always in the same place, so that what did not
/// change is not compiled again.
fn build() -> PathBuf {
    let into = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tour-in-go");
    // Of an earlier run, if there was one.
    let _ = fs::remove_dir_all(&into);
    fs::create_dir_all(&into).unwrap();
    let files = fs::read_dir(top().join("tests/clients/go")).unwrap().map(Result::unwrap);
    for file in files.filter(|file| file.path().is_file()) {
        fs::copy(file.path(), into.join(file.file_name())).unwrap();
    }
    let go = tool("go");
    let mut path = vec![go.parent().unwrap().to_owned()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let proto = top().join("proto");
    let mut stubs = Command::new(tool("buf"));
    stubs.args(["generate", "--template", "buf.gen.yaml"]).arg(&proto).arg("--path").arg(proto.join("onair/v1"));
    // buf runs the plugins by `go tool`.
    run(stubs.env("PATH", std::env::join_paths(path).unwrap()).current_dir(&into));
    run(Command::new(&go).args(["build", "-o", "tour", "."]).current_dir(&into));
    into.join("tour")
}

#[test]
fn a_client_in_go_takes_the_tour() {
    let client = scenario::undisturbed(build);
    scenario::take(&mut Command::new(client));
}

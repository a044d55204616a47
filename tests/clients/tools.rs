//! Programs that are not ours, by the names that `.ci/install` knows. Knows nothing of what they are used for.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

/// Where the tool is; it is fetched if it is not there yet.
pub fn tool(name: &str) -> PathBuf {
    fetched(name).unwrap_or_else(|said| panic!("this test runs {name}, which cannot be had here:\n{said}"))
}

/// The same for a tool that not every machine can have: without it, why not is told.
#[allow(dead_code)] // what only browsers and the like are
pub fn offered(name: &str) -> Option<PathBuf> {
    let told = |said: &String| skipped(&format!("{name} cannot be had here: {}", said.trim_end().replace('\n', "; ")));
    fetched(name).inspect_err(told).ok()
}

/// Says that a test does not happen, and why. What a test prints is shown only if it fails; this is shown always.
pub fn skipped(why: &str) {
    // Without anyone to tell, there is nobody to know.
    let _ = writeln!(io::stderr(), "SKIPPED {}: {why}", thread::current().name().unwrap_or_default());
}

fn fetched(name: &str) -> Result<PathBuf, String> {
    let install = Command::new("bash").args([".ci/install", name]).current_dir(top()).output().unwrap();
    match install.status.success() {
        true => Ok(PathBuf::from(String::from_utf8(install.stdout).unwrap().trim_end())),
        false => Err(String::from_utf8_lossy(&install.stderr).into_owned()),
    }
}

/// Runs `command` to its end; what it said if it failed.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// The top of the checkout.
pub fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

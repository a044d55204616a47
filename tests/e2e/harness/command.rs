//! The `onair` command run as a person or a script runs it.

use std::{
    path::Path,
    process::{Output, Stdio},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    process::{Child, Command},
    sync::mpsc,
};

use super::within;

/// The program.
pub const ONAIR: &str = env!("CARGO_BIN_EXE_onair");

/// No variable, file or directory of whoever runs the tests has a say.
pub fn in_a_clean_place(command: &mut Command, home: &Path) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env_clear().env("PATH", path).env("HOME", home).current_dir(home).stdin(Stdio::null());
}

/// Runs `onair` with these arguments to its end.
pub async fn onair(args: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(ONAIR);
    in_a_clean_place(&mut command, home.path());
    command.args(args).kill_on_drop(true);
    within(&format!("onair {}", args.join(" ")), command.output()).await.unwrap()
}

/// Exit code, standard output and standard error.
pub fn said(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// Sends a signal by its name without SIG.
pub fn signal(pid: u32, name: &str) {
    let sent = std::process::Command::new("kill").args([format!("-{name}"), pid.to_string()]).status();
    assert!(sent.unwrap().success(), "kill -{name} {pid}");
}

/// The same to a whole group of processes, if there is one.
pub fn signal_group(leader: u32, name: &str) {
    // It may have ended by itself.
    let _ =
        std::process::Command::new("kill").args([format!("-{name}"), "--".to_owned(), format!("-{leader}")]).status();
}

/// The lines that a program prints to one of its outputs.
pub struct Lines(mpsc::UnboundedReceiver<String>);

impl Lines {
    pub fn of(output: impl AsyncRead + Send + Unpin + 'static) -> Self {
        let (lines, read) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut output = BufReader::new(output).lines();
            while let Ok(Some(text)) = output.next_line().await {
                if lines.send(text).is_err() {
                    return;
                }
            }
        });
        Self(read)
    }

    /// The next one that has `part` in it; those before it are passed over.
    pub async fn line(&mut self, part: &str) -> String {
        let mut passed = Vec::new();
        while let Some(line) = within(&format!("a line with {part:?}, after {passed:?}"), self.0.recv()).await {
            if line.contains(part) {
                return line;
            }
            passed.push(line);
        }
        panic!("the output ended without {part:?}: {passed:?}");
    }
}

/// An `onair` that runs for as long as the test wants.
pub struct Running {
    process: Child,
    pub out: Lines,
    pub err: Lines,
    _home: TempDir,
}

impl Running {
    pub fn start(args: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut command = Command::new(ONAIR);
        in_a_clean_place(&mut command, home.path());
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let out = Lines::of(process.stdout.take().unwrap());
        let err = Lines::of(process.stderr.take().unwrap());
        Self { process, out, err, _home: home }
    }

    /// SIGKILL, and that it is gone.
    pub async fn kill(mut self) {
        self.process.start_kill().unwrap();
        within("the end after SIGKILL", self.process.wait()).await.unwrap();
    }

    /// Sends a signal by its name without SIG.
    pub fn signal(&self, name: &str) {
        signal(self.process.id().expect("it runs"), name);
    }

    /// The exit code, once it has ended.
    pub async fn ended(&mut self) -> i32 {
        within("the command's end", self.process.wait()).await.unwrap().code().unwrap_or(-1)
    }
}

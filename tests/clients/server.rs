//! The real binary as a server that can be killed. Knows nothing of what is asked.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Stdio},
};

/// `onair serve` on a free port, with data that outlives the process.
pub struct Server {
    process: Child,
    address: SocketAddr,
    home: tempfile::TempDir,
    arguments: Vec<String>,
    lives: usize,
}

impl Server {
    /// A server with no data.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with further arguments, in each of its lives.
    pub fn start_with(arguments: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let arguments: Vec<_> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let (process, address) = spawn(&home, "127.0.0.1:0", &arguments, 0, 0);
        Self { process, address, home, arguments, lives: 1 }
    }

    /// Where it listens, in each of its lives.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again: with the data that it left, or with none.
    pub fn again(&mut self, empty: bool) {
        let registry = if empty { self.lives } else { 0 };
        (self.process, _) = spawn(&self.home, &self.address.to_string(), &self.arguments, self.lives, registry);
        self.lives += 1;
    }

    /// SIGTERM, which only asks.
    pub fn ask_to_stop(&self) {
        crate::tools::run(Command::new("kill").args(["-s", "TERM", &self.process.id().to_string()]));
    }

    /// How it ended.
    pub fn ended(&mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }

    /// What it logged in all of its lives.
    pub fn log(&self) -> String {
        let read = |life| std::fs::read_to_string(self.home.path().join(format!("log-{life}"))).unwrap_or_default();
        (0..self.lives).map(read).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts a process, and returns when its port answers.
fn spawn(
    home: &tempfile::TempDir,
    listen: &str,
    arguments: &[String],
    life: usize,
    registry: usize,
) -> (Child, SocketAddr) {
    let mut process = Command::new(env!("CARGO_BIN_EXE_onair"))
        .args(["serve", "--register-itself", "off", "--listen", listen, "--data-dir"])
        .arg(home.path().join(format!("registry-{registry}")))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(home.path().join(format!("log-{life}"))).unwrap())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut said).unwrap();
    let address = said.split_once("listening on ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    (process, address.unwrap_or_else(|| panic!("the server says where it listens, not {said:?}")))
}

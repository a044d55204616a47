//! A shell that a person types into: variables and jobs stay from one block of commands to the next.

use std::{path::Path, process::Stdio};

use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, ChildStdin, Command},
};

use super::{
    ONAIR,
    command::{Lines, in_a_clean_place, signal_group},
};

/// What the shell says when a block is done, with the exit status of its last command.
const DONE: &str = "-- done:";

/// The shell. What it runs ends with it.
pub struct Terminal {
    shell: Child,
    input: ChildStdin,
    out: Lines,
}

impl Terminal {
    /// A shell in `dir`, for which `onair` and the programs of `tools` are commands, with a variable.
    pub fn open(dir: &Path, tools: &[&Path], variable: (&str, &str)) -> Self {
        let mut places: Vec<_> = tools.iter().map(|tool| tool.parent().unwrap().to_owned()).collect();
        places.push(Path::new(ONAIR).parent().unwrap().to_owned());
        places.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        let mut command = Command::new("bash");
        in_a_clean_place(&mut command, dir);
        command.env("PATH", std::env::join_paths(places).unwrap()).env(variable.0, variable.1);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0).kill_on_drop(true);
        let mut shell = command.spawn().unwrap();
        let (input, out) = (shell.stdin.take().unwrap(), Lines::of(shell.stdout.take().unwrap()));
        Self { shell, input, out }
    }

    /// Types a block, and does not wait for its end.
    pub async fn begin(&mut self, block: &str) {
        let typed = format!("{{\n{block}\n}} </dev/null 2>&1\necho \"{DONE} $?\"\n");
        self.input.write_all(typed.as_bytes()).await.unwrap();
    }

    /// The next line that has `part` in it; those before it are passed over.
    pub async fn line(&mut self, part: &str) -> String {
        self.out.line(part).await
    }

    /// Reads the next line that has `part` in it, which has to end so.
    pub async fn ends_with(&mut self, part: &str, end: &str) {
        let line = self.line(part).await;
        assert!(line.ends_with(end), "{line:?} does not end with {end:?}");
    }

    /// Waits for the end of what was begun: what was printed that has not been read, and the exit status.
    pub async fn end(&mut self) -> (String, i32) {
        let mut said = String::new();
        loop {
            let line = self.out.line("").await;
            if let Some((before, status)) = line.split_once(DONE) {
                // The last line of a program may have no end.
                said.push_str(before);
                return (said, status.trim().parse().unwrap());
            }
            said.push_str(&line);
            said.push('\n');
        }
    }

    /// Types a block, and waits for its end.
    pub async fn run(&mut self, block: &str) -> String {
        self.begin(block).await;
        self.end().await.0
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(pid) = self.shell.id() {
            signal_group(pid, "KILL");
        }
    }
}

//! An example that runs: what it prints, line by line, and how it ends. Knows nothing of what the lines mean.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, SystemTime},
};

use serde_json::Value;
use tokio::{sync::mpsc, time::timeout};

use crate::{language::Example, tools::run};

/// The longest that anything may take which ought to come soon.
const PATIENCE: Duration = Duration::from_secs(90);

/// One line, and when it was read.
#[derive(Clone, Debug)]
pub struct Line {
    pub read: SystemTime,
    pub said: Value,
}

impl Line {
    /// Which event it is of.
    pub fn event(&self) -> &str {
        self.text("event")
    }

    /// A fact that is text; empty if it is not there.
    pub fn text(&self, name: &str) -> &str {
        self.said[name].as_str().unwrap_or_default()
    }

    /// What was in the set then.
    pub fn ids(&self) -> Vec<&str> {
        self.said["ids"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }
}

/// A process that says what happens to it.
pub struct Program {
    process: Child,
    coming: mpsc::UnboundedReceiver<Line>,
    /// All that it said, as far as it was read here.
    pub lines: Vec<Line>,
}

impl Program {
    /// Runs it.
    pub fn start(example: &Example, arguments: &[&str]) -> Self {
        let mut command = example.command(arguments);
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(process.stdout.take().unwrap());
        let (lines, coming) = mpsc::unbounded_channel();
        thread::spawn(move || {
            for line in said.lines().map_while(Result::ok) {
                let read = SystemTime::now();
                let said = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
                if lines.send(Line { read, said }).is_err() {
                    return;
                }
            }
        });
        Self { process, coming, lines: Vec::new() }
    }

    /// Reads until a line comes for which `wanted` holds.
    pub async fn until(&mut self, what: &str, wanted: impl Fn(&Line) -> bool) -> &Line {
        loop {
            let Ok(Some(line)) = timeout(PATIENCE, self.coming.recv()).await else {
                panic!("{what}: it never said so\n{}", self.last());
            };
            self.lines.push(line);
            let line = self.lines.last().unwrap();
            if wanted(line) {
                return self.lines.last().unwrap();
            }
        }
    }

    /// Reads until it says that this happened.
    pub async fn says(&mut self, event: &str) -> &Line {
        self.until(event, |line| line.event() == event).await
    }

    /// Reads until its set is complete and has these ids and no others.
    pub async fn holds(&mut self, ids: &[&str]) -> &Line {
        self.until(&format!("{ids:?} are the set"), |line| line.event() == "set" && line.ids() == ids).await
    }

    /// Reads until an instance of this id is in its set.
    pub async fn sees(&mut self, id: &str) -> &Line {
        self.until(&format!("{id} is in the set"), |line| line.event() == "set" && line.ids().contains(&id)).await
    }

    /// Reads until a beat is answered from now on.
    pub async fn beats(&mut self) {
        let now = SystemTime::now();
        let renewed = |line: &Line| line.text("state") == "BEAT_STATE_RENEWED" && line.read > now;
        self.until("a lease that is renewed", renewed).await;
    }

    /// SIGTERM.
    pub fn ask_to_stop(&self) {
        run(Command::new("kill").args(["-s", "TERM", &self.process.id().to_string()]));
    }

    /// Reads to its end; how it ended.
    pub async fn ended(&mut self) -> ExitStatus {
        while let Ok(Some(line)) = timeout(PATIENCE, self.coming.recv()).await {
            self.lines.push(line);
        }
        self.process.wait().unwrap()
    }

    /// All lines of an event.
    pub fn all<'a>(&'a self, event: &'a str) -> impl Iterator<Item = &'a Line> {
        self.lines.iter().filter(move |line| line.event() == event)
    }

    fn last(&self) -> String {
        let from = self.lines.len().saturating_sub(30);
        self.lines[from..].iter().map(|line| format!("{}\n", line.said).chars().take(300).collect::<String>()).collect()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

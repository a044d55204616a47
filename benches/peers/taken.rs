//! Where, when and how figures were taken: it stands with them wherever they are told.

use std::{
    fmt::Write as _,
    process::{Command, Stdio},
};

use serde::{Deserialize, Serialize};

use crate::machine::{Machine, load_average};

/// Where, when and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Taken {
    /// The day, in UTC.
    pub date: String,
    /// The version that was measured, with its commit.
    pub version: String,
    /// Whether servers were built for speed.
    pub release: bool,
    /// The exact command.
    pub command: String,
    /// The machine.
    pub machine: Machine,
    /// Its load average before, and after.
    pub load_before: Vec<f64>,
    /// Its load average after.
    pub load_after: Vec<f64>,
}

impl Taken {
    /// Here and now, as far as it is known before.
    pub fn now() -> Self {
        Self {
            date: said(Command::new("date").args(["-u", "+%F"])).unwrap_or_default(),
            version: ::onair::VERSION.to_owned(),
            release: !cfg!(debug_assertions),
            command: command(),
            machine: Machine::here(),
            load_before: load_average(),
            load_after: Vec::new(),
        }
    }

    /// What is known only afterwards.
    pub fn finish(&mut self) {
        self.load_after = load_average();
    }

    /// All of it as a list.
    pub fn told(&self) -> String {
        let load = |load: &[f64]| load.first().map_or(String::new(), |minute| format!("{minute:.2}"));
        let (machine, slow) = (&self.machine, if self.release { "" } else { ", NOT BUILT FOR SPEED" });
        let mut text =
            format!("- Taken {} with onair {}{slow}.\n- Command: `{}`\n", self.date, self.version, self.command);
        let _ = writeln!(
            text,
            "- Machine: {} cores of {}, {} MiB, Linux {}; load average {} before and {} after.",
            machine.cores,
            machine.cpu,
            machine.memory_mib,
            machine.kernel,
            load(&self.load_before),
            load(&self.load_after)
        );
        text
    }
}

/// The command as it was typed.
fn command() -> String {
    let words: Vec<_> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    format!("cargo bench --bench peers -- {}", words.join(" "))
}

/// The first line that a command says.
pub fn said(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(|line| line.trim().to_owned())
}

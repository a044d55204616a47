//! The `onair` command: parse, run, exit code.

use std::{panic, process::ExitCode};

use clap::Parser;
use onair::cli::{self, Cli};

/// Exit code for a fault of our own (`EX_SOFTWARE`).
const FAULT: u8 = 70;

fn main() -> ExitCode {
    let cli = Cli::parse();
    panic::catch_unwind(|| cli::run(cli)).unwrap_or(ExitCode::from(FAULT))
}

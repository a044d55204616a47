//! The `onair` command: parse, run, exit code.

use std::{panic, process::ExitCode};

use clap::Parser;
use onair::cli::{self, Cli};

/// A call takes and gives back some tens of pieces of memory, which is a quarter of its time with the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code for a fault of our own (`EX_SOFTWARE`).
const FAULT: u8 = 70;

fn main() -> ExitCode {
    let cli = Cli::parse();
    panic::catch_unwind(|| cli::run(cli)).unwrap_or(ExitCode::from(FAULT))
}

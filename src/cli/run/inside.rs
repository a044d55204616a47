//! The two small processes that keep `run` from leaving anything behind. One becomes the program, having asked the kernel
//! to kill it with its parent; the other kills the program's whole group when the parent is gone. Both are this command
//! again, since nothing may happen between a fork and what it starts.

use std::{
    ffi::OsString,
    io::{self, BufRead as _},
    os::unix::process::{CommandExt as _, parent_id},
    process::Command,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
};

use crate::cli::failure::Failure;

/// The name of the hidden command.
pub(in crate::cli) const VERB: &str = "run-inside";

/// Arguments of the hidden command.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Become the program.
    Exec {
        /// The process that has to be the parent.
        parent: u32,
        /// The program and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Kill the process group on the first line of standard input when there is no more input.
    Guard,
}

/// The arguments by which this command becomes a program, which follows.
pub(super) fn exec() -> Vec<OsString> {
    [VERB, "exec", &std::process::id().to_string(), "--"].map(OsString::from).into()
}

/// The arguments by which this command guards.
pub(super) fn guard() -> [&'static str; 2] {
    [VERB, "guard"]
}

/// Does what it was started for.
///
/// # Errors
/// The program cannot be started.
pub(in crate::cli) fn run(args: Args) -> Result<(), Failure> {
    match args.what {
        What::Exec { parent, command } => exec_with(parent, &command),
        What::Guard => {
            let _heard = outlive()?;
            let mut lines = io::stdin().lock().lines();
            let group = lines.next().transpose()?.and_then(|line| Pid::from_raw(line.parse().ok()?));
            if let Some(group) = group {
                while lines.next().is_some() {}
                // They may be gone.
                let _ = kill_process_group(group, Signal::KILL);
            }
            Ok(())
        }
    }
}

/// Signals that are sent to everything of a service at once would end who has to see to the rest. They are heard, as long
/// as what is returned lives, and by nobody.
fn outlive() -> io::Result<Runtime> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    {
        let _within = runtime.enter();
        for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup(), SignalKind::quit()] {
            drop(signal(kind)?);
        }
    }
    Ok(runtime)
}

fn exec_with(parent: u32, command: &[OsString]) -> Result<(), Failure> {
    let [program, arguments @ ..] = command else { return Err(Failure::Internal("there is no program".to_owned())) };
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from)?;
    if parent_id() != parent {
        // It ended before it could take us with it.
        return Err(Failure::Other("the command that started this is gone".to_owned()));
    }
    let error = Command::new(program).args(arguments).exec();
    let why = match error.kind() {
        io::ErrorKind::NotFound => "there is no such program".to_owned(),
        _ => error.to_string(),
    };
    // As shells have it.
    let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
    Err(Failure::Program { what: Some(format!("cannot start {}: {why}", program.display())), code })
}

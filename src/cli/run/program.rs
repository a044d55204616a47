//! A program that runs under the command: started in a process group of its own, signalled as a group, and never left
//! behind. Knows no registry.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    io,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, test_kill_process_group, waitpgid};
use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, Command},
    time::{sleep, timeout},
};

use super::{inside, output::Outputs};
use crate::cli::failure::Failure;

/// How long the group may take to be gone after SIGKILL.
const KILLED: Duration = Duration::from_secs(5);
/// Between two looks at who is left of it.
const LOOKS: Duration = Duration::from_millis(10);

/// A program that was started.
pub(super) struct Program {
    child: Child,
    /// Its process group, which its own children are in unless they leave it.
    group: Pid,
    /// Kills the group when this process is gone, however that came; it notices by its standard input.
    guard: Child,
    ended: Option<ExitStatus>,
}

impl Program {
    /// Starts it with these variables besides those that are there.
    ///
    /// # Errors
    /// It is no program that can be started.
    pub(super) async fn start(
        command: &[OsString],
        dir: Option<&Path>,
        variables: &BTreeMap<String, String>,
        outputs: Option<&mut Outputs>,
    ) -> Result<Self, Failure> {
        if let Some(dir) = dir.filter(|dir| !dir.is_dir()) {
            return Err(Failure::Usage(format!("{} is no directory that a program could run in", dir.display())));
        }
        let own = env::current_exe()?;
        let mut inner = Command::new(&own);
        inner.args(inside::exec()).args(command).envs(variables).process_group(0).kill_on_drop(true);
        if let Some(dir) = dir {
            inner.current_dir(dir);
        }
        // It is not in the terminal's foreground: reading there would stop it. One of several has no say there.
        if outputs.is_some() || io::IsTerminal::is_terminal(&io::stdin()) {
            inner.stdin(Stdio::null());
        }
        if outputs.is_some() {
            inner.stdout(Stdio::piped()).stderr(Stdio::piped());
        }
        let mut guard = Command::new(&own);
        guard.args(inside::guard()).process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).kill_on_drop(true);
        let mut guard = guard.spawn()?;
        let mut child = inner.spawn()?;
        if let Some(outputs) = outputs {
            outputs.follow(&mut child);
        }
        let pid = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        let group = pid.ok_or_else(|| Failure::Internal("the program has no process id".to_owned()))?;
        if let Some(stdin) = &mut guard.stdin {
            stdin.write_all(format!("{}\n", group.as_raw_nonzero()).as_bytes()).await?;
        }
        Ok(Self { child, group, guard, ended: None })
    }

    /// Waits until it has ended by itself.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        let status = self.child.wait().await?;
        self.ended = Some(status);
        Ok(status)
    }

    /// Waits until nobody of its group is left. A shell ends before what it has started, which was told to end as well and
    /// may still be at its work.
    async fn all_ended(&mut self) -> io::Result<ExitStatus> {
        let ended = self.ended().await?;
        while self.is_anyone_left() {
            sleep(LOOKS).await;
        }
        Ok(ended)
    }

    fn is_anyone_left(&self) -> bool {
        // Who has ended and was waited for by nobody would count for ever.
        while let Ok(Some(_)) = waitpgid(self.group, WaitOptions::NOHANG) {}
        test_kill_process_group(self.group).is_ok()
    }

    /// Sends a signal to it and its children.
    pub(super) fn signal(&self, signal: Signal) {
        // They may be gone.
        let _ = kill_process_group(self.group, signal);
    }

    /// Asks it and all that it has started to end with `signal`; whoever is left of them after `slack` is killed. Also
    /// whether somebody had to be.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub(super) async fn stop(&mut self, signal: Signal, slack: Duration) -> io::Result<(ExitStatus, bool)> {
        let _orphans = Orphans::take();
        self.signal(signal);
        if let Ok(ended) = timeout(slack, self.all_ended()).await {
            return Ok((ended?, false));
        }
        self.signal(Signal::KILL);
        match timeout(KILLED, self.ended()).await {
            Ok(ended) => Ok((ended?, true)),
            Err(_) => Err(io::Error::other("the program cannot be killed")),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        // Nobody is left to be guarded.
        let _ = self.guard.start_kill();
    }
}

/// While this lives, what loses its parent is a child of this process, which waits for it: in a container there may be
/// nobody else who does.
struct Orphans;

impl Orphans {
    fn take() -> Self {
        Self::are_ours(true);
        Self
    }

    #[cfg(target_os = "linux")]
    fn are_ours(ours: bool) {
        // Without it they are somebody else's.
        let _ = rustix::process::set_child_subreaper(ours.then(rustix::process::getpid));
    }

    #[cfg(not(target_os = "linux"))]
    fn are_ours(_: bool) {}
}

impl Drop for Orphans {
    fn drop(&mut self) {
        Self::are_ours(false);
    }
}

/// The exit code of a program; of one that a signal ended as shells have it.
pub(super) fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

//! The signals that concern programs that run under the command. Once listened for, none ends this process by itself. A
//! hangup that is ignored at the start (`nohup`) stays so, for the program, too.

use std::{fs, io};

use rustix::process::Signal;
use tokio::{
    signal::unix::{self, SignalKind, signal},
    sync::mpsc,
};

/// Told and not taken yet.
const TOLD_MAX: usize = 16;

/// What a signal wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Told {
    /// SIGTERM: out of traffic first.
    Terminate,
    /// SIGINT: at once.
    Interrupt,
    /// SIGQUIT: at once, too.
    Quit,
    /// The program's own business.
    Pass(Signal),
}

impl Told {
    /// The signal that a program is told to end by.
    pub(super) fn signal(self) -> Signal {
        match self {
            Self::Terminate => Signal::TERM,
            Self::Interrupt => Signal::INT,
            Self::Quit => Signal::QUIT,
            Self::Pass(signal) => signal,
        }
    }

    /// Whether it ends what no program runs for yet: with nobody to pass it to, a closed terminal does.
    pub(in crate::cli) fn is_end(self) -> bool {
        !matches!(self, Self::Pass(signal) if signal != Signal::HUP)
    }

    /// The exit code of what it ended.
    pub(in crate::cli) fn code(self) -> u8 {
        u8::try_from(128 + self.signal().as_raw()).unwrap_or(1)
    }
}

/// What one program is told.
pub(super) struct Orders(mpsc::Receiver<Told>);

/// What one program is told, and the way to tell it.
pub(super) fn orders() -> (mpsc::Sender<Told>, Orders) {
    let (to, told) = mpsc::channel(TOLD_MAX);
    (to, Orders(told))
}

impl Orders {
    /// The next one.
    pub(super) async fn next(&mut self) -> Told {
        match self.0.recv().await {
            Some(told) => told,
            // Nobody is left to tell anything.
            None => std::future::pending().await,
        }
    }

    /// The next one that ends what has not begun.
    pub(super) async fn cancel(&mut self) -> Told {
        loop {
            let told = self.next().await;
            if told.is_end() {
                return told;
            }
        }
    }

    /// The next one that is an end; others have nobody to be passed to.
    pub(super) async fn end(&mut self) -> Told {
        loop {
            match self.next().await {
                Told::Pass(_) => {}
                end => return end,
            }
        }
    }
}

/// The signals of this process.
pub(in crate::cli) struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    quit: unix::Signal,
    hangup: Option<unix::Signal>,
    user1: unix::Signal,
    user2: unix::Signal,
}

impl Signals {
    /// Listens from now on.
    pub(in crate::cli) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: if is_ignored(Signal::HUP) { None } else { Some(signal(SignalKind::hangup())?) },
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// The next one.
    pub(in crate::cli) async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Terminate,
            _ = self.interrupt.recv() => Told::Interrupt,
            _ = self.quit.recv() => Told::Quit,
            Some(_) = heard(&mut self.hangup) => Told::Pass(Signal::HUP),
            _ = self.user1.recv() => Told::Pass(Signal::USR1),
            _ = self.user2.recv() => Told::Pass(Signal::USR2),
        }
    }

    /// The next one that ends what has not begun.
    pub(super) async fn cancel(&mut self) -> Told {
        loop {
            let told = self.next().await;
            if told.is_end() {
                return told;
            }
        }
    }

    /// Passes them on, as long as there is somebody to tell.
    pub(super) async fn tell(mut self, to: mpsc::Sender<Told>) {
        loop {
            let told = self.next().await;
            if to.send(told).await.is_err() {
                return;
            }
        }
    }
}

async fn heard(signal: &mut Option<unix::Signal>) -> Option<()> {
    match signal {
        Some(signal) => signal.recv().await,
        None => std::future::pending().await,
    }
}

/// Whether this process was started with it ignored; not where the system does not say.
fn is_ignored(signal: Signal) -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| is_among(&status, signal))
}

fn is_among(status: &str, signal: Signal) -> bool {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & (1 << (signal.as_raw() - 1)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_says_what_is_ignored() {
        let status = "SigBlk:\t0000000000000003\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000004002\n";
        assert!(is_among(status, Signal::HUP));
        assert!(!is_among(status, Signal::INT) && !is_among("", Signal::HUP));
    }
}

//! The signals that concern a program that runs under the command. Once listened for, none ends this process by itself.

use std::io;

use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind, signal};

/// What a signal wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// SIGTERM: out of traffic first.
    Terminate,
    /// SIGINT: at once.
    Interrupt,
    /// The program's own business.
    Pass(Signal),
}

pub(super) struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hangup: unix::Signal,
    user1: unix::Signal,
    user2: unix::Signal,
}

impl Signals {
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Terminate,
            _ = self.interrupt.recv() => Told::Interrupt,
            _ = self.hangup.recv() => Told::Pass(Signal::HUP),
            _ = self.user1.recv() => Told::Pass(Signal::USR1),
            _ = self.user2.recv() => Told::Pass(Signal::USR2),
        }
    }

    /// The next one that is an end; others have nobody yet to be passed to.
    pub(super) async fn end(&mut self) -> Told {
        loop {
            match self.next().await {
                Told::Pass(_) => {}
                end => return end,
            }
        }
    }
}

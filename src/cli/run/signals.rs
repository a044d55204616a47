//! The signals that concern programs that run under the command. Once listened for, none ends this process by itself.

use std::io;

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
    /// The program's own business.
    Pass(Signal),
}

impl Told {
    /// The signal that a program is told to end by.
    pub(super) fn signal(self) -> Signal {
        match self {
            Self::Terminate => Signal::TERM,
            Self::Interrupt => Signal::INT,
            Self::Pass(signal) => signal,
        }
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
    hangup: unix::Signal,
    user1: unix::Signal,
    user2: unix::Signal,
}

impl Signals {
    /// Listens from now on.
    pub(in crate::cli) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// The next one.
    pub(in crate::cli) async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Terminate,
            _ = self.interrupt.recv() => Told::Interrupt,
            _ = self.hangup.recv() => Told::Pass(Signal::HUP),
            _ = self.user1.recv() => Told::Pass(Signal::USR1),
            _ = self.user2.recv() => Told::Pass(Signal::USR2),
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

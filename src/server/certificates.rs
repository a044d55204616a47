//! The certificates while the server runs: read again when a file changes and when SIGHUP says so, on a thread of their
//! own, so that no call waits for a disk. What is wrong then is said, counted, and changes nothing.

use std::{
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, SystemTime},
};

use super::ServeError;
use crate::{
    config::ServeSettings,
    metrics::{Certificate, Metrics, Reload},
    tls::{Date, Live, Loaded, TlsError},
};

/// How often files are looked at. One that has changed is read when it looks the same twice: whoever writes two files is
/// given the time for it.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it is said that a certificate has expired, in looks.
const COMPLAIN_EVERY: u32 = 600;

/// The certificates in force, if there are any, and whoever keeps them so.
#[derive(Debug)]
pub(super) struct Certificates {
    live: Option<Arc<Live>>,
    /// The thread ends when this is dropped.
    keeper: Option<mpsc::Sender<()>>,
}

impl Certificates {
    /// Loads what the settings name, and keeps watching it.
    pub(super) fn start(settings: &ServeSettings, metrics: &Arc<Metrics>) -> Result<Self, ServeError> {
        let Some(files) = settings.tls() else { return Ok(Self { live: None, keeper: None }) };
        let live = Arc::new(Live::load(files).map_err(ServeError::Tls)?);
        said(&live.now(), metrics);
        let (keeper, asked) = mpsc::channel();
        let keep = Keeper { live: Arc::clone(&live), metrics: Arc::clone(metrics) };
        let thread = thread::Builder::new().name("onair-certs".to_owned());
        thread.spawn(move || keep.run(&asked)).map_err(ServeError::system("a thread"))?;
        Ok(Self { live: Some(live), keeper: Some(keeper) })
    }

    /// What is in force, if there is something.
    pub(super) fn live(&self) -> Option<&Arc<Live>> {
        self.live.as_ref()
    }

    /// Has them read again soon; says whether there are any.
    pub(super) fn read_again(&self) -> bool {
        // The thread ends with us.
        self.keeper.as_ref().is_some_and(|keeper| keeper.send(()).is_ok())
    }
}

/// What the thread does.
struct Keeper {
    live: Arc<Live>,
    metrics: Arc<Metrics>,
}

impl Keeper {
    fn run(&self, asked: &mpsc::Receiver<()>) {
        let (mut read, mut seen) = (self.live.look(), self.live.look());
        for turn in 0_u32.. {
            match asked.recv_timeout(LOOK_EVERY) {
                Ok(()) => {
                    (read, seen) = (self.live.look(), self.live.look());
                    self.reload("SIGHUP");
                }
                Err(RecvTimeoutError::Timeout) => {
                    let looks = self.live.look();
                    if looks != read && looks == seen {
                        read.clone_from(&looks);
                        self.reload("a file has changed");
                    }
                    seen = looks;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let expires = self.live.now().expires;
            if turn % COMPLAIN_EVERY == 0 && expires < SystemTime::now() {
                tracing::error!(expired = %Date(expires), "the certificate in force has expired: clients refuse it");
            }
        }
    }

    fn reload(&self, why: &str) {
        match self.live.reload() {
            Ok(loaded) => {
                self.metrics.tls_reloads.of((Reload::Done,)).inc();
                tracing::info!(why, "the certificates were read again: new connections use them");
                said(&loaded, &self.metrics);
            }
            Err(wrong) => {
                self.metrics.tls_reloads.of((Reload::Refused,)).inc();
                let wrong = sentences(&wrong);
                tracing::error!(why, %wrong, "the certificates cannot be used: those from before stay in force");
            }
        }
    }
}

/// Shows what is in force now.
fn said(loaded: &Loaded, metrics: &Metrics) {
    let names: Vec<_> = loaded.names.iter().map(ToString::to_string).collect();
    tracing::info!(names = %names.join(", "), expires = %Date(loaded.expires), "speaking TLS");
    if names.is_empty() {
        tracing::warn!("the certificate names no host (subject alternative name): clients refuse it");
    }
    let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    metrics.tls_expiry.of((Certificate::Server,)).set(since(loaded.expires));
    if let Some(expires) = loaded.clients_expire {
        metrics.tls_expiry.of((Certificate::Clients,)).set(since(expires));
    }
}

/// All of them in a line.
fn sentences(wrong: &[TlsError]) -> String {
    wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

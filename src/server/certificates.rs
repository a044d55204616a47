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

use super::{ServeError, handshake::Handshakes};
use crate::{
    config::ServeSettings,
    metrics::{Certificate, Metrics, Reload},
    tls::{Date, Live, Loaded, Look, TlsError},
};

/// How often files are looked at. One that has changed is read when it looks the same twice: whoever writes two files is
/// given the time for it.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often what was refused is tried again, in looks: it may become valid, or readable, without looking different.
const TRY_EVERY: u32 = 10;
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
        // Before it is read: what changes meanwhile is seen.
        let read = files.look();
        let live = Arc::new(Live::load(files).map_err(ServeError::Tls)?);
        said(&live.now(), metrics);
        let (keeper, asked) = mpsc::channel();
        let keep = Keeper { live: Arc::clone(&live), metrics: Arc::clone(metrics), read, refused: None };
        let thread = thread::Builder::new().name("onair-certs".to_owned());
        thread.spawn(move || keep.run(&asked)).map_err(ServeError::system("a thread"))?;
        Ok(Self { live: Some(live), keeper: Some(keeper) })
    }

    /// What is in force, if there is something.
    pub(super) fn live(&self) -> Option<&Arc<Live>> {
        self.live.as_ref()
    }

    /// Who does the handshakes of clients, if there are any.
    pub(super) fn handshakes(&self, settings: &ServeSettings, metrics: &Arc<Metrics>) -> Option<Handshakes> {
        let live = self.live.as_ref()?;
        let room = (settings.max_connections, settings.io_threads);
        Some(Handshakes::new(Arc::clone(live), false, room, metrics))
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
    /// How the files looked when they were read.
    read: Vec<Option<Look>>,
    /// What was wrong then.
    refused: Option<String>,
}

impl Keeper {
    fn run(mut self, asked: &mpsc::Receiver<()>) {
        let mut seen = self.read.clone();
        for turn in 0_u32.. {
            match asked.recv_timeout(LOOK_EVERY) {
                Ok(()) => {
                    self.refused = None;
                    self.reload("SIGHUP");
                }
                Err(RecvTimeoutError::Timeout) => {
                    let looks = self.live.look();
                    let over = self.live.now().read_again.is_some_and(|end| end < SystemTime::now());
                    let again = (over || self.refused.is_some()) && turn % TRY_EVERY == 0;
                    if looks != self.read && looks == seen {
                        self.reload("a file has changed");
                    } else if again {
                        self.reload(if over { "an authority has expired" } else { "they were refused before" });
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

    fn reload(&mut self, why: &str) {
        self.read = self.live.look();
        match self.live.reload() {
            Ok(loaded) => {
                self.refused = None;
                self.metrics.tls_reloads.of((Reload::Done,)).inc();
                tracing::info!(why, "the certificates were read again: new connections use them");
                said(&loaded, &self.metrics);
            }
            Err(wrong) => {
                let wrong = sentences(&wrong);
                if self.refused.as_ref() != Some(&wrong) {
                    self.metrics.tls_reloads.of((Reload::Refused,)).inc();
                    tracing::error!(why, %wrong, "the certificates cannot be used: those from before stay in force");
                    self.refused = Some(wrong);
                }
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
    if loaded.is_slow {
        tracing::warn!(
            "the certificate's key is RSA of more than 2048 bits: each handshake takes many times the processor time of \
             one with ECDSA (P-256)"
        );
    }
    if loaded.is_open {
        tracing::warn!("everybody on this machine can read the file of the key: take that right away (chmod 600)");
    }
    if let Some(expired) = loaded.expired {
        tracing::warn!(%expired, "a certificate that leads on from ours has expired: only who knows another way believes it");
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

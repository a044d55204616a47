//! The keys by which tokens of others are verified, while the server runs: their file is read again when it changes and
//! when SIGHUP says so, on a thread of its own, so that no call waits for a disk. What is wrong then is said, counted, and
//! changes nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, SystemTime},
};

use super::ServeError;
use crate::{
    access::{
        Keeper,
        jwt::{Expected, Jwt},
    },
    config::ServeSettings,
    metrics::{Metrics, Reload},
};

/// How often the file is looked at. One that has changed is read when it looks the same twice.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Longest file that is read: thousands of keys.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Whoever keeps the keys in force.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// The thread ends when this is dropped.
    asks: Option<mpsc::Sender<()>>,
}

impl Keys {
    /// Loads what the settings name, and keeps watching it.
    pub(super) fn start(
        settings: &ServeSettings,
        keeper: &Arc<Keeper>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, ServeError> {
        let Some(path) = &settings.jwt_keys else { return Ok(Self::default()) };
        let expected = Expected {
            issuer: settings.jwt_issuer.clone(),
            audience: settings.jwt_audience.clone(),
            leeway: settings.jwt_leeway.as_secs(),
        };
        let file = File { path: path.clone(), expected, keeper: Arc::clone(keeper), metrics: Arc::clone(metrics) };
        keeper.believe(file.read().map_err(ServeError::Keys)?);
        let (asks, asked) = mpsc::channel();
        let thread = thread::Builder::new().name("onair-keys".to_owned());
        thread.spawn(move || file.keep(&asked)).map_err(ServeError::system("a thread"))?;
        Ok(Self { asks: Some(asks) })
    }

    /// Has them read again soon; says whether there are any.
    pub(super) fn read_again(&self) -> bool {
        // The thread ends with us.
        self.asks.as_ref().is_some_and(|asks| asks.send(()).is_ok())
    }
}

/// The file, and whom its keys are for.
struct File {
    path: PathBuf,
    expected: Expected,
    keeper: Arc<Keeper>,
    metrics: Arc<Metrics>,
}

impl File {
    fn keep(&self, asked: &mpsc::Receiver<()>) {
        let (mut read, mut seen) = (look(&self.path), look(&self.path));
        loop {
            match asked.recv_timeout(LOOK_EVERY) {
                Ok(()) => {
                    (read, seen) = (look(&self.path), look(&self.path));
                    self.reload("SIGHUP");
                }
                Err(RecvTimeoutError::Timeout) => {
                    let looks = look(&self.path);
                    if looks != read && looks == seen {
                        read = looks;
                        self.reload("the file has changed");
                    }
                    seen = looks;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn reload(&self, why: &str) {
        let result = match self.read() {
            Ok(jwt) => {
                self.keeper.believe(jwt);
                tracing::info!(why, "the keys of tokens were read again");
                Reload::Done
            }
            Err(wrong) => {
                tracing::error!(why, %wrong, "the keys of tokens cannot be used: those from before stay in force");
                Reload::Refused
            }
        };
        self.metrics.jwt_reloads.of((result,)).inc();
    }

    /// The keys of the file, or what is wrong with it, in a sentence that names it.
    fn read(&self) -> Result<Jwt, String> {
        let named = |fault: String| format!("{}: {fault}", self.path.display());
        let about = fs::metadata(&self.path).map_err(|error| named(format!("cannot be read: {error}")))?;
        if !about.is_file() || about.len() > FILE_BYTES_MAX {
            return Err(named("is no file of keys".to_owned()));
        }
        let text = fs::read_to_string(&self.path).map_err(|error| named(format!("cannot be read: {error}")))?;
        Jwt::read(&text, self.expected.clone()).map_err(named)
    }
}

/// What is different when the file is.
fn look(path: &Path) -> Option<(SystemTime, u64)> {
    let about = fs::metadata(path).ok()?;
    Some((about.modified().ok()?, about.len()))
}

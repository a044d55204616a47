//! When what is known of a service is written to its file: soon after a change, and not again while that goes on. What is
//! wrong with a file is a warning to who asks.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{task::spawn_blocking, time::Instant};

use super::{connection::Host, kept::Kept};
use crate::proto::{Instance, Selector};

/// A change is written so long after it, with all that came meanwhile.
const SOON: Duration = Duration::from_secs(1);
/// While nothing changes, the file says so often that it is so still.
const CONFIRM: Duration = Duration::from_secs(60);

/// One file, and what is to be written to it.
#[derive(Debug)]
pub(super) struct Keeping {
    kept: Kept,
    /// What is in the file, as far as we wrote it.
    written: Arc<Vec<u8>>,
    /// Something has changed since.
    is_due: bool,
    next: Instant,
    warning: Warning,
}

/// What was wrong with the file last.
pub(super) type Warning = Arc<Mutex<Option<String>>>;

impl Keeping {
    pub(super) fn new(directory: &Path, hosts: &[Host], selector: &Selector) -> Self {
        let kept = Kept::new(directory, hosts, selector);
        Self {
            kept,
            written: Arc::default(),
            is_due: false,
            next: Instant::now() + CONFIRM,
            warning: Warning::default(),
        }
    }

    /// What is wrong with the file, for who asks.
    pub(super) fn warning(&self) -> Warning {
        Arc::clone(&self.warning)
    }

    fn warn(&self, text: &str) {
        *self.warning.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.to_owned());
    }

    /// What was known, and how long ago.
    pub(super) fn restored(&self) -> Option<(Vec<Instance>, Duration)> {
        self.kept.read().unwrap_or_else(|error| {
            self.warn(&format!("{} is ignored: {error}", self.kept.path().display()));
            None
        })
    }

    /// When there is something to do.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Something has changed.
    pub(super) fn changed(&mut self) {
        if !self.is_due {
            (self.is_due, self.next) = (true, Instant::now() + SOON);
        }
    }

    /// Writes what is due; or confirms what is there, if the registry is heard.
    pub(super) async fn look<'a, I: Iterator<Item = &'a Arc<Instance>>>(
        &mut self,
        is_heard: bool,
        there: impl FnOnce() -> I,
    ) {
        self.next = Instant::now() + CONFIRM;
        let kept = self.kept.clone();
        let done = if std::mem::take(&mut self.is_due) {
            let bytes = Arc::new(kept.bytes(there()));
            if bytes == self.written {
                return;
            }
            self.written = Arc::clone(&bytes);
            spawn_blocking(move || kept.write(&bytes)).await
        } else if is_heard && !self.written.is_empty() {
            spawn_blocking(move || kept.confirm()).await
        } else {
            return;
        };
        // The runtime may be shutting down.
        if let Ok(Err(error)) = done {
            // With the next change it is tried again.
            self.written = Arc::default();
            self.warn(&format!("{} cannot be kept: {error}", self.kept.path().display()));
        }
    }
}

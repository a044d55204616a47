//! When what is known of a service is written to its file: soon after a change, and not again while that goes on. Nothing
//! waits for the disk. What is wrong with a file is a warning to who asks.

use std::{
    future::pending,
    io, mem,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::watch,
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep_until},
};

use super::{
    connection::Host,
    kept::{Kept, Left},
};
use crate::proto::{Instance, Selector};

/// A change is written so long after it, with all that came meanwhile.
const SOON: Duration = Duration::from_secs(1);
/// While nothing changes, the file says so often that it is so still. After a failure it is tried again as soon.
const CONFIRM: Duration = Duration::from_secs(60);

/// One file, and what is to be written to it.
#[derive(Debug)]
pub(super) struct Keeping {
    kept: Arc<Kept>,
    /// The file as it was written here last.
    left: Option<Left>,
    /// Something has changed since.
    is_due: bool,
    /// When that was so which was written last.
    heard: Option<Instant>,
    next: Instant,
    /// One at a time.
    writing: Option<JoinHandle<io::Result<Left>>>,
    told: watch::Sender<Told>,
}

/// How the file is.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// What has changed is about to be written.
    pub(super) is_due: bool,
    /// What is wrong with it.
    pub(super) warning: Option<String>,
}

impl Keeping {
    pub(super) fn new(directory: &Path, hosts: &[Host], selector: &Selector) -> Self {
        Self {
            kept: Arc::new(Kept::new(directory, hosts, selector)),
            left: None,
            is_due: false,
            heard: None,
            next: Instant::now() + CONFIRM,
            writing: None,
            told: watch::Sender::default(),
        }
    }

    /// How the file is, for who asks.
    pub(super) fn told(&self) -> watch::Receiver<Told> {
        self.told.subscribe()
    }

    /// What was known, and how long ago.
    pub(super) fn restored(&self) -> Option<(Vec<Instance>, Duration)> {
        self.kept.read().unwrap_or_else(|error| {
            let warning = Some(format!("{} is ignored: {error}", self.kept.path().display()));
            self.told.send_replace(Told { warning, is_due: false });
            None
        })
    }

    /// Something has changed.
    pub(super) fn changed(&mut self) {
        if !mem::replace(&mut self.is_due, true) {
            self.next = Instant::now() + SOON;
            self.told.send_modify(|told| told.is_due = true);
        }
    }

    /// Waits until there may be something to write; meanwhile takes in what came of what was written. Nothing is lost with
    /// it when it is dropped; without a file it waits for ever.
    pub(super) async fn due(this: &mut Option<Self>) {
        let Some(this) = this else { return pending().await };
        if let Some(writing) = &mut this.writing {
            let done = writing.await;
            this.writing = None;
            // Otherwise the runtime is shutting down.
            if let Ok(done) = done {
                this.take(done);
            }
        }
        sleep_until(this.next).await;
    }

    fn take(&mut self, done: io::Result<Left>) {
        let told = match done {
            Ok(left) => {
                self.left = Some(left);
                Told { is_due: self.is_due, warning: None }
            }
            Err(error) => {
                (self.left, self.is_due, self.next) = (None, true, Instant::now() + CONFIRM);
                let warning = format!("{} cannot be kept: {error}", self.kept.path().display());
                Told { is_due: false, warning: Some(warning) }
            }
        };
        self.told.send_replace(told);
    }

    /// Nothing is to be written before then.
    pub(super) fn put_off(&mut self, until: Instant) {
        self.next = until;
    }

    /// Begins to write these, or that it is so still, as of when the registry was heard last.
    pub(super) fn begin(&mut self, there: Vec<Arc<Instance>>, heard: Instant) {
        self.next = Instant::now() + CONFIRM;
        let is_news = mem::take(&mut self.is_due) || self.heard.is_some_and(|last| last != heard);
        if !is_news {
            return;
        }
        self.heard = Some(heard);
        let (kept, left) = (Arc::clone(&self.kept), self.left.clone());
        let heard = SystemTime::now().checked_sub(heard.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH);
        self.writing = Some(spawn_blocking(move || kept.keep(&there, heard, left.as_ref())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn once(keeping: &mut Option<Keeping>, ids: &[&str]) {
        Keeping::due(keeping).await;
        let there = ids.iter().map(|id| Arc::new(Instance { id: (*id).into(), ..Instance::default() })).collect();
        keeping.as_mut().unwrap().begin(there, Instant::now());
    }

    /// A write that fails is made again by itself, and then nothing is wrong any more.
    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_written_is_written_later() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("known");
        std::fs::write(&directory, "in the way").unwrap();
        let host = [Host { name: "h".into(), port: 1, tls: false }];
        let mut keeping = Some(Keeping::new(&directory, &host, &Selector::default()));
        let mut told = keeping.as_ref().unwrap().told();
        keeping.as_mut().unwrap().changed();
        assert!(told.borrow_and_update().is_due);
        once(&mut keeping, &["a"]).await;
        let began = Instant::now();
        // What came of it is taken in, and it is tried again.
        let mut again = Box::pin(once(&mut keeping, &["a"]));
        tokio::select! {
            () = &mut again => panic!("not so soon"),
            changed = told.changed() => changed.unwrap(),
        }
        let failed = told.borrow_and_update().clone();
        assert!(!failed.is_due && failed.warning.is_some_and(|warning| warning.contains("cannot be kept")));
        std::fs::remove_file(&directory).unwrap();
        again.await;
        assert!(began.elapsed() >= CONFIRM);
        let mut later = Box::pin(once(&mut keeping, &["a"]));
        tokio::select! {
            () = &mut later => panic!("it is written first"),
            changed = told.changed() => changed.unwrap(),
        }
        let well = told.borrow_and_update().clone();
        assert!(!well.is_due && well.warning.is_none(), "{well:?}");
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1);
    }
}

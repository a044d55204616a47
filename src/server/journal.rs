//! The audit log's file, written by a thread of its own, so that nobody waits for a disk: lines as they come, in files of
//! a bounded size, of which a bounded number is kept. What cannot be written is said and counted, and stops nothing.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, TryRecvError},
    },
    thread::{self, JoinHandle},
};

use super::ServeError;
use crate::{
    access::audit::{Audit, Entered},
    config::ServeSettings,
    metrics::Metrics,
};

/// Bytes that are written together.
const TOGETHER: usize = 64 << 10;

/// The audit log, if one is kept.
#[derive(Debug, Default)]
pub(super) struct Journal {
    audit: Option<Arc<Audit>>,
    thread: Option<JoinHandle<()>>,
}

impl Journal {
    /// Opens the file that the settings name.
    pub(super) fn start(settings: &ServeSettings, metrics: &Arc<Metrics>) -> Result<Self, ServeError> {
        let Some(path) = &settings.audit_log else { return Ok(Self::default()) };
        let unopened = |error| ServeError::AuditLog(format!("{}: {error}", path.display()));
        let target: Box<dyn Target> = match path.as_os_str() == "-" {
            true => Box::new(io::stdout()),
            false => Box::new(
                Rotating::open(path.clone(), settings.audit_log_bytes, settings.audit_log_files).map_err(unopened)?,
            ),
        };
        let (audit, entered) = Audit::new(Arc::clone(metrics));
        let metrics = Arc::clone(metrics);
        let write = move || Writer { target, metrics, bytes: Vec::new(), lines: 0, is_failing: false }.run(&entered);
        let thread = thread::Builder::new().name("onair-audit".to_owned()).spawn(write);
        Ok(Self { audit: Some(audit), thread: Some(thread.map_err(ServeError::system("a thread"))?) })
    }

    /// Where lines go, if anywhere.
    pub(super) fn audit(&self) -> Option<&Arc<Audit>> {
        self.audit.as_ref()
    }

    /// Has everything written that was handed in.
    pub(super) fn stop(self) {
        let (Some(audit), Some(thread)) = (self.audit, self.thread) else { return };
        audit.end();
        if thread.join().is_err() {
            tracing::error!("the thread of the audit log panicked");
        }
    }
}

/// Takes whole lines, several at a time.
trait Target: Send {
    fn take(&mut self, lines: &[u8]) -> io::Result<()>;
}

impl Target for io::Stdout {
    fn take(&mut self, lines: &[u8]) -> io::Result<()> {
        self.write_all(lines)?;
        self.flush()
    }
}

struct Writer {
    target: Box<dyn Target>,
    metrics: Arc<Metrics>,
    bytes: Vec<u8>,
    /// How many lines those are.
    lines: u64,
    is_failing: bool,
}

impl Writer {
    fn run(mut self, entered: &Receiver<Entered>) {
        while let Ok(mut next) = entered.recv() {
            loop {
                match next {
                    Entered::Line(line) => {
                        // A line is of text and numbers, which always can be written so.
                        if serde_json::to_writer(&mut self.bytes, &line).is_ok() {
                            self.bytes.push(b'\n');
                            self.lines += 1;
                        }
                    }
                    Entered::End => return self.flush(),
                }
                if self.bytes.len() >= TOGETHER {
                    self.flush();
                }
                next = match entered.try_recv() {
                    Ok(next) => next,
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return self.flush(),
                };
            }
            self.flush();
        }
    }

    fn flush(&mut self) {
        if let Err(error) = self.target.take(&self.bytes) {
            self.metrics.audit_lost.add(self.lines);
            if !self.is_failing {
                tracing::error!(%error, "the audit log cannot be written: its lines are lost");
            }
            self.is_failing = true;
        } else {
            self.is_failing = false;
        }
        self.bytes.clear();
        self.lines = 0;
    }
}

/// A file that is kept beside, and begun anew, before it grows too large.
struct Rotating {
    path: PathBuf,
    max_bytes: u64,
    files: usize,
    file: File,
    bytes: u64,
}

impl Rotating {
    fn open(path: PathBuf, max_bytes: u64, files: usize) -> io::Result<Self> {
        let file = append(&path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path, max_bytes, files, file, bytes })
    }

    /// The one before, and so on.
    fn older(&self, age: usize) -> PathBuf {
        let mut name = OsString::from(&self.path);
        if age > 0 {
            name.push(format!(".{age}"));
        }
        name.into()
    }

    fn rotate(&mut self) -> io::Result<()> {
        for age in (0..self.files).rev() {
            let (from, to) = (self.older(age), self.older(age + 1));
            let moved = if age + 1 == self.files { fs::remove_file(from) } else { fs::rename(from, to) };
            match moved {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        (self.file, self.bytes) = (append(&self.path)?, 0);
        Ok(())
    }
}

impl Target for Rotating {
    fn take(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + lines.len() as u64 > self.max_bytes {
            self.rotate()?;
        }
        self.file.write_all(lines)?;
        self.bytes += lines.len() as u64;
        Ok(())
    }
}

/// Its owner alone reads what people did.
fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn files_are_bounded_and_so_is_their_number() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("audit.jsonl");
        let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap_or_default();
        let mut log = Rotating::open(path.clone(), 8, 3).expect("a file");
        for line in ["one\n", "two\n", "three\n", "four\n", "much too long\n", "five\n"] {
            log.take(line.as_bytes()).expect("it is written");
        }
        assert_eq!(
            (read("audit.jsonl"), read("audit.jsonl.1"), read("audit.jsonl.2"), read("audit.jsonl.3")),
            ("five\n".to_owned(), "much too long\n".to_owned(), "four\n".to_owned(), String::new())
        );
        assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
        // A restart goes on where it was.
        drop(log);
        let mut log = Rotating::open(path, 8, 3).expect("a file");
        log.take(b"6\n").expect("it is written");
        log.take(b"seven\n").expect("it is written");
        assert_eq!((read("audit.jsonl"), read("audit.jsonl.1")), ("seven\n".to_owned(), "five\n6\n".to_owned()));
    }
}

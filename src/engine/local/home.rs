//! The data directory: whose it is, who holds it, which format it has, and how far history was acknowledged. Knows
//! nothing of what the store in it holds.
//!
//! ```text
//! DIR/lock              held while the engine runs, also while the store itself is closed after a failure
//! DIR/store/format      "onair store, format 2": makes the directory ours
//! DIR/store/committed   the last acknowledged revision, not synced: proof of a loss, never of a commit
//! DIR/store/distrusted  a sync has failed: what the system shows of the store may not be on the disk
//! DIR/store/…           the embedded store's own files
//! DIR/store.new/        a store being made; without a meaning until it is renamed
//! DIR/store.format1/    the store as it was before an upgrade from that format, kept
//! ```

use std::{
    fs::{self, File, TryLockError},
    io::{self, ErrorKind, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use super::{OpenError, format::FORMAT};
use crate::registry::Revision;

const LOCK: &str = "lock";
const STORE: &str = "store";
const STORE_NEW: &str = "store.new";
/// What the name of a kept store begins with; its format follows.
const STORE_KEPT: &str = "store.format";
const FORMAT_FILE: &str = "format";
const COMMITTED: &str = "committed";
const DISTRUSTED: &str = "distrusted";
const PROBE: &str = "store.probe";
/// Bytes that must find room before a store that failed is opened again.
const PROBE_BYTES: usize = 1 << 20;
/// What the format file says before the number.
const FORMAT_TEXT: &str = "onair store, format ";
/// Made by the system in the root of a file system: a directory that has only this is empty.
const LOST_AND_FOUND: &str = "lost+found";

/// The directory, held: nobody else opens it until this is dropped.
#[derive(Debug)]
pub(super) struct Home {
    dir: PathBuf,
    _lock: File,
}

impl Home {
    /// Makes the directory if it is not there, makes sure that it is ours to use, and holds it.
    pub(super) fn claim(dir: &Path) -> Result<Self, OpenError> {
        let io_error = |source| OpenError::Io { dir: dir.into(), source };
        create_private(dir).map_err(io_error)?;
        if !may_be_ours(dir).map_err(io_error)? {
            return Err(OpenError::NotOurs { dir: dir.into() });
        }
        let lock = File::options().write(true).create(true).truncate(false).open(dir.join(LOCK)).map_err(io_error)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { dir: dir.into(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse { dir: dir.into() }),
            Err(TryLockError::Error(source)) => Err(OpenError::Io { dir: dir.into(), source }),
        }
    }

    /// The data directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the store's files are.
    pub(super) fn store(&self) -> PathBuf {
        self.dir.join(STORE)
    }

    /// The store's format; none if there is no store yet.
    pub(super) fn format(&self) -> Result<Option<u32>, OpenError> {
        self.settle().map_err(|source| self.io_error(source))?;
        if !self.store().try_exists().map_err(|source| self.io_error(source))? {
            return Ok(None);
        }
        let text = match fs::read_to_string(self.store().join(FORMAT_FILE)) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => String::new(),
            Err(source) => return Err(self.io_error(source)),
        };
        match text.strip_prefix(FORMAT_TEXT).and_then(|number| number.trim_end().parse().ok()) {
            Some(format) => Ok(Some(format)),
            None => Err(self.corrupt(format!("its file {STORE}/{FORMAT_FILE} is missing or unreadable"))),
        }
    }

    /// Makes a store with `make`, which gets the directory to fill and has it on disk when it returns. A crash at any
    /// point leaves either no store or the whole of it.
    pub(super) fn create(&self, make: impl FnOnce(&Path) -> Result<(), OpenError>) -> Result<(), OpenError> {
        let new = self.dir.join(STORE_NEW);
        let prepare = || remove(&new).and_then(|()| create_private(&new));
        prepare().map_err(|source| self.io_error(source))?;
        make(&new)?;
        let finish = || {
            write_synced(&new.join(COMMITTED), &mark(0))?;
            write_synced(&new.join(FORMAT_FILE), format!("{FORMAT_TEXT}{FORMAT}\n").as_bytes())?;
            sync_dir(&new)?;
            fs::rename(&new, self.store())?;
            sync_dir(&self.dir)
        };
        finish().map_err(|source| self.io_error(source))
    }

    /// Makes the store one of this format: a copy of it is made so by `make`, which has it on disk when it returns, and
    /// takes its place; the store itself is kept beside it as it is. A crash at any point leaves the one or the other.
    pub(super) fn upgrade(
        &self,
        from: u32,
        make: impl FnOnce(&Path) -> Result<(), OpenError>,
    ) -> Result<PathBuf, OpenError> {
        let (new, kept) = (self.dir.join(STORE_NEW), self.kept(from));
        let io_error = |source| self.io_error(source);
        remove(&new).map_err(io_error)?;
        copy(&self.store(), &new).map_err(io_error)?;
        make(&new)?;
        let finish = || {
            write_synced(&new.join(FORMAT_FILE), format!("{FORMAT_TEXT}{FORMAT}\n").as_bytes())?;
            sync_dir(&new)?;
            remove(&kept)?;
            fs::rename(self.store(), &kept)?;
            fs::rename(&new, self.store())?;
            sync_dir(&self.dir)
        };
        finish().map_err(io_error)?;
        Ok(kept)
    }

    /// Where the store of an earlier format is kept.
    fn kept(&self, format: u32) -> PathBuf {
        self.dir.join(format!("{STORE_KEPT}{format}"))
    }

    /// Between the two renames of an upgrade there is no store: the earlier one is it still.
    fn settle(&self) -> io::Result<()> {
        if self.store().try_exists()? {
            return Ok(());
        }
        for format in (1..FORMAT).rev() {
            if self.kept(format).try_exists()? {
                fs::rename(self.kept(format), self.store())?;
                return sync_dir(&self.dir);
            }
        }
        Ok(())
    }

    /// Opens the note of the last acknowledged revision.
    pub(super) fn committed(&self) -> Result<Committed, OpenError> {
        let path = self.store().join(COMMITTED);
        let open = || {
            let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(Committed { file, revision: read_mark(&bytes) })
        };
        open().map_err(|source| self.io_error(source))
    }

    /// Notes that a sync has failed. The note need not outlive the system's memory of the files: after a restart of the
    /// machine it shows what is on the disk. It does outlive this process.
    pub(super) fn distrust(&self) {
        let _ = File::create(self.store().join(DISTRUSTED));
    }

    /// Mends the store with `rewrite`, if a sync has failed.
    pub(super) fn trust_again(&self, rewrite: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), OpenError> {
        let note = self.store().join(DISTRUSTED);
        let mend = || {
            if note.try_exists()? {
                rewrite(&self.store())?;
                fs::remove_file(&note)?;
            }
            Ok(())
        };
        mend().map_err(|source| self.io_error(source))
    }

    /// Whether there is room again, found without opening the store: that takes long.
    pub(super) fn probe(&self) -> Result<(), OpenError> {
        let probe = self.dir.join(PROBE);
        let written = write_synced(&probe, &vec![0x5a; PROBE_BYTES]);
        let removed = fs::remove_file(&probe);
        written.and(removed).map_err(|source| self.io_error(source))
    }

    /// What to say of a failed access.
    pub(super) fn io_error(&self, source: io::Error) -> OpenError {
        OpenError::Io { dir: self.dir.clone(), source }
    }

    /// What to say of damage that only a copy can mend.
    pub(super) fn corrupt(&self, what: String) -> OpenError {
        let advice =
            "bring it back from a copy, or move it away and start with an empty one: instances register again \
                      by themselves"
                .into();
        OpenError::Corrupt { dir: self.dir.clone(), what, advice }
    }

    /// What to say when the store ends before what was acknowledged.
    pub(super) fn lost(&self, found: Revision, acknowledged: Revision) -> OpenError {
        let what = format!("it ends at revision {found}, but revision {acknowledged} had been acknowledged");
        let advice = format!(
            "bring it back from a copy, or delete its file {STORE}/{COMMITTED} to go on with what is left: watchers then \
             get a new snapshot and lost instances register again by themselves"
        );
        OpenError::Corrupt { dir: self.dir.clone(), what, advice }
    }
}

/// The note of the last acknowledged revision. It is written after each commit and never synced, so it costs nothing
/// and may lag after a power cut; it is never ahead of what was acknowledged.
#[derive(Debug)]
pub(super) struct Committed {
    file: File,
    revision: Option<Revision>,
}

impl Committed {
    /// The revision that was noted; none if the note was deleted or is no longer readable.
    pub(super) fn revision(&self) -> Option<Revision> {
        self.revision
    }

    /// Notes `revision` as acknowledged.
    pub(super) fn note(&mut self, revision: Revision) {
        // A failure leaves an older note, or none: less proof, nothing else.
        let _ = self.file.seek(SeekFrom::Start(0)).and_then(|_| self.file.write_all(&mark(revision)));
    }
}

/// A revision and its complement, so that a torn note is known as such.
fn mark(revision: Revision) -> [u8; 16] {
    (u128::from(revision) << 64 | u128::from(!revision)).to_be_bytes()
}

fn read_mark(bytes: &[u8]) -> Option<Revision> {
    let number = u128::from_be_bytes(bytes.try_into().ok()?);
    let (revision, complement) = ((number >> 64) as u64, number as u64);
    (revision == !complement).then_some(revision)
}

/// Whether the directory has our store, or nothing that is anybody's.
fn may_be_ours(dir: &Path) -> io::Result<bool> {
    if dir.join(STORE).join(FORMAT_FILE).try_exists()? {
        return Ok(true);
    }
    let mut foreign = false;
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        // A `store` without a format file is ours only if it looks like an embedded store that lost the file.
        foreign |= match name.to_str() {
            Some(LOCK | STORE_NEW | PROBE | LOST_AND_FOUND) => false,
            Some(STORE) => !dir.join(STORE).join(COMMITTED).try_exists()?,
            Some(name) => !name.starts_with(STORE_KEPT),
            None => true,
        };
    }
    Ok(!foreign)
}

/// Removes a directory that need not be there.
fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Copies a directory with all that is in it, onto the disk.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    create_private(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), &to)?;
            File::open(&to)?.sync_all()?;
        }
    }
    sync_dir(to)
}

/// Lease secrets are stored as hashes, but who is registered is nobody else's business either.
fn create_private(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

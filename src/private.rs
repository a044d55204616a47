//! A file that is one's own: nobody else's from its first byte, and whole or not there. Knows nothing of what is in it.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

/// A file that is being made, beside the one that it will replace. It is gone unless it was filled.
#[derive(Debug)]
pub(crate) struct Private {
    path: PathBuf,
    new: PathBuf,
    file: File,
}

impl Private {
    /// Makes it, with the rights of `mode`.
    ///
    /// # Errors
    /// As the file system says.
    #[cfg(feature = "server")]
    pub(crate) fn create(path: &Path, mode: u32) -> io::Result<Self> {
        let new = beside(path, "new")?;
        // What a run that was cut short has left may be anyone's to read.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Self::open(path, new, mode)
    }

    /// Makes it where others may be making theirs for the same place, with whatever numbers their processes have.
    ///
    /// # Errors
    /// As the file system says.
    pub(crate) fn create_among_others(path: &Path, mode: u32) -> io::Result<Self> {
        let drawn = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
        Self::open(path, beside(path, &format!("{drawn:016x}"))?, mode)
    }

    #[cfg_attr(not(unix), expect(unused_variables, reason = "there are no such rights"))]
    fn open(path: &Path, new: PathBuf, mode: u32) -> io::Result<Self> {
        let mut options = File::options();
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
        let file = options.write(true).create_new(true).open(&new)?;
        Ok(Self { path: path.to_owned(), new, file })
    }

    /// Puts it in its place, with this text.
    ///
    /// # Errors
    /// As the file system says; what was there before is there still.
    #[cfg(feature = "server")]
    pub(crate) fn fill(mut self, text: &str) -> io::Result<()> {
        self.file.write_all(text.as_bytes())?;
        #[cfg(unix)]
        let directory = {
            let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))?
        };
        self.put()?;
        // So that no crash takes it back.
        #[cfg(unix)]
        directory.sync_all()?;
        Ok(())
    }

    /// The same, as if it had been written at that time; and the file. What a crash takes back can be written anew.
    ///
    /// # Errors
    /// As of `fill`.
    pub(crate) fn fill_as_of(mut self, time: SystemTime, bytes: &[u8]) -> io::Result<File> {
        self.file.write_all(bytes)?;
        self.file.set_modified(time)?;
        self.put()?;
        self.file.try_clone()
    }

    fn put(&self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.new, &self.path)
    }
}

fn beside(path: &Path, what: &str) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::other("is not the name of a file"))?;
    Ok(path.with_file_name(format!(".{}.{what}", name.display())))
}

impl Drop for Private {
    fn drop(&mut self) {
        // In its place by now, or not wanted.
        let _ = fs::remove_file(&self.new);
    }
}

#[cfg(all(test, unix, feature = "server"))]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_not_filled_leaves_what_was_there() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ci.token");
        fs::write(&path, "before").expect("written");
        drop(Private::create(&path, 0o600).expect("made"));
        assert_eq!(fs::read_to_string(&path).expect("it is there"), "before");
        Private::create(&path, 0o600).expect("made").fill("after").expect("filled");
        assert_eq!(fs::read_to_string(&path).expect("it is there"), "after");
        assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 1);
        assert!(Private::create(&directory.path().join("gone/ci.token"), 0o600).is_err());
    }

    #[test]
    fn of_those_who_write_at_once_the_last_one_is_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("kept");
        let made = || Private::create_among_others(&path, 0o600).expect("made");
        let (one, other, unfinished) = (made(), made(), made());
        let file = one.fill_as_of(SystemTime::UNIX_EPOCH, b"one").expect("filled");
        assert_eq!(file.metadata().and_then(|about| about.modified()).expect("its time"), SystemTime::UNIX_EPOCH);
        other.fill("other").expect("filled");
        assert_eq!(fs::read_to_string(&path).expect("it is there"), "other");
        drop(unfinished);
        assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 1);
    }
}

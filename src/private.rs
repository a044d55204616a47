//! A file with a secret: nobody else's from its first byte, and whole or not there. Knows nothing of what is in it.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
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
    pub(crate) fn create(path: &Path, mode: u32) -> io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let name = path.file_name().ok_or_else(|| io::Error::other("is not the name of a file"))?;
        let new = path.with_file_name(format!(".{}.new", name.display()));
        // What a run that was cut short has left may be anyone's to read.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = File::options().write(true).create_new(true).mode(mode).open(&new)?;
        Ok(Self { path: path.to_owned(), new, file })
    }

    /// Puts it in its place, with this text.
    ///
    /// # Errors
    /// As the file system says; what was there before is there still.
    pub(crate) fn fill(mut self, text: &str) -> io::Result<()> {
        self.file.write_all(text.as_bytes())?;
        self.file.sync_all()?;
        fs::rename(&self.new, &self.path)?;
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // In its place by now, or not wanted.
        let _ = fs::remove_file(&self.new);
    }
}

#[cfg(test)]
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
}

//! What is known of a service, kept in a file: for a program that starts while its registry is away. How old it is, is the
//! file's time. Whatever is in the file instead of that, or anybody else may have written, is ignored. Knows no watch, and
//! not when to write.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use prost::Message;
use sha2::{Digest as _, Sha256};

use super::connection::Host;
use crate::{
    private::Private,
    proto::{Instance, Selector},
};

/// How it begins; the digest of the rest follows.
const HEAD: &[u8] = b"onair kept 1\n";
const DIGEST: usize = 32;
/// What is larger is neither written nor read.
const BYTES_MAX: usize = 16 << 20;

/// What is in a file.
#[derive(Clone, PartialEq, Message)]
struct Content {
    /// What it is an answer to.
    #[prost(message, optional, tag = "1")]
    selector: Option<Selector>,
    #[prost(message, repeated, tag = "2")]
    instances: Vec<Instance>,
}

/// A file as it was left here: one that looks otherwise is another's by now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Left {
    /// Of what is in it.
    digest: [u8; DIGEST],
    bytes: u64,
    modified: SystemTime,
    /// Another one if it was replaced by renaming.
    #[cfg(unix)]
    inode: u64,
}

impl Left {
    fn of(digest: [u8; DIGEST], file: &File) -> io::Result<Self> {
        let about = file.metadata()?;
        Ok(Self {
            digest,
            bytes: about.len(),
            modified: about.modified()?,
            #[cfg(unix)]
            inode: std::os::unix::fs::MetadataExt::ino(&about),
        })
    }
}

/// Where one selector's answer is kept.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    path: PathBuf,
    selector: Selector,
}

impl Kept {
    /// In this directory; each registry and each selector has a file of its own.
    pub(super) fn new(directory: &Path, hosts: &[Host], selector: &Selector) -> Self {
        let mut hash = Sha256::new();
        for host in hosts {
            hash.update(host.to_string());
            hash.update([0]);
        }
        hash.update(selector.encode_to_vec());
        let name: String = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Self { path: directory.join(name).with_extension("onair"), selector: selector.clone() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What was known, and how long ago; none if nothing was ever kept.
    ///
    /// # Errors
    /// What is there cannot be read, or is something else.
    pub(super) fn read(&self) -> io::Result<Option<(Vec<Instance>, Duration)>> {
        let file = match opened(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        // Of a file from the future nobody knows how old it is: the clock was put back.
        let age = file.metadata()?.modified()?.elapsed().unwrap_or(Duration::MAX);
        let mut bytes = Vec::new();
        (&file).take(BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
        let instances = self.understood(&bytes).ok_or_else(|| io::Error::other("it is damaged, or something else"))?;
        Ok(Some((instances, age)))
    }

    fn understood(&self, bytes: &[u8]) -> Option<Vec<Instance>> {
        let (digest, rest) = bytes.strip_prefix(HEAD)?.split_at_checked(DIGEST)?;
        if bytes.len() > BYTES_MAX || Sha256::digest(rest).as_slice() != digest {
            return None;
        }
        let content = Content::decode(rest).ok()?;
        (content.selector.as_ref() == Some(&self.selector)).then_some(content.instances)
    }

    /// Has the file say that these were there at `heard`, if it is as it was `left`; else puts it there, whole or not at
    /// all, for nobody else to read.
    ///
    /// # Errors
    /// It is too large, or cannot be written.
    pub(super) fn keep(&self, instances: &[Arc<Instance>], heard: SystemTime, left: Option<&Left>) -> io::Result<Left> {
        let instances = instances.iter().map(|instance| Instance::clone(instance)).collect();
        let rest = Content { selector: Some(self.selector.clone()), instances }.encode_to_vec();
        let digest: [u8; DIGEST] = Sha256::digest(&rest).into();
        if HEAD.len() + DIGEST + rest.len() > BYTES_MAX {
            return Err(io::Error::other(format!("it is larger than {BYTES_MAX} bytes")));
        }
        if let Some(left) = left.filter(|left| left.digest == digest)
            && let Ok(file) = opened(&self.path)
            && Left::of(digest, &file)? == *left
        {
            file.set_modified(heard)?;
            return Left::of(digest, &file);
        }
        self.replace(digest, &rest, heard)
    }

    fn replace(&self, digest: [u8; DIGEST], rest: &[u8], heard: SystemTime) -> io::Result<Left> {
        if let Some(directory) = self.path.parent() {
            let mut builder = fs::DirBuilder::new();
            #[cfg(unix)]
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            builder.recursive(true).create(directory)?;
        }
        let file = Private::create_among_others(&self.path, 0o600)?;
        Left::of(digest, &file.fill_as_of(heard, &[HEAD, &digest, rest].concat())?)
    }
}

/// A file that this user alone can have written: what is in it decides whom a program calls. Waits for nobody, as opening a
/// pipe would.
#[cfg(unix)]
fn opened(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::MetadataExt as _;

    use rustix::{
        fs::{Mode, OFlags, open},
        io::Errno,
        process::geteuid,
    };

    let foreign = || io::Error::other("it is no file that this user alone can write");
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match open(path, flags, Mode::empty()) {
        Err(Errno::LOOP) => return Err(foreign()),
        file => File::from(file?),
    };
    let about = file.metadata()?;
    let is_ours = about.is_file() && about.uid() == geteuid().as_raw() && about.mode() & 0o022 == 0;
    if is_ours { Ok(file) } else { Err(foreign()) }
}

#[cfg(not(unix))]
fn opened(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn some(ids: &[&str]) -> Vec<Arc<Instance>> {
        let one = |id: &&str| Arc::new(Instance { id: (*id).into(), port: 80, ..Instance::default() });
        ids.iter().map(one).collect()
    }

    fn of(directory: &Path, port: u16) -> Kept {
        let selector = Selector { service: "web".into(), ..Selector::default() };
        Kept::new(directory, &[Host { name: "h".into(), port, tls: false }], &selector)
    }

    #[test]
    fn what_is_kept_is_found_again_and_says_when_it_was_so() {
        let place = tempfile::tempdir().unwrap();
        let kept = of(&place.path().join("new/place"), 1);
        assert!(kept.read().unwrap().is_none());
        let (now, both) = (SystemTime::now(), some(&["a", "b"]));
        let left = kept.keep(&both, now - HOUR, None).unwrap();
        let (instances, age) = kept.read().unwrap().unwrap();
        assert_eq!(instances.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert!(age >= HOUR && age < 2 * HOUR);
        let place = kept.path().parent().unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(kept.path()).unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(fs::metadata(place).unwrap().permissions().mode() & 0o777, 0o700);
        }
        // The same is so still: the file alone says so.
        let before = fs::metadata(kept.path()).unwrap();
        let left = kept.keep(&both, now, Some(&left)).unwrap();
        assert!(kept.read().unwrap().unwrap().1 < HOUR);
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt as _;
            assert_eq!(fs::metadata(kept.path()).unwrap().ino(), before.ino());
        }
        // Somebody else's content does not get our time.
        let other = of(place, 1);
        other.keep(&some(&["c"]), now - HOUR, None).unwrap();
        kept.keep(&both, now, Some(&left)).unwrap();
        assert_eq!(kept.read().unwrap().unwrap().0.len(), 2);
        fs::remove_file(kept.path()).unwrap();
        kept.keep(&both, now, Some(&left)).unwrap();
        assert_eq!(kept.read().unwrap().unwrap().0.len(), 2);
        // How old what comes from the future is, nobody knows.
        kept.keep(&both, now + HOUR, None).unwrap();
        assert_eq!(kept.read().unwrap().unwrap().1, Duration::MAX);
        assert_eq!(fs::read_dir(place).unwrap().count(), 1, "nothing unfinished is left");
        assert_ne!(of(place, 2).path(), kept.path(), "another registry's is another file");
    }

    #[test]
    fn what_is_damaged_or_something_else_is_ignored() {
        let place = tempfile::tempdir().unwrap();
        let kept = of(place.path(), 1);
        kept.keep(&some(&["a", "b"]), SystemTime::now(), None).unwrap();
        let other = Selector { service: "web2".into(), ..Selector::default() };
        assert!(Kept { selector: other, ..kept.clone() }.read().is_err(), "whatever the file is called");
        let bytes = fs::read(kept.path()).unwrap();
        let mut changed = bytes.clone();
        *changed.last_mut().unwrap() ^= 1;
        let longer = [&bytes[..], b"x"].concat();
        for broken in [&bytes[..bytes.len() - 1], &bytes[1..], b"", b"onair kept 1\n", &longer, &changed] {
            fs::write(kept.path(), broken).unwrap();
            assert!(kept.read().is_err(), "{} bytes", broken.len());
        }
        let large = Instance { url: "x".repeat(BYTES_MAX), ..Instance::default() };
        assert!(kept.keep(&[Arc::new(large)], SystemTime::now(), None).is_err());
        assert_eq!(fs::read(kept.path()).unwrap(), changed, "what is refused changes nothing");
    }

    #[cfg(unix)]
    #[test]
    fn what_others_may_have_written_is_ignored() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let place = tempfile::tempdir().unwrap();
        let (kept, elsewhere) = (of(place.path(), 1), place.path().join("elsewhere"));
        let why = || kept.read().unwrap_err().to_string();
        for mode in [0o620, 0o602] {
            kept.keep(&some(&["a"]), SystemTime::now(), None).unwrap();
            fs::set_permissions(kept.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert!(why().contains("this user alone"), "{mode:o}: {}", why());
        }
        fs::rename(kept.path(), &elsewhere).unwrap();
        symlink(&elsewhere, kept.path()).unwrap();
        assert!(why().contains("this user alone"), "{}", why());
        fs::remove_file(kept.path()).unwrap();
        // It is not waited for who writes into a pipe.
        let made = std::process::Command::new("mkfifo").arg(kept.path()).status().unwrap();
        assert!(made.success() && why().contains("this user alone"), "{}", why());
        fs::remove_file(kept.path()).unwrap();
        fs::create_dir(kept.path()).unwrap();
        assert!(kept.read().is_err());
    }
}

//! What is known of a service, kept in a file: for a program that starts while its registry is away. How old it is, is the
//! file's time. Whatever is in the file instead of that is ignored. Knows no watch, and not when to write.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use prost::Message;
use sha2::{Digest as _, Sha256};

use super::connection::Host;
use crate::proto::{Instance, Selector};

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
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let age = file.metadata()?.modified()?.elapsed().unwrap_or_default();
        let mut bytes = Vec::new();
        (&file).take(BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
        let instances = self.opened(&bytes).ok_or_else(|| io::Error::other("it is damaged, or something else"))?;
        Ok(Some((instances, age)))
    }

    fn opened(&self, bytes: &[u8]) -> Option<Vec<Instance>> {
        let (digest, rest) = bytes.strip_prefix(HEAD)?.split_at_checked(DIGEST)?;
        if bytes.len() > BYTES_MAX || Sha256::digest(rest).as_slice() != digest {
            return None;
        }
        let content = Content::decode(rest).ok()?;
        (content.selector.as_ref() == Some(&self.selector)).then_some(content.instances)
    }

    /// As it stands in a file.
    pub(super) fn bytes<'a>(&self, instances: impl IntoIterator<Item = &'a Arc<Instance>>) -> Vec<u8> {
        let instances = instances.into_iter().map(|instance| Instance::clone(instance)).collect();
        let rest = Content { selector: Some(self.selector.clone()), instances }.encode_to_vec();
        [HEAD, Sha256::digest(&rest).as_slice(), &rest].concat()
    }

    /// Puts it there whole or not at all, for nobody else to read.
    ///
    /// # Errors
    /// It is too large, or cannot be written.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        static TURN: AtomicU64 = AtomicU64::new(0);
        if bytes.len() > BYTES_MAX {
            return Err(io::Error::other(format!("it is larger than {BYTES_MAX} bytes")));
        }
        if let Some(directory) = self.path.parent() {
            let mut builder = fs::DirBuilder::new();
            #[cfg(unix)]
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            builder.recursive(true).create(directory)?;
        }
        let turn = TURN.fetch_add(1, Ordering::Relaxed);
        let unfinished = self.path.with_extension(format!("{}-{turn}", process::id()));
        let written = fresh(&unfinished).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_data()?;
            fs::rename(&unfinished, &self.path)
        });
        if written.is_err() {
            // It may never have been there.
            let _ = fs::remove_file(&unfinished);
        }
        written
    }

    /// What is there is so still.
    ///
    /// # Errors
    /// It is not there any more, or is somebody else's.
    pub(super) fn confirm(&self) -> io::Result<()> {
        OpenOptions::new().write(true).open(&self.path)?.set_modified(SystemTime::now())
    }
}

fn fresh(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.write(true).create_new(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Vec<Arc<Instance>> {
        let one = |id: &str| Arc::new(Instance { id: id.into(), port: 80, ..Instance::default() });
        vec![one("a"), one("b")]
    }

    #[test]
    fn what_is_kept_is_found_again_and_anything_else_is_not() {
        let place = tempfile::tempdir().unwrap();
        let selector = Selector { service: "web".into(), ..Selector::default() };
        let host = |port| [Host { name: "h".into(), port, tls: false }];
        let kept = Kept::new(&place.path().join("new/place"), &host(1), &selector);
        assert!(kept.read().unwrap().is_none());
        let bytes = kept.bytes(&some());
        kept.write(&bytes).unwrap();
        let (instances, age) = kept.read().unwrap().unwrap();
        assert_eq!(instances.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert!(age < Duration::from_secs(60));
        let hour_ago = SystemTime::now() - Duration::from_secs(3_600);
        File::options().write(true).open(kept.path()).unwrap().set_modified(hour_ago).unwrap();
        assert!(kept.read().unwrap().unwrap().1 >= Duration::from_secs(3_600));
        kept.confirm().unwrap();
        assert!(kept.read().unwrap().unwrap().1 < Duration::from_secs(60));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(kept.path()).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let there = fs::read_dir(kept.path().parent().unwrap()).unwrap().count();
        assert_eq!(there, 1, "nothing unfinished is left");

        // Another registry's, or another selector's, is another file.
        assert_ne!(
            Kept::new(place.path(), &host(1), &selector).path(),
            Kept::new(place.path(), &host(2), &selector).path()
        );
        let other = Selector { service: "web2".into(), ..Selector::default() };
        let other = Kept { selector: other, ..kept.clone() };
        assert!(other.read().is_err(), "whatever the file is called");
        for broken in [&bytes[..bytes.len() - 1], &bytes[1..], b"", b"onair kept 1\n", &[&bytes[..], b"x"].concat()] {
            fs::write(kept.path(), broken).unwrap();
            assert!(kept.read().is_err(), "{} bytes", broken.len());
        }
        let mut changed = bytes.clone();
        *changed.last_mut().unwrap() ^= 1;
        fs::write(kept.path(), &changed).unwrap();
        assert!(kept.read().is_err());
        assert!(kept.write(&vec![0; BYTES_MAX + 1]).is_err());
        assert_eq!(fs::read(kept.path()).unwrap(), changed, "what is refused changes nothing");
    }
}

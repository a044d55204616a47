//! The store's journals as bytes, looked at before the library opens them. It would cut a journal silently at the first
//! thing it cannot read, and refuse one whose torn end has a wrong checksum. Here the two are told apart: an end that
//! was never synced is torn by any power cut and is cut off; a journal that is damaged before changes that had been
//! acknowledged is left as it is and reported. Each batch carries the revision that had been acknowledged when it was
//! written (`StoredLast`), which decides. Knows the library's journal format, version 3, and nothing else of it.
//!
//! A batch: `01` count:u32 seqno:u64 · items · `03` xxh3 of the items:u64 `46 4A 4C 03`; all little-endian.
//! An item: `02` kind:u8 compression:u8 keyspace:u64 keylen:u16 len:u32 storedlen:u32 key value, or `04` keyspace:u64.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use prost::Message;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    format::{LAST, StoredLast},
    home::sync_dir,
    store::StoreError,
};

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const TRAILER: [u8; 4] = *b"FJL\x03";
/// Bytes of a journal that are read at a time.
const PIECE: u64 = 1 << 20;

/// Files without which the library would begin anew, and delete what is there. The first keyspace is its own.
fn needed(keyspaces: usize) -> impl Iterator<Item = String> {
    let current = (0..=keyspaces).map(|keyspace| format!("keyspaces/{keyspace}/current"));
    current.chain(["version".to_owned()])
}

/// Makes sure that the library will read all there is in `dir`, a store of so many keyspaces: cuts off a torn end, and
/// refuses what is damaged.
pub(super) fn mend(dir: &Path, keyspaces: usize) -> Result<(), StoreError> {
    for file in needed(keyspaces) {
        if !dir.join(&file).try_exists().map_err(StoreError::Io)? {
            return Err(StoreError::Corrupt(format!("its file {file} is missing")));
        }
    }
    let mut journals = journals(dir).map_err(StoreError::Io)?;
    let newest = journals.pop().ok_or_else(|| StoreError::Corrupt("it has no journal".into()))?;
    for sealed in journals {
        // It was synced whole before the next one began.
        let bytes = written(&sealed).map_err(StoreError::Io)?;
        if let (_, Some(torn)) = scan(&bytes) {
            return Err(damaged(&sealed, torn));
        }
    }
    let bytes = written(&newest).map_err(StoreError::Io)?;
    let (last, Some(torn)) = scan(&bytes) else { return Ok(()) };
    if acknowledged_later(&bytes[torn..]).is_some_and(|acknowledged| last.is_some_and(|last| acknowledged > last)) {
        return Err(damaged(&newest, torn));
    }
    tracing::warn!(
        "the end of {} was never completed, as after a power cut: {} bytes are cut off",
        newest.display(),
        bytes.len() - torn
    );
    let cut = || {
        let file = File::options().write(true).open(&newest)?;
        file.set_len(torn as u64)?;
        file.sync_all()
    };
    cut().map_err(StoreError::Io)
}

/// Writes every journal anew. After a failed sync the system may believe that what it shows of a file is on the disk
/// when it is not, and syncing again would not write it; a new file is written.
pub(super) fn rewrite(dir: &Path) -> io::Result<()> {
    for journal in journals(dir)? {
        let bytes = written(&journal)?;
        let new = journal.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&new, &journal)?;
    }
    sync_dir(dir)
}

fn damaged(journal: &Path, at: usize) -> StoreError {
    let name = journal.file_name().unwrap_or_default().display();
    StoreError::Corrupt(format!(
        "its journal {name} is damaged at byte {at}, before changes that had been acknowledged"
    ))
}

/// The journals, oldest first.
fn journals(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut journals = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        if let (Some(number), Some("jnl")) = (number, path.extension().and_then(|extension| extension.to_str())) {
            journals.push((number, path));
        }
    }
    journals.sort_unstable();
    Ok(journals.into_iter().map(|(_, path)| path).collect())
}

/// What was written to a journal. The file is longer, mostly by far: zeros at its end are nothing, and take no memory.
fn written(journal: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(journal)?;
    let (mut bytes, mut piece, mut zeros) = (Vec::new(), Vec::new(), 0);
    while (&mut file).take(PIECE).read_to_end(&mut piece)? > 0 {
        let filled = trimmed(&piece);
        if filled.is_empty() {
            zeros += piece.len();
        } else {
            bytes.resize(bytes.len() + zeros, 0);
            bytes.extend_from_slice(filled);
            zeros = piece.len() - filled.len();
        }
        piece.clear();
    }
    Ok(bytes)
}

/// The last revision that the whole batches reach of what was written to a journal, and where the first thing that is no
/// batch begins.
fn scan(bytes: &[u8]) -> (Option<u64>, Option<usize>) {
    let (mut at, mut last) = (0, None);
    while at < bytes.len() {
        let Some(batch) = Batch::read(&bytes[at..]) else { return (last, Some(at)) };
        last = batch.last.map(|last| last.revision).or(last);
        at += batch.len;
    }
    (last, None)
}

/// What whole batches further on say had been acknowledged when they were written.
fn acknowledged_later(bytes: &[u8]) -> Option<u64> {
    let (mut at, mut acknowledged) = (0, None);
    while let Some(found) = bytes[at..].iter().position(|&byte| byte == START) {
        at += found;
        match Batch::read(&bytes[at..]) {
            Some(batch) => {
                acknowledged = batch.last.map(|last| last.acknowledged).or(acknowledged);
                at += batch.len;
            }
            None => at += 1,
        }
    }
    acknowledged
}

fn trimmed(mut bytes: &[u8]) -> &[u8] {
    const ZEROS: [u8; 4096] = [0; 4096];
    while let Some(rest) = bytes.strip_suffix(&ZEROS) {
        bytes = rest;
    }
    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1);
    &bytes[..end]
}

/// A whole batch.
struct Batch {
    len: usize,
    last: Option<StoredLast>,
}

impl Batch {
    /// The batch at the head of `bytes`, if there is one with a right checksum.
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut cursor = Cursor { bytes, at: 0 };
        (cursor.u8()? == START).then_some(())?;
        let count = u32::from_le_bytes(cursor.array()?);
        let _seqno: [u8; 8] = cursor.array()?;
        let (begin, mut last) = (cursor.at, None);
        for _ in 0..count {
            match cursor.u8()? {
                ITEM => {
                    let _kind_compression_keyspace: [u8; 10] = cursor.array()?;
                    let key_len = u16::from_le_bytes(cursor.array()?);
                    let _len: [u8; 4] = cursor.array()?;
                    let stored_len = u32::from_le_bytes(cursor.array()?);
                    let key = cursor.take(usize::from(key_len))?;
                    let value = cursor.take(usize::try_from(stored_len).ok()?)?;
                    if key == LAST.as_bytes() {
                        last = StoredLast::decode(value).ok();
                    }
                }
                CLEAR => {
                    let _keyspace: [u8; 8] = cursor.array()?;
                }
                _ => return None,
            }
        }
        let items = &bytes[begin..cursor.at];
        (cursor.u8()? == END).then_some(())?;
        let checksum = u64::from_le_bytes(cursor.array()?);
        (cursor.array()? == TRAILER && checksum == xxh3_64(items)).then_some(Self { len: cursor.at, last })
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(revision: u64, acknowledged: u64, filler: usize) -> Vec<u8> {
        let last = StoredLast { revision, tail_after: 0, acknowledged }.encode_to_vec();
        let mut items = Vec::new();
        for (key, value) in [("a key of ours", vec![1; filler]), (LAST, last)] {
            items.extend([ITEM, 0, 0]);
            items.extend(4u64.to_le_bytes());
            items.extend((key.len() as u16).to_le_bytes());
            items.extend((value.len() as u32).to_le_bytes());
            items.extend((value.len() as u32).to_le_bytes());
            items.extend(key.as_bytes());
            items.extend(value);
        }
        let mut bytes = vec![START];
        bytes.extend(2u32.to_le_bytes());
        bytes.extend(revision.to_le_bytes());
        bytes.extend(&items);
        bytes.push(END);
        bytes.extend(xxh3_64(&items).to_le_bytes());
        bytes.extend(TRAILER);
        bytes
    }

    fn store(journal: &[u8]) -> tempfile::TempDir {
        let dir = tempfile::TempDir::new().unwrap();
        for file in needed(5) {
            fs::create_dir_all(dir.path().join(&file).parent().unwrap()).unwrap();
            fs::write(dir.path().join(&file), "").unwrap();
        }
        fs::write(dir.path().join("10.jnl"), journal).unwrap();
        fs::write(dir.path().join("9.jnl"), batch(0, 0, 1)).unwrap();
        dir
    }

    #[test]
    fn zeros_count_where_something_comes_after_them() {
        let dir = tempfile::tempdir().unwrap();
        let journal = dir.path().join("1.jnl");
        let (piece, x) = (PIECE as usize, vec![7; 10]);
        for (before, between, after) in [(0, 0, 0), (0, 5, 9), (0, 3 * piece, 1), (piece - 20, piece, 2 * piece + 1)] {
            let whole = [vec![0; before], x.clone(), vec![0; between], x.clone()].concat();
            fs::write(&journal, [whole.clone(), vec![0; after]].concat()).unwrap();
            assert!(written(&journal).unwrap() == whole, "{before} {between} {after}");
        }
        fs::write(&journal, vec![0; piece + 3]).unwrap();
        assert!(written(&journal).unwrap().is_empty());
    }

    #[test]
    fn a_torn_end_is_cut_off() {
        let whole = [batch(1, 0, 10), batch(2, 1, 10)].concat();
        let torn = batch(3, 2, 5_000);
        let unsynced = [torn.clone(), batch(4, 2, 10)].concat();
        let mut hole = unsynced.clone();
        hole[1_000..3_000].fill(0);
        let cases = [&torn[..torn.len() - 1], &torn[..7], &torn[..3_000], &hole, &[0xff; 100], &[0; 100], &[]];
        for end in cases {
            let journal = [&whole, end].concat();
            let dir = store(&journal);
            mend(dir.path(), 5).unwrap();
            let left = fs::read(dir.path().join("10.jnl")).unwrap();
            assert_eq!(trimmed(&left), whole, "{} bytes of it", end.len());
        }
    }

    #[test]
    fn damage_before_what_was_acknowledged_is_reported_and_left() {
        let first = batch(1, 0, 10);
        for at in [0, 3, 14, 40, batch(2, 1, 10).len() - 1] {
            let mut second = batch(2, 1, 10);
            second[at] ^= 0x55;
            let journal = [first.clone(), second, batch(3, 2, 10)].concat();
            let dir = store(&journal);
            let StoreError::Corrupt(what) = mend(dir.path(), 5).unwrap_err() else { panic!("byte {at}") };
            assert!(what.contains(&format!("10.jnl is damaged at byte {}", first.len())), "{what}");
            assert_eq!(fs::read(dir.path().join("10.jnl")).unwrap(), journal);
        }
    }

    #[test]
    fn a_sealed_journal_must_be_whole() {
        let dir = store(&batch(1, 0, 1));
        fs::write(dir.path().join("9.jnl"), &batch(0, 0, 100)[..50]).unwrap();
        assert!(matches!(mend(dir.path(), 5), Err(StoreError::Corrupt(_))));
    }

    #[test]
    fn a_store_without_its_files_is_not_begun_anew() {
        for file in needed(5) {
            let dir = store(&[]);
            fs::remove_file(dir.path().join(&file)).unwrap();
            assert!(matches!(mend(dir.path(), 5), Err(StoreError::Corrupt(_))));
        }
        let dir = store(&[]);
        fs::remove_file(dir.path().join("9.jnl")).unwrap();
        fs::remove_file(dir.path().join("10.jnl")).unwrap();
        assert!(matches!(mend(dir.path(), 5), Err(StoreError::Corrupt(_))));
    }

    #[test]
    fn rewriting_keeps_what_was_written() {
        let mut journal = batch(1, 0, 300);
        let whole = journal.clone();
        journal.resize(5_000, 0);
        let dir = store(&journal);
        rewrite(dir.path()).unwrap();
        assert_eq!(fs::read(dir.path().join("10.jnl")).unwrap(), whole);
        assert_eq!(fs::read(dir.path().join("9.jnl")).unwrap(), batch(0, 0, 1));
    }
}

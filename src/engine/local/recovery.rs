//! Reads a whole store back, as fast as two cores can: one thread goes through the tables, one makes records of what it
//! finds, one reads the log. Knows neither how it was written nor what becomes of it.

use std::{
    collections::VecDeque,
    sync::{Arc, mpsc},
    thread::{self, ScopedJoinHandle},
};

use bytes::Bytes;
use fjall::{Guard, Keyspace, UserValue};
use smol_str::SmolStr;

use super::{
    format::{Decoder, Undecodable, decode_document, decode_known, decode_u64, encode_u64},
    store::StoreError,
};
use crate::{
    engine::TailEntry,
    registry::{Document, Record, Revision},
};

/// Values that are handed from one thread to the other at a time, and how many such portions may wait.
const PORTION: (usize, usize) = (1024, 16);

/// What a log entry counts for in the log's size: its key and value as stored.
pub(super) fn logged_bytes(value: usize) -> u64 {
    8 + value as u64
}

/// Every instance of the `state` keyspace.
pub(super) fn records(state: &Keyspace) -> Result<Vec<Record>, StoreError> {
    let (send, receive) = mpsc::sync_channel::<Vec<UserValue>>(PORTION.1);
    thread::scope(|scope| {
        let decoded = scope.spawn(move || {
            let (mut decoder, mut records) = (Decoder::default(), Vec::new());
            for value in receive.into_iter().flatten() {
                records.push(decoder.record(Bytes::from_owner(value)).map_err(undecodable("state"))?);
            }
            Ok(records)
        });
        let mut portion = Vec::with_capacity(PORTION.0);
        for entry in state.iter() {
            portion.push(entry.value()?);
            if portion.len() == PORTION.0
                && send.send(std::mem::replace(&mut portion, Vec::with_capacity(PORTION.0))).is_err()
            {
                break; // the other thread says why
            }
        }
        let _ = send.send(portion);
        drop(send);
        joined(decoded)
    })
}

/// Every entry of the `known` keyspace.
pub(super) fn known(known: &Keyspace) -> Result<Vec<(SmolStr, SmolStr, u64)>, StoreError> {
    let decode = |entry: Guard| {
        let (key, value) = entry.into_inner()?;
        decode_known(&key, &value).map_err(undecodable("known"))
    };
    known.iter().map(decode).collect()
}

/// Every entry of the `documents` keyspace.
pub(super) fn documents(documents: &Keyspace) -> Result<Vec<Arc<Document>>, StoreError> {
    let decode = |entry: Guard| {
        let value = entry.value()?;
        decode_document(Bytes::copy_from_slice(&value)).map_err(undecodable("documents"))
    };
    documents.iter().map(decode).collect()
}

/// The log's entries after `after`, and what each counts for.
pub(super) type Tail = (Vec<TailEntry>, VecDeque<(Revision, u64)>);

/// Every entry of the `log` keyspace after `after`: those that were trimmed are not even read over.
pub(super) fn tail(log: &Keyspace, after: Revision) -> Result<Tail, StoreError> {
    let (mut decoder, mut tail, mut logged) = (Decoder::default(), Vec::new(), VecDeque::new());
    for entry in log.range(encode_u64(after + 1)..) {
        let (key, value) = entry.into_inner()?;
        let revision = decode_u64(&key).map_err(undecodable("log"))?;
        logged.push_back((revision, logged_bytes(value.len())));
        tail.push(decoder.entry(revision, Bytes::from_owner(value)).map_err(undecodable("log"))?);
    }
    Ok((tail, logged))
}

/// What a thread found; its panic goes on in this one.
pub(super) fn joined<T>(thread: ScopedJoinHandle<'_, Result<T, StoreError>>) -> Result<T, StoreError> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn undecodable(keyspace: &str) -> impl Fn(Undecodable) -> StoreError {
    move |Undecodable| StoreError::Corrupt(format!("an entry of {keyspace} cannot be read"))
}

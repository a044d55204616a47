//! HTTP/2 frames and request headers as bytes.
//!
//! Only what a load needs: every request of a connection has the same headers, so they are encoded twice in all (once
//! entering them in the peer's table, once as references to it, as any gRPC client does). Reply headers are never
//! decoded: the message tells whether a call succeeded. This file knows no sockets and no calls.

/// What a client says first.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes before each frame's payload.
pub(super) const HEAD_BYTES: usize = 9;
/// The largest payload that a peer sends us: we announce no other.
pub(super) const PAYLOAD_MAX: usize = 16_384;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;

/// END_STREAM of DATA and HEADERS; ACK of SETTINGS and PING.
pub(super) const END_STREAM: u8 = 0x1;
pub(super) const ACK: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;

pub(super) const SETTING_HEADER_TABLE: u16 = 1;
pub(super) const SETTING_ENABLE_PUSH: u16 = 2;
pub(super) const SETTING_STREAMS: u16 = 3;
pub(super) const SETTING_WINDOW: u16 = 4;
pub(super) const SETTING_FRAME: u16 = 5;

/// A header table smaller than the protocol's default: then nothing is entered in it.
pub(super) const HEADER_TABLE_DEFAULT: u32 = 4_096;

/// The head of a frame.
pub(super) struct Head {
    pub(super) len: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Head {
    /// The head at the start of `input`, if it is all there.
    pub(super) fn read(input: &[u8]) -> Option<Self> {
        let head: &[u8; HEAD_BYTES] = input.first_chunk()?;
        Some(Self {
            len: u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize,
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff,
        })
    }
}

/// Appends the head of a frame.
pub(super) fn put_head(out: &mut Vec<u8>, len: usize, kind: u8, flags: u8, stream: u32) {
    let len = (len as u32).to_be_bytes();
    let stream = stream.to_be_bytes();
    out.extend_from_slice(&[len[1], len[2], len[3], kind, flags, stream[0], stream[1], stream[2], stream[3]]);
}

/// Appends a WINDOW_UPDATE; stream 0 is the connection.
pub(super) fn put_window(out: &mut Vec<u8>, stream: u32, bytes: u32) {
    put_head(out, 4, WINDOW_UPDATE, 0, stream);
    out.extend_from_slice(&bytes.to_be_bytes());
}

/// Appends a SETTINGS frame.
pub(super) fn put_settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    put_head(out, settings.len() * 6, SETTINGS, 0, 0);
    for (name, value) in settings {
        out.extend_from_slice(&name.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// The entries of a SETTINGS payload.
pub(super) fn settings(payload: &[u8]) -> impl Iterator<Item = (u16, u32)> {
    payload.chunks_exact(6).map(|entry| {
        (u16::from_be_bytes([entry[0], entry[1]]), u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]))
    })
}

/// The 31-bit number at the start of a WINDOW_UPDATE, RST_STREAM or GOAWAY payload; 0 if it is not there.
pub(super) fn number(payload: &[u8]) -> u32 {
    payload.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// Who calls whom, as each request says.
#[derive(Clone, Debug)]
pub(in crate::cli::bench) struct Caller {
    /// Whom requests are for.
    pub(in crate::cli::bench) authority: String,
    pub(in crate::cli::bench) by_tls: bool,
    /// Who they are from, if that is said.
    pub(in crate::cli::bench) authorization: Option<String>,
}

/// The header blocks of one connection's requests.
pub(super) struct RequestHeaders {
    /// Enters the fields in the peer's table.
    entering: Vec<u8>,
    /// Refers to the entered fields.
    entered: Vec<u8>,
    /// Says everything, enters nothing.
    literal: Vec<u8>,
}

/// Indexes into the protocol's static table.
const METHOD_POST: u8 = 3;
const SCHEME_HTTP: u8 = 6;
const SCHEME_HTTPS: u8 = 7;
const NAME_AUTHORITY: u8 = 1;
const NAME_AUTHORIZATION: u8 = 23;
const NAME_PATH: u8 = 4;
const NAME_CONTENT_TYPE: u8 = 31;
const NAME_USER_AGENT: u8 = 58;
/// The newest entry of the dynamic table.
const NEWEST: u8 = 62;

impl RequestHeaders {
    /// The headers of gRPC requests for `path`.
    pub(super) fn new(caller: &Caller, path: &str) -> Self {
        let Caller { authority, by_tls, authorization } = caller;
        let mut fields = vec![
            (NAME_PATH, ":path", path),
            (NAME_AUTHORITY, ":authority", authority),
            (0, "te", "trailers"),
            (NAME_CONTENT_TYPE, "content-type", "application/grpc"),
            (NAME_USER_AGENT, "user-agent", concat!("onair-bench/", env!("CARGO_PKG_VERSION"))),
        ];
        fields.extend(authorization.as_deref().map(|value| (NAME_AUTHORIZATION, "authorization", value)));
        let start = vec![0x80 | METHOD_POST, 0x80 | if *by_tls { SCHEME_HTTPS } else { SCHEME_HTTP }];
        let (mut entering, mut entered, mut literal) = (start.clone(), start.clone(), start);
        for (position, (index, name, value)) in fields.iter().enumerate() {
            put_field(&mut entering, 0x40, 6, *index, name, value);
            put_field(&mut literal, 0, 4, *index, name, value);
            entered.push(0x80 | (NEWEST + (fields.len() - 1 - position) as u8));
        }
        Self { entering, entered, literal }
    }

    /// The block of the connection's next request.
    pub(super) fn block(&self, first: bool, may_enter: bool) -> &[u8] {
        match (may_enter, first) {
            (false, _) => &self.literal,
            (true, true) => &self.entering,
            (true, false) => &self.entered,
        }
    }
}

/// A literal field, its name by static index unless that is 0.
fn put_field(out: &mut Vec<u8>, pattern: u8, prefix: u32, index: u8, name: &str, value: &str) {
    put_int(out, pattern, prefix, usize::from(index));
    if index == 0 {
        put_int(out, 0, 7, name.len());
        out.extend_from_slice(name.as_bytes());
    }
    put_int(out, 0, 7, value.len());
    out.extend_from_slice(value.as_bytes());
}

/// An integer in what `pattern` leaves of a byte, and more bytes if it does not fit.
fn put_int(out: &mut Vec<u8>, pattern: u8, prefix: u32, value: usize) {
    let full = (1 << prefix) - 1;
    if value < full {
        out.push(pattern | value as u8);
        return;
    }
    out.push(pattern | full as u8);
    let mut rest = value - full;
    while rest >= 128 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers() {
        // The examples of RFC 7541, C.1.
        for (prefix, value, bytes) in [(5, 10, &[10][..]), (5, 1337, &[31, 154, 10]), (8, 42, &[42])] {
            let mut out = Vec::new();
            put_int(&mut out, 0, prefix, value);
            assert_eq!(out, bytes);
        }
    }

    #[test]
    fn heads_read_as_written() {
        let mut out = Vec::new();
        put_head(&mut out, 70_000, DATA, END_STREAM, 5);
        let head = Head::read(&out).unwrap();
        assert_eq!((head.len, head.kind, head.flags, head.stream), (70_000, DATA, END_STREAM, 5));
        assert!(Head::read(&out[..8]).is_none());
    }
}

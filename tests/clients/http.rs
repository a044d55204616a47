//! Requests of HTTP, each on a connection of its own. Knows nothing of what is asked.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

/// One request; the answer's body.
pub fn http(address: SocketAddr, method: &str, path: &str, body: &str) -> String {
    try_http(address, method, path, body).unwrap()
}

/// The same of a server that may not be there. An answer that is no 200 is a fault of the test.
///
/// # Errors
/// There was no answer.
pub fn try_http(address: SocketAddr, method: &str, path: &str, body: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    let length = body.len();
    // The older version, so that no answer comes in chunks.
    let head = format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\n");
    write!(stream, "{head}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    let (head, body) = said.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    assert_eq!(head.split(' ').nth(1), Some("200"), "{method} {path}: {said}");
    Ok(body.to_owned())
}

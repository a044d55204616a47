//! TLS over ring: certificates and keys, what they say, and what is wrong with them. Knows files and bytes, and neither
//! settings, connections nor what is called on them.

mod client;
#[cfg(feature = "server")]
pub mod mint;
mod peer;
mod pem;
#[cfg(feature = "server")]
mod server;

pub use client::{ClientFiles, ClientTls, explain};
pub use peer::{AlternativeName, PeerCertificate, Unreadable};
pub use pem::{Date, Look, Pem, TlsError};
#[cfg(feature = "server")]
pub use server::{ClientAuth, Live, Loaded, ServerFiles};

/// What is spoken over TLS, the preferred first.
#[cfg(feature = "server")]
const ALPN_ALL: [&[u8]; 2] = [b"h2", b"http/1.1"];

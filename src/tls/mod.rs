//! TLS: what certificates say. Knows files and bytes, and neither settings, connections nor what is called on them.

mod peer;

pub use peer::{AlternativeName, PeerCertificate, Unreadable};

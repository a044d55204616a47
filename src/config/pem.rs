//! How certificates and keys are written in settings. Knows no table and no source.

use super::kind::{Kind, Word};
use crate::tls::{ClientAuth, Pem};

/// PEM, as a file or as text, or nothing. What is given as text is not shown again.
pub(super) struct PemOrFile;
impl Kind<Option<Pem>> for PemOrFile {
    const VALUE_NAME: &'static str = "FILE";

    fn read(text: &str) -> Result<Option<Pem>, String> {
        if text.is_empty() { Err("a file is needed, or PEM".to_owned()) } else { Ok(Some(Pem::parse(text))) }
    }

    fn show(value: &Option<Pem>) -> String {
        value.as_ref().map_or_else(String::new, Pem::to_string)
    }
}

impl Word for Option<ClientAuth> {
    const VALUE_NAME: &'static str = "required|optional";
    const WORDS: &'static [(&'static str, Self)] =
        &[("required", Some(ClientAuth::Required)), ("optional", Some(ClientAuth::Optional))];
}

//! How certificates and keys are written in settings, and the files that secrets are in. Knows no table and no source.

use std::path::PathBuf;

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

/// The path of a file; none is said by nothing.
pub(super) struct FilePath;
impl Kind<Option<PathBuf>> for FilePath {
    const VALUE_NAME: &'static str = "FILE";

    fn read(text: &str) -> Result<Option<PathBuf>, String> {
        Ok((!text.is_empty()).then(|| PathBuf::from(text)))
    }

    fn show(value: &Option<PathBuf>) -> String {
        value.as_ref().map_or_else(String::new, |path| path.display().to_string())
    }
}

impl Word for Option<ClientAuth> {
    const VALUE_NAME: &'static str = "required|optional";
    const WORDS: &'static [(&'static str, Self)] =
        &[("required", Some(ClientAuth::Required)), ("optional", Some(ClientAuth::Optional))];
}

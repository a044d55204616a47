//! The operator's token: who asks everybody for one has to give out a first. It is written to a file that its owner alone
//! can read, before it is good, so that a token that is good is never lost.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{ServeError, keys::Keys};
use crate::{
    access::{
        Gate, Grants, Keeper, Permission,
        token::{self, HeldSecret, Secret, Token},
    },
    actor::RegistryHandle,
    config::ServeSettings,
    registry::Write,
};

/// Its name.
const NAME: &str = "operator";
/// Its file in the directory of data.
const FILE: &str = "operator.token";

/// Who asks everybody who they are, if that is asked: with somebody who may do everything.
pub(super) async fn keeper(
    settings: &ServeSettings,
    handle: &RegistryHandle,
) -> Result<(Option<Arc<Keeper>>, Keys), ServeError> {
    if !settings.auth {
        return Ok((None, Keys::default()));
    }
    let keeper = Keeper::new(Arc::clone(handle.hub()), &settings.anonymous_read, Keeper::wall());
    ensure(settings, handle, &keeper).await?;
    let keys = Keys::start(settings, &keeper, handle.metrics())?;
    Ok((Some(keeper), keys))
}

/// The check, for a thread of its own.
pub(super) fn gate(keeper: Option<&Arc<Keeper>>) -> Gate {
    keeper.map_or_else(Gate::open, |keeper| Gate::new(Arc::clone(keeper)))
}

/// Makes an operator's token if there is none that is good, or if a file was named for it that is not there.
async fn ensure(settings: &ServeSettings, handle: &RegistryHandle, keeper: &Keeper) -> Result<(), ServeError> {
    let now = keeper.now();
    let named = settings.operator_token.as_ref();
    if has_operator(handle, now) && named.is_none_or(|path| path.exists()) {
        return Ok(());
    }
    let path = named.cloned().unwrap_or_else(|| settings.data_dir.join(FILE));
    let mut bits = [0; 32];
    getrandom::fill(&mut bits).map_err(|error| ServeError::Operator(format!("no random numbers: {error}")))?;
    let secret = Secret(bits);
    let unwritten = |error: io::Error| ServeError::Operator(format!("{} cannot be written: {error}", path.display()));
    write(&path, &secret.text(NAME)).map_err(unwritten)?;
    let held = handle.token(NAME).0.and_then(|document| Token::of(&document));
    let fresh = HeldSecret { hash: secret.hash(), since: now, until: None };
    let token = Token {
        name: NAME.into(),
        grants: Grants::all(),
        secrets: vec![fresh],
        certificates: held.as_ref().map_or_else(Vec::new, |held| held.certificates.clone()),
        since: held.as_ref().map_or(now, |held| held.since),
        by: String::new(),
        until: None,
        revision: 0,
    };
    let expected = held.map_or(0, |held| held.revision);
    let write = Write { key: token::key(NAME), body: Some(token.body()), expected };
    handle.write(write, None).await.map_err(|error| ServeError::Operator(error.to_string()))?;
    tracing::info!(path = %path.display(), "the operator's token was written; whoever has it may do everything");
    Ok(())
}

/// Whether a token that is good at `now` may do everything.
fn has_operator(handle: &RegistryHandle, now: u64) -> bool {
    let documents = handle.hub().registry().tokens().clone();
    let good = |until: Option<u64>| until.is_none_or(|until| now < until);
    documents.values().filter_map(|document| Token::of(document)).any(|token| {
        let may_everything = Permission::ALL.into_iter().all(|permission| token.grants.everywhere(permission));
        may_everything && good(token.until) && token.secrets.iter().any(|secret| good(secret.until))
    })
}

/// Puts a file there that its owner alone can read, whole or not at all.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Nobody else has it open, and nobody else can open it.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

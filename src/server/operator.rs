//! The operator's token: who asks everybody for one has to give out a first. It is written to a file that its owner alone
//! can read, before it is good, so that a token that is good is never lost.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
    sync::Arc,
};

use smol_str::SmolStr;

use super::{ServeError, keys::Keys};
use crate::{
    access::{
        Gate, Grants, Keeper, Permission,
        token::{self, OPERATOR as NAME, SECRETS_MAX, Secret, Token},
    },
    actor::RegistryHandle,
    config::ServeSettings,
    private::Private,
    registry::Write,
};

/// Its file in the directory of data.
const FILE: &str = "operator.token";
/// How long the secrets before are good beside a new one.
const OVERLAP: u64 = 3_600;
/// Who made it, as against those who came by before anybody was asked who they are.
const BY: &str = "server";
/// More than this no token has.
const FILE_BYTES_MAX: u64 = 1_024;

/// Who asks everybody who they are, if that is asked: with somebody who may do everything.
pub(super) async fn keeper(
    settings: &ServeSettings,
    handle: &RegistryHandle,
) -> Result<(Option<Arc<Keeper>>, Keys), ServeError> {
    if !settings.auth {
        return Ok((None, Keys::default()));
    }
    let keeper = Keeper::new(Arc::clone(handle.hub()), &settings.anonymous_read, Keeper::wall());
    ensure(settings, handle, keeper.now()).await?;
    tell(handle, keeper.now());
    let keys = Keys::start(settings, &keeper, handle.metrics())?;
    Ok((Some(keeper), keys))
}

/// The check, for a thread of its own.
pub(super) fn gate(keeper: Option<&Arc<Keeper>>) -> Gate {
    keeper.map_or_else(Gate::open, |keeper| Gate::new(Arc::clone(keeper)))
}

/// Makes an operator's token if there is none that is good, or if a file was named for it that has none.
async fn ensure(settings: &ServeSettings, handle: &RegistryHandle, now: u64) -> Result<(), ServeError> {
    let (named, held) = (settings.operator_token.as_ref(), held(handle, NAME));
    let has_operator = tokens(handle).any(|token| is_operator(&token, now));
    if has_operator && named.is_none() {
        return Ok(());
    }
    let path = named.cloned().unwrap_or_else(|| settings.data_dir.join(FILE));
    let about = |what: &str| ServeError::Operator(format!("{} {what}", path.display()));
    let text = read(&path).map_err(|error| about(&format!("cannot be read: {error}")))?;
    if has_operator && text.as_deref().is_some_and(|text| is_good(handle, text.trim(), now)) {
        return Ok(());
    }
    if text.is_some_and(|text| token::read(text.trim()).is_none_or(|(name, _)| name != NAME)) {
        return Err(about("has something else than the operator's token: name another file, or take this one away"));
    }
    let mut bits = [0; 32];
    getrandom::fill(&mut bits).map_err(|error| ServeError::Operator(format!("no random numbers: {error}")))?;
    let secret = Secret(bits);
    let written = Private::create(&path, 0o600).and_then(|file| file.fill(&format!("{}\n", secret.text(NAME))));
    written.map_err(|error| about(&format!("cannot be written: {error}")))?;
    let expected = held.as_ref().map_or(0, |held| held.revision);
    let token = renewed(held, secret, now, has_operator);
    let write = Write { key: token::key(NAME), body: Some(token.body()), expected };
    handle.write(write, None).await.map_err(|error| ServeError::Operator(error.to_string()))?;
    tracing::info!(path = %path.display(), "the operator's token was written");
    Ok(())
}

/// The operator's token with one more secret, if it is good and somebody may do everything: then what it allows stays as
/// it was made. Otherwise a new one, which nothing of the one before opens: that was over, or somebody else's.
fn renewed(held: Option<Token>, secret: Secret, now: u64, has_operator: bool) -> Token {
    let fresh = Token {
        name: NAME.into(),
        grants: Grants::all(),
        unknown: Vec::new(),
        secrets: Vec::new(),
        certificates: Vec::new(),
        quota: crate::registry::Quota::default(),
        since: now,
        by: BY.to_owned(),
        until: None,
        revision: 0,
    };
    // One that nobody answers for is somebody else's.
    let stays = |held: &Token| has_operator && !held.by.is_empty() && held.until.is_none_or(|until| now < until);
    let mut token = held.filter(stays).unwrap_or(fresh).rotated(secret.hash(), now, OVERLAP);
    token.secrets.truncate(SECRETS_MAX);
    token
}

/// Says who may do everything: above all who was given that before anybody was asked who they are.
fn tell(handle: &RegistryHandle, now: u64) {
    let join = |names: Vec<SmolStr>| names.join(" ");
    let all = tokens(handle).filter(|token| may_everything(token, now)).map(|token| token.name);
    tracing::info!(tokens = join(all.collect()), "tokens that may do everything");
    let unasked = tokens(handle).filter(|token| token.by.is_empty()).map(|token| token.name);
    let unasked: Vec<SmolStr> = unasked.collect();
    if !unasked.is_empty() {
        tracing::warn!(
            tokens = join(unasked),
            "tokens that were made when nobody was asked who they are: revoke those that you do not know"
        );
    }
}

fn tokens(handle: &RegistryHandle) -> impl Iterator<Item = Token> {
    let documents = handle.hub().registry().tokens().clone();
    documents.into_iter().filter_map(|(_, document)| Token::of(&document))
}

fn held(handle: &RegistryHandle, name: &str) -> Option<Token> {
    handle.token(name).0.and_then(|document| Token::of(&document))
}

/// Whether a token is good at `now`, and may do everything.
fn may_everything(token: &Token, now: u64) -> bool {
    let good = |until: Option<u64>| until.is_none_or(|until| now < until);
    let may = Permission::ALL.into_iter().all(|permission| token.grants.everywhere(permission));
    may && good(token.until) && token.secrets.iter().any(|secret| good(secret.until))
}

/// The same, and not by the word of anybody who came by before they were asked who they are.
fn is_operator(token: &Token, now: u64) -> bool {
    may_everything(token, now) && !token.by.is_empty()
}

/// Whether a text is good by now as an operator's token.
fn is_good(handle: &RegistryHandle, text: &str, now: u64) -> bool {
    let Some((name, secret)) = token::read(text) else { return false };
    let document = handle.token(name).0;
    let accepts = document.is_some_and(|document| token::accepts(&document, &secret.hash(), now).is_some());
    accepts && held(handle, name).is_some_and(|token| name == NAME || is_operator(&token, now))
}

/// The text of a file, if it is there; what is too long for a token, or none, is a text that is no token.
fn read(path: &Path) -> io::Result<Option<String>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Grant, token::HeldSecret};

    fn held(grant: &str, until: Option<u64>) -> Token {
        Token {
            name: NAME.into(),
            grants: Grants::new([Grant::parse(grant).expect("a grant")]),
            unknown: Vec::new(),
            secrets: vec![HeldSecret { hash: Secret([1; 32]).hash(), since: 0, until: None }],
            certificates: vec!["dns:a.example".into()],
            since: 0,
            by: "token:admin-of-a".to_owned(),
            until,
            quota: crate::registry::Quota::default(),
            revision: 7,
        }
    }

    /// A token that is over, or was somebody else's of a part, opens nothing when nobody is operator any more.
    #[test]
    fn what_was_no_operators_token_does_not_become_one() {
        let all = "*=read,register,publish,deploy,catalog,operate,admin";
        for (held, has_operator) in
            [(held("a=admin", None), false), (held(all, Some(5)), false), (held(all, Some(5)), true)]
        {
            let token = renewed(Some(held), Secret([2; 32]), 10, has_operator);
            assert!(is_operator(&token, 10));
            assert_eq!((token.secrets.len(), token.certificates.len(), token.by.as_str()), (1, 0, BY));
            assert_eq!(token.secrets[0].hash, Secret([2; 32]).hash());
        }
        // It was lost from its file, and is good.
        let token = renewed(Some(held(all, None)), Secret([2; 32]), 10, true);
        let ends: Vec<_> = token.secrets.iter().map(|secret| secret.until).collect();
        assert_eq!((ends, token.certificates.len()), (vec![None, Some(10 + OVERLAP)], 1));
    }
}

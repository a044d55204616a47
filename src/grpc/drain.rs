//! `Drain` between the API's messages and the registry's types.

use std::time::Duration;

use super::convert::{WAIT_MAX, checked, key, span, violation};
use crate::{
    actor::Drained,
    proto::{DrainRequest, DrainResponse},
    registry::{Claim, Error, LeaseToken},
};

/// How long the watches are waited for by who does not say.
const DRAIN_WAIT: Duration = Duration::from_secs(5);

/// What to drain, and how long to wait.
pub(super) fn read(request: DrainRequest) -> Result<(Claim, Duration), Error> {
    let mut violations = Vec::new();
    let wait = match request.wait {
        None => DRAIN_WAIT,
        given => span("wait", given, &mut violations).min(WAIT_MAX),
    };
    let by_key = !request.service.is_empty() || !request.id.is_empty() || !request.namespace.is_empty();
    if !by_key && request.lease_token.is_empty() {
        violations.push(violation("lease_token", "give it, or service and id"));
    }
    let before = violations.len();
    let key = by_key.then(|| key(&request.namespace, &request.service, &request.id, &mut violations));
    let token = LeaseToken::decode(&request.lease_token);
    match (&token, &key) {
        (None, _) if !request.lease_token.is_empty() => {
            violations.push(violation("lease_token", "is no lease token"));
        }
        (Some(token), Some(key)) if violations.len() == before && token.key != key.fingerprint() => {
            violations.push(violation("lease_token", format!("is not a token of {key}")));
        }
        _ => {}
    }
    checked(violations)?;
    match (token, key) {
        (Some(token), _) => Ok((Claim::Lease(token), wait)),
        (None, Some(key)) => Ok((Claim::Key(key), wait)),
        (None, None) => Err(Error::invalid("lease_token", "give it, or service and id")),
    }
}

/// How the watches stand to it.
pub(super) fn answer(drained: Drained) -> DrainResponse {
    let Drained { standings, revision } = drained;
    DrainResponse {
        acked: standings.acked,
        sent: standings.sent,
        pending: standings.pending,
        lagging: standings.lagging,
        revision,
    }
}

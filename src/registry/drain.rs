//! An instance is taken out of traffic before it goes: who may, and what becomes of its record. Knows nobody who watches.

use super::{
    Registry, Status,
    command::{Claim, Decision, Outcome, Principal, Verdict},
    decide::{superseded, with_status},
    error::Error,
};

impl Registry {
    /// The instance gets DRAINING, whatever it was before; one that has it stays as it is.
    pub(super) fn drain(&self, claim: &Claim, principal: &Principal) -> Decision {
        let (slot, by_lease) = match self.claimed(claim, principal) {
            Ok(found) => found,
            Err(error) => return Decision::Reply(Err(error)),
        };
        let Some(current) = self.record(slot) else { return Decision::Reply(Err(no_instance(claim))) };
        if current.lease.is_own() {
            return Decision::Reply(Err(Error::Permission { permission: "registry" }));
        }
        let outcome = Outcome::Drained { key: current.key(), by_lease };
        if current.status == Status::Draining {
            return Decision::Reply(Ok(outcome));
        }
        Decision::Propose(vec![with_status(current, Status::Draining)], outcome)
    }

    /// The slot of what is claimed, and whether it is so by its lease.
    fn claimed(&self, claim: &Claim, principal: &Principal) -> Result<(u32, bool), Error> {
        let token = match claim {
            Claim::Key(_) if !principal.operator => return Err(Error::Permission { permission: "operate" }),
            Claim::Key(key) => return self.slot_of(key).map(|slot| (slot, false)).ok_or_else(|| no_instance(claim)),
            Claim::Lease(token) => token,
        };
        match self.judge(Some(token)) {
            Verdict::Live(slot) => Ok((slot, true)),
            Verdict::Denied => Err(Error::LeaseDenied),
            Verdict::Superseded(slot) => Err(self.record(slot).map_or_else(|| no_instance(claim), superseded)),
            Verdict::Expired | Verdict::Unknown => Err(no_instance(claim)),
        }
    }
}

fn no_instance(claim: &Claim) -> Error {
    let key = match claim {
        Claim::Key(key) => key.to_string(),
        Claim::Lease(_) => "the instance of this lease".to_owned(),
    };
    Error::NotFound { key }
}

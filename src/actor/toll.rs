//! How fast somebody may write who has a quota of that: as many changes a second as it says, and as many at once after a
//! second without any. What is refused here never comes to the actor. Renewals and what takes away cost nothing.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use tokio::time::Instant;

use super::RegistryHandle;
use crate::registry::{Command, Error, Exceeded, Principal, Resource, Whose};

/// A second, in which a bucket that is empty becomes full.
const SECOND: u64 = 1_000_000_000;
/// So many buckets are kept before those that are full are dropped.
const SWEEP_MIN: usize = 64;

/// The buckets of all who write and have a quota of it.
#[derive(Debug)]
pub(super) struct Tolls {
    began: Instant,
    buckets: Mutex<Buckets>,
}

/// For each the time at which its bucket is full again, in nanoseconds since the beginning: who is not here has a full one.
#[derive(Debug, Default)]
struct Buckets {
    full_at: HashMap<Whose, u64>,
    sweep_at: usize,
}

impl Buckets {
    /// Takes one change out of the bucket of each, or none out of any.
    fn take(&mut self, bounds: &[(Whose, u64)], now: u64) -> Result<(), Vec<Exceeded>> {
        let mut exceeded = Vec::new();
        for (whose, maximum) in bounds {
            let room_in = self.room_in(whose, *maximum, now);
            if room_in != Some(0) {
                exceeded.push(Exceeded {
                    whose: whose.clone(),
                    resource: Resource::Writes,
                    maximum: *maximum,
                    usage: self.used(whose, *maximum, now),
                    wanted: 1,
                    room_in: room_in.map(|nanos| nanos.div_ceil(1_000_000)),
                });
            }
        }
        if !exceeded.is_empty() {
            return Err(exceeded);
        }
        if self.full_at.len() >= self.sweep_at {
            self.full_at.retain(|_, full_at| *full_at > now);
            self.sweep_at = (self.full_at.len() * 2).max(SWEEP_MIN);
        }
        for (whose, maximum) in bounds {
            let full_at = self.full_at.entry(whose.clone()).or_default();
            *full_at = now.max(*full_at) + SECOND / (*maximum).max(1);
        }
        Ok(())
    }

    /// Puts one change back into the bucket of each.
    fn give_back(&mut self, bounds: &[(Whose, u64)]) {
        for (whose, maximum) in bounds {
            if let Some(full_at) = self.full_at.get_mut(whose) {
                *full_at = full_at.saturating_sub(SECOND / (*maximum).max(1));
            }
        }
    }

    /// In how many nanoseconds there is one change in the bucket; none: never.
    fn room_in(&self, whose: &Whose, maximum: u64, now: u64) -> Option<u64> {
        let each = SECOND.checked_div(maximum)?;
        let full_at = self.full_at.get(whose).copied().unwrap_or_default().max(now);
        Some((full_at + each).saturating_sub(now + each * maximum))
    }

    /// How many changes are gone from the bucket.
    fn used(&self, whose: &Whose, maximum: u64, now: u64) -> u64 {
        let left = self.full_at.get(whose).copied().unwrap_or_default().saturating_sub(now);
        left.div_ceil((SECOND / maximum.max(1)).max(1)).min(maximum)
    }
}

impl Tolls {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), buckets: Mutex::default() }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Whose buckets a change was taken out of, which may have to be put back.
#[derive(Debug, Default)]
pub(super) struct Paid(Vec<(Whose, u64)>);

/// In whose name a command changes something, and where; none: nobody is refused it for want of speed.
fn payer(command: &Command) -> Option<(&str, &Principal)> {
    match command {
        Command::Register(register) if register.is_own() => None,
        Command::Register(register) => Some((&register.registration.instance.namespace, &register.principal)),
        Command::Keep(keep) => Some((&keep.place.key.namespace, &keep.register.principal)),
        Command::Deploy(deploy) => Some((&deploy.namespace, &deploy.principal)),
        Command::Catalog(command) => Some((&command.namespace, &command.principal)),
        // Who may write these has to be able to, whatever they say.
        Command::Write(_) => None,
        Command::Admit { .. }
        | Command::SetStatus { .. }
        | Command::Drain { .. }
        | Command::Deregister { .. }
        | Command::Expire { .. }
        | Command::Forget { .. } => None,
    }
}

impl RegistryHandle {
    /// Counts a change that somebody wants, who may have a quota of that.
    ///
    /// # Errors
    /// `Quota`: with all that it exceeds, and not counted.
    pub(super) fn charge(&self, command: &Command) -> Result<Paid, Error> {
        let Some((namespace, principal)) = payer(command) else { return Ok(Paid::default()) };
        let Some(bounds) = self.bounds(namespace, principal) else { return Ok(Paid::default()) };
        if let Command::Keep(keep) = command
            && self.hub().registry().is_renewal(keep)
        {
            return Ok(Paid::default());
        }
        match self.pay(&bounds) {
            Ok(()) => Ok(Paid(bounds)),
            Err(mut exceeded) => {
                exceeded.extend(self.hub().registry().foreseen(command));
                Err(Error::Quota(exceeded))
            }
        }
    }

    /// An answer as it is; who is refused by another quota has paid nothing of this one.
    pub(super) fn settled<T>(&self, paid: &Paid, answer: Result<T, Error>) -> Result<T, Error> {
        if matches!(answer, Err(Error::Quota(_))) {
            let mut buckets = self.tolls.buckets.lock().unwrap_or_else(PoisonError::into_inner);
            buckets.give_back(&paid.0);
        }
        answer
    }

    /// As `charge`, of what many commands together do for one caller.
    ///
    /// # Errors
    /// `Quota`.
    pub(super) fn charge_once(&self, namespace: &str, principal: &Principal) -> Result<(), Error> {
        self.bounds(namespace, principal).map_or(Ok(()), |bounds| self.pay(&bounds).map_err(Error::Quota))
    }

    fn pay(&self, bounds: &[(Whose, u64)]) -> Result<(), Vec<Exceeded>> {
        let mut buckets = self.tolls.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.take(bounds, self.tolls.now())
    }

    /// By what it is bounded how fast a principal writes in a namespace; none: by nothing.
    fn bounds(&self, namespace: &str, principal: &Principal) -> Option<Vec<(Whose, u64)>> {
        if !self.hub().has_quotas() && principal.quota.is_none() {
            return None;
        }
        let of_namespace = self.hub().registry().quota(namespace).and_then(|quota| quota.writes);
        let of_namespace = of_namespace.map(|maximum| (Whose::Namespace(namespace.into()), maximum));
        let of_principal = principal.bounded().and_then(|(name, quota)| Some((name, quota.writes?)));
        let of_principal = of_principal.map(|(name, maximum)| (Whose::Principal(name.clone()), maximum));
        let bounds: Vec<(Whose, u64)> = of_namespace.into_iter().chain(of_principal).collect();
        (!bounds.is_empty()).then_some(bounds)
    }

    /// How many changes of the last second are counted of somebody who may make `maximum`.
    #[must_use]
    pub fn writes_used(&self, whose: &Whose, maximum: u64) -> u64 {
        let buckets = self.tolls.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.used(whose, maximum, self.tolls.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: u64 = 1_000_000;

    fn who(name: &str) -> Whose {
        Whose::Namespace(name.into())
    }

    /// Whether it is let through; else in how many milliseconds it would be.
    fn take(buckets: &mut Buckets, bounds: &[(Whose, u64)], now: u64) -> Result<(), Vec<Option<u64>>> {
        buckets.take(bounds, now).map_err(|exceeded| exceeded.iter().map(|one| one.room_in).collect())
    }

    #[test]
    fn as_many_at_once_as_in_a_second_and_then_one_by_one() {
        let mut buckets = Buckets::default();
        let bounds = [(who("a"), 4)];
        for used in 0..4 {
            assert_eq!(buckets.used(&bounds[0].0, 4, 0), used);
            assert_eq!(take(&mut buckets, &bounds, 0), Ok(()));
        }
        assert_eq!(take(&mut buckets, &bounds, 0), Err(vec![Some(250)]));
        assert_eq!(take(&mut buckets, &bounds, 249 * MILLI), Err(vec![Some(1)]));
        assert_eq!(take(&mut buckets, &bounds, 250 * MILLI), Ok(()), "when it was told to");
        assert_eq!(take(&mut buckets, &bounds, 250 * MILLI), Err(vec![Some(250)]));
        // However long nothing is written, it is no more than a second's.
        let later = 3_600 * SECOND;
        assert_eq!((0..9).filter(|_| take(&mut buckets, &bounds, later).is_ok()).count(), 4);
    }

    #[test]
    fn who_is_refused_for_one_reason_pays_nothing_for_the_others() {
        let mut buckets = Buckets::default();
        let (both, alone) = ([(who("a"), 2), (who("b"), 0)], [(who("a"), 2)]);
        for _ in 0..5 {
            assert_eq!(take(&mut buckets, &both, 0), Err(vec![None]), "never: nothing is allowed");
        }
        assert_eq!((take(&mut buckets, &alone, 0), take(&mut buckets, &alone, 0)), (Ok(()), Ok(())));
        assert_eq!(take(&mut buckets, &both, 0), Err(vec![Some(500), None]), "all that is in the way is told");
    }

    #[test]
    fn those_who_write_no_more_are_not_kept() {
        let mut buckets = Buckets::default();
        for number in 0..10_000_u64 {
            assert_eq!(take(&mut buckets, &[(who(&number.to_string()), 10)], number * SECOND), Ok(()));
        }
        assert!(buckets.full_at.len() <= SWEEP_MIN, "{}", buckets.full_at.len());
    }

    #[test]
    fn what_is_given_back_is_there_again() {
        let mut buckets = Buckets::default();
        let bounds = [(who("a"), 2), (who("b"), 1)];
        for _ in 0..5 {
            assert_eq!(take(&mut buckets, &bounds, 0), Ok(()));
            assert_eq!(take(&mut buckets, &bounds, 0), Err(vec![Some(1_000)]));
            buckets.give_back(&bounds);
        }
        // A full one stays as full as it was.
        buckets.give_back(&bounds);
        assert_eq!(
            (take(&mut buckets, &bounds, 0), take(&mut buckets, &bounds[1..], 0)),
            (Ok(()), Err(vec![Some(1_000)]))
        );
    }

    /// A quota that is larger than a bucket can tell apart is none.
    #[test]
    fn a_quota_may_be_any_number() {
        let mut buckets = Buckets::default();
        for _ in 0..1_000 {
            assert_eq!(take(&mut buckets, &[(who("a"), u64::MAX)], 0), Ok(()));
        }
        assert_eq!(take(&mut buckets, &[(who("a"), 1)], 0), Ok(()), "another quota begins with what is used");
        assert_eq!(take(&mut buckets, &[(who("a"), 1)], 0), Err(vec![Some(1_000)]));
    }
}

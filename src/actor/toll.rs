//! How fast somebody may write who has a quota of that: as many changes a second as it says, and as many at once after a
//! second without any. What is refused here never comes to the actor, but for what is to be heard all the same. Renewals and
//! what takes away cost nothing. A bucket never has more in it than a second's, however much comes back.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::oneshot::{self, Receiver},
    time::Instant,
};

use super::{RegistryHandle, Reply, request::Answer};
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

/// Who is not here has a full bucket.
#[derive(Debug, Default)]
struct Buckets {
    all: HashMap<Whose, Bucket>,
    sweep_at: usize,
}

/// A bucket that is not full, or was not a moment ago. Times are in nanoseconds since the beginning.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// When it was full last.
    since: u64,
    /// When it is full again.
    full_at: u64,
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
        self.take_at_once(bounds, now);
        Ok(())
    }

    /// The same, whether or not it is there: who owes one waits for the next so much longer.
    fn take_at_once(&mut self, bounds: &[(Whose, u64)], now: u64) {
        if self.all.len() >= self.sweep_at {
            self.all.retain(|_, bucket| bucket.full_at > now);
            self.sweep_at = (self.all.len() * 2).max(SWEEP_MIN);
        }
        for (whose, maximum) in bounds {
            let bucket = self.all.entry(whose.clone()).or_default();
            if bucket.full_at <= now {
                *bucket = Bucket { since: now, full_at: now };
            }
            bucket.full_at += SECOND / (*maximum).max(1);
        }
    }

    /// Puts one change that was taken out at that time back into the bucket of each that has not been full since: into any
    /// other it has come back by itself.
    fn give_back(&mut self, bounds: &[(Whose, u64)], taken: u64) {
        for (whose, maximum) in bounds {
            if let Some(bucket) = self.all.get_mut(whose).filter(|bucket| bucket.since <= taken) {
                bucket.full_at = bucket.full_at.saturating_sub(SECOND / (*maximum).max(1));
            }
        }
    }

    fn full_at(&self, whose: &Whose) -> u64 {
        self.all.get(whose).map_or(0, |bucket| bucket.full_at)
    }

    /// In how many nanoseconds there is one change in the bucket; none: never.
    fn room_in(&self, whose: &Whose, maximum: u64, now: u64) -> Option<u64> {
        let each = SECOND.checked_div(maximum)?;
        let full_at = self.full_at(whose).max(now);
        Some((full_at + each).saturating_sub(now + each * maximum))
    }

    /// How many changes are gone from the bucket.
    fn used(&self, whose: &Whose, maximum: u64, now: u64) -> u64 {
        let left = self.full_at(whose).saturating_sub(now);
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

    fn lock(&self) -> MutexGuard<'_, Buckets> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was paid for a change before it is known what it really comes to.
#[derive(Debug)]
pub(super) enum Paid {
    /// Nothing: nobody bounds how fast they write.
    Free,
    /// Nothing yet: it looked like a renewal.
    Later(Box<Purses>),
    /// One change, at this time.
    At(u64, Box<Purses>),
    /// Nothing: there was none left. If it is a renewal in the end, none is needed.
    Refused(Box<Error>),
}

/// Whose buckets a change is to be taken out of.
#[derive(Debug)]
pub(super) struct Purses {
    tolls: Arc<Tolls>,
    bounds: Vec<(Whose, u64)>,
}

/// The way back to who wants a change, and what they paid for it. Whether that was due is seen by the answer, which is made
/// also for who does not wait for it any more.
#[derive(Debug)]
pub struct Charged {
    answer: Answer<Reply>,
    paid: Paid,
}

impl Charged {
    pub(super) fn new(paid: Paid) -> (Self, Receiver<Result<Reply, Error>>) {
        let (answer, answered) = oneshot::channel();
        (Self { answer, paid }, answered)
    }

    /// Whether nobody waits for the answer any more.
    pub(super) fn is_closed(&self) -> bool {
        self.answer.is_closed()
    }

    /// Why it is refused, unless it is a renewal.
    pub(super) fn refused(&self) -> Option<&Error> {
        if let Paid::Refused(error) = &self.paid { Some(error) } else { None }
    }

    /// Answers. Who is refused by another quota, or for want of room, has paid nothing; and of several who say something
    /// without a token at once, those have paid who changed something.
    pub(super) fn send(self, reply: Result<Reply, Error>) {
        let is_due = match &reply {
            Err(Error::Quota(_) | Error::Overloaded { .. }) => false,
            Ok(Reply::Kept { says_otherwise, .. }) => *says_otherwise,
            _ => matches!(self.paid, Paid::At(..)),
        };
        match &self.paid {
            Paid::At(at, of) if !is_due => of.tolls.lock().give_back(&of.bounds, *at),
            Paid::Later(of) if is_due => of.tolls.lock().take_at_once(&of.bounds, of.tolls.now()),
            Paid::Free | Paid::Later(_) | Paid::At(..) | Paid::Refused(_) => {}
        }
        // Who left has their answer in the state.
        let _ = self.answer.send(reply);
    }
}

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
        let Some((namespace, principal)) = payer(command) else { return Ok(Paid::Free) };
        let Some(bounds) = self.bounds(namespace, principal) else { return Ok(Paid::Free) };
        let of = Box::new(Purses { tolls: Arc::clone(&self.tolls), bounds });
        if let Command::Keep(keep) = command
            && self.hub().registry().is_renewal(keep)
        {
            return Ok(Paid::Later(of));
        }
        match self.pay(&of.bounds) {
            Ok(at) => Ok(Paid::At(at, of)),
            Err(mut exceeded) => {
                exceeded.extend(self.hub().registry().foreseen(command));
                Err(Error::Quota(exceeded))
            }
        }
    }

    /// As `charge`, of what many commands together do for one caller.
    ///
    /// # Errors
    /// `Quota`.
    pub(super) fn charge_once(&self, namespace: &str, principal: &Principal) -> Result<(), Error> {
        self.bounds(namespace, principal).map_or(Ok(()), |bounds| self.pay(&bounds).map(drop).map_err(Error::Quota))
    }

    /// When it was paid.
    fn pay(&self, bounds: &[(Whose, u64)]) -> Result<u64, Vec<Exceeded>> {
        let mut buckets = self.tolls.lock();
        let now = self.tolls.now();
        buckets.take(bounds, now).map(|()| now)
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
        self.tolls.lock().used(whose, maximum, self.tolls.now())
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
        assert!(buckets.all.len() <= SWEEP_MIN, "{}", buckets.all.len());
    }

    #[test]
    fn what_is_given_back_is_there_again() {
        let mut buckets = Buckets::default();
        let bounds = [(who("a"), 2), (who("b"), 1)];
        for _ in 0..5 {
            assert_eq!(take(&mut buckets, &bounds, 0), Ok(()));
            assert_eq!(take(&mut buckets, &bounds, 0), Err(vec![Some(1_000)]));
            buckets.give_back(&bounds, 0);
        }
        // A full one stays as full as it was.
        buckets.give_back(&bounds, 0);
        assert_eq!(
            (take(&mut buckets, &bounds, 0), take(&mut buckets, &bounds[1..], 0)),
            (Ok(()), Err(vec![Some(1_000)]))
        );
        // What was taken before it was full again has come back already.
        assert_eq!(take(&mut buckets, &bounds[1..], SECOND), Ok(()));
        buckets.give_back(&bounds[1..], 0);
        assert_eq!(take(&mut buckets, &bounds[1..], SECOND), Err(vec![Some(1_000)]));
        buckets.give_back(&bounds[1..], SECOND);
        assert_eq!(take(&mut buckets, &bounds[1..], SECOND), Ok(()));
    }

    #[test]
    fn who_owes_one_waits_for_it() {
        let (mut buckets, bounds) = (Buckets::default(), [(who("a"), 2)]);
        for owed in 1..=6 {
            buckets.take_at_once(&bounds, 0);
            assert_eq!(buckets.used(&bounds[0].0, 2, 0), owed.min(2));
        }
        assert_eq!(take(&mut buckets, &bounds, 0), Err(vec![Some(2_500)]));
        assert_eq!(take(&mut buckets, &bounds, 2_500 * MILLI), Ok(()));
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

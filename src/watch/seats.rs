//! Who watches: how many watches there are of each principal, and in each namespace, and the right of a watch to be there,
//! which gives its place back however it ends. Whose quota it is is told.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak, atomic::Ordering},
};

use super::Hub;
use crate::registry::{Error, Exceeded, Principal, Resource, Whose};

/// How many watches there are, by who has them and by what they are of.
#[derive(Debug, Default)]
pub struct Seats(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    namespaces: HashMap<Arc<str>, u64>,
    principals: HashMap<Arc<str>, u64>,
    /// The seat that was taken last: the many watches of a stream share theirs.
    last: Weak<Seat>,
}

/// Whose a watch is, and of which namespaces.
#[derive(Debug)]
struct Seat {
    principal: Option<Arc<str>>,
    namespaces: Box<[Arc<str>]>,
}

/// A watch's right to be: gives its places back when dropped.
#[derive(Debug)]
pub struct WatchPermit {
    hub: Arc<Hub>,
    /// None: it was refused.
    seat: Option<Arc<Seat>>,
}

impl Drop for WatchPermit {
    fn drop(&mut self) {
        self.hub.watches.fetch_sub(1, Ordering::Relaxed);
        let Some(seat) = &self.seat else { return };
        self.hub.seats.0.lock().unwrap_or_else(PoisonError::into_inner).part(seat);
    }
}

/// In order.
fn each_once<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut names: Vec<&str> = names.into_iter().collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn leave(taken: &mut HashMap<Arc<str>, u64>, name: &str) {
    match taken.get_mut(name) {
        Some(count) if *count > 1 => *count -= 1,
        _ => _ = taken.remove(name),
    }
}

/// A name as those have it who have it already.
fn shared(taken: &HashMap<Arc<str>, u64>, name: &str) -> Arc<str> {
    taken.get_key_value(name).map_or_else(|| Arc::from(name), |(name, _)| Arc::clone(name))
}

impl Taken {
    /// Takes the places of one more watch.
    fn join(&mut self, principal: Option<&str>, namespaces: &[&str]) -> Arc<Seat> {
        let is_same = |seat: &Arc<Seat>| {
            seat.principal.as_deref() == principal
                && seat.namespaces.iter().map(|name| &**name).eq(namespaces.iter().copied())
        };
        let seat = self.last.upgrade().filter(is_same).unwrap_or_else(|| {
            let principal = principal.map(|name| shared(&self.principals, name));
            let namespaces = namespaces.iter().map(|name| shared(&self.namespaces, name)).collect();
            Arc::new(Seat { principal, namespaces })
        });
        self.last = Arc::downgrade(&seat);
        seat.principal.iter().for_each(|name| *self.principals.entry(Arc::clone(name)).or_default() += 1);
        seat.namespaces.iter().for_each(|name| *self.namespaces.entry(Arc::clone(name)).or_default() += 1);
        seat
    }
}

impl Taken {
    /// Gives the places of a watch back.
    fn part(&mut self, seat: &Seat) {
        seat.principal.iter().for_each(|name| leave(&mut self.principals, name));
        seat.namespaces.iter().for_each(|name| leave(&mut self.namespaces, name));
    }

    /// The watch has its places elsewhere from now on.
    fn move_to(&mut self, permit: &mut WatchPermit, principal: &Principal, namespaces: &[&str]) {
        if let Some(seat) = permit.seat.replace(self.join(principal.name.as_deref(), namespaces)) {
            self.part(&seat);
        }
    }

    /// What one more watch would exceed, that has the place `held` already.
    fn judge(&self, principal: &Principal, quotas: &[(&str, u64)], held: Option<&Seat>) -> Vec<Exceeded> {
        let has = |name: &str| held.is_some_and(|seat| seat.namespaces.iter().any(|held| **held == *name));
        let mine = held.and_then(|seat| seat.principal.as_ref());
        let of_namespaces = quotas.iter().filter(|(name, _)| !has(name)).map(|(name, maximum)| {
            let usage = self.namespaces.get(*name).copied().unwrap_or_default();
            (Whose::Namespace((*name).into()), *maximum, usage)
        });
        let bounded = principal.bounded().filter(|(name, _)| mine != Some(*name));
        let of_principal = bounded.and_then(|(name, quota)| {
            let usage = self.principals.get(name).copied().unwrap_or_default();
            Some((Whose::Principal(name.clone()), quota.watches?, usage))
        });
        let full = of_namespaces.chain(of_principal).filter(|(_, maximum, usage)| usage >= maximum);
        let exceeded = |(whose, maximum, usage)| {
            let resource = Resource::Watches;
            Exceeded { whose, resource, maximum, usage, wanted: 1, room_in: None }
        };
        full.map(exceeded).collect()
    }
}

impl Seats {
    /// How many watches somebody has: a namespace those that name it.
    #[must_use]
    pub fn of(&self, whose: &Whose) -> u64 {
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match whose {
            Whose::Namespace(name) => taken.namespaces.get(name.as_str()),
            Whose::Principal(name) => taken.principals.get(name),
        };
        found.copied().unwrap_or_default()
    }

    /// How many names are held.
    #[cfg(test)]
    pub(super) fn names(&self) -> usize {
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.namespaces.len() + taken.principals.len()
    }
}

impl Hub {
    /// Who watches.
    #[must_use]
    pub fn seats(&self) -> &Seats {
        &self.seats
    }

    /// Room for one more watch of a principal, of these namespaces. One of all namespaces names none, unless it is narrowed.
    ///
    /// # Errors
    /// `Limit` when there is none, `Quota` when they may not have more, `ShuttingDown`.
    pub fn permit<'a>(
        self: &Arc<Self>,
        principal: &Principal,
        namespaces: impl IntoIterator<Item = &'a str>,
    ) -> Result<WatchPermit, Error> {
        if self.is_closing() {
            return Err(Error::ShuttingDown);
        }
        let maximum = self.options().max_watches;
        let usage = self.watches.fetch_add(1, Ordering::Relaxed);
        let mut permit = WatchPermit { hub: Arc::clone(self), seat: None };
        if usage >= maximum {
            return Err(Error::Limit { limit: "max_watches", maximum, usage });
        }
        let names = each_once(namespaces);
        let quotas = self.quotas_of_watches(&names);
        let mut taken = self.seats.0.lock().unwrap_or_else(PoisonError::into_inner);
        let exceeded = taken.judge(principal, &quotas, None);
        if exceeded.is_empty() {
            permit.seat = Some(taken.join(principal.name.as_deref(), &names));
        }
        drop(taken);
        if exceeded.is_empty() { Ok(permit) } else { Err(Error::Quota(exceeded)) }
    }

    /// The place of a watch becomes that of one of other namespaces, or of another principal. What it has already it
    /// keeps, whatever quotas say by now.
    ///
    /// # Errors
    /// `Quota`: it stays as it was.
    pub(super) fn exchange<'a>(
        &self,
        permit: &mut WatchPermit,
        principal: &Principal,
        namespaces: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), Error> {
        let names = each_once(namespaces);
        let quotas = self.quotas_of_watches(&names);
        let mut taken = self.seats.0.lock().unwrap_or_else(PoisonError::into_inner);
        let exceeded = taken.judge(principal, &quotas, permit.seat.as_deref());
        if !exceeded.is_empty() {
            return Err(Error::Quota(exceeded));
        }
        taken.move_to(permit, principal, &names);
        Ok(())
    }

    /// The same, of a watch whose reader's rights are others by now: that is refused by no quota.
    pub(super) fn reseat<'a>(
        &self,
        permit: &mut WatchPermit,
        principal: &Principal,
        namespaces: impl IntoIterator<Item = &'a str>,
    ) {
        let names = each_once(namespaces);
        self.seats.0.lock().unwrap_or_else(PoisonError::into_inner).move_to(permit, principal, &names);
    }

    /// How many watches these namespaces may have, those for which that is set.
    fn quotas_of_watches<'a>(&self, names: &[&'a str]) -> Vec<(&'a str, u64)> {
        if !self.has_quotas() {
            return Vec::new();
        }
        let registry = self.registry();
        names.iter().filter_map(|name| Some((*name, registry.quota(name)?.watches?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use uuid::Uuid;

    use super::*;
    use crate::{engine::memory::MemoryEngine, registry::Quota, watch::HubOptions};

    fn hub(max_watches: u64) -> Arc<Hub> {
        let options = HubOptions { max_watches, ..HubOptions::default() };
        Hub::new(MemoryEngine::recovered(Uuid::nil(), 1), options)
    }

    fn principal(name: &str, watches: Option<u64>) -> Principal {
        let quota = Quota { watches, ..Quota::default() }.shared();
        Principal { name: Some(name.into()), operator: false, quota }
    }

    proptest! {
        /// Whoever comes and goes in whatever order: there are as many as there are, and nothing is left in the end.
        #[test]
        fn what_is_counted_is_what_is_there(
            steps in vec((any::<bool>(), 0..3_usize, vec(0..3_usize, 0..4), 0..8_usize), 0..60),
        ) {
            let (names, hub) = (["a", "b", "c"], hub(20));
            let mut held: Vec<(usize, Vec<usize>, WatchPermit)> = Vec::new();
            for (comes, who, mut namespaces, nth) in steps {
                if comes {
                    let of = namespaces.iter().map(|namespace| names[*namespace]);
                    let mine = held.iter().filter(|(whose, ..)| *whose == who).count();
                    let permit = hub.permit(&principal(names[who], Some(5)), of);
                    prop_assert_eq!(permit.is_ok(), mine < 5 && held.len() < 20);
                    namespaces.sort_unstable();
                    namespaces.dedup();
                    held.extend(permit.into_iter().map(|permit| (who, namespaces.clone(), permit)));
                } else if !held.is_empty() {
                    held.remove(nth % held.len());
                }
                prop_assert_eq!(hub.watches(), held.len() as u64);
                for (at, name) in names.iter().enumerate() {
                    let mine = held.iter().filter(|(whose, ..)| *whose == at).count();
                    let of = held.iter().filter(|(_, namespaces, _)| namespaces.contains(&at)).count();
                    prop_assert_eq!(hub.seats().of(&Whose::Principal((*name).into())), mine as u64);
                    prop_assert_eq!(hub.seats().of(&Whose::Namespace((*name).into())), of as u64);
                }
            }
            held.clear();
            prop_assert_eq!((hub.watches(), hub.seats().names()), (0, 0));
        }
    }

    /// What has a place keeps it, though there would be none any more; a further one is judged.
    #[test]
    fn a_place_becomes_another_and_what_it_had_stays() {
        let (hub, me, full) = (hub(2), principal("a", None), principal("a", Some(0)));
        let of = |name: &str| hub.seats().of(&Whose::Namespace(name.into()));
        let mut permit = hub.permit(&me, ["x", "y"]).expect("there is room");
        hub.exchange(&mut permit, &full, ["x", "z"]).expect("it is there already");
        assert_eq!((of("x"), of("y"), of("z"), hub.watches()), (1, 0, 1, 1));
        let refused = hub.exchange(&mut permit, &principal("b", Some(0)), ["y"]);
        assert!(matches!(&refused, Err(Error::Quota(exceeded)) if exceeded.len() == 1), "{refused:?}");
        assert_eq!((of("x"), of("y"), of("z")), (1, 0, 1), "it stays as it was");
        hub.reseat(&mut permit, &principal("b", Some(0)), ["y"]);
        assert_eq!((of("x"), of("y"), hub.seats().of(&Whose::Principal("b".into()))), (0, 1, 1));
        drop(permit);
        assert_eq!((hub.watches(), hub.seats().names()), (0, 0));
    }

    /// Who is refused takes nobody's place, whichever of the limits it was.
    #[test]
    fn who_is_refused_leaves_nothing() {
        let hub = hub(1);
        let first = hub.permit(&principal("a", None), ["x"]).expect("there is room");
        let full = hub.permit(&principal("b", None), ["y"]);
        assert!(matches!(full, Err(Error::Limit { limit: "max_watches", .. })), "{full:?}");
        drop(first);
        let refused = hub.permit(&principal("b", Some(0)), ["y"]);
        assert!(
            matches!(&refused, Err(Error::Quota(exceeded)) if exceeded[0].resource == Resource::Watches),
            "{refused:?}"
        );
        drop(refused);
        assert_eq!((hub.watches(), hub.seats().names()), (0, 0));
        hub.close();
        assert_eq!(hub.permit(&principal("a", None), ["x"]).err(), Some(Error::ShuttingDown));
    }
}

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
        let mut taken = self.hub.seats.0.lock().unwrap_or_else(PoisonError::into_inner);
        seat.principal.iter().for_each(|name| leave(&mut taken.principals, name));
        seat.namespaces.iter().for_each(|name| leave(&mut taken.namespaces, name));
    }
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

    /// Room for one more watch of a principal, of these namespaces. One of all namespaces names none.
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
        let mut names: Vec<&str> = namespaces.into_iter().collect();
        names.sort_unstable();
        names.dedup();
        let quotas = self.quotas_of_watches(&names);
        let mut taken = self.seats.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut exceeded = Vec::new();
        let mut judge = |whose: Whose, maximum: u64, usage: u64| {
            if usage >= maximum {
                let resource = Resource::Watches;
                exceeded.push(Exceeded { whose, resource, maximum, usage, wanted: 1, room_in: None });
            }
        };
        for (name, maximum) in quotas {
            judge(Whose::Namespace(name.into()), maximum, taken.namespaces.get(name).copied().unwrap_or_default());
        }
        if let Some((name, maximum)) = principal.bounded().and_then(|(name, quota)| Some((name, quota.watches?))) {
            judge(Whose::Principal(name.clone()), maximum, taken.principals.get(name).copied().unwrap_or_default());
        }
        if exceeded.is_empty() {
            permit.seat = Some(taken.join(principal.name.as_deref(), &names));
        }
        drop(taken);
        if exceeded.is_empty() { Ok(permit) } else { Err(Error::Quota(exceeded)) }
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

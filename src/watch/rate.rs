//! How fast may be published: so much a second for each service, and for all together. Time is an argument.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use smol_str::SmolStr;

use crate::registry::Error;

/// Most events of a service in a second.
pub const RATE_MAX: u64 = 1_000;
/// Most events of all services in a second.
pub const RATE_TOTAL_MAX: u64 = 10_000;

/// What was published in this second.
#[derive(Debug, Default)]
pub struct Rates(Mutex<Second>);

#[derive(Debug, Default)]
struct Second {
    number: u64,
    total: u64,
    /// At most `RATE_TOTAL_MAX` of them.
    by_service: HashMap<(SmolStr, SmolStr), u64>,
}

impl Rates {
    /// Counts one more event in the second `now`.
    ///
    /// # Errors
    /// `Limit`: it is one too many, and not counted.
    pub fn count(&self, now: u64, namespace: &str, service: &str) -> Result<(), Error> {
        let mut second = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if second.number != now {
            *second = Second { number: now, ..Second::default() };
        }
        let refuse = |limit, maximum| Err(Error::Limit { limit, maximum, usage: maximum });
        if second.total >= RATE_TOTAL_MAX {
            return refuse("max_published_rate_total", RATE_TOTAL_MAX);
        }
        let of_service = second.by_service.entry((SmolStr::new(namespace), SmolStr::new(service))).or_default();
        if *of_service >= RATE_MAX {
            return refuse("max_published_rate", RATE_MAX);
        }
        *of_service += 1;
        second.total += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_has_its_share_and_all_have_theirs() {
        let rates = Rates::default();
        let limit = |rates: &Rates, now, service: &str| match rates.count(now, "default", service) {
            Ok(()) => "",
            Err(Error::Limit { limit, .. }) => limit,
            Err(other) => panic!("{other}"),
        };
        for _ in 0..RATE_MAX {
            assert_eq!(limit(&rates, 7, "web"), "");
        }
        assert_eq!(limit(&rates, 7, "web"), "max_published_rate");
        for number in 0..RATE_TOTAL_MAX - RATE_MAX {
            assert_eq!(limit(&rates, 7, &format!("s{}", number % 100)), "", "{number}");
        }
        assert_eq!(limit(&rates, 7, "api"), "max_published_rate_total");
        assert_eq!((limit(&rates, 8, "web"), limit(&rates, 8, "api")), ("", ""), "another second");
    }
}

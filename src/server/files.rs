//! How many descriptors this process may have, and whom they are for: each connection takes one, and the usual default of
//! 1,024 is soon gone. Some are kept back, so that the store and operators' probes never go without.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Kept back of the descriptors: a quarter, at least and at most so many.
const RESERVE: (u64, u64) = (32, 256);
/// There are always so many places for connections.
const LEAST: usize = 8;

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Places {
    /// On the addresses of everything.
    pub(super) connections: usize,
    /// On those of probes and scrapes alone.
    pub(super) ops: usize,
}

/// Raises the limit as far as the system lets us, says what it is, and how many connections it leaves room for.
pub(super) fn raise_limit(max_connections: usize) -> Places {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = current != maximum && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    let text = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
    let limit = if raised { maximum } else { current };
    let places = places(limit, max_connections);
    tracing::info!(limit = %text(limit), was = %text(current), connections = places.connections, "open files");
    places
}

fn places(limit: Option<u64>, max_connections: usize) -> Places {
    let (least, most) = RESERVE;
    let limit = limit.unwrap_or(u64::MAX);
    let reserve = (limit / 4).clamp(least, most);
    let room = usize::try_from(limit.saturating_sub(reserve)).unwrap_or(usize::MAX);
    Places { connections: max_connections.min(room.max(LEAST)), ops: (reserve / 4) as usize }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_descriptors_are_kept_back() {
        for (limit, connections, ops) in [
            (Some(16), 8, 8),
            (Some(64), 32, 8),
            (Some(1_024), 768, 64),
            (Some(20_000), 19_744, 64),
            (Some(1 << 30), 100_000, 64),
            (None, 100_000, 64),
        ] {
            assert_eq!(places(limit, 100_000), Places { connections, ops }, "{limit:?}");
        }
        assert_eq!(places(None, 10).connections, 10);
    }
}

//! Choosing some of the candidates that a lookup found. Randomness and turns are given; nothing is remembered.
//!
//! Every pick prefers in this order: not SUSPECT in the preferred zone, not SUSPECT elsewhere, SUSPECT in the preferred
//! zone, SUSPECT elsewhere. A SUSPECT is probably gone, so that a healthy candidate far away comes before it. The next
//! rank is touched only when the ones before it are too few. A weight of 0 is never picked.

mod behind;

use std::cmp::Ordering;

use sha2::{Digest, Sha256};

pub use behind::{Share, pick_behind};

/// A pick key is at most this long.
pub const MAX_PICK_KEY_BYTES: usize = 1_024;

/// What a pick needs to know of an instance.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Distinguishes it; ties are broken by it.
    pub id: &'a str,
    /// Where it runs; may be empty.
    pub zone: &'a str,
    /// Its share of the traffic.
    pub weight: u32,
    /// Whether the breaker holds it.
    pub suspect: bool,
}

/// How to choose.
#[derive(Clone, Copy, Debug)]
pub enum Choice<'a> {
    /// Each equally likely.
    Random,
    /// In the order of the candidates, beginning at this turn's. The caller counts one turn a call, also when a call
    /// takes several: then each candidate comes equally often, in each rank.
    RoundRobin {
        /// How many calls there were before.
        turn: u64,
    },
    /// Each as likely as its weight is large; those after the first are drawn in the same way from the rest.
    Weighted,
    /// The highest scores for this key.
    Rendezvous {
        /// What is to stay with the same candidate while that is there.
        key: &'a str,
    },
}

/// Up to `n` distinct indexes into `candidates`, in order of preference. An empty `prefer_zone` prefers none.
pub fn pick(
    choice: Choice<'_>,
    candidates: &[Candidate<'_>],
    n: usize,
    prefer_zone: &str,
    random: &mut impl FnMut() -> u64,
) -> Vec<usize> {
    let mut ranks: [Vec<usize>; 4] = Default::default();
    for (index, candidate) in candidates.iter().enumerate().filter(|(_, candidate)| candidate.weight > 0) {
        let elsewhere = !prefer_zone.is_empty() && candidate.zone != prefer_zone;
        ranks[usize::from(candidate.suspect) * 2 + usize::from(elsewhere)].push(index);
    }
    let mut picked = Vec::with_capacity(n.min(candidates.len()));
    for mut rank in ranks {
        let count = rank.len().min(n - picked.len());
        if count == 0 {
            continue;
        }
        match choice {
            Choice::Random => shuffle(&mut rank, count, random),
            Choice::RoundRobin { turn } => {
                let start = turn % rank.len() as u64;
                rank.rotate_left(usize::try_from(start).unwrap_or_default());
            }
            Choice::Weighted => {
                // Exponential clocks: the first to ring is each with a probability proportional to its weight, and so
                // on for the rest (Efraimidis and Spirakis, 2006). The score is the clock's reciprocal.
                rank = highest(rank, count, candidates, |_| random());
            }
            Choice::Rendezvous { key } => {
                rank = highest(rank, count, candidates, |candidate| rendezvous_hash(key, candidate.id));
            }
        }
        picked.extend_from_slice(&rank[..count]);
    }
    picked
}

/// Makes the first `count` a uniform choice in uniform order.
fn shuffle(rank: &mut [usize], count: usize, random: &mut impl FnMut() -> u64) {
    for place in 0..count {
        let left = (rank.len() - place) as u64;
        rank.swap(place, place + usize::try_from(below(left, random)).unwrap_or_default());
    }
}

/// A uniform number below `bound`, which is not 0: the high half of a product, drawn again where it would be uneven
/// (Lemire, "Fast Random Integer Generation in an Interval", 2019).
fn below(bound: u64, random: &mut impl FnMut() -> u64) -> u64 {
    let uneven = bound.wrapping_neg() % bound;
    loop {
        let product = u128::from(random()) * u128::from(bound);
        // Truncation is meant: the low half says whether the draw is even.
        if product as u64 >= uneven {
            return (product >> 64) as u64;
        }
    }
}

/// The `count` of the highest scores first, the highest in front; ties by id, then by place.
fn highest<'a>(
    rank: Vec<usize>,
    count: usize,
    candidates: &[Candidate<'a>],
    mut hash: impl FnMut(&Candidate<'a>) -> u64,
) -> Vec<usize> {
    let mut scored: Vec<(f64, usize)> =
        rank.into_iter().map(|index| (score(candidates[index].weight, hash(&candidates[index])), index)).collect();
    let order = |a: &(f64, usize), b: &(f64, usize)| -> Ordering {
        b.0.total_cmp(&a.0).then_with(|| candidates[a.1].id.cmp(candidates[b.1].id)).then(a.1.cmp(&b.1))
    };
    if count < scored.len() {
        scored.select_nth_unstable_by(count, order);
        scored.truncate(count);
    }
    scored.sort_unstable_by(order);
    scored.into_iter().map(|(_, index)| index).collect()
}

/// The first 8 bytes, big-endian, of the SHA-256 of the key, a zero byte and the id.
fn rendezvous_hash(key: &str, id: &str) -> u64 {
    let digest: [u8; 32] = Sha256::new().chain_update(key).chain_update([0]).chain_update(id).finalize().into();
    digest.into_iter().take(8).fold(0, |bits, byte| bits << 8 | u64::from(byte))
}

/// Weighted rendezvous hashing: −weight ÷ ln(h), with h = (the upper 52 bits + ½) ÷ 2⁵², which a double holds exactly
/// and which is never 0 or 1.
///
/// Each candidate has the highest score for a share of the keys that is proportional to its weight, and when one comes,
/// goes or changes its weight, only keys to or from it move. Rendezvous hashing: Thaler and Ravishankar, "Using
/// Name-Based Mappings to Increase Hit Rates", 1998; the logarithmic method for weights: Schindelhauer and Schomaker,
/// "Weighted Distributed Hash Tables", 2005.
fn score(weight: u32, hash: u64) -> f64 {
    let unit = ((hash >> 12) as f64 + 0.5) / (1_u64 << 52) as f64;
    -f64::from(weight) / unit.ln()
}

#[cfg(test)]
mod tests;

//! Vectors, distributions and properties of picks.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

/// SplitMix64: the same draws in every run.
fn draws(mut seed: u64) -> impl FnMut() -> u64 {
    move || {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

fn candidates<'a>(weights: &[(&'a str, u32)]) -> Vec<Candidate<'a>> {
    weights.iter().map(|&(id, weight)| Candidate { id, zone: "", weight, suspect: false }).collect()
}

fn none() -> u64 {
    panic!("this choice draws nothing")
}

/// Pearson's statistic of counts against shares.
fn chi_square(counts: &[usize], shares: &[f64]) -> f64 {
    let total = counts.iter().sum::<usize>() as f64;
    let terms =
        counts.iter().zip(shares).map(|(&count, share)| (count as f64 - total * share).powi(2) / (total * share));
    terms.sum()
}

/// A key, the candidates' weights, and in the expected order their ids, hashes and scores.
struct Vector {
    key: &'static str,
    weights: &'static [(&'static str, u32)],
    ranking: [(&'static str, u64, f64); 3],
}

const VECTORS: [Vector; 5] = [
    Vector {
        key: "user-1",
        weights: &[("a", 1), ("b", 1), ("c", 1)],
        ranking: [
            ("c", 0xd5bb_16fb_a2c3_0de4, 5.541392),
            ("a", 0xc0f5_f6bc_bad8_089a, 3.537439),
            ("b", 0x2cf3_1860_8d41_c483, 0.574833),
        ],
    },
    Vector {
        key: "user-10",
        weights: &[("a", 1), ("b", 1), ("c", 1)],
        ranking: [
            ("b", 0xced5_df8d_41db_10c3, 4.689245),
            ("a", 0xbd15_7bf0_8d62_fcc9, 3.300477),
            ("c", 0x0635_0d6d_4d13_2837, 0.268856),
        ],
    },
    Vector {
        key: "",
        weights: &[("a", 1), ("b", 1), ("c", 1)],
        ranking: [
            ("c", 0x597f_cb31_282d_3465, 0.951522),
            ("b", 0x57eb_3561_5d47_f34e, 0.935660),
            ("a", 0x022a_6979_e6da_b7aa, 0.209536),
        ],
    },
    Vector {
        key: "user-1",
        weights: &[("a", 7), ("b", 2), ("c", 1)],
        ranking: [
            ("a", 0xc0f5_f6bc_bad8_089a, 24.762071),
            ("c", 0xd5bb_16fb_a2c3_0de4, 5.541392),
            ("b", 0x2cf3_1860_8d41_c483, 1.149666),
        ],
    },
    Vector {
        key: "café",
        weights: &[("10.0.0.1:80", 100), ("10.0.0.2:80", 0), ("[::1]:80", 50), ("10.0.0.3:80", 25)],
        ranking: [
            ("10.0.0.3:80", 0xdd7c_9b19_e0c4_d4a3, 172.634391),
            ("[::1]:80", 0x88c0_54e7_c9b7_321e, 79.743096),
            ("10.0.0.1:80", 0x04d1_20d6_7344_0da2, 25.169609),
        ],
    },
];

#[test]
fn rendezvous_vectors() {
    for Vector { key, weights, ranking } in VECTORS {
        let candidates = candidates(weights);
        let order = pick(Choice::Rendezvous { key }, &candidates, 9, "", &mut none);
        let ids: Vec<_> = order.iter().map(|&index| candidates[index].id).collect();
        assert_eq!(ids, ranking.map(|(id, ..)| id), "{key:?}");
        for (&index, (id, hash, expected)) in order.iter().zip(ranking) {
            assert_eq!(rendezvous_hash(key, id), hash, "{key:?} {id}");
            assert!((score(candidates[index].weight, hash) - expected).abs() < 1e-6, "{key:?} {id}");
        }
    }
}

#[test]
fn a_score_is_always_finite() {
    for (weight, hash) in [(1, 0), (1, u64::MAX), (u32::MAX, 0), (u32::MAX, u64::MAX)] {
        let score = score(weight, hash);
        assert!(score.is_finite() && score > 0.0, "{weight} {hash}: {score}");
    }
}

#[test]
fn healthy_first_then_near() {
    let candidate = |id, zone, suspect, weight| Candidate { id, zone, weight, suspect };
    let candidates = [
        candidate("suspect-far", "b", true, 1),
        candidate("suspect-near", "a", true, 1),
        candidate("far", "b", false, 1),
        candidate("idle", "a", false, 0),
        candidate("nowhere", "", false, 1),
        candidate("near", "a", false, 1),
    ];
    for choice in [Choice::Random, Choice::RoundRobin { turn: 3 }, Choice::Weighted, Choice::Rendezvous { key: "k" }] {
        let ids = |n, zone| -> Vec<&str> {
            pick(choice, &candidates, n, zone, &mut draws(7)).into_iter().map(|index| candidates[index].id).collect()
        };
        let all = ids(9, "a");
        assert_eq!((all[0], all[3], all[4]), ("near", "suspect-near", "suspect-far"), "{choice:?}");
        assert_eq!(all[1..3].iter().collect::<HashSet<_>>(), HashSet::from([&"far", &"nowhere"]), "{choice:?}");
        assert_eq!(ids(1, "a"), ["near"], "{choice:?}");
        assert_eq!(ids(0, "a"), [""; 0], "{choice:?}");
        assert!(ids(3, "").iter().all(|id| !id.starts_with("suspect")), "{choice:?}");
        assert!(ids(3, "elsewhere").iter().all(|id| !id.starts_with("suspect")), "{choice:?}");
        assert!(pick(choice, &[], 1, "a", &mut draws(7)).is_empty());
    }
}

#[test]
fn turns_go_round() {
    let candidates = candidates(&[("a", 1), ("b", 9), ("idle", 0), ("c", 1)]);
    let turn = |turn, n| pick(Choice::RoundRobin { turn }, &candidates, n, "", &mut none);
    assert_eq!((0..5).flat_map(|t| turn(t, 1)).collect::<Vec<_>>(), [0, 1, 3, 0, 1]);
    assert_eq!(turn(1, 2), [1, 3]);
    assert_eq!(turn(u64::MAX, 9), [0, 1, 3]);
}

#[test]
fn random_is_even() {
    let candidates = candidates(&[("a", 1), ("b", 1000), ("c", 1), ("d", 5)]);
    let (mut random, mut first, mut second) = (draws(1), [0; 4], [0; 4]);
    for _ in 0..40_000 {
        let picked = pick(Choice::Random, &candidates, 2, "", &mut random);
        first[picked[0]] += 1;
        second[picked[1]] += 1;
    }
    // 16.27 is exceeded once in a thousand by 3 degrees of freedom.
    assert!(chi_square(&first, &[0.25; 4]) < 16.27, "{first:?}");
    assert!(chi_square(&second, &[0.25; 4]) < 16.27, "{second:?}");
}

#[test]
fn weighted_goes_by_weight() {
    let weights = [1.0, 2.0, 3.0, 14.0];
    let candidates = candidates(&[("a", 1), ("b", 2), ("c", 3), ("d", 14), ("idle", 0)]);
    let (mut random, mut first, mut pairs) = (draws(2), [0; 4], [0; 16]);
    for _ in 0..60_000 {
        let picked = pick(Choice::Weighted, &candidates, 2, "", &mut random);
        first[picked[0]] += 1;
        pairs[picked[0] * 4 + picked[1]] += 1;
    }
    let shares = weights.map(|weight| weight / 20.0);
    assert!(chi_square(&first, &shares) < 16.27, "{first:?}");
    // The second is drawn by weight from the rest: 12 pairs, 11 degrees of freedom, 31.26 once in a thousand.
    let (mut counts, mut expected) = (Vec::new(), Vec::new());
    for (a, b) in (0..4).flat_map(|a| (0..4).map(move |b| (a, b))).filter(|(a, b)| a != b) {
        counts.push(pairs[a * 4 + b]);
        expected.push(shares[a] * shares[b] / (1.0 - shares[a]));
    }
    assert!(chi_square(&counts, &expected) < 31.26, "{counts:?}");
}

#[test]
fn rendezvous_shares_keys_by_weight() {
    let candidates = candidates(&[("a", 1), ("b", 2), ("c", 3), ("d", 14)]);
    let mut counts = [0; 4];
    for number in 0..20_000 {
        let key = format!("key-{number}");
        counts[pick(Choice::Rendezvous { key: &key }, &candidates, 1, "", &mut none)[0]] += 1;
    }
    assert!(chi_square(&counts, &[0.05, 0.1, 0.15, 0.7]) < 16.27, "{counts:?}");
}

#[test]
fn uneven_draws_are_drawn_again() {
    // 2^64 is 1 more than a multiple of 3: exactly one of all draws is refused.
    let mut given = [0, 1, u64::MAX].into_iter();
    assert_eq!(below(3, &mut || given.next().expect("three draws")), 0);
    assert_eq!(given.next(), Some(u64::MAX));
    assert_eq!(below(1, &mut || u64::MAX), 0);
}

prop_compose! {
    fn anyone()(zone in 0..3usize, weight in 0..4u32, suspect in any::<bool>()) -> (usize, u32, bool) {
        (zone, weight, suspect)
    }
}

proptest! {
    #[test]
    fn picks_are_distinct_and_as_many_as_there_are(
        all in prop::collection::vec(anyone(), 0..12), n in 0..14usize, how in 0..4, seed in any::<u64>(), zone in 0..4usize
    ) {
        let zones = ["", "a", "b", "c"];
        let ids: Vec<_> = (0..all.len()).map(|number| number.to_string()).collect();
        let candidates: Vec<_> = all.iter().zip(&ids)
            .map(|(&(zone, weight, suspect), id)| Candidate { id, zone: zones[zone], weight, suspect }).collect();
        let choice = match how {
            0 => Choice::Random,
            1 => Choice::RoundRobin { turn: seed },
            2 => Choice::Weighted,
            _ => Choice::Rendezvous { key: "k" },
        };
        let picked = pick(choice, &candidates, n, zones[zone], &mut draws(seed));
        let willing = candidates.iter().filter(|candidate| candidate.weight > 0).count();
        prop_assert_eq!(picked.len(), n.min(willing));
        prop_assert_eq!(picked.iter().collect::<HashSet<_>>().len(), picked.len());
        prop_assert!(picked.iter().all(|&index| candidates[index].weight > 0));
        let rank = |index: usize| (candidates[index].suspect, zone > 0 && candidates[index].zone != zones[zone]);
        prop_assert!(picked.windows(2).all(|pair| rank(pair[0]) <= rank(pair[1])));
    }

    #[test]
    fn who_leaves_moves_only_its_own_keys(
        key in any::<String>(), weights in prop::collection::vec(1..9u32, 2..9), gone in 0..9usize
    ) {
        let ids: Vec<_> = (0..weights.len()).map(|number| number.to_string()).collect();
        let mut all: Vec<_> = ids.iter().zip(&weights).map(|(id, &weight)| (id.as_str(), weight)).collect();
        let order = |all: &[(&str, u32)]| -> Vec<String> {
            pick(Choice::Rendezvous { key: &key }, &candidates(all), 9, "", &mut none)
                .into_iter().map(|index| all[index].0.to_owned()).collect()
        };
        let mut before = order(&all);
        let (left, _) = all.remove(gone % weights.len());
        before.retain(|id| id != left);
        all.reverse();
        prop_assert_eq!(order(&all), before);
    }

    #[test]
    fn fewer_picks_are_the_first_of_more(key in any::<String>(), count in 1..9u32, n in 0..9usize) {
        let ids: Vec<_> = (0..count).map(|number| number.to_string()).collect();
        let all: Vec<_> = ids.iter().map(|id| (id.as_str(), 1)).collect();
        let all = candidates(&all);
        let many = pick(Choice::Rendezvous { key: &key }, &all, 9, "", &mut none);
        let few = pick(Choice::Rendezvous { key: &key }, &all, n, "", &mut none);
        prop_assert_eq!(&few[..], &many[..n.min(many.len())]);
    }
}

//! What can happen in a history, and the few names, descriptions and callers that it happens with.

use onair::registry::{Instance, Status};
use proptest::{collection::vec, option, prelude::*};

use super::naive::Who;

/// The names differ where their order is easily got wrong.
pub const NAMESPACES: [&str; 3] = ["default", "a", "a b"];
pub const SERVICES: [&str; 4] = ["web", "we", "web-2", "é"];
pub const IDS: [&str; 8] = ["1", "10", "2", "a:80", "ü", "3", "4", "5"];
pub const VERSIONS: [&str; 6] = ["", "1.0.0", "1.2.3", "2.0.0-rc.1", "2.0.0", "blue"];
pub const ZONES: [&str; 3] = ["", "eu", "us"];
pub const TTLS: [u32; 4] = [1_000, 1_500, 10_000, 60_000];
pub const CALLERS: [Who; 4] = [
    Who { name: None, operator: true },
    Who { name: Some("alice"), operator: false },
    Who { name: Some("bob"), operator: false },
    Who { name: Some("root"), operator: true },
];
/// What a registrant may say.
pub const STATUSES: [Status; 4] = [Status::Unspecified, Status::Serving, Status::Starting, Status::Draining];

/// A token of the history, perhaps tampered with.
#[derive(Clone, Copy, Debug)]
pub struct Pick {
    pub issued: u16,
    pub tamper: Tamper,
}

/// What was done to a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tamper {
    No,
    Hint,
    Secret,
    Registry,
    /// Of a revision that is not there yet.
    Ahead,
    /// Of a place in its revision that nobody has.
    Ordinal,
}

/// A registration.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub name: (u8, u8, u8),
    /// Also of another key.
    pub token: Option<Pick>,
    /// Take the name from the token instead, as an honest client does.
    pub honest: bool,
    pub request: Option<u8>,
    pub who: u8,
    pub ttl: u8,
    pub form: (u8, u8, u8),
    pub status: u8,
}

impl Wanted {
    pub fn instance(&self, name: (&str, &str, &str)) -> Instance {
        let (namespace, service, id) = name;
        let (version, zone, weight) = self.form;
        let tier = prost_types::Value {
            kind: Some(prost_types::value::Kind::StringValue(if weight % 2 == 0 { "gold" } else { "lead" }.into())),
        };
        let fields = prost_types::Struct { fields: [("tier".to_owned(), tier)].into() };
        Instance {
            namespace: namespace.into(),
            service: service.into(),
            id: id.into(),
            host: "10.0.0.1".into(),
            port: 80,
            version: VERSIONS[usize::from(version)].into(),
            zone: ZONES[usize::from(zone)].into(),
            // Moves with the weight, so that replicas come to be another partition's.
            partition_key: if weight % 3 == 0 { "a" } else { "" }.into(),
            weight: weight.checked_sub(1).map(u32::from),
            status: STATUSES[usize::from(self.status)] as i32,
            metadata: Some(prost_types::Value { kind: Some(prost_types::value::Kind::StructValue(fields)) }),
            ..Instance::default()
        }
    }
}

/// Whom to deregister.
#[derive(Clone, Debug)]
pub enum Leave {
    Token(Option<Pick>),
    Tokens(Vec<Pick>),
    Key((u8, u8, u8), u8),
    Service((u8, u8), u8),
}

/// Whom to take out of traffic.
#[derive(Clone, Debug)]
pub enum Drain {
    Token(Pick),
    Key((u8, u8, u8), u8),
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Op {
    Register(Wanted),
    Status(Pick, u8),
    Beat(Pick),
    Leave(Leave),
    Drain(Drain),
    /// A round of marks that advances the lease clock by so much.
    Round(u64),
    /// All ids of a service in one zone, with a short TTL.
    Crowd {
        zone: u8,
    },
    /// At most so many lapsed leases are proposed, or their proposal comes to nothing.
    Lapse {
        max: usize,
        refused: bool,
    },
    /// An expiry that was decided some records ago, perhaps to hold back.
    LateExpiry(u16, bool),
    /// So many hours pass on the wall clock.
    Hours(u64),
    /// What is in flight is committed; so many revisions are skipped.
    Commit(u64),
    Restart,
}

fn tamper() -> impl Strategy<Value = Tamper> {
    prop_oneof![
        12 => Just(Tamper::No),
        1 => Just(Tamper::Hint),
        1 => Just(Tamper::Secret),
        1 => Just(Tamper::Registry),
        1 => Just(Tamper::Ahead),
        1 => Just(Tamper::Ordinal),
    ]
}

fn pick() -> impl Strategy<Value = Pick> {
    (any::<u16>(), tamper()).prop_map(|(issued, tamper)| Pick { issued, tamper })
}

fn name() -> impl Strategy<Value = (u8, u8, u8)> {
    // Mostly the same few keys, so that they meet.
    prop_oneof![3 => (Just(0), 0..2_u8, 0..3_u8), 2 => (0..3_u8, 0..4_u8, 0..5_u8)]
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let form = prop_oneof![2 => Just((1, 1, 0)), 3 => (0..6_u8, 0..3_u8, 0..4_u8)];
    let who = prop_oneof![3 => Just(0), 2 => 0..4_u8];
    let status = prop_oneof![3 => Just(0), 1 => 0..4_u8];
    (name(), option::of(pick()), any::<bool>(), option::of(0..3_u8), who, 0..4_u8, form, status).prop_map(
        |(name, token, honest, request, who, ttl, form, status)| Wanted {
            name,
            token,
            honest,
            request,
            who,
            ttl,
            form,
            status,
        },
    )
}

fn leave() -> impl Strategy<Value = Leave> {
    prop_oneof![
        4 => option::weighted(0.9, pick()).prop_map(Leave::Token),
        2 => vec(pick(), 0..5).prop_map(Leave::Tokens),
        1 => (name(), 0..4_u8).prop_map(|(name, who)| Leave::Key(name, who)),
        1 => ((0..3_u8, 0..4_u8), 0..4_u8).prop_map(|(name, who)| Leave::Service(name, who)),
    ]
}

fn drain() -> impl Strategy<Value = Drain> {
    prop_oneof![
        2 => pick().prop_map(Drain::Token),
        1 => (name(), 0..4_u8).prop_map(|(name, who)| Drain::Key(name, who)),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => wanted().prop_map(Op::Register),
        3 => (pick(), 0..4_u8).prop_map(|(token, status)| Op::Status(token, status)),
        5 => pick().prop_map(Op::Beat),
        4 => leave().prop_map(Op::Leave),
        2 => drain().prop_map(Op::Drain),
        5 => prop_oneof![20..100_u64, 400..1_100_u64].prop_map(Op::Round),
        5 => (1..9_usize, prop::bool::weighted(0.2)).prop_map(|(max, refused)| Op::Lapse { max, refused }),
        1 => (0..3_u8).prop_map(|zone| Op::Crowd { zone }),
        1 => (any::<u16>(), any::<bool>()).prop_map(|(record, hold)| Op::LateExpiry(record, hold)),
        1 => prop_oneof![Just(1_u64), 12..30_u64].prop_map(Op::Hours),
        3 => (0..3_u64).prop_map(Op::Commit),
        1 => Just(Op::Restart),
    ]
}

/// How a history is run.
#[derive(Clone, Debug)]
pub struct Setting {
    /// At most so many proposals share a revision.
    pub group: usize,
    /// Of instances, services, namespaces.
    pub limits: (u64, u64, u64),
    /// Whether lapses are held back.
    pub breaker: bool,
}

pub fn setting() -> impl Strategy<Value = Setting> {
    let limits = prop_oneof![3 => Just((1_000, 1_000, 1_000)), 1 => (3..10_u64, 1..5_u64, 1..3_u64)];
    let breaker = prop::bool::weighted(0.8);
    let group = prop_oneof![Just(1_usize), 2..6_usize];
    (group, limits, breaker).prop_map(|(group, limits, breaker)| Setting { group, limits, breaker })
}

pub fn history(most: usize) -> impl Strategy<Value = Vec<Op>> {
    vec(op(), 1..most)
}

//! What the pure state costs: decisions, folding, judging tokens, lookups, and what one event costs a watched service.
//! `cargo bench --bench registry`. Nothing here should grow with what it does not concern: each bench runs with a small
//! and a large registry around it.

use std::{net::Ipv4Addr, sync::Arc};

use divan::{Bencher, black_box};
use onair::{
    engine::memory::MemoryEngine,
    proto::Instance,
    registry::{
        Change, Command, Context, Decision, Filter, FilterSet, Guarded, Matcher, Outcome, Principal, Register,
        Registration, Registry, ReplyBudget, Secret, StateLimits,
    },
    watch::{Hub, HubOptions},
};
use uuid::Uuid;

fn main() {
    divan::main();
}

const SIZES: [u32; 3] = [1_000, 10_000, 100_000];
/// Instances of each service.
const SERVICE: u32 = 10;

fn command(number: u32) -> Command {
    let instance = Instance {
        service: format!("service-{}", number / SERVICE),
        host: "10.0.0.1".into(),
        port: 1_024 + number % 60_000,
        id: format!("instance-{number}"),
        version: "1.2.3".into(),
        zone: "zone-a".into(),
        ..Instance::default()
    };
    let context = Context { peer: Ipv4Addr::LOCALHOST.into(), fresh_id: &mut String::new, request_id: "" };
    let registration = Registration::parse(instance, None, context).expect("a registration");
    let (principal, secret) = (Principal::anyone(), Secret(u128::from(number).to_be_bytes()));
    let at = prost_types::Timestamp::default();
    Command::Register(Box::new(Register { registration, token: None, principal, secret, at }))
}

fn decide(registry: &Registry, command: &Command) -> (Vec<Change>, Outcome) {
    match registry.decide(command, 0) {
        Decision::Propose(changes, outcome) => {
            (changes.into_iter().map(|Guarded { change, .. }| change).collect(), outcome)
        }
        decision => panic!("nothing to propose: {decision:?}"),
    }
}

fn filled(size: u32) -> Registry {
    let mut registry = Registry::new(1, StateLimits::default());
    for number in 0..size {
        let (changes, _) = decide(&registry, &command(number));
        registry.fold(u64::from(number) + 1, &changes);
    }
    registry
}

/// A registration that replaces a live one: judged and folded.
#[divan::bench(args = SIZES)]
fn register(bencher: Bencher<'_, '_>, size: u32) {
    let mut registry = filled(size);
    let (mut revision, mut number) = (u64::from(size), 0);
    bencher.bench_local(|| {
        number = (number + 7_919) % size;
        revision += 1;
        let (changes, _) = decide(&registry, &command(number));
        registry.fold(revision, &changes)
    });
}

/// A lease token, judged by its secret's hash.
#[divan::bench(args = SIZES)]
fn judge(bencher: Bencher<'_, '_>, size: u32) {
    let registry = filled(size);
    let tokens: Vec<_> = registry
        .records()
        .map(|(slot, record)| registry.token_of(slot, record, Secret(u128::from(slot).to_be_bytes())))
        .collect();
    let mut at = 0;
    bencher.bench_local(|| {
        at = (at + 7_919) % tokens.len();
        registry.judge(black_box(Some(&tokens[at])))
    });
}

/// A lookup of ten by name alone, whose reply is kept.
#[divan::bench(args = SIZES)]
fn lookup_kept(bencher: Bencher<'_, '_>, size: u32) {
    let (registry, budget) = (filled(size), ReplyBudget::new(1 << 20));
    let name = format!("service-{}", size / SERVICE / 2);
    bencher.bench_local(|| registry.service("default", black_box(&name)).map(|set| set.first_page(&budget)));
}

/// A lookup of ten by version, whose records are decoded.
#[divan::bench(args = SIZES)]
fn lookup_by_version(bencher: Bencher<'_, '_>, size: u32) {
    let registry = filled(size);
    let name = format!("service-{}", size / SERVICE / 2);
    bencher.bench_local(|| {
        let filter = Filter::new("default", black_box(&name), "^1.2", "").expect("a filter");
        let matcher = Matcher::new(FilterSet::new([filter]));
        let mut reader = registry.snapshot(matcher.scopes()).reader();
        std::iter::from_fn(|| reader.next_record()).filter(|record| matcher.matches(record)).count()
    });
}

/// A change published and read by one watcher of its service.
#[divan::bench(args = SIZES)]
fn watched_change(bencher: Bencher<'_, '_>, size: u32) {
    let mut registry = filled(size);
    let hub: Arc<Hub> = Hub::new(MemoryEngine::recovered(Uuid::from_u128(1), 1), HubOptions::default());
    let filter = Filter::new("default", "service-0", "", "").expect("a filter");
    let feed = hub.feed(FilterSet::new([filter]));
    let mut revision = u64::from(size);
    bencher.bench_local(|| {
        let (changes, _) = decide(&registry, &command(3));
        let before = revision;
        revision += 1;
        let events = registry.fold(revision, &changes);
        hub.log().publish(revision, events);
        feed.next(hub.log(), before, &mut None)
    });
}

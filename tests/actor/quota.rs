//! Promise 17, of quotas: what is refused, what never is, and when there is room again. Knows no front.

use std::time::Duration;

use onair::{
    actor::{ActorOptions, BeatOutcome, Reply, anyone},
    engine::hostile::{Delay, HostileHandle, Manners},
    registry::{
        Error, Exceeded, Filter, FilterSet, IfMissing, Needs, Principal, Quota, Record, Resource, Revision, Settings,
        Target, Whose, Write,
    },
    watch::{Subscriptions, WatchStream},
};
use tokio::task::JoinHandle;

use super::rig::{Rig, ms, pass, registration, service, settle, within};

const LONG: Duration = Duration::from_secs(3_600);

fn principal(name: &str, quota: Quota) -> Principal {
    Principal { name: Some(name.into()), operator: true, quota: quota.shared() }
}

impl Rig {
    /// Sets what `default` may have.
    async fn bound(&self, quota: Quota) {
        let expected = self.handle.hub().registry().settings().get("default").map_or(0, |held| held.document.revision);
        let write = Write { key: Settings::key("default"), body: Settings::body(quota), expected };
        within(self.handle.write(write, None)).await.expect("it may be set");
    }

    async fn register_as(&self, who: &Principal, id: &str) -> Result<Record, Error> {
        match within(self.handle.register(registration("web", id, LONG), None, who.clone(), None)).await? {
            Reply::Registered { record, .. } => Ok(record),
            other => panic!("a registration was answered as {other:?}"),
        }
    }

    /// An instance without a token, in this zone.
    fn keep_as(&self, who: &Principal, zone: &str) -> JoinHandle<Result<(Record, Option<Revision>), Error>> {
        let (handle, who, mut registration) = (self.handle.clone(), who.clone(), registration("web", "1", LONG));
        registration.instance.zone = zone.into();
        tokio::spawn(async move { handle.keep(registration, who).await })
    }

    async fn watch_as(&self, who: &Principal) -> Result<WatchStream, Error> {
        within(self.handle.watch(service("web"), String::new(), who.clone())).await
    }

    fn counted(&self) -> u64 {
        self.handle.hub().registry().uses().of_namespace("default").instances
    }
}

/// The quotas that refused something.
fn exceeded<T: std::fmt::Debug>(answer: Result<T, Error>) -> Vec<Exceeded> {
    match answer {
        Err(Error::Quota(exceeded)) => exceeded,
        other => panic!("no quota refused it: {other:?}"),
    }
}

/// A bucket of a second's writes: it is told when there is room, and there is then.
#[tokio::test(start_paused = true)]
async fn who_writes_too_fast_is_told_when_to_come_back() {
    let rig = Rig::new();
    rig.bound(Quota { writes: Some(4), ..Quota::default() }).await;
    let slow = principal("token:slow", Quota { writes: Some(2), ..Quota::default() });
    let fast = principal("token:fast", Quota::default());
    for id in ["1", "2"] {
        rig.register_as(&slow, id).await.expect("as many as a second allows");
    }
    let refused = exceeded(rig.register_as(&slow, "3").await);
    let [Exceeded { whose: Whose::Principal(name), resource, maximum, usage, wanted, room_in }] = &refused[..] else {
        panic!("{refused:?}")
    };
    assert_eq!((&**name, *resource, *maximum, *usage, *wanted), ("token:slow", Resource::Writes, 2, 2, 1));
    // The namespace has not paid for what was refused.
    for id in ["4", "5"] {
        rig.register_as(&fast, id).await.expect("the others have theirs");
    }
    assert_eq!(exceeded(rig.register_as(&fast, "6").await)[0].whose, Whose::Namespace("default".into()));
    let both = exceeded(rig.register_as(&slow, "3").await);
    assert_eq!(both.len(), 2, "all that is in the way is told: {both:?}");
    let wait = ms(room_in.expect("it is a matter of time"));
    pass(wait.saturating_sub(ms(2))).await;
    assert!(rig.register_as(&slow, "3").await.is_err());
    pass(ms(2)).await;
    rig.register_as(&slow, "3").await.expect("it came back when it was told to");
}

/// Who has no place left does not take the others' writes by asking for one.
#[tokio::test(start_paused = true)]
async fn who_is_refused_by_one_quota_has_paid_no_write() {
    let rig = Rig::new();
    rig.bound(Quota { writes: Some(1), ..Quota::default() }).await;
    let full = principal("token:full", Quota { instances: Some(0), ..Quota::default() });
    for _ in 0..3 {
        let refused = exceeded(rig.register_as(&full, "1").await);
        assert_eq!(refused.iter().map(|one| one.resource).collect::<Vec<_>>(), [Resource::Instances]);
    }
    let mut waiting = registration("web", "1", LONG);
    let needs = [("api".to_owned(), String::new())].into();
    waiting.needs = Needs::parse("", &needs, &[].into(), IfMissing::Wait).expect("needs");
    let refused = within(rig.handle.register(waiting, None, full.clone(), None)).await;
    assert_eq!(exceeded(refused)[0].resource, Resource::Instances);
    assert_eq!(exceeded(within(rig.handle.keep(registration("web", "1", LONG), full)).await)[0].maximum, 0);
    let other = principal("token:other", Quota::default());
    rig.register_as(&other, "2").await.expect("nobody has written yet");
    assert_eq!(exceeded(rig.register_as(&other, "3").await)[0].resource, Resource::Writes);
}

/// What was paid long ago has come back by itself, and does not come back again when it is refused in the end.
#[tokio::test(start_paused = true)]
async fn a_write_is_given_back_once_however_late_it_is_refused() {
    let rig = Rig::new();
    let me = principal("token:me", Quota { instances: Some(1), writes: Some(1), ..Quota::default() });
    let mut waiting = registration("web", "1", LONG);
    let needs = [("api".to_owned(), String::new())].into();
    let needs = Needs::parse("", &needs, &[].into(), IfMissing::Wait).expect("needs");
    waiting.needs = Needs { wait: LONG, ..needs };
    let waiting = {
        let (handle, me) = (rig.handle.clone(), me.clone());
        tokio::spawn(async move { handle.register(waiting, None, me, None).await })
    };
    settle().await;
    assert_eq!(exceeded(rig.register_as(&me, "2").await)[0].resource, Resource::Writes, "it has paid");
    pass(ms(5_000)).await;
    rig.register_as(&me, "2").await.expect("that was long ago");
    rig.try_register(registration("api", "1", LONG), None).await.expect("nobody bounds it");
    assert_eq!(exceeded(within(waiting).await.expect("no panic"))[0].resource, Resource::Instances);
    let refused = exceeded(rig.register_as(&me, "3").await);
    assert_eq!(refused.iter().map(|one| one.resource).collect::<Vec<_>>(), [Resource::Writes, Resource::Instances]);
}

/// Of those who say something at once, who changes something pays, whatever it looked like when they said it.
#[tokio::test(start_paused = true)]
async fn who_changes_something_pays_for_it_and_nobody_else() {
    let rig = Rig::new();
    let me = principal("token:me", Quota { writes: Some(4), ..Quota::default() });
    let keep = |zone: &str| {
        let mut registration = registration("web", "1", LONG);
        registration.instance.zone = zone.into();
        rig.handle.keep(registration, me.clone())
    };
    let used = || rig.handle.writes_used(&Whose::Principal("token:me".into()), 4);
    within(keep("x")).await.expect("there is room");
    pass(ms(1_000)).await;
    assert_eq!(used(), 0);
    // The second looked like a renewal.
    let (one, other) = tokio::join!(keep("y"), keep("x"));
    assert!(one.expect("there is room").1.is_some() && other.expect("it is one").1.is_some());
    assert_eq!(used(), 2);
    // The second looked like a change.
    pass(ms(1_000)).await;
    let (one, other) = tokio::join!(keep("y"), keep("y"));
    assert!(one.expect("there is room").1.is_some() && other.expect("there is room").1.is_none());
    assert_eq!(used(), 1);
}

/// Somebody who has so many writes a second keeps an instance in zone x; then the store does not answer any more.
async fn kept_while_nothing_is_stored(writes: u64) -> (Rig, HostileHandle, Principal) {
    let (rig, hostile) = Rig::hostile(Manners::default());
    let me = principal("token:me", Quota { writes: Some(writes), ..Quota::default() });
    within(rig.keep_as(&me, "x")).await.expect("no panic").expect("there is room");
    pass(ms(1_000)).await;
    hostile.behave(Manners { delay: Delay::Held, ..Manners::default() });
    (rig, hostile, me)
}

/// While what somebody says is on its way, to say it again is no more than a renewal, and who says nothing else is heard and
/// not refused, however few writes they have.
#[tokio::test(start_paused = true)]
async fn who_says_again_what_is_on_its_way_is_refused_by_no_quota() {
    let (rig, hostile, me) = kept_while_nothing_is_stored(1).await;
    let keep = |zone| rig.keep_as(&me, zone);
    let said = keep("y");
    settle().await;
    let (again, other) = (keep("y"), keep("z"));
    settle().await;
    assert!(!again.is_finished() && !other.is_finished(), "what they come to is not known yet");
    hostile.release(1);
    let (_, changed_at) = within(said).await.expect("no panic").expect("it is paid for");
    let (record, renewed_at) = within(again).await.expect("no panic").expect("a renewal");
    assert_eq!((Some(record.revision), renewed_at), (changed_at, None));
    assert_eq!(exceeded(within(other).await.expect("no panic"))[0].resource, Resource::Writes);
    assert_eq!(rig.handle.writes_used(&Whose::Principal("token:me".into()), 1), 1);
}

/// Who leaves before the answer pays for what is changed all the same.
#[tokio::test(start_paused = true)]
async fn who_leaves_pays_for_what_they_changed() {
    let (rig, hostile, me) = kept_while_nothing_is_stored(4).await;
    let keep = |zone| rig.keep_as(&me, zone);
    // The second looks like a renewal, and is on its way when its caller leaves.
    let (one, other) = (keep("y"), keep("x"));
    settle().await;
    hostile.release(1);
    within(one).await.expect("no panic").expect("it is paid for");
    settle().await;
    assert_eq!(hostile.in_flight(), 1);
    other.abort();
    settle().await;
    hostile.release(1);
    settle().await;
    assert_eq!((hostile.in_flight(), rig.handle.writes_used(&Whose::Principal("token:me".into()), 4)), (0, 2));
}

/// A full inbox takes nobody's writes.
#[tokio::test(start_paused = true)]
async fn who_finds_no_room_has_paid_no_write() {
    let rig = Rig::with(ActorOptions { max_inbox: 1, ..ActorOptions::default() });
    let me = principal("token:me", Quota { writes: Some(2), ..Quota::default() });
    let (one, other) = tokio::join!(rig.register_as(&me, "1"), rig.register_as(&me, "2"));
    one.expect("there is room");
    assert!(matches!(other, Err(Error::Overloaded { .. })), "{other:?}");
    assert_eq!(rig.handle.writes_used(&Whose::Principal("token:me".into()), 2), 1);
}

/// What was registered while nobody was asked who they are is renewed by who may have nothing: it stays nobody's.
#[tokio::test(start_paused = true)]
async fn what_says_the_same_again_is_a_renewal_whoever_says_it() {
    let rig = Rig::new();
    let keep = |id: &str, who: &Principal| rig.handle.keep(registration("web", id, LONG), who.clone());
    within(keep("1", &anyone())).await.expect("nobody is asked");
    for (quota, bound) in [
        (Quota { instances: Some(0), ..Quota::default() }, None),
        (Quota { bytes: Some(0), ..Quota::default() }, None),
        (Quota { writes: Some(0), ..Quota::default() }, Some("token:me")),
    ] {
        let me = principal("token:me", quota);
        let (record, changed_at) = within(keep("1", &me)).await.expect("a renewal");
        assert_eq!((record.lease.principal.as_deref(), changed_at.is_some()), (bound, bound.is_some()));
        assert_eq!(exceeded(within(keep("2", &me)).await).len(), 1, "another is none");
    }
}

/// What a renewal changes is told with the revision that it has, though the record may be as old as before.
#[tokio::test(start_paused = true)]
async fn what_a_renewal_changes_has_a_revision() {
    let rig = Rig::new();
    for (ttl, is_change) in [(LONG, true), (LONG, false), (LONG / 2, true), (LONG / 2, false)] {
        let before = rig.handle.hub().registry().revision();
        let (record, changed_at) =
            within(rig.handle.keep(registration("web", "1", ttl), anyone())).await.expect("taken");
        assert_eq!((changed_at, record.revision), (is_change.then_some(before + 1), 1), "{ttl:?}");
    }
}

/// Neither renewals nor what takes away is refused, whatever quotas say.
#[tokio::test(start_paused = true)]
async fn renewals_and_departures_pass_every_quota() {
    let rig = Rig::new();
    let (_, token) = rig.register("web", "1", LONG).await;
    let (_, other) = rig.register("web", "2", LONG).await;
    rig.bound(Quota { instances: Some(0), watches: Some(0), bytes: Some(0), writes: Some(0) }).await;
    for _ in 0..1_000 {
        assert!(matches!(rig.beat(token).await, BeatOutcome::Renewed(_)));
    }
    let status = onair::registry::Status::Draining;
    assert!(matches!(rig.say(token, status).await, BeatOutcome::Renewed(_)), "another status");
    assert_eq!(rig.deregister(Target::Lease(Some(other))).await.map(|(removed, _)| removed), Ok(1));
    let refused = exceeded(rig.try_register(registration("web", "3", LONG), None).await);
    let resources: Vec<Resource> = refused.iter().map(|one| one.resource).collect();
    assert_eq!(resources, [Resource::Writes, Resource::Instances, Resource::Bytes], "all at once");
    assert_eq!((refused[0].room_in, rig.counted()), (None, 1), "never, as long as it is 0");
    assert_eq!(exceeded(rig.watch_as(&anyone()).await)[0].resource, Resource::Watches);
}

/// What is under way counts: a hundred at once get as many places as there are.
#[tokio::test(start_paused = true)]
async fn those_under_way_have_their_places() {
    let (rig, hostile) = Rig::hostile(Manners { delay: Delay::Held, ..Manners::default() });
    let me = principal("token:me", Quota { instances: Some(3), ..Quota::default() });
    let calls: Vec<_> = (0..100)
        .map(|id| {
            let (handle, me) = (rig.handle.clone(), me.clone());
            let registration = registration("web", &id.to_string(), LONG);
            tokio::spawn(async move { handle.register(registration, None, me, None).await })
        })
        .collect();
    settle().await;
    // The others were refused at once, and not when the store was done.
    assert_eq!(calls.iter().filter(|call| call.is_finished()).count(), 97);
    hostile.behave(Manners::default());
    hostile.release(3);
    let mut taken = 0;
    for call in calls {
        match within(call).await.expect("no panic") {
            Ok(_) => taken += 1,
            Err(error) => assert_eq!(exceeded(Err::<(), _>(error))[0].usage, 3),
        }
    }
    assert_eq!((taken, rig.counted()), (3, 3));
    rig.register_as(&principal("token:you", Quota::default()), "a").await.expect("another has room");
}

/// A quota that is written while others write holds from its own commit on, and counts those before it.
#[tokio::test(start_paused = true)]
async fn a_quota_counts_what_was_under_way_before_it() {
    let (rig, hostile) = Rig::hostile(Manners { delay: Delay::Held, ..Manners::default() });
    let register = |id: &str| {
        let (handle, registration) = (rig.handle.clone(), registration("web", id, LONG));
        tokio::spawn(async move { handle.register(registration, None, anyone(), None).await })
    };
    let before = [register("1"), register("2")];
    settle().await;
    let bounding = {
        let handle = rig.handle.clone();
        let body = Settings::body(Quota { instances: Some(3), ..Quota::default() });
        let write = Write { key: Settings::key("default"), body, expected: 0 };
        tokio::spawn(async move { handle.write(write, None).await })
    };
    settle().await;
    let during = [register("3"), register("4")];
    settle().await;
    hostile.release(3);
    within(bounding).await.expect("no panic").expect("it may be set");
    assert_eq!((rig.counted(), hostile.in_flight()), (2, 2));
    assert_eq!(exceeded(rig.register_as(&anyone(), "5").await)[0].usage, 4);
    hostile.release(2);
    for call in before.into_iter().chain(during) {
        within(call).await.expect("no panic").expect("there was no quota when it was decided");
    }
    assert_eq!(exceeded(rig.register_as(&anyone(), "5").await)[0].usage, 4);
}

/// However a watch ends, its place is free.
#[tokio::test(start_paused = true)]
async fn a_watch_gives_its_place_back() {
    let rig = Rig::new();
    let (one, other) = (
        principal("token:one", Quota { watches: Some(2), ..Quota::default() }),
        principal("token:other", Quota::default()),
    );
    let first = rig.watch_as(&one).await.expect("there is room");
    let second = rig.watch_as(&one).await.expect("there is room");
    assert_eq!(exceeded(rig.watch_as(&one).await)[0].usage, 2);
    let others = rig.watch_as(&other).await.expect("the others have theirs");
    drop(first);
    let third = rig.watch_as(&one).await.expect("one has gone");
    rig.bound(Quota { watches: Some(2), ..Quota::default() }).await;
    drop(others);
    assert_eq!(exceeded(rig.watch_as(&other).await)[0].whose, Whose::Namespace("default".into()));
    drop((second, third));
    assert_eq!(rig.handle.hub().seats().of(&Whose::Namespace("default".into())), 0);
    rig.watch_as(&other).await.expect("they have gone");
}

/// A subscription that replaces another has its place, though there would be none any more.
#[tokio::test(start_paused = true)]
async fn a_subscription_keeps_its_place_under_other_selectors() {
    let rig = Rig::new();
    let taken = || rig.handle.hub().seats().of(&Whose::Namespace("default".into()));
    let mut stream = Subscriptions::new(rig.handle.hub(), 8);
    stream.set_whose(principal("token:me", Quota { watches: Some(1), ..Quota::default() }));
    stream.add("a", service("web"), "").expect("there is room");
    rig.bound(Quota { watches: Some(0), ..Quota::default() }).await;
    stream.add("a", service("api"), "").expect("it has a place");
    let refused = exceeded(stream.add("b", service("api"), ""));
    assert_eq!((refused.len(), taken()), (2, 1), "{refused:?}");
    let elsewhere = Filter::new("elsewhere", "", "", "").expect("a filter");
    stream.refocus("a", FilterSet::new([elsewhere]), Vec::new());
    assert_eq!((taken(), rig.handle.hub().seats().of(&Whose::Namespace("elsewhere".into()))), (0, 1));
    assert_eq!(exceeded(stream.add("a", service("web"), "")).len(), 1, "of another namespace it has none");
    assert_eq!(rig.handle.hub().watches(), 0, "and has ended");
}

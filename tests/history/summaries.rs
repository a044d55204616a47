//! Promise 10 for summaries: folded up to any revision they are the partitions of what the events folded up to there leave,
//! and each says what was not so before.

use std::collections::{BTreeMap, BTreeSet};

use onair::{
    proto::ServicePresence,
    registry::{EventType, Instance, Key},
};

use super::{
    Fault, View, fault,
    feed::{Feed, What},
    key_of,
};

/// Namespace, service and key.
type Partition<'h> = (&'h str, &'h str, &'h str);

/// What every watch that asked for summaries was told.
pub fn unlike_the_events(view: &View<'_>) -> Vec<Fault> {
    let mut faults = Vec::new();
    for feed in view.feeds.iter().filter(|feed| feed.summaries && feed.clear) {
        judge(feed, &mut faults);
    }
    faults
}

fn judge<'h>(feed: &Feed<'h>, faults: &mut Vec<Fault>) {
    // Who resumes knows what was there from an earlier stream: judged from its first snapshot on.
    let (mut held, mut known) = (BTreeMap::<Key, &'h Instance>::new(), false);
    let mut there = BTreeSet::<Partition<'h>>::new();
    for turn in feed.turns() {
        match &turn.what {
            What::Snapshot(all, _) => {
                held.clone_from(all);
                there.clear();
                known = true;
            }
            What::Events(events) => {
                for (event, instance) in events.iter().filter_map(|event| Some((event, event.instance.as_ref()?))) {
                    match event.r#type() {
                        EventType::Offline => held.remove(&key_of(instance)),
                        _ => held.insert(key_of(instance), instance),
                    };
                }
            }
        }
        for ServicePresence { namespace, service, key, online } in &turn.services {
            let of = (namespace.as_str(), service.as_str(), key.as_str());
            let news = if *online { there.insert(of) } else { there.remove(&of) };
            if known && !news {
                let what =
                    format!("{of:?} was told to be online={online}, as it was before revision {}", turn.revision);
                faults.push(fault(10, feed.place(turn.message), what));
            }
        }
        let partition = |one: &&'h Instance| (&*one.namespace, &*one.service, &*one.partition_key);
        let due: BTreeSet<Partition<'h>> = held.values().map(partition).collect();
        if known && due != there {
            let what = format!("at revision {} summaries leave {there:?}, and events {due:?}", turn.revision);
            faults.push(fault(10, feed.place(turn.message), what));
            return;
        }
    }
}

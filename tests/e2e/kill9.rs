//! kill -9 again and again, under a load of registrations and removals: what was acknowledged is there, what was not is
//! there as a whole or not at all, and a watcher misses nothing. `ONAIR_KILL9_ROUNDS` says how often, default 10.

use std::collections::BTreeMap;

use onair::proto::WatchRequest;

use crate::{
    harness::{Follower, Server, alone, everything, within},
    history::{Client, Recorder, Settings},
    load::{Load, there},
};

/// A history is judged, and a new one begun, after so many rounds.
const CHAPTER: usize = 20;

fn rounds() -> usize {
    std::env::var("ONAIR_KILL9_ROUNDS").map_or(10, |text| text.parse().expect("ONAIR_KILL9_ROUNDS is a number"))
}

#[tokio::test]
async fn kill9_under_load_loses_nothing_and_a_watcher_misses_nothing() {
    let _alone = alone().await;
    let (rounds, seed) = (rounds(), u64::from(std::process::id()));
    println!("{rounds} rounds with seed {seed}");
    let mut server = Server::start(&[]).await;
    let mut load = Load::new(seed);
    let (mut changes, mut missed, mut resume_token) = (0, 0, String::new());
    for first in (0..rounds).step_by(CHAPTER) {
        let recorder = Recorder::new(Settings { cuts: true, resets: false, ..Settings::default() });
        // Those who watch all the time, in each way there is, and one who comes back after each restart.
        let mut follower = Follower::of_everything(&server, &recorder).await;
        let mut by_http = Follower::of_everything_by_http(&server, &recorder).await;
        for _ in first..rounds.min(first + CHAPTER) {
            if resume_token.is_empty() {
                follower.fold().resume_token().clone_into(&mut resume_token);
            }
            let running = load.run(&server, &recorder, 1, 250).await;
            server.kill().await;
            changes += load.failed(running).await.0;
            server.again().await;
            let client = server.client(&recorder).await;
            let (revision, there) = there(&client).await;
            for follower in by_http.iter_mut().chain([&mut follower]) {
                follower.reach(revision).await;
                let folded: BTreeMap<_, _> =
                    follower.fold().instances().values().map(|one| (one.id.clone(), one.clone())).collect();
                assert_eq!((follower.resets(), &folded), (&[][..], &there), "the watcher has what is there");
            }
            missed += catch_up(&client, &mut resume_token, revision).await;
            load.settle(&there);
            load.repeat(&client).await;
        }
        resume_token.clear();
        drop((follower, by_http));
        recorder.assert_clean();
    }
    println!("{changes} changes acknowledged in {rounds} lives, all there; {missed} revisions seen after a return");
}

/// Comes back with the token of before the round. What it gets is compared with the other watch by the history.
async fn catch_up(client: &Client, resume_token: &mut String, revision: u64) -> usize {
    let request = WatchRequest { resume_token: resume_token.clone(), summaries: true, ..everything() };
    let mut watch = client.watch(request).await.unwrap();
    let mut revisions = 0;
    loop {
        let message = within("what was missed", watch.next()).await.unwrap().unwrap();
        assert!(message.reset.is_none(), "{:?}", message.reset);
        revisions += usize::from(!message.events.is_empty());
        if !message.resume_token.is_empty() {
            *resume_token = message.resume_token;
        }
        if message.revision >= revision {
            return revisions;
        }
    }
}

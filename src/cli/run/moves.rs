//! Where what a program needs is, after the program was told: says when that is online elsewhere, and no more where it
//! was told. Knows no process.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout_at},
};

use crate::{
    client::{Client, Service},
    proto::Selector,
};

/// What starts again is soon where it was: so long that is waited for.
const SETTLING: Duration = Duration::from_secs(3);

/// What a program was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// The service.
    pub(super) name: String,
    /// Its versions that will do; empty: any.
    pub(super) version: String,
    /// Where it was.
    pub(super) url: String,
}

/// It is elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) told: Told,
    pub(super) url: String,
}

/// What becomes of all that it was told, as long as this lives.
pub(super) struct Moves {
    moves: mpsc::Receiver<Move>,
    _tasks: JoinSet<()>,
}

impl Moves {
    pub(super) fn follow(client: &Client, told: Vec<Told>) -> Self {
        let (to, moves) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        for told in told {
            let selector =
                Selector { service: told.name.clone(), version: told.version.clone(), ..Selector::default() };
            tasks.spawn(follow(client.service_with(selector, ""), told, to.clone()));
        }
        Self { moves, _tasks: tasks }
    }

    /// The next one that has moved.
    pub(super) async fn next(&mut self) -> Move {
        match self.moves.recv().await {
            Some(moved) => moved,
            // Nothing is needed, or nobody can say.
            None => std::future::pending().await,
        }
    }
}

/// Tells a move once, until it is back.
async fn follow(mut service: Service, told: Told, to: mpsc::Sender<Move>) {
    // Of what is refused nobody can ever say where it is.
    if service.known().await.is_err() {
        return;
    }
    let mut was_told = false;
    loop {
        match elsewhere(&service, &told.url) {
            Some(_) if was_told => {}
            Some(_) => {
                let until = Instant::now() + SETTLING;
                while elsewhere(&service, &told.url).is_some()
                    && matches!(timeout_at(until, service.changed()).await, Ok(Ok(())))
                {}
                if let Some(url) = elsewhere(&service, &told.url) {
                    was_told = true;
                    if to.send(Move { told: told.clone(), url }).await.is_err() {
                        return;
                    }
                }
                continue;
            }
            None => was_told &= !is_at(&service, &told.url),
        }
        if service.changed().await.is_err() {
            return;
        }
    }
}

fn is_at(service: &Service, url: &str) -> bool {
    service.instances().all().iter().any(|instance| instance.url == url)
}

/// Where it is if not there.
fn elsewhere(service: &Service, url: &str) -> Option<String> {
    let known = service.instances();
    let first = known.all().first()?;
    (!is_at(service, url)).then(|| first.url.clone())
}

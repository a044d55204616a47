//! A registration that follows a program's work: made when its check passes first, kept and in traffic while it passes,
//! taken away at the end. Knows neither processes nor signals.

use std::time::Duration;

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};
use uuid::Uuid;

use super::{
    check::Looks,
    failure::{CallFailed, Cause, Failure, Report as _},
    lease::Teller,
    needs,
    session::Backoff,
};
use crate::{
    client::{Client, Joined, LeaseEvent},
    proto::{DrainResponse, RegisterRequest, Status},
};

/// How long a registration under way may take once it is to be taken away.
const GOODBYE: Duration = Duration::from_secs(3);

/// A program's registration.
pub struct Kept {
    client: Client,
    request: RegisterRequest,
    teller: Teller,
    looks: Looks,
    works: bool,
    attempt: Attempt,
    joined: Option<Joined>,
    stands: watch::Sender<Stands>,
}

/// How far it has come, for those that wait for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stands {
    /// It has not worked yet.
    #[default]
    Starting,
    /// Its check has passed.
    Worked,
    /// It was registered.
    Registered,
}

/// Registrations, one after the other, until one is made. One that is under way goes on while nobody waits for it.
#[derive(Default)]
struct Attempt {
    task: Option<JoinHandle<Result<Joined, CallFailed>>>,
    backoff: Backoff,
    not_before: Option<Instant>,
}

/// What happened.
enum Step {
    Made(Box<Result<Joined, CallFailed>>),
    Lease(Option<LeaseEvent>),
    Looked(Result<(), String>),
}

impl Kept {
    /// One that `stands` tells of.
    #[must_use]
    pub fn new(
        client: Client,
        mut request: RegisterRequest,
        teller: Teller,
        looks: Looks,
        stands: watch::Sender<Stands>,
    ) -> Self {
        stands.send_replace(Stands::Starting);
        // The same for every attempt at this registration: it is made once, however often it is sent.
        request.request_id = Uuid::now_v7().to_string();
        Self { client, request, teller, looks, works: false, attempt: Attempt::default(), joined: None, stands }
    }

    /// Follows the program until the registration comes to an end of its own, which is returned. It may be left at any
    /// moment, and called again.
    pub async fn keep(&mut self) -> Failure {
        loop {
            let registers = self.joined.is_none() && (self.works || self.attempt.task.is_some());
            let step = tokio::select! {
                biased;
                made = self.attempt.made(&self.client, &self.request), if registers => match made {
                    Ok(made) => Step::Made(Box::new(made)),
                    Err(failure) => return failure,
                },
                event = event(&mut self.joined) => Step::Lease(event),
                seen = self.looks.news() => Step::Looked(seen),
            };
            let taken = match step {
                Step::Made(made) => match *made {
                    Ok(joined) => self.registered(joined).await,
                    Err(failed) => self.refused(failed),
                },
                Step::Lease(event) => self.lease(event),
                Step::Looked(seen) => self.follow(seen).await,
            };
            if let Err(failure) = taken {
                return failure;
            }
        }
    }

    async fn registered(&mut self, joined: Joined) -> Result<(), Failure> {
        self.teller.registered(&joined.response(), None)?;
        self.joined = Some(joined);
        self.stands.send_replace(Stands::Registered);
        // It may have stopped working meanwhile.
        if self.works { Ok(()) } else { self.put(self.looks.last()).await }
    }

    fn refused(&mut self, failed: CallFailed) -> Result<(), Failure> {
        if failed.reason().as_deref() == Some("SUPERSEDED") {
            return Err(self.teller.superseded(&failed.holder().unwrap_or_default()));
        }
        if !failed.is_transient() {
            return Err(needs::failure(failed));
        }
        self.attempt.later(failed.last().and_then(Cause::retry_after).unwrap_or_default());
        self.teller.failing(&failed)
    }

    /// What becomes of the lease.
    fn lease(&mut self, event: Option<LeaseEvent>) -> Result<(), Failure> {
        match event {
            Some(LeaseEvent::Registered { response, lost }) => self.teller.registered(&response, lost),
            // Told when it is registered again.
            Some(LeaseEvent::Lost(_)) => Ok(()),
            Some(LeaseEvent::Failing(failed)) => self.teller.failing(&failed),
            Some(LeaseEvent::Recovered { outage }) => {
                self.teller.recovered(outage);
                Ok(())
            }
            Some(LeaseEvent::Superseded { holder }) => Err(self.teller.superseded(&holder)),
            Some(LeaseEvent::Refused(failed)) => Err(needs::failure(failed)),
            None => Err(Failure::Internal("the lease is kept no more".to_owned())),
        }
    }

    async fn follow(&mut self, seen: Result<(), String>) -> Result<(), Failure> {
        self.works = seen.is_ok();
        self.stands.send_if_modified(|stands| {
            let is_first = seen.is_ok() && *stands == Stands::Starting;
            if is_first {
                *stands = Stands::Worked;
            }
            is_first
        });
        self.put(seen).await
    }

    /// Puts it into traffic, or out of it, as it works. What does not work is not kept: unless it works again it is gone
    /// when its TTL has passed.
    async fn put(&mut self, seen: Result<(), String>) -> Result<(), Failure> {
        let Some(joined) = &self.joined else { return Ok(()) };
        if joined.is_kept() == seen.is_ok() {
            return Ok(());
        }
        joined.keep(seen.is_ok());
        self.teller.works(&seen)?;
        let status = if seen.is_ok() { Status::Serving } else { Status::Starting };
        // The lease's own trouble is told as such.
        let _ = joined.set_status(status).await;
        Ok(())
    }

    /// Whether its check has passed at all.
    #[must_use]
    pub fn has_worked(&self) -> bool {
        *self.stands.borrow() >= Stands::Worked
    }

    /// Why it does not work, as it was seen last.
    #[must_use]
    pub fn why_not(&self) -> String {
        self.looks.last().err().unwrap_or_default()
    }

    /// Says what it waits for, if it has not worked yet.
    ///
    /// # Errors
    /// Nothing can be written.
    pub fn tell_waiting(&self) -> Result<(), Failure> {
        match self.looks.last() {
            Err(why) if !self.has_worked() => self.teller.waiting(&why),
            _ => Ok(()),
        }
    }

    /// Takes it out of traffic; nothing if it is not registered.
    pub async fn drain(&self, wait: Duration) -> Option<Result<DrainResponse, CallFailed>> {
        match &self.joined {
            Some(joined) => Some(joined.drain(wait).await),
            None => None,
        }
    }

    /// Takes it away, and says so.
    ///
    /// # Errors
    /// It could not be taken away, or it is somebody else's by now.
    pub async fn leave(&mut self) -> Result<(), Failure> {
        // It may be made already, and not answered.
        if let Some(task) = self.attempt.task.take()
            && let Ok(Ok(Ok(joined))) = timeout(GOODBYE, task).await
        {
            self.joined = Some(joined);
        }
        let Some(joined) = self.joined.take() else { return Ok(()) };
        if joined.has_ended() {
            // What is registered now is another process's, or nobody's.
            return Ok(());
        }
        match joined.leave().await {
            Ok(response) => self.teller.left(&response),
            Err(failed) if failed.reason().as_deref() == Some("SUPERSEDED") => {
                Err(self.teller.superseded(&failed.holder().unwrap_or_default()))
            }
            Err(failed) => {
                let name = self.teller.name();
                Err(Failure::Other(format!("cannot take {name} away, its lease ends by itself: {}", failed.short())))
            }
        }
    }
}

impl Attempt {
    /// What comes of the next one.
    async fn made(
        &mut self,
        client: &Client,
        request: &RegisterRequest,
    ) -> Result<Result<Joined, CallFailed>, Failure> {
        if let Some(at) = self.not_before {
            sleep_until(at).await;
            self.not_before = None;
        }
        let task = self.task.get_or_insert_with(|| {
            let (client, request) = (client.clone(), request.clone());
            tokio::spawn(async move { client.join(request).await })
        });
        let made = task.await;
        self.task = None;
        made.map_err(|error| Failure::Internal(format!("a registration: {error}")))
    }

    /// The next one is not at once.
    fn later(&mut self, at_least: Duration) {
        self.not_before = Some(Instant::now() + self.backoff.pause().max(at_least));
    }
}

/// What happens to the lease, while there is one.
async fn event(joined: &mut Option<Joined>) -> Option<LeaseEvent> {
    match joined {
        Some(joined) => joined.event().await,
        None => std::future::pending().await,
    }
}

//! The life of a program under the command: it starts, works, is registered while it does, and ends. Whatever ends first
//! takes the rest with it.

use std::{pin::pin, process::ExitStatus, time::Duration};

use rustix::process::Signal;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use uuid::Uuid;

use super::{
    check::Check,
    program::{self, Program},
    signals::{Signals, Told},
};
use crate::{
    cli::{
        failure::{CallFailed, Cause, Failure, Report as _},
        lease::Teller,
        needs,
        print::note,
        session::Backoff,
        text::{human, safe},
    },
    client::{Client, Joined, LeaseEvent},
    proto::{RegisterRequest, Status},
};

/// How often it is looked at until it works.
const FIRST_LOOKS: Duration = Duration::from_millis(50);

/// How long things take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// Between two looks.
    pub(super) interval: Duration,
    /// Until it works first.
    pub(super) start: Duration,
    /// For the drain.
    pub(super) wait: Duration,
    /// From being told to end to being killed.
    pub(super) slack: Duration,
}

pub(super) struct Life {
    client: Client,
    request: RegisterRequest,
    teller: Teller,
    name: String,
    program: Program,
    signals: Signals,
    check: Check,
    port: u16,
    times: Times,
    joined: Option<Joined>,
}

/// Looks at a program again and again, as long as this lives.
struct Looks {
    works: watch::Receiver<Result<(), String>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Looks {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Life {
    pub(super) fn new(
        client: Client,
        mut request: RegisterRequest,
        program: Program,
        signals: Signals,
        check: Check,
        port: u16,
        times: Times,
    ) -> Self {
        // The same for every attempt at this registration: it is made once, however often it is sent.
        request.request_id = Uuid::now_v7().to_string();
        let name = request.instance.as_ref().map_or_else(String::new, |instance| instance.service.clone());
        let teller = Teller::new(None, &name);
        Self { client, request, teller, name, program, signals, check, port, times, joined: None }
    }

    /// Lives it to the end.
    ///
    /// # Errors
    /// The program did not end with 0, or its registration did.
    pub(super) async fn run(mut self) -> Result<(), Failure> {
        if let Some(ended) = self.start().await? {
            return ended;
        }
        let looks = self.looks();
        self.work(looks).await
    }

    /// Waits until it works; its end if that comes before.
    async fn start(&mut self) -> Result<Option<Result<(), Failure>>, Failure> {
        let until = Instant::now() + self.times.start;
        loop {
            let look = async {
                let seen = self.check.look(self.port).await;
                if seen.is_err() {
                    sleep(FIRST_LOOKS).await;
                }
                seen
            };
            let why = tokio::select! {
                biased;
                ended = self.program.ended() => {
                    note(&format!("{} ended before it worked", safe(&self.name)));
                    return Ok(Some(self.over(ended?)));
                }
                told = self.signals.next() => match told {
                    Told::Pass(signal) => {
                        self.program.signal(signal);
                        continue;
                    }
                    told => return Ok(Some(self.stop(told).await)),
                },
                seen = look => match seen {
                    Ok(()) => return Ok(None),
                    Err(why) => why,
                },
            };
            if Instant::now() >= until {
                self.end_anyhow().await;
                let waited = human(self.times.start);
                return Err(Failure::Other(format!("{} does not work after {waited}: {why}", self.name)));
            }
        }
    }

    fn looks(&self) -> Looks {
        let (to, works) = watch::channel(Ok(()));
        let (check, port, interval) = (self.check.clone(), self.port, self.times.interval);
        let task = tokio::spawn(async move {
            loop {
                sleep(interval).await;
                let seen = check.look(port).await;
                to.send_if_modified(|before| {
                    let is_news = before.is_ok() != seen.is_ok();
                    *before = seen;
                    is_news
                });
            }
        });
        Looks { works, task }
    }

    /// Registered while it works, until something ends.
    async fn work(&mut self, mut looks: Looks) -> Result<(), Failure> {
        let (client, request, name) = (self.client.clone(), self.request.clone(), self.name.clone());
        let mut registering = pin!(register(&client, &request, &name));
        loop {
            tokio::select! {
                biased;
                ended = self.program.ended() => {
                    self.leave().await;
                    return self.over(ended?);
                }
                told = self.signals.next() => match told {
                    Told::Pass(signal) => self.program.signal(signal),
                    told => return self.stop(told).await,
                },
                made = &mut registering, if self.joined.is_none() => match made {
                    Ok(joined) => {
                        self.teller.registered(joined.response(), None)?;
                        self.joined = Some(joined);
                        self.follow(&looks.works.borrow_and_update().clone()).await;
                    }
                    Err(failed) => {
                        self.end_anyhow().await;
                        return Err(needs::failure(failed));
                    }
                },
                event = event(&mut self.joined) => if let Some(failure) = self.told(event)? {
                    self.end_anyhow().await;
                    return Err(failure);
                },
                // The task looks as long as this lives.
                Ok(()) = looks.works.changed() => {
                    let works = looks.works.borrow_and_update().clone();
                    self.follow(&works).await;
                }
            }
        }
    }

    /// Takes it into traffic, or out of it, as it works. What does not work is not kept.
    async fn follow(&self, works: &Result<(), String>) {
        let Some(joined) = &self.joined else { return };
        let (status, is_news) = match works {
            Ok(()) => (Status::Serving, !joined.is_kept()),
            Err(_) => (Status::Starting, true),
        };
        if !is_news {
            return;
        }
        match works {
            Ok(()) => note(&format!("{} works again", safe(&self.name))),
            Err(why) => note(&format!("{} is out of traffic: {}", safe(&self.name), safe(why))),
        }
        joined.keep(works.is_ok());
        // The lease's own trouble is told as such.
        let _ = joined.set_status(status).await;
    }

    /// What becomes of the lease; the end of it.
    fn told(&mut self, event: Option<LeaseEvent>) -> Result<Option<Failure>, Failure> {
        match event {
            Some(LeaseEvent::Registered { response, lost }) => self.teller.registered(&response, Some(lost))?,
            Some(LeaseEvent::Failing(failed)) => self.teller.failing(&failed)?,
            Some(LeaseEvent::Recovered { outage }) => self.teller.recovered(outage),
            Some(LeaseEvent::Superseded { holder }) => return Ok(Some(self.teller.superseded(&holder))),
            Some(LeaseEvent::Refused(failed)) => return Ok(Some(needs::failure(failed))),
            None => return Ok(Some(Failure::Internal("the lease is kept no more".to_owned()))),
        }
        Ok(None)
    }

    /// Ends it as a signal says: out of traffic, away, told to end, killed. A second signal kills at once.
    async fn stop(&mut self, told: Told) -> Result<(), Failure> {
        let signal = if told == Told::Interrupt { Signal::INT } else { Signal::TERM };
        if let Some(joined) = self.joined.as_ref().filter(|_| told == Told::Terminate) {
            let drained = tokio::select! {
                drained = joined.drain(self.times.wait) => drained,
                _ = self.signals.end() => return self.kill().await,
                ended = self.program.ended() => {
                    self.leave().await;
                    return self.over(ended?);
                }
            };
            match drained {
                Ok(drained) if drained.pending > 0 => {
                    note(&format!("{} of those who watch {} did not hear in time", drained.pending, safe(&self.name)));
                }
                Ok(_) => {}
                Err(failed) => note(&format!("it is not drained: {}", failed.short())),
            }
        }
        self.leave().await;
        self.end(signal).await
    }

    /// Takes it away, and says so.
    async fn leave(&mut self) {
        let Some(joined) = self.joined.take() else { return };
        match joined.leave().await {
            // It goes to standard error, where nothing fails.
            Ok(response) => _ = self.teller.left(&response),
            Err(failed) => note(&failed.short()),
        }
    }

    /// Tells the program to end, and sees to it.
    async fn end(&mut self, signal: Signal) -> Result<(), Failure> {
        let ended = tokio::select! {
            ended = self.program.stop(signal, self.times.slack) => ended,
            _ = self.signals.end() => return self.kill().await,
        };
        let (status, was_killed) = ended?;
        if was_killed {
            note(&format!("{} did not end within {}, and was killed", safe(&self.name), human(self.times.slack)));
        }
        self.over(status)
    }

    /// Ends it for a reason of our own, which is told in place of how it took that.
    async fn end_anyhow(&mut self) {
        let _ = self.end(Signal::TERM).await;
    }

    async fn kill(&mut self) -> Result<(), Failure> {
        let (status, _) = self.program.stop(Signal::KILL, Duration::from_secs(5)).await?;
        self.leave().await;
        self.over(status)
    }

    /// It has ended.
    fn over(&self, status: ExitStatus) -> Result<(), Failure> {
        match program::code(status) {
            0 => Ok(()),
            code => Err(Failure::Program { what: None, code }),
        }
    }
}

/// Registers, as often as it takes.
async fn register(client: &Client, request: &RegisterRequest, name: &str) -> Result<Joined, CallFailed> {
    let (mut backoff, mut teller) = (Backoff::default(), Teller::new(None, name));
    loop {
        let failed = match client.join(request.clone()).await {
            Ok(joined) => return Ok(joined),
            Err(failed) if !failed.is_transient() => return Err(failed),
            Err(failed) => failed,
        };
        // It goes to standard error, where nothing fails.
        let _ = teller.failing(&failed);
        sleep(backoff.pause().max(failed.last().and_then(Cause::retry_after).unwrap_or_default())).await;
    }
}

/// What happens to the lease, while there is one.
async fn event(joined: &mut Option<Joined>) -> Option<LeaseEvent> {
    match joined {
        Some(joined) => joined.event().await,
        None => std::future::pending().await,
    }
}

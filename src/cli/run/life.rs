//! The life of a program under the command: it is prepared, starts, works, is registered while it does, and ends. Whatever
//! ends first takes the rest with it.

use std::{process::ExitStatus, time::Duration};

use rustix::process::Signal;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    environment,
    output::Outputs,
    plan::Plan,
    port,
    program::{self, Program},
    signals::{Orders, Told},
};
use crate::{
    cli::{
        check::{Looks, Place},
        failure::{Failure, Report as _},
        kept::{Kept, Stands},
        lease::Teller,
        print::note,
        text::{human, safe},
    },
    client::Client,
};

/// How often it is looked at until it works.
const FIRST_LOOKS: Duration = Duration::from_millis(50);

/// How long things take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// Lives a program's life, from looking for what it needs to its end.
///
/// # Errors
/// The program did not end with 0, or could not be started, or its registration was refused.
pub(super) async fn live(
    plan: Plan,
    client: Client,
    mut orders: Orders,
    stands: watch::Sender<Stands>,
    mut outputs: Option<Outputs>,
) -> Result<(), Failure> {
    let mut variables = tokio::select! {
        variables = environment::of_needs(&client, &plan) => variables?,
        told = orders.end() => return Err(Failure::Program { what: None, code: told.code() }),
    };
    let port = port::of(client.namespace(), &plan.name, plan.port).await?;
    variables.extend(plan.variables.clone());
    variables.insert("PORT".to_owned(), port.number.to_string());
    let program = Program::start(&plan.command, plan.dir.as_deref(), &variables, outputs.as_mut()).await?;
    let place = Place { dir: plan.dir.clone(), ..Place::here(port.number) };
    let looks = Looks::start(plan.check.clone(), place, FIRST_LOOKS, plan.times.interval);
    let request = plan.request(port.number);
    let kept = Kept::new(client, request, Teller::new(None, &plan.name), looks, stands);
    let ended = Life { name: plan.name, program, orders, kept, times: plan.times }.run().await;
    if let Some(outputs) = outputs {
        outputs.finish().await;
    }
    ended
}

struct Life {
    name: String,
    program: Program,
    orders: Orders,
    kept: Kept,
    times: Times,
}

impl Life {
    /// From the start of the program.
    async fn run(mut self) -> Result<(), Failure> {
        let (late, mut is_timed) = (Instant::now() + self.times.start, true);
        loop {
            tokio::select! {
                biased;
                ended = self.program.ended() => {
                    if !self.kept.has_worked() {
                        note(&format!("{} ended before it worked", safe(&self.name)));
                    }
                    self.leave().await;
                    return over(ended?);
                }
                told = self.orders.next() => match told {
                    Told::Pass(signal) => self.program.signal(signal),
                    told => return self.stop(told).await,
                },
                failure = self.kept.keep() => {
                    self.end_anyhow().await;
                    return Err(failure);
                }
                () = sleep_until(late), if is_timed => {
                    is_timed = false;
                    if !self.kept.has_worked() {
                        let (waited, why) = (human(self.times.start), self.kept.why_not());
                        self.end_anyhow().await;
                        return Err(Failure::Other(format!("{} does not work after {waited}: {why}", self.name)));
                    }
                }
            }
        }
    }

    /// Ends it as it is told: out of traffic, away, told to end, killed. Told a second time, it is killed at once.
    async fn stop(&mut self, told: Told) -> Result<(), Failure> {
        if told == Told::Terminate {
            let drained = tokio::select! {
                drained = self.kept.drain(self.times.wait) => drained,
                _ = self.orders.end() => return self.kill().await,
                ended = self.program.ended() => {
                    self.leave().await;
                    return over(ended?);
                }
            };
            match drained {
                Some(Ok(drained)) if drained.pending > 0 => {
                    note(&format!("{} of those who watch {} did not hear in time", drained.pending, safe(&self.name)));
                }
                Some(Err(failed)) => note(&format!("{} is not drained: {}", safe(&self.name), failed.short())),
                Some(Ok(_)) | None => {}
            }
        }
        self.leave().await;
        self.end(told.signal()).await
    }

    /// Takes it away; the program's end is more than what comes of that.
    async fn leave(&mut self) {
        if let Err(failure) = self.kept.leave().await
            && let Some(report) = failure.report()
        {
            note(report.trim_start_matches("onair: "));
        }
    }

    /// Tells the program to end, and sees to it.
    async fn end(&mut self, signal: Signal) -> Result<(), Failure> {
        let ended = tokio::select! {
            ended = self.program.stop(signal, self.times.slack) => ended,
            _ = self.orders.end() => return self.kill().await,
        };
        let (status, was_killed) = ended?;
        if was_killed {
            note(&format!("{} did not end within {}, and was killed", safe(&self.name), human(self.times.slack)));
        }
        over(status)
    }

    /// Ends it for a reason of our own, which is told in place of how it took that.
    async fn end_anyhow(&mut self) {
        self.leave().await;
        let _ = self.end(Signal::TERM).await;
    }

    async fn kill(&mut self) -> Result<(), Failure> {
        let (status, _) = self.program.stop(Signal::KILL, Duration::from_secs(5)).await?;
        self.leave().await;
        over(status)
    }
}

/// It has ended.
fn over(status: ExitStatus) -> Result<(), Failure> {
    match program::code(status) {
        0 => Ok(()),
        code => Err(Failure::Program { what: None, code }),
    }
}

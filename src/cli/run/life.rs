//! The life of a program under the command: it is prepared, starts, works, is registered while it does, and ends. Whatever
//! ends first takes the rest with it.

use std::{os::unix::process::ExitStatusExt as _, process::ExitStatus, time::Duration};

use rustix::process::Signal;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout, timeout_at},
};

use super::{
    environment::{self, Found},
    moves::{Move, Moves},
    output::Outputs,
    plan::{OnMove, Plan},
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
/// How long the answer to a drain may be under way, besides its wait.
const ANSWER: Duration = Duration::from_millis(500);
/// How long drain and leaving may take together, besides the wait: then the program is told to end, whatever the registry
/// does. With the usual wait and slack that is within the ten seconds that containers have.
const PATIENCE: Duration = Duration::from_secs(2);

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
    let mut port = None;
    let ended = loop {
        let found = tokio::select! {
            found = environment::of_needs(&client, &plan) => found?,
            told = orders.cancel() => break Err(Failure::Program { what: None, code: told.code() }),
        };
        let held = match port {
            Some(held) => held,
            None => port::of(client.namespace(), &plan.name, plan.port).await?,
        };
        let number = held.number;
        port = Some(held);
        let life = Life::start(&plan, &client, &mut orders, &stands, outputs.as_mut(), found, number).await?;
        if let Some(ended) = life.run().await {
            break ended;
        }
    };
    if let Some(outputs) = outputs {
        outputs.finish().await;
    }
    ended
}

struct Life<'a> {
    name: &'a str,
    times: Times,
    on_move: OnMove,
    program: Program,
    orders: &'a mut Orders,
    kept: Kept,
    moves: Moves,
    /// It was told to end a second time.
    is_killed: bool,
}

impl<'a> Life<'a> {
    /// Starts the program.
    async fn start(
        plan: &'a Plan,
        client: &Client,
        orders: &'a mut Orders,
        stands: &watch::Sender<Stands>,
        outputs: Option<&mut Outputs>,
        found: Found,
        port: u16,
    ) -> Result<Self, Failure> {
        let mut variables = found.variables;
        variables.extend(plan.variables.clone());
        variables.insert("PORT".to_owned(), port.to_string());
        let program = Program::start(&plan.command, plan.dir.as_deref(), &variables, outputs).await?;
        let place = Place { dir: plan.dir.clone(), ..Place::here(port) };
        let looks = Looks::start(plan.check.clone(), place, FIRST_LOOKS, plan.times.interval);
        let teller = Teller::new(None, &plan.name);
        let kept = Kept::new(client.clone(), plan.request(port), teller, looks, stands.clone());
        let moves = Moves::follow(client, found.told);
        Ok(Self {
            name: &plan.name,
            times: plan.times,
            on_move: plan.on_move,
            program,
            orders,
            kept,
            moves,
            is_killed: false,
        })
    }

    /// To its end; none if it is to start again.
    async fn run(mut self) -> Option<Result<(), Failure>> {
        let (late, mut is_timed) = (Instant::now() + self.times.start, true);
        loop {
            tokio::select! {
                biased;
                ended = self.program.ended() => {
                    if let Ok(status) = &ended {
                        match (self.kept.has_worked(), status.signal()) {
                            (false, _) => note(&format!("{} ended before it worked ({status})", safe(self.name))),
                            (true, Some(_)) => note(&format!("{} was ended ({status})", safe(self.name))),
                            (true, None) => {}
                        }
                    }
                    self.leave(Instant::now() + PATIENCE).await;
                    return Some(ended.map_err(Failure::from).and_then(over));
                }
                told = self.orders.next() => match told {
                    Told::Pass(signal) => self.program.signal(signal),
                    told => return Some(self.stop(told).await),
                },
                failure = self.kept.keep() => {
                    self.end_anyhow().await;
                    return Some(Err(failure));
                }
                moved = self.moves.next() => if self.moved(&moved) {
                    return match self.stop(Told::Terminate).await {
                        // It cannot be waited for.
                        Err(failure) if !matches!(failure, Failure::Program { .. }) => Some(Err(failure)),
                        // Somebody told it to end meanwhile.
                        ended if self.is_killed => Some(ended),
                        _ => None,
                    };
                },
                () = sleep_until(late), if is_timed => {
                    is_timed = false;
                    if !self.kept.has_worked() {
                        let (waited, why) = (human(self.times.start), self.kept.why_not());
                        self.end_anyhow().await;
                        return Some(Err(Failure::Other(format!("{} does not work after {waited}: {why}", self.name))));
                    }
                }
            }
        }
    }

    /// Ends it as it is told: out of traffic, away, told to end, killed. Told a second time, it is killed at once.
    async fn stop(&mut self, told: Told) -> Result<(), Failure> {
        let mut late = Instant::now() + PATIENCE;
        if told == Told::Terminate {
            let wait = self.times.wait;
            late += wait;
            let drained = tokio::select! {
                drained = timeout(wait + ANSWER, self.kept.drain(wait)) => drained,
                _ = self.orders.end() => return self.kill().await,
                ended = self.program.ended() => {
                    self.leave(Instant::now() + PATIENCE).await;
                    return over(ended?);
                }
            };
            let name = safe(self.name);
            match drained {
                Ok(Some(Ok(drained))) if drained.pending > 0 => {
                    note(&format!("{} of those who watch {name} did not hear in time", drained.pending));
                }
                Ok(Some(Err(failed))) => note(&format!("{name} is not drained: {}", failed.short())),
                Err(_) => note(&format!("{name} is not drained: the registry does not answer")),
                Ok(Some(Ok(_)) | None) => {}
            }
        }
        if self.leave(late).await {
            return self.kill().await;
        }
        self.end(told.signal()).await
    }

    /// Says that something it needs has moved; whether it is to start again for that.
    fn moved(&self, moved: &Move) -> bool {
        let Move { told, url } = moved;
        let (does, hint) = match self.on_move {
            OnMove::Restart => (format!("{} starts again", self.name), ""),
            OnMove::Tell => (format!("{} was told {}", self.name, told.url), " (--on-move restart starts it again)"),
        };
        note(&format!("{} is at {} now, and {}{hint}", safe(&told.name), safe(url), safe(&does)));
        self.on_move == OnMove::Restart
    }

    /// Takes it away, as far as that can be done by then; whether it was told to end meanwhile. The program's end is more
    /// than what comes of that.
    async fn leave(&mut self, by: Instant) -> bool {
        let left = tokio::select! {
            biased;
            left = timeout_at(by, self.kept.leave()) => left,
            _ = self.orders.end() => return true,
        };
        match left {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => {
                if let Some(report) = failure.report() {
                    note(report.trim_start_matches("onair: "));
                }
            }
            Err(_) => note(&format!(
                "{} is not taken away: the registry does not answer; its lease ends by itself",
                safe(self.name)
            )),
        }
        false
    }

    /// Tells the program to end, and sees to it.
    async fn end(&mut self, signal: Signal) -> Result<(), Failure> {
        let ended = tokio::select! {
            ended = self.program.stop(signal, self.times.slack) => ended,
            _ = self.orders.end() => return self.kill().await,
        };
        let (status, was_killed) = ended?;
        if was_killed {
            note(&format!("{} did not end within {}, and was killed", safe(self.name), human(self.times.slack)));
        }
        over(status)
    }

    /// Ends it for a reason of our own, which is told in place of how it took that.
    async fn end_anyhow(&mut self) {
        let _ = match self.leave(Instant::now() + PATIENCE).await {
            true => self.kill().await,
            false => self.end(Signal::TERM).await,
        };
    }

    async fn kill(&mut self) -> Result<(), Failure> {
        self.is_killed = true;
        let (status, _) = self.program.stop(Signal::KILL, Duration::from_secs(5)).await?;
        self.leave(Instant::now() + PATIENCE).await;
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

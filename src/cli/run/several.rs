//! Several programs together: each starts when those before it work, and all stop in the order's reverse as soon as one
//! ends or a signal says so. What starts, is told and ends is decided by plain values.

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::{mpsc, watch};

use super::{
    life::live,
    order::Order,
    output::Outputs,
    plan::Plan,
    signals::{Signals, Told, orders},
};
use crate::{
    cli::{failure::Failure, kept::Stands, print::note, text::safe},
    client::Client,
};

/// What one program does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waits,
    Starts,
    Works,
    /// It was told to end.
    Ends,
    Ended,
}

/// What all of them do.
struct Fleet {
    order: Order,
    states: Vec<State>,
    /// They are to end, as this says.
    end: Option<Told>,
}

impl Fleet {
    fn new(order: Order, count: usize) -> Self {
        Self { order, states: vec![State::Waits; count], end: None }
    }

    /// Who is to start now, being before nobody who does not work yet.
    fn starting(&mut self) -> Vec<usize> {
        if self.end.is_some() {
            return Vec::new();
        }
        let is_ready = |one: usize| self.order.before(one).all(|before| self.states[before] == State::Works);
        let ready = (0..self.states.len()).filter(|&one| self.states[one] == State::Waits && is_ready(one));
        let ready: Vec<_> = ready.collect();
        ready.iter().for_each(|&one| self.states[one] = State::Starts);
        ready
    }

    fn works(&mut self, one: usize) {
        if self.states[one] == State::Starts {
            self.states[one] = State::Works;
        }
    }

    /// Who is to be told to end now: those that nobody runs after.
    fn ending(&mut self) -> Vec<usize> {
        if self.end.is_none() {
            return Vec::new();
        }
        let runs = |one: usize| !matches!(self.states[one], State::Waits | State::Ended);
        let is_last = |one: usize| !self.order.after(one).any(runs);
        let last = (0..self.states.len())
            .filter(|&one| matches!(self.states[one], State::Starts | State::Works) && is_last(one));
        let last: Vec<_> = last.collect();
        last.iter().for_each(|&one| self.states[one] = State::Ends);
        last
    }

    /// Those that have not ended, whatever they were told.
    fn running(&self) -> Vec<usize> {
        (0..self.states.len()).filter(|&one| !matches!(self.states[one], State::Waits | State::Ended)).collect()
    }
}

/// Runs them until all have ended.
///
/// # Errors
/// One did not end well; or a signal has ended them.
pub(super) async fn run(plans: Vec<Plan>, order: Order, client: &Client, mut signals: Signals) -> Result<(), Failure> {
    let width = plans.iter().map(|plan| safe(&plan.name).chars().count()).max().unwrap_or_default();
    let names: Vec<String> = plans.iter().map(|plan| plan.name.clone()).collect();
    let mut plans: Vec<Option<Plan>> = plans.into_iter().map(Some).collect();
    let mut fleet = Fleet::new(order, plans.len());
    let mut to: Vec<Option<mpsc::Sender<Told>>> = vec![None; plans.len()];
    let (mut lives, mut ups) = (FuturesUnordered::new(), FuturesUnordered::new());
    let mut first: Option<Result<(), Failure>> = None;
    loop {
        for one in fleet.starting() {
            let Some(plan) = plans[one].take() else { continue };
            let (sender, told) = orders();
            to[one] = Some(sender);
            let (stands, seen) = watch::channel(Stands::default());
            let outputs = Outputs::new(one, &plan.name, width);
            let client = client.clone();
            lives.push(async move { (one, Box::pin(live(plan, client, told, stands, Some(outputs))).await) });
            ups.push(up(one, seen));
        }
        let end = fleet.end;
        for one in fleet.ending() {
            tell(&to[one], end);
        }
        if fleet.running().is_empty() {
            return first.unwrap_or(Ok(()));
        }
        tokio::select! {
            biased;
            Some((one, ended)) = lives.next() => {
                fleet.states[one] = State::Ended;
                if first.is_none() {
                    note(&format!("{} ended{}: all others are stopped", safe(&names[one]), how(&ended)));
                    // It is told.
                    first = Some(ended.map_err(|failure| failure.told()));
                    fleet.end.get_or_insert(Told::Terminate);
                }
            }
            told = signals.next() => match told {
                // Those that wait for what they need end by it, if it is a hangup.
                Told::Pass(_) => fleet.running().iter().for_each(|&one| tell(&to[one], Some(told))),
                told if fleet.end.is_none() => {
                    first = Some(Err(Failure::Program { what: None, code: told.code() }));
                    fleet.end = Some(told);
                }
                // Told a second time, each kills at once.
                told => for one in fleet.running() {
                    if fleet.states[one] != State::Ends {
                        tell(&to[one], Some(told));
                        fleet.states[one] = State::Ends;
                    }
                    tell(&to[one], Some(told));
                },
            },
            Some(one) = ups.next() => if let Some(one) = one {
                fleet.works(one);
            },
        }
    }
}

/// Its number when it was registered; none if it never is.
async fn up(one: usize, mut stands: watch::Receiver<Stands>) -> Option<usize> {
    stands.wait_for(|stands| *stands == Stands::Registered).await.ok().map(|_| one)
}

/// One that has more to hear than it takes is told enough already.
fn tell(to: &Option<mpsc::Sender<Told>>, what: Option<Told>) {
    if let (Some(to), Some(what)) = (to, what) {
        let _ = to.try_send(what);
    }
}

fn how(ended: &Result<(), Failure>) -> String {
    match ended {
        Ok(()) => String::new(),
        Err(failure) => match failure.report() {
            Some(report) => format!(" ({})", report.trim_start_matches("onair: ")),
            None => format!(" with {}", failure.exit_code()),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// 2 needs 1, which needs 0; 3 is by itself.
    fn fleet() -> Fleet {
        let needs = [&[][..], &[0], &[1], &[]].map(|needs: &[usize]| needs.iter().copied().collect::<BTreeSet<_>>());
        Fleet::new(Order::new(needs.into()).unwrap(), 4)
    }

    #[test]
    fn they_start_in_order_and_end_in_reverse() {
        let mut fleet = fleet();
        assert_eq!(fleet.starting(), [0, 3]);
        assert_eq!(fleet.starting(), [0; 0], "once each");
        fleet.works(0);
        assert_eq!(fleet.starting(), [1]);
        fleet.works(1);
        assert_eq!(fleet.starting(), [2]);
        assert_eq!(fleet.ending(), [0; 0]);
        fleet.end = Some(Told::Terminate);
        assert_eq!(fleet.ending(), [2, 3]);
        assert_eq!(fleet.ending(), [0; 0], "told once");
        fleet.states[2] = State::Ended;
        assert_eq!(fleet.ending(), [1]);
        fleet.states[1] = State::Ended;
        assert_eq!(fleet.ending(), [0]);
        assert_eq!(fleet.running(), [0, 3]);
    }

    #[test]
    fn who_has_not_started_holds_nobody_up_and_does_not_start_any_more() {
        let mut fleet = fleet();
        fleet.starting();
        fleet.end = Some(Told::Interrupt);
        fleet.works(0);
        assert_eq!(fleet.starting(), [0; 0]);
        assert_eq!(fleet.ending(), [0, 3]);
    }
}

//! Several times as many calls as the server can answer, for a while, at a pace that does not care for answers.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use onair::proto::LookupRequest;
use tokio::{
    task::{JoinSet, spawn_local},
    time::sleep,
};

use super::{
    fleet::Fleet,
    model::Latency,
    stage::Stage,
    wire::{Line, Refusal, framed, until},
};
use crate::Result;

/// What is registered again and again, and looked up.
const FLEET: Fleet = Fleet { namespace: "wanted", each: 10, ttl: 3_600, metadata: 0 };
const INSTANCES: usize = 10_000;
/// One call in so many registers, the others look up.
const REGISTERS: usize = 5;
/// How long is looked for what the server can do, and with how many calls in flight.
const LOOK: Duration = Duration::from_secs(3);
const IN_FLIGHT: usize = 64;
/// Connections that the calls come on.
const LINES: usize = 50;
/// How long each caller waits.
const WAITS: Duration = Duration::from_secs(1);
const WAIT: &str = "1S";
/// How long may pass until the last of them is answered, or gives up.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often what is due is sent.
const TICK: Duration = Duration::from_millis(1);

const REGISTER: &str = "/onair.v1.Registry/Register";
const LOOKUP: &str = "/onair.v1.Registry/Lookup";

/// What came of the calls.
#[derive(Default)]
struct Tally {
    sent: Cell<u64>,
    /// No connection had room for it: as a library has it, its caller waits.
    held: Cell<u64>,
    answered: Cell<u64>,
    late: Cell<u64>,
    open: Cell<u64>,
    took: RefCell<Vec<Duration>>,
}

/// The calls, as they go on the wire.
struct Calls {
    registers: Vec<Bytes>,
    lookups: Vec<Bytes>,
}

impl Calls {
    fn new() -> Self {
        let lookup = |service: usize| {
            let service = FLEET.service(service * FLEET.each);
            framed(&LookupRequest { namespace: FLEET.namespace.into(), service, ..LookupRequest::default() })
        };
        let registers = (0..INSTANCES).map(|instance| framed(&FLEET.request(instance, instance % 7))).collect();
        Self { registers, lookups: (0..INSTANCES / FLEET.each).map(lookup).collect() }
    }

    /// The call of that number, and which field of its answer is there as often.
    fn call(&self, number: usize) -> (&'static str, Bytes, u64, u64) {
        // Numbers that follow one another are far apart, so that no key waits for itself.
        let place = number.wrapping_mul(7_919);
        match number.is_multiple_of(REGISTERS) {
            true => (REGISTER, self.registers[place % self.registers.len()].clone(), 2, 1),
            false => (LOOKUP, self.lookups[place % self.lookups.len()].clone(), 1, FLEET.each as u64),
        }
    }
}

/// Looks for what the server can do, and offers several times as much.
pub async fn play(stage: &Rc<Stage>) -> Result<()> {
    FLEET.register(&stage.client, 0..INSTANCES, 0).await?;
    let mut lines = Vec::new();
    for _ in 0..LINES {
        lines.push(Line::open(&stage.address).await.map_err(|refusal| refusal.reason)?);
    }
    let (lines, calls): (Rc<[Rc<Line>]>, _) = (lines.into(), Rc::new(Calls::new()));
    let capacity = capacity(stage, &lines, &calls).await;
    stage.calm().await;
    stage.begin();
    let (tally, begin) = (Rc::new(Tally::default()), Instant::now());
    let seconds = f64::from(stage.sizes.overload_seconds);
    let rate = capacity * f64::from(stage.sizes.times);
    let mut number = 0;
    while begin.elapsed().as_secs_f64() < seconds {
        let due = (begin.elapsed().as_secs_f64() * rate) as usize;
        while number < due {
            offer(stage, &lines, &calls, &tally, number);
            number += 1;
        }
        sleep(TICK).await;
    }
    let offered = begin.elapsed().as_secs_f64();
    if !until(PATIENCE, || tally.open.get() == 0).await {
        stage.fault(format!("{} calls are still open", tally.open.get()));
    }
    stage.over();
    let took = Latency::of_durations(tally.took.take());
    for (name, value) in [
        ("count", tally.answered.get() as f64),
        ("it can answer a second", capacity),
        ("offered a second", number as f64 / offered),
        ("sent a second", tally.sent.get() as f64 / offered),
        ("answered a second", tally.answered.get() as f64 / offered),
        ("offered, times what it can", number as f64 / offered / capacity),
        ("kept back by clients: a connection's streams", tally.held.get() as f64),
        ("not answered in time", tally.late.get() as f64),
        ("p50 of answers, ms", took.p50 / 1e3),
        ("p99 of answers, ms", took.p99 / 1e3),
    ] {
        stage.note(name, value);
    }
    Ok(())
}

/// What the server answers when so many wait for it as it can make use of.
async fn capacity(stage: &Rc<Stage>, lines: &Rc<[Rc<Line>]>, calls: &Rc<Calls>) -> f64 {
    let (begin, next, done) = (Instant::now(), Rc::new(Cell::new(0)), Rc::new(Cell::new(0_u64)));
    let mut tasks = JoinSet::new();
    for worker in 0..IN_FLIGHT {
        let (stage, line, calls) = (stage.clone(), lines[worker % lines.len()].clone(), calls.clone());
        let (next, done) = (next.clone(), done.clone());
        tasks.spawn_local(async move {
            while begin.elapsed() < LOOK {
                match one(&stage, &line, &calls, next.replace(next.get() + 1)).await {
                    Ok(()) => done.set(done.get() + 1),
                    Err(refusal) => stage.refused(&refusal),
                }
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    done.get() as f64 / begin.elapsed().as_secs_f64()
}

/// Makes a call, and judges its answer.
async fn one(stage: &Stage, line: &Line, calls: &Calls, number: usize) -> std::result::Result<(), Refusal> {
    let (path, message, field, wanted) = calls.call(number);
    let (found, _) = line.ask(path, message, Some(WAIT), field).await?;
    if found != wanted {
        stage.fault(format!("{path} was answered with {found}, not {wanted}"));
    }
    Ok(())
}

/// Sends a call, if a connection has room for it.
fn offer(stage: &Rc<Stage>, lines: &Rc<[Rc<Line>]>, calls: &Rc<Calls>, tally: &Rc<Tally>, number: usize) {
    let line = lines[number % lines.len()].clone();
    if !line.has_room() {
        return tally.held.set(tally.held.get() + 1);
    }
    tally.sent.set(tally.sent.get() + 1);
    tally.open.set(tally.open.get() + 1);
    let (stage, calls, tally) = (stage.clone(), calls.clone(), tally.clone());
    spawn_local(async move {
        let begin = Instant::now();
        match one(&stage, &line, &calls, number).await {
            Ok(()) if begin.elapsed() <= WAITS => {
                tally.answered.set(tally.answered.get() + 1);
                tally.took.borrow_mut().push(begin.elapsed());
            }
            // Its caller would have gone by now.
            Ok(()) => tally.late.set(tally.late.get() + 1),
            Err(refusal) if refusal.reason.starts_with("DeadlineExceeded") => tally.late.set(tally.late.get() + 1),
            Err(refusal) => stage.refused(&refusal),
        }
        tally.open.set(tally.open.get() - 1);
    });
}

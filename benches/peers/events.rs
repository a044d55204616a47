//! Events that peers tell: one change that many watch, and deadlines that pass.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::{sync::Notify, time::timeout};

use crate::{
    Result,
    load::{Meter, measure},
    machine::Process,
    model::{Job, Sample},
};

/// How long events may keep away.
const PATIENCE: Duration = Duration::from_secs(30);

/// One thing that changes, and all who watch it.
pub struct Fan {
    meter: Rc<Meter>,
    watchers: u64,
    /// When each change was sent; the first is number 1.
    sent: RefCell<Vec<Instant>>,
    opened: Cell<u64>,
    told: Notify,
}

impl Fan {
    /// Of so many watchers.
    pub fn new(watchers: u32) -> Rc<Self> {
        let (sent, told) = (RefCell::new(vec![Instant::now()]), Notify::new());
        Rc::new(Self { meter: Rc::default(), watchers: watchers.into(), sent, opened: Cell::new(0), told })
    }

    /// Where deliveries are counted.
    pub fn meter(&self) -> Rc<Meter> {
        self.meter.clone()
    }

    /// Some watchers are ready to hear.
    pub fn opened(&self, some: u64) {
        self.opened.set(self.opened.get() + some);
        self.told.notify_waiters();
    }

    /// A watcher that had heard `last` hears of a change: each comes once, in order.
    pub fn heard(&self, last: &mut u64, change: u64) {
        match self.sent.borrow().get(change as usize) {
            Some(sent) if change == *last + 1 => self.meter.done(1, sent.elapsed()),
            _ => self.meter.fault(format!("a watcher heard change {change} after {last}")),
        }
        *last = change;
        if self.meter.count().is_multiple_of(self.watchers) {
            self.told.notify_waiters();
        }
    }

    /// A watcher cannot go on.
    pub fn broken(&self, why: impl std::fmt::Display) {
        self.meter.fault(format!("a watcher ended: {why}"));
    }

    /// Waits until all are ready to hear.
    pub async fn ready(&self) -> Result<()> {
        self.reach(|| self.opened.get() >= self.watchers).await
    }

    /// Changes again and again, each time when all have heard of the last, for so many seconds.
    pub async fn change(&self, seconds: f64, mut change: impl AsyncFnMut(u64) -> Result<()>) -> Result<()> {
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        while Instant::now() < end && !self.meter.is_hopeless() {
            self.sent.borrow_mut().push(Instant::now());
            let number = self.sent.borrow().len() as u64 - 1;
            change(number).await?;
            self.reach(|| self.meter.count() >= number * self.watchers).await?;
        }
        Ok(())
    }

    async fn reach(&self, there: impl Fn() -> bool) -> Result<()> {
        let reached = async {
            loop {
                let told = self.told.notified();
                if there() {
                    return;
                }
                told.await;
            }
        };
        timeout(PATIENCE, reached).await.map_err(|_| {
            let (opened, heard) = (self.opened.get(), self.meter.count());
            format!("of {} watchers {opened} opened, and {heard} events were heard", self.watchers)
        })?;
        Ok(())
    }
}

/// Deadlines that pass, and how long after them that is told.
pub struct Lapses {
    meter: Rc<Meter>,
    ttl: Duration,
    /// Between which times each was asked to be kept for the last time.
    kept: RefCell<HashMap<String, (Instant, Instant)>>,
    told: Notify,
}

impl Lapses {
    /// Of leases that live so many seconds.
    pub fn new(ttl: u32) -> Rc<Self> {
        let ttl = Duration::from_secs(ttl.into());
        Rc::new(Self { meter: Rc::default(), ttl, kept: RefCell::default(), told: Notify::new() })
    }

    /// A lease was begun, or renewed, by a call from `asked` until now.
    pub fn kept(&self, name: String, asked: Instant) {
        self.kept.borrow_mut().insert(name, (asked, Instant::now()));
    }

    /// It is told that a lease lapsed. Early is before the call that kept it plus its time; late counts from the reply.
    pub fn lapsed(&self, name: &str) {
        let Some((asked, answered)) = self.kept.borrow_mut().remove(name) else {
            return self.meter.fault(format!("{name} lapsed, and was not there"));
        };
        if Instant::now() < asked + self.ttl {
            self.meter.fault(format!("{name} lapsed early"));
        }
        self.meter.done(1, answered.elapsed().saturating_sub(self.ttl));
        self.told.notify_waiters();
    }

    /// What came of them, once none is left: the headline is the delay of the last, in milliseconds.
    pub async fn measure(&self, server: Process) -> Result<Sample> {
        let mut sample = measure(server, Job::Expire, self.meter.clone(), async |_| self.all().await).await?;
        sample.value = sample.quantile(1.0).map(|micros| micros / 1e3);
        Ok(sample)
    }

    /// Waits until none is left.
    async fn all(&self) -> Result<()> {
        let begin = Instant::now();
        while !self.kept.borrow().is_empty() {
            let told = self.told.notified();
            let patience = (self.ttl + PATIENCE).saturating_sub(begin.elapsed());
            if timeout(patience, told).await.is_err() {
                let left = self.kept.borrow().len();
                self.meter.fault(format!("{left} leases had not lapsed {} s after their time", PATIENCE.as_secs()));
                return Ok(());
            }
        }
        Ok(())
    }
}

//! `Subscribe`: the client's commands in, all its subscriptions' messages out. One bad subscription never ends the stream.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio_stream::Stream;
use tonic::{Status, Streaming};

use super::{convert, handed::Opening, measured, status};
use crate::{
    access::{Gate, Tenure, Wanted, Who},
    framed::Framed,
    metrics::Metrics,
    proto::{AddSubscription, Limits, SubscribeRequest, subscribe_request::Command},
    registry::Error,
    watch::{Ending, Hub, Subscriptions, WatchItem},
};

/// Longest id of a subscription, in bytes.
const ID_BYTES_MAX: usize = 128;
/// Commands taken before messages have their turn.
const COMMANDS_MAX: usize = 64;

/// The server's side of a Subscribe stream.
#[derive(Debug)]
pub struct SubscribeReplies {
    /// None once the client has half-closed: what it subscribed to goes on.
    commands: Option<Streaming<SubscribeRequest>>,
    subscriptions: Subscriptions,
    opening: Opening,
    max_selectors: usize,
    metrics: Arc<Metrics>,
    /// The client broke off in the middle of a message, or sent what cannot be read.
    broken: Option<Status>,
    ended: bool,
    who: Who,
    /// What may end it or change what it shows, and what each subscription was asked to show.
    tenure: Option<(Tenure, HashMap<String, Wanted>)>,
}

impl SubscribeReplies {
    pub(super) fn new(commands: Streaming<SubscribeRequest>, hub: &Arc<Hub>, limits: &Limits) -> Self {
        Self {
            commands: Some(commands),
            subscriptions: Subscriptions::new(hub, limits.max_subscriptions as usize),
            opening: Opening::new(),
            max_selectors: limits.max_selectors as usize,
            metrics: Arc::clone(hub.metrics()),
            broken: None,
            ended: false,
            who: Who::anyone(),
            tenure: None,
        }
    }

    /// Of a caller whom the gate let in.
    pub(super) fn of(self, who: Who, gate: &Gate) -> Self {
        let tenure = Tenure::of(gate, &who).map(|tenure| (tenure, HashMap::new()));
        let mut subscriptions = self.subscriptions;
        subscriptions.set_whose(who.allowed());
        Self { who, tenure, subscriptions, ..self }
    }

    /// Looks whether the caller's rights are others by now.
    fn judge(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        let Some((tenure, wanted)) = &mut self.tenure else { return Ok(()) };
        while let Poll::Ready(judged) = tenure.poll(context) {
            self.who = judged?;
            self.subscriptions.set_whose(self.who.allowed());
            wanted.retain(|id, wanted| match wanted.seen_by(&self.who) {
                Ok(Wanted { filters, published }) => {
                    self.subscriptions.refocus(id, filters, published);
                    true
                }
                Err(error) => {
                    let status = Status::from(error);
                    measured::count_refusal(&self.metrics, &status);
                    self.subscriptions.end(id, status.details());
                    false
                }
            });
        }
        Ok(())
    }

    fn take_commands(&mut self, context: &mut Context<'_>) {
        for _ in 0..COMMANDS_MAX {
            let Some(commands) = self.commands.as_mut().filter(|_| !self.subscriptions.is_full()) else { return };
            match Pin::new(commands).poll_next(context) {
                Poll::Ready(Some(Ok(request))) => self.obey(request),
                Poll::Ready(Some(Err(error))) => {
                    self.broken = Some(status::of_transport(error));
                    self.commands = None;
                }
                Poll::Ready(None) => self.commands = None,
                Poll::Pending => return,
            }
        }
        // There may be more; the transport would not tell again.
        context.waker().wake_by_ref();
    }

    fn obey(&mut self, request: SubscribeRequest) {
        match request.command {
            Some(Command::Add(add)) => {
                if let Err(error) = self.add(&add) {
                    let status = Status::from(error);
                    measured::count_refusal(&self.metrics, &status);
                    if let Some((_, wanted)) = &mut self.tenure {
                        wanted.remove(&add.id);
                    }
                    // Whoever reads an error takes it for the end of what had this id.
                    self.subscriptions.end(&add.id, status.details());
                }
            }
            Some(Command::Drop(drop)) => {
                if let Some((_, wanted)) = &mut self.tenure {
                    wanted.remove(&drop.id);
                }
                self.subscriptions.drop_subscription(&drop.id);
            }
            Some(Command::Ack(ack)) => self.subscriptions.acknowledge(ack.revision),
            // A command of a later version, or none: nothing to answer it by.
            None => {}
        }
    }

    fn add(&mut self, add: &AddSubscription) -> Result<(), Error> {
        if add.id.is_empty() || add.id.len() > ID_BYTES_MAX {
            return Err(Error::invalid("add.id", format!("must have 1 to {ID_BYTES_MAX} bytes")));
        }
        let filters = convert::filters(add, self.max_selectors)?;
        let wanted = Wanted { filters, published: convert::published(&add.selectors)? };
        let Wanted { filters, published } = wanted.seen_by(&self.who)?;
        self.subscriptions.add(&add.id, filters, &add.resume_token)?;
        self.subscriptions.add_published(&add.id, published);
        if let Some((_, all)) = &mut self.tenure {
            all.insert(add.id.clone(), wanted);
        }
        Ok(())
    }
}

impl Stream for SubscribeReplies {
    type Item = Result<Framed, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        if let Err(error) = this.judge(context) {
            this.ended = true;
            return Poll::Ready(Some(Err(error.into())));
        }
        this.take_commands(context);
        if let Some(status) = this.broken.take() {
            this.ended = true;
            return Poll::Ready(Some(Err(status)));
        }
        this.subscriptions.poll_next(context).map(|item| {
            item.map(|item| match item {
                WatchItem::Frame(message) => Ok(this.opening.before(message)),
                WatchItem::End(Ending::ShuttingDown) => Err(status::shutting_down()),
            })
        })
    }
}

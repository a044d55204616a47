//! One watcher: what it has heard so far, and whether it reads at all. Knows no burst.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Instant,
};

use onair::proto::{Event, EventType, Selector, WatchRequest};
use prost::Message as _;
use tokio::sync::watch;

use super::wire::{Field, Fields, Line, Refusal, framed, next, refused};

/// Path of the call.
const WATCH: &str = "/onair.v1.Registry/Watch";

/// What a watcher has heard.
#[derive(Default)]
pub struct Heard {
    /// Where to go on.
    pub token: RefCell<String>,
    /// Up to which revision it heard.
    pub revision: Cell<u64>,
    /// Of which the message is that it hears now.
    pub hearing: Cell<u64>,
    /// Events since `events` was set last, those of snapshots too.
    pub events: Cell<u64>,
    /// Those of them that tell of somebody who went.
    pub offline: Cell<u64>,
    /// How often it was told to begin anew.
    pub resets: Cell<u64>,
    /// Snapshots that it has as a whole.
    pub snapshots: Cell<u64>,
    /// Bytes of messages.
    pub bytes: Cell<u64>,
    /// When it heard of which revision, if that is to be known.
    pub times: Option<RefCell<Vec<(u64, Instant)>>>,
    /// Whether events are looked into.
    pub looks: bool,
}

/// What may keep a watcher from reading.
pub type Asleep = watch::Receiver<bool>;

impl Heard {
    /// Of a watcher that looks at each event.
    pub fn looking() -> Rc<Self> {
        Rc::new(Self { looks: true, ..Self::default() })
    }

    fn hear(&self, field: &Field<'_>) {
        match *field {
            Field::Number(1, revision) => self.hearing.set(revision),
            Field::End => {
                let revision = self.hearing.get();
                self.revision.set(revision);
                if let Some(times) = &self.times {
                    times.borrow_mut().push((revision, Instant::now()));
                }
            }
            Field::Bytes(2, token) => {
                if let Ok(token) = std::str::from_utf8(token) {
                    let mut held = self.token.borrow_mut();
                    held.clear();
                    held.push_str(token);
                }
            }
            Field::Bytes(3, event) => {
                self.events.set(self.events.get() + 1);
                let is_offline = || Event::decode(event).is_ok_and(|event| event.r#type() == EventType::Offline);
                if self.looks && is_offline() {
                    self.offline.set(self.offline.get() + 1);
                }
            }
            Field::Number(6, 1) => self.snapshots.set(self.snapshots.get() + 1),
            Field::Bytes(7, _) => self.resets.set(self.resets.get() + 1),
            _ => {}
        }
    }

    /// Watches `selector`, from where it was if it was anywhere, until `enough` is true or it is refused.
    pub async fn watch(
        &self,
        line: &Line,
        selector: Selector,
        mut asleep: Option<Asleep>,
        enough: impl Fn(&Self) -> bool,
    ) -> Result<(), Refusal> {
        let resume_token = self.token.borrow().clone();
        let request = WatchRequest { selectors: vec![selector], resume_token, ..WatchRequest::default() };
        let mut body = line.call(WATCH, framed(&request), None).await?;
        let mut fields = Fields::default();
        while let Some(data) = next(&mut body).await? {
            self.bytes.set(self.bytes.get() + data.len() as u64);
            fields.feed(&data, &mut |field| self.hear(&field));
            if enough(self) {
                return Ok(());
            }
            if let Some(asleep) = &mut asleep {
                // If nobody is there to wake it any more, the burst is over.
                let _ = asleep.wait_for(|asleep| !*asleep).await;
            }
        }
        if let Some(trailers) = body.trailers().await.map_err(Refusal::broken)? {
            refused(&trailers)?;
        }
        Err(Refusal::broken("a watch ended"))
    }
}

/// The instances of a service, or of a namespace if none is named.
pub fn selector(namespace: &str, service: &str) -> Selector {
    let terms = if service.is_empty() { "status=*" } else { "" };
    let (namespace, service) = (namespace.to_owned(), service.to_owned());
    Selector { namespace, service, selector: terms.to_owned(), ..Selector::default() }
}

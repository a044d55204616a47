//! What goes through the actor's two lanes, and the ways back.

use std::sync::Arc;

use smol_str::SmolStr;
use tokio::{sync::oneshot, time::Instant};

use super::{toll::Charged, waiting::Call};
use crate::{
    metrics::BeatState,
    registry::{
        Backend, Command, Document, Error, FilterSet, Frontend, Keep, Key, LeaseToken, Principal, Record, Revision,
        Status,
        catalog::{Application, Entry, ServiceType},
    },
    watch::WatchStream,
};

/// The way back to a caller.
pub type Answer<T> = oneshot::Sender<Result<T, Error>>;

/// A turn of the actor, but for beats.
#[derive(Debug)]
pub enum Request {
    /// A change.
    Command {
        /// Which.
        command: Command,
        /// Not to be run after this.
        deadline: Option<Instant>,
        /// To whom.
        answer: Charged,
        /// When it was put in.
        since: Instant,
    },
    /// A registration that waits for what it needs.
    Wait(Box<Call>),
    /// The start of a watch.
    Watch {
        /// Of what.
        filters: FilterSet,
        /// From where; empty: from a snapshot.
        resume_token: String,
        /// For whom.
        principal: Principal,
        /// To whom.
        answer: Answer<WatchStream>,
        /// When it was put in.
        since: Instant,
    },
    /// Commit what is under way, close the store, end.
    Stop {
        /// To whom.
        answer: oneshot::Sender<()>,
    },
}

/// What a change came to.
#[derive(Debug)]
pub enum Reply {
    /// The registration as it stands, and the token of its lease.
    Registered {
        /// The record.
        record: Record,
        /// The token.
        token: LeaseToken,
        /// What it needs, and where that is.
        dependencies: Vec<(SmolStr, SmolStr)>,
        /// At which revision.
        revision: Revision,
    },
    /// The registration as it stands, of which nobody has a token.
    Kept {
        /// The record.
        record: Record,
        /// It is not only what was said before.
        says_otherwise: bool,
        /// At which revision something was stored for it, if anything was.
        changed_at: Option<Revision>,
    },
    /// The backend or frontend as it stands.
    Deployed {
        /// What.
        deployed: Standing,
        /// What it was before.
        before: Option<Arc<Document>>,
        /// At which revision.
        revision: Revision,
    },
    /// The instance is DRAINING.
    Drained {
        /// The record.
        record: Record,
        /// How many had begun to listen to the log by then.
        places: u64,
    },
    /// So many instances went.
    Removed {
        /// How many.
        removed: u64,
        /// At which revision.
        revision: Revision,
    },
}

/// What stands under a name.
#[derive(Clone, Debug)]
pub enum Standing {
    /// A backend.
    Backend(Arc<Backend>),
    /// A frontend.
    Frontend(Arc<Frontend>),
    /// A service type.
    ServiceType(Arc<Entry<ServiceType>>),
    /// An application.
    Application(Arc<Entry<Application>>),
    /// The document of a token, or of what is set for a namespace.
    Document(Arc<Document>),
    /// Nothing.
    Gone,
}

/// A beat, parsed.
#[derive(Clone, Copy, Debug)]
pub struct Beat {
    /// The token; none if the text was none.
    pub token: Option<LeaseToken>,
    /// A new status, or unspecified.
    pub status: Status,
}

/// What became of a beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BeatOutcome {
    /// Good for so many milliseconds more.
    Renewed(u32),
    /// The key is free.
    Expired,
    /// Not a token of this registry.
    Unknown,
    /// A newer incarnation holds the key; where it is stands in the reply.
    Superseded,
    /// Wrong secret.
    Denied,
    /// Not judged: its change could not be stored.
    TryAgain,
}

impl BeatOutcome {
    /// As it is counted.
    #[must_use]
    pub fn state(self) -> BeatState {
        match self {
            Self::Renewed(_) => BeatState::Renewed,
            Self::Expired => BeatState::Expired,
            Self::Unknown => BeatState::Unknown,
            Self::Superseded => BeatState::Superseded,
            Self::Denied => BeatState::Denied,
            Self::TryAgain => BeatState::TryAgain,
        }
    }
}

/// Who has a key now.
#[derive(Clone, Debug)]
pub struct Holder {
    /// The key.
    pub key: Key,
    /// Where they can be reached.
    pub address: String,
}

/// What became of the beats of one message.
#[derive(Debug)]
pub struct BeatReply {
    /// By position.
    pub outcomes: Vec<BeatOutcome>,
    /// For each of them that is superseded, in order: its position, and where the key's holder can be reached.
    pub holders: Vec<(usize, Holder)>,
    /// A committed revision at or after them.
    pub revision: Revision,
}

/// What goes through the beats' own lane.
#[derive(Debug)]
pub enum Lane {
    /// The beats of one message.
    Beats {
        /// In order.
        beats: Vec<Beat>,
        /// To whom.
        answer: oneshot::Sender<BeatReply>,
    },
    /// Everything that had reached this runtime's sockets at this time is in the lane.
    Mark {
        /// Which runtime.
        runtime: usize,
        /// When.
        at: Instant,
    },
    /// The renewal of a registration that nobody has a token of: a beat by another name.
    Keep {
        /// Which.
        keep: Box<Keep>,
        /// To whom; it is heard also if what it says otherwise than before is refused them.
        answer: Charged,
        /// When it was put in.
        since: Instant,
    },
    /// Whoever asks wants to know that there are turns.
    Turn {
        /// To whom.
        answer: oneshot::Sender<()>,
    },
}

//! The registry's committed state and every rule that changes it.
//!
//! Nothing here awaits, reads a clock, draws a random number or knows gRPC. `Registry::decide` says what should become
//! of a command; `Registry::fold` takes in what was committed, whoever proposed it; `Timekeeping` stands beside them
//! and says which leases lapsed.

mod admission;
mod breaker;
pub mod catalog;
mod change;
mod command;
mod decide;
mod deployment;
mod document;
mod drain;
mod error;
mod filter;
mod held_tokens;
mod instance;
mod key;
mod matcher;
mod name;
mod namespace;
mod needs;
mod outline;
mod own;
mod pattern;
mod pick;
mod presence;
mod publication;
mod quota;
mod record;
mod registration;
mod room;
mod selector;
mod service;
mod settings;
mod snapshot;
mod state;
mod syntax;
mod timekeeping;
mod token;
mod turn;
mod unfenced;
mod urls;
mod version;
mod waiting;

pub use admission::shown_to;
pub use breaker::Tally;
pub use change::{Change, Delete, Event, Guarded, Held, Put, Stamp, put_cause};
pub use command::{Claim, Command, Decision, Lapse, Outcome, Principal, Register, Target, Verdict};
pub use decide::superseded;
pub use deployment::{
    Action, Backend, Deploy, Deployed, Deployments, Frontend, MAX_BACKENDS, MAX_FRONTENDS, MAX_HISTORY, MAX_SPLITS,
    Past, Split, TargetText, Unmoved, decode_fields,
};
pub use document::{Document, DocumentEvent, DocumentKey, DocumentPut, Kind, latch_of};
pub use error::{Error, Violation};
pub(crate) use filter::prefix_faults;
pub use filter::{Filter, FilterSet, Scope};
pub use held_tokens::{MAX_TOKENS, Write};
pub use instance::{Cause, EventType, Instance, Status};
pub use key::{Fingerprint, Key, Revision, request_fingerprint};
pub use matcher::Matcher;
pub use name::{ALL_NAMESPACES, DEFAULT_NAMESPACE, MAX_NAME_BYTES, check_name, check_new_namespace};
pub use namespace::{KeyStanding, Namespace};
pub use needs::{IfMissing, MAX_DEPENDENCIES, Need, Needs, Resolved};
pub use outline::Outline;
pub use pattern::{Pattern, Realm};
pub use pick::{Candidate, Choice, MAX_PICK_KEY_BYTES, Share, pick, pick_behind};
pub use presence::{Partition, Presence, Step, Summary};
pub use publication::{MAX_PUBLISHED_BYTES, Publication};
pub use quota::{Exceeded, Quota, Resource, Use, Uses, Whose, growth};
pub use record::{Lease, Record, names};
pub use registration::{Context, LeaseTtl, METADATA_BYTES_MAX, METADATA_DEPTH_MAX, Registration, publish_only};
pub use room::make_room;
pub use selector::{MAX_SELECTOR_BYTES, Selector};
pub use service::{FirstPage, LOOKUP_BYTES, LOOKUP_MAX, Replicas, ReplyBudget, ServiceSet};
pub use settings::Settings;
pub use snapshot::{Snapshot, SnapshotReader, disjoint};
pub use state::{KNOWN_SECONDS, Registry, StateLimits};
pub use syntax::SyntaxError;
pub use timekeeping::{LeaseTime, Timekeeping};
pub use token::{LeaseId, LeaseToken, Secret, SecretHash};
pub use turn::{Folded, Rewound, Stored, Turn, rewind};
pub use unfenced::{Keep, Place};
pub use version::{MAX_VERSION_BYTES, VersionMatch};
pub use waiting::{WaitId, Waiting};

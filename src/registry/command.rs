//! What can be asked of the state, and what becomes of it.

use std::sync::Arc;

use prost_types::Timestamp;
use smol_str::SmolStr;

use super::{
    catalog::CatalogCommand,
    change::Guarded,
    deployment::Deploy,
    document::{Document, DocumentKey, catalog_latch_of, latch_of},
    error::Error,
    held_tokens::Write,
    instance::{Cause, Status},
    key::Key,
    needs::Resolved,
    quota::Quota,
    record::Record,
    registration::Registration,
    token::{LeaseToken, Secret},
    unfenced::{Keep, Place},
};

/// On whose behalf a command is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Its name; none while no authentication is configured: then everyone is one principal.
    pub name: Option<Arc<str>>,
    /// Whether it may act by key on what others registered.
    pub operator: bool,
    /// How much it may have; none: as much as there is room for.
    pub quota: Option<Arc<Quota>>,
}

impl Principal {
    /// Everyone, where no authentication is configured.
    #[must_use]
    pub fn anyone() -> Self {
        Self { name: None, operator: true, quota: None }
    }
}

/// A change that somebody wants.
#[derive(Clone, Debug)]
pub enum Command {
    /// Register or update an instance.
    Register(Box<Register>),
    /// Admit registrations that waited, all or none.
    Admit {
        /// Which; no two of one key.
        members: Vec<Arc<Register>>,
        /// When, in Unix seconds.
        at: u64,
    },
    /// Register an instance that nobody gets a token of, or renew it.
    Keep(Box<Keep>),
    /// A beat that brings a status, or that ends SUSPECT.
    SetStatus {
        /// Whose.
        token: LeaseToken,
        /// Which; unspecified is unchanged.
        status: Status,
    },
    /// Take an instance out of traffic, and keep its lease.
    Drain {
        /// Which.
        claim: Claim,
        /// For whom.
        principal: Principal,
    },
    /// Take instances away.
    Deregister {
        /// Which.
        target: Target,
        /// For whom.
        principal: Principal,
        /// When, in Unix seconds.
        at: u64,
    },
    /// Take away what lapsed, or hold it back.
    Expire {
        /// What lapsed, each once.
        lapses: Vec<Lapse>,
        /// When, in Unix seconds.
        at: u64,
    },
    /// Stop knowing a service that has no instance.
    Forget {
        /// Its namespace.
        namespace: SmolStr,
        /// Its name.
        service: SmolStr,
    },
    /// Change backends and frontends: strict, where the others are of presence.
    Deploy(Box<Deploy>),
    /// Change a catalog: strict as well.
    Catalog(Box<CatalogCommand>),
    /// Write the document of a token or of a namespace's settings: strict as well.
    Write(Box<Write>),
}

/// A lease that nobody renewed.
#[derive(Clone, Debug)]
pub struct Lapse {
    /// Where its record was.
    pub slot: u32,
    /// The record: the lapse is of this one alone.
    pub record: Record,
    /// Whether most of its neighbours are silent too, so that it is held back if it takes traffic.
    pub hold: bool,
}

/// A registration as wanted.
#[derive(Clone, Debug)]
pub struct Register {
    /// What.
    pub registration: Registration,
    /// The last token that the client has.
    pub token: Option<LeaseToken>,
    /// For whom.
    pub principal: Principal,
    /// Fresh random bits, used if this makes a new lease.
    pub secret: Secret,
    /// The wall clock.
    pub at: Timestamp,
}

/// By what right a single instance is meant.
#[derive(Clone, Debug)]
pub enum Claim {
    /// Its lease.
    Lease(LeaseToken),
    /// Its key, by an operator's right.
    Key(Key),
}

/// What to deregister.
#[derive(Clone, Debug)]
pub enum Target {
    /// The incarnation of this token; none: the text was no token.
    Lease(Option<LeaseToken>),
    /// Those of these tokens.
    Leases(Vec<LeaseToken>),
    /// Who is at this place without a token.
    Place(Place),
    /// The registry's own instance, by itself.
    Own(Key),
    /// A key, by an operator's right.
    Key(Key),
    /// All instances of a service, by an operator's right.
    Service {
        /// Its namespace.
        namespace: SmolStr,
        /// Its name.
        service: SmolStr,
    },
}

/// The outcome of a decision.
#[derive(Debug)]
pub enum Decision {
    /// Nothing to commit.
    Reply(Result<Outcome, Error>),
    /// To be committed if the guards still hold; the outcome is true when it is folded.
    Propose(Vec<Guarded>, Outcome),
    /// One of those who were to be admitted together cannot be.
    Unfit {
        /// Its place in the command.
        member: usize,
        /// Why.
        error: Error,
    },
}

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The key is registered as its record says; the registrant's secret is this.
    Registered {
        /// The key.
        key: Key,
        /// The secret of its lease.
        secret: Secret,
        /// What it needs, and where that is.
        resolved: Vec<Resolved>,
    },
    /// The key is registered as its record says, and nobody has a token of it.
    Kept {
        /// The key.
        key: Key,
        /// It is not only what was said before: to whom it is bound from then on is told to nobody.
        says_otherwise: bool,
        /// Something is stored for it.
        is_change: bool,
    },
    /// Each of those who were to be admitted is registered.
    Admitted(Vec<Outcome>),
    /// The lease is good, with its status as wanted.
    Renewed {
        /// The lease's TTL in milliseconds.
        ttl: u32,
    },
    /// The token is good for nothing, and why.
    NotRenewed(Verdict),
    /// The instance of this key is DRAINING.
    Drained {
        /// The key.
        key: Key,
        /// Whether it was asked for by its lease.
        by_lease: bool,
    },
    /// So many instances went; of lapses, those that were not held back.
    Removed(u64),
    /// The document of this key is as wanted, or no more; it was so before.
    Deployed(DocumentKey, Option<Arc<Document>>),
    /// Done.
    Done,
}

/// What a token is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No token, or not one of this registry.
    Unknown,
    /// Its key is free.
    Expired,
    /// A newer incarnation holds its key: the record's slot.
    Superseded(u32),
    /// The current incarnation, but not its secret.
    Denied,
    /// The current incarnation: its slot.
    Live(u32),
}

impl Outcome {
    /// The records that it was decided by, though it leaves them as they are.
    pub fn decided_by(&self) -> Box<dyn Iterator<Item = &Record> + '_> {
        match self {
            Self::Registered { resolved, .. } => Box::new(resolved.iter().filter_map(|found| found.record.as_ref())),
            Self::Admitted(outcomes) => Box::new(outcomes.iter().flat_map(Self::decided_by)),
            _ => Box::new(std::iter::empty()),
        }
    }
}

impl Command {
    /// The keys that it decides by, as far as they are known before it is decided.
    #[must_use]
    pub fn fingerprints(&self) -> Vec<super::Fingerprint> {
        match self {
            Self::Register(register) => vec![register.registration.key().fingerprint()],
            Self::Admit { members, .. } => {
                members.iter().map(|member| member.registration.key().fingerprint()).collect()
            }
            Self::Keep(keep) => keep.place.fingerprints(),
            Self::SetStatus { token, .. } => vec![token.key],
            Self::Drain { claim: Claim::Lease(token), .. } => vec![token.key],
            Self::Drain { claim: Claim::Key(key), .. } => vec![key.fingerprint()],
            Self::Deregister { target, .. } => match target {
                Target::Lease(token) => token.iter().map(|token| token.key).collect(),
                Target::Leases(tokens) => tokens.iter().map(|token| token.key).collect(),
                Target::Key(key) | Target::Own(key) => vec![key.fingerprint()],
                Target::Place(place) => place.fingerprints(),
                Target::Service { .. } => Vec::new(),
            },
            Self::Expire { lapses, .. } => lapses.iter().map(|lapse| lapse.record.fingerprint).collect(),
            Self::Forget { .. } => Vec::new(),
            Self::Deploy(deploy) => vec![latch_of(&deploy.namespace)],
            Self::Catalog(command) => vec![catalog_latch_of(&command.namespace)],
            Self::Write(write) => vec![write.key.latch()],
        }
    }
}

/// The cause that a removal by `target` has.
pub(super) fn cause_of(target: &Target) -> Cause {
    match target {
        Target::Lease(_) | Target::Leases(_) | Target::Place(_) | Target::Own(_) => Cause::Deregistered,
        Target::Key(_) | Target::Service { .. } => Cause::Operator,
    }
}

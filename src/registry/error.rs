//! Everything that can be refused, for people and for programs. Knows no status codes: the fronts translate.

use std::fmt;

use smol_str::SmolStr;

use super::quota::Exceeded;

/// One field that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field as in the request, for instance `instance.ports["admin"]`.
    pub field: String,
    /// What is wrong with it, as a sentence without a full stop.
    pub description: String,
}

/// Why a command was refused. Nothing changed, unless the variant says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// Fields that break a rule, all of them.
    Invalid(Vec<Violation>),
    /// Fields that this version does not support yet.
    NotSupported(Vec<Violation>),
    /// The key is live and belongs to another principal.
    KeyHeld {
        /// `namespace/service/id`.
        key: String,
    },
    /// The key is live, and what is asked for needs its token.
    Fenced {
        /// `namespace/service/id`.
        key: String,
    },
    /// A newer incarnation holds the key.
    Superseded {
        /// `namespace/service/id`.
        key: String,
        /// Where the newer one runs.
        holder: String,
    },
    /// Nothing is registered there.
    NotFound {
        /// `namespace/service/id`.
        key: String,
    },
    /// The current incarnation, but not its secret.
    LeaseDenied,
    /// What is needed is not there: `name@version` of each. Nothing was registered.
    MissingDependency(Vec<String>),
    /// The same request was sent again while this one waited; the newer call has the answer.
    Repeated {
        /// `namespace/service/id`.
        key: String,
    },
    /// The caller does not prove who they are.
    Unauthenticated {
        /// What is the matter, as a sentence.
        why: &'static str,
    },
    /// The caller lacks a permission.
    Permission {
        /// The permission's name.
        permission: &'static str,
    },
    /// The wanted revision was not reached in time.
    RevisionAhead {
        /// What was asked for.
        wanted: u64,
        /// What is committed.
        revision: u64,
    },
    /// A named limit is reached.
    Limit {
        /// Its name in `Limits`.
        limit: &'static str,
        /// Its value.
        maximum: u64,
        /// What is in use, or was asked for.
        usage: u64,
    },
    /// Quotas would be exceeded, all of them.
    Quota(Vec<Exceeded>),
    /// A backend or frontend of that name is there.
    AlreadyExists {
        /// `Backend` or `Frontend`.
        kind: &'static str,
        /// `namespace/name`.
        name: String,
    },
    /// No backend or frontend of that name is there.
    NoSuch {
        /// `Backend` or `Frontend`.
        kind: &'static str,
        /// `namespace/name`.
        name: String,
    },
    /// Services are not online at the end of a wait for them.
    NotReady {
        /// Which.
        missing: Vec<String>,
    },
    /// Something of the catalog has that id, and nothing else is wrong.
    Taken {
        /// `Application` or `ServiceType`.
        kind: &'static str,
        /// `namespace/id`.
        name: String,
        /// In the catalog's words.
        violation: Violation,
    },
    /// Applications need what is to go.
    Needed {
        /// `Application` or `ServiceType`.
        kind: &'static str,
        /// `namespace/id`.
        name: String,
        /// In the catalog's words.
        sentence: String,
        /// The applications.
        by: Vec<String>,
    },
    /// Backends are named that are not there, all of them.
    MissingBackends(Vec<Violation>),
    /// Frontends name the backend.
    InUse {
        /// `namespace/name`.
        name: String,
        /// The frontends.
        by: Vec<String>,
    },
    /// It was changed since.
    StaleRevision {
        /// What was expected.
        expected: u64,
        /// What it is of.
        revision: u64,
    },
    /// The frontend did not point elsewhere before, as far as its history goes.
    NothingBefore {
        /// The frontend.
        name: String,
        /// The revision that was asked for, or 0.
        to: u64,
    },
    /// More work than can be queued.
    Overloaded {
        /// The queue's capacity.
        maximum: u64,
    },
    /// The store is away. Of a change under way the outcome is unknown.
    StoreUnavailable {
        /// What the store said.
        reason: SmolStr,
        /// Whether the command had been handed to the store.
        outcome_unknown: bool,
    },
    /// The server is going away.
    ShuttingDown,
    /// The call's deadline passed before it was run.
    Deadline,
}

impl Error {
    /// A single violation.
    #[must_use]
    pub fn invalid(field: &str, description: impl Into<String>) -> Self {
        Self::Invalid(vec![Violation { field: field.to_owned(), description: description.into() }])
    }
}

fn list(f: &mut fmt::Formatter<'_>, lead: &str, violations: &[Violation]) -> fmt::Result {
    f.write_str(lead)?;
    for (at, violation) in violations.iter().enumerate() {
        write!(f, "{}{}: {}", if at == 0 { " " } else { "; " }, violation.field, violation.description)?;
    }
    Ok(())
}

/// The first of them, and how many more there are.
fn in_short(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut text = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(violations) => list(f, "the request is invalid:", violations),
            Self::NotSupported(violations) => {
                list(f, "the request uses what this server does not support yet:", violations)
            }
            Self::KeyHeld { key } => write!(f, "{key} is online and was registered by another principal"),
            Self::Fenced { key } => {
                write!(f, "{key} is online, and only who has its lease token keeps it or takes it away")
            }
            Self::Superseded { key, holder } => {
                write!(f, "{key} was registered anew and now runs at {holder}; stop, and do not register again")
            }
            Self::NotFound { key } => write!(f, "{key} is not registered"),
            Self::MissingDependency(missing) => write!(f, "No url for: {}", missing.join(", ")),
            Self::Repeated { key } => write!(f, "the registration of {key} was sent again and waits in a newer call"),
            Self::LeaseDenied => f.write_str("the lease token's secret is wrong"),
            Self::Unauthenticated { why } => f.write_str(why),
            Self::Permission { permission: "any" } => {
                f.write_str("the caller may do nothing: no token gives it anything, or names its certificate")
            }
            Self::Permission { permission } => write!(f, "the caller lacks the permission `{permission}`"),
            Self::RevisionAhead { wanted, revision } => {
                write!(f, "revision {wanted} was not reached in time; the registry is at {revision}")
            }
            Self::Limit { limit, maximum, usage } => write!(f, "the limit {limit} of {maximum} is reached ({usage})"),
            Self::Quota(exceeded) => {
                f.write_str("more than a quota allows: ")?;
                let told: Vec<String> = exceeded.iter().map(ToString::to_string).collect();
                f.write_str(&told.join("; "))
            }
            Self::AlreadyExists { kind, .. } => write!(f, "{kind} with that name already exists"),
            Self::NoSuch { kind, name } => write!(f, "{kind} not found: {name}"),
            Self::NotReady { missing } => write!(f, "not online in time: {}", in_short(missing)),
            Self::Taken { violation, .. } => f.write_str(&violation.description),
            Self::Needed { sentence, by, .. } => write!(f, "{sentence}: {}", in_short(by)),
            Self::MissingBackends(violations) => list(f, "the frontend would name what is not there:", violations),
            Self::InUse { name, by } => write!(f, "{name} is in use by {}", in_short(by)),
            Self::StaleRevision { expected, revision } => {
                write!(f, "it was changed since: revision {expected} was expected, it is of {revision}")
            }
            Self::NothingBefore { name, to: 0 } => write!(f, "{name} has not pointed elsewhere before"),
            Self::NothingBefore { name, to } => {
                write!(f, "the history of {name} has nothing that began at revision {to}")
            }
            Self::Overloaded { maximum } => {
                write!(f, "the server has more work than it can queue ({maximum} commands); try again soon")
            }
            Self::StoreUnavailable { reason, outcome_unknown: true } => {
                write!(
                    f,
                    "the store is unavailable ({reason}); whether the change was made is unknown: read before you repeat it"
                )
            }
            Self::StoreUnavailable { reason, outcome_unknown: false } => {
                write!(f, "the store is unavailable ({reason}); nothing was changed")
            }
            Self::ShuttingDown => f.write_str("the server is shutting down"),
            Self::Deadline => f.write_str("the call's deadline passed before it was run; nothing was changed"),
        }
    }
}

impl std::error::Error for Error {}

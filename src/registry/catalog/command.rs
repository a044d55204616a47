//! What can be asked of a namespace's catalog.

use prost_types::Timestamp;
use smol_str::SmolStr;

use super::{Application, ApplicationDraft, ServiceTypeDraft};
use crate::registry::{Principal, document::Kind, key::Revision};

/// A change of the catalog of one namespace that somebody wants.
#[derive(Clone, Debug)]
pub struct CatalogCommand {
    /// In which namespace.
    pub namespace: SmolStr,
    /// What.
    pub action: CatalogAction,
    /// Only if what it is about is of this revision; 0 is any.
    pub expected: Revision,
    /// For whom.
    pub principal: Principal,
    /// The wall clock.
    pub at: Timestamp,
}

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CatalogAction {
    /// A service type that is not there yet.
    CreateType(ServiceTypeDraft),
    /// A service type, there already or not.
    PutType(ServiceTypeDraft),
    /// A service type less that no application has a port of.
    DeleteType(SmolStr),
    /// An application that is not there yet.
    Create(ApplicationDraft),
    /// An application, there already or not.
    Put(ApplicationDraft),
    /// An application less that no other needs.
    Delete(SmolStr),
    /// An application that needs another one too.
    Depend(SmolStr, SmolStr),
    /// An application that does not need another one any more.
    Undepend(SmolStr, SmolStr),
    /// A piece of a list, all of it or nothing.
    Import {
        /// Kinds of programs, there already or not.
        types: Vec<ServiceTypeDraft>,
        /// Applications as they were planned, whole; the first one stands for the piece.
        applications: Vec<Application>,
        /// The number of the last version when it was planned, and what was taken of it since.
        after: u64,
    },
    /// What is kept of a catalog that has been as it began for a day, as much of it as goes at once: the registry's own.
    Forget,
}

impl CatalogAction {
    /// Whether it may make an application need another one, which must not lead in a circle.
    #[must_use]
    pub(super) fn may_need(&self) -> bool {
        match self {
            Self::Create(draft) | Self::Put(draft) => {
                draft.dependencies.as_ref().is_some_and(|given| !given.is_empty())
            }
            Self::Depend(..) => true,
            _ => false,
        }
    }

    /// Which entry it is about.
    #[must_use]
    pub fn subject(&self) -> (Kind, &str) {
        match self {
            Self::CreateType(draft) | Self::PutType(draft) => (Kind::ServiceType, &draft.id),
            Self::DeleteType(id) => (Kind::ServiceType, id),
            Self::Create(draft) | Self::Put(draft) => (Kind::Application, &draft.id),
            Self::Import { types, applications, .. } => match (applications.first(), types.first()) {
                (None, Some(draft)) => (Kind::ServiceType, &draft.id),
                (first, _) => (Kind::Application, first.map_or("", |first| &first.id)),
            },
            Self::Forget => (Kind::CatalogVersion, ""),
            Self::Delete(id) | Self::Depend(id, _) | Self::Undepend(id, _) => (Kind::Application, id),
        }
    }
}

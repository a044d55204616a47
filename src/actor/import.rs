//! Lists of applications: planned beside the actor, taken in pieces that are a turn each; and the catalog in pages, as
//! such a list. The rules are the catalog's.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use smol_str::SmolStr;
use tokio::{
    sync::Semaphore,
    task::{spawn_blocking, yield_now},
    time::{Instant, timeout_at},
};

use super::{
    Deployment, RegistryHandle,
    handle::wall_clock,
    lookup::{page_start, page_token},
};
use crate::registry::{
    Command, Error, Principal, Revision,
    catalog::{
        Application, Around, CatalogAction, CatalogCommand, Entry, ImportPlan, List, MAX_APPLICATIONS, Planned,
        Refusals, ServiceType, seeds,
    },
};

/// How often what is left of a list is planned anew because others changed the catalog meanwhile.
const TRIES: usize = 16;
/// Most violations of a refusal: more than fit into its headers.
const VIOLATIONS_MAX: usize = 1_000;
/// About how many bytes of ids a page has at most.
const PAGE_BYTES_MAX: usize = 512 * 1024;

/// The turn to plan: lists whose callers left do not pile up.
static PLANNING: Semaphore = Semaphore::const_new(1);

/// A list to be taken.
#[derive(Clone, Debug)]
pub struct Import {
    /// In which namespace.
    pub namespace: SmolStr,
    /// What.
    pub list: Arc<List>,
    /// All of it or nothing.
    pub strict: bool,
    /// Only what would come of it.
    pub check_only: bool,
    /// For whom.
    pub principal: Principal,
    /// When the caller does not wait any more.
    pub deadline: Option<Instant>,
}

/// How far a list is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// So many of the applications.
    pub taken: usize,
    /// Of so many that are to be taken.
    pub to_take: usize,
}

/// What came of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// How many applications were made.
    pub created: usize,
    /// How many were changed.
    pub updated: usize,
    /// What was refused.
    pub refused: Refusals,
    /// The revision at which this is true.
    pub revision: Revision,
}

impl Imported {
    fn count(&mut self, planned: &[Planned]) {
        let created = planned.iter().filter(|planned| planned.is_new).count();
        self.created += created;
        self.updated += planned.len() - created;
    }
}

/// A part of the catalog, in order of id.
#[derive(Clone, Debug)]
pub struct CatalogPage {
    /// On the first page: the service types that not every catalog begins with.
    pub types: Vec<Arc<Entry<ServiceType>>>,
    /// The applications.
    pub applications: Vec<Arc<Entry<Application>>>,
    /// Where to go on; empty at the end.
    pub next_page_token: String,
    /// The revision that this shows.
    pub revision: Revision,
}

impl RegistryHandle {
    /// Takes a list, and tells how far it is. Who drops this call ends it after the piece under way.
    ///
    /// # Errors
    /// `Invalid` where it is strict and something is wrong, `StaleRevision` when others change the catalog all the time,
    /// and those of every change of a catalog.
    pub async fn import(&self, import: Import, tell: impl FnMut(Progress)) -> Result<Imported, Error> {
        if !import.check_only {
            // Of all of its pieces.
            self.charge_once(&import.namespace, &import.principal)?;
        }
        let mut plans = Vec::new();
        let imported = self.import_in_tries(&import, tell, &mut plans).await;
        // What is long takes long to be dropped.
        spawn_blocking(move || drop((import, plans)));
        imported
    }

    async fn import_in_tries(
        &self,
        import: &Import,
        mut tell: impl FnMut(Progress),
        plans: &mut Vec<ImportPlan>,
    ) -> Result<Imported, Error> {
        let mut result = Imported::default();
        for _ in 0..TRIES {
            let (mut plan, after, revision) = self.plan(import).await?;
            let refused = std::mem::take(&mut plan.refused);
            plans.clear();
            plans.push(plan);
            let Some(plan) = plans.last() else { continue };
            let done = result.created + result.updated;
            if import.strict && !refused.is_empty() {
                return Err(refusal(refused));
            }
            result = Imported { refused, revision: result.revision.max(revision), ..result };
            if import.check_only {
                result.count(&plan.applications);
                return Ok(result);
            }
            tell(Progress { taken: done, to_take: done + plan.applications.len() });
            match self.take_plan(import, plan, after, &mut result, &mut tell).await {
                // Somebody else was faster: what is left is looked at again.
                Err(Error::StaleRevision { .. } | Error::Invalid(_)) => {}
                Err(error) => return Err(error),
                Ok(()) => return Ok(result),
            }
        }
        Err(Error::StaleRevision { expected: 0, revision: self.hub.registry().revision() })
    }

    /// What a list comes to as the catalog stands: its last version's number, and the revision.
    async fn plan(&self, import: &Import) -> Result<(ImportPlan, u64, Revision), Error> {
        let (list, rules) = (Arc::clone(&import.list), self.port_rules());
        let (book, services, room, revision) = {
            let registry = self.hub.registry();
            let services = registry.namespaces().get(&import.namespace).map(|held| held.services.clone());
            let room = (MAX_APPLICATIONS.saturating_sub(registry.catalogs().applications()), registry.service_room());
            let book = registry.catalogs().book(&import.namespace).clone();
            (book, services.unwrap_or_default(), room, registry.revision())
        };
        let after = book.versions().get_max().map_or(0, |(number, _)| *number);
        let awaited = Awaited::default();
        let flag = Arc::clone(&awaited.0);
        let planning = async {
            // Never closed.
            let turn = PLANNING.acquire().await.map_err(|_| Error::ShuttingDown)?;
            // A long list takes longer than who serves connections has time.
            let planned = spawn_blocking(move || {
                // Kept until the end, also when nobody waits for it any more.
                let _turn = turn;
                let (applications, services_left) = room;
                let around = Around {
                    applications,
                    services: services_left,
                    knows: &|service| services.contains_key(service),
                    is_awaited: &|| flag.load(Ordering::Relaxed),
                };
                book.catalog().plan(&rules, &list, around)
            });
            planned.await.ok().flatten().ok_or(Error::ShuttingDown)
        };
        let planned = match import.deadline {
            Some(deadline) => timeout_at(deadline, planning).await.map_err(|_| Error::Deadline)??,
            None => planning.await?,
        };
        Ok((planned, after, revision))
    }

    async fn take_plan(
        &self,
        import: &Import,
        plan: &ImportPlan,
        mut after: u64,
        result: &mut Imported,
        tell: &mut impl FnMut(Progress),
    ) -> Result<(), Error> {
        let to_take = result.created + result.updated + plan.applications.len();
        let mut types = plan.types.clone();
        for piece in plan.pieces() {
            let types = std::mem::take(&mut types);
            // The first change of a catalog writes down what it began with.
            let begun = if after == 0 { seeds().len() } else { 0 };
            let versions = (begun + types.len() + piece.len()) as u64;
            let applications = piece.iter().map(|planned| planned.application.clone()).collect();
            let action = CatalogAction::Import { types, applications, after };
            let (namespace, principal) = (import.namespace.clone(), import.principal.clone());
            let wanted = CatalogCommand { namespace, action, expected: 0, principal, at: wall_clock() };
            let made = Deployment::of(self.run(Command::Catalog(Box::new(wanted)), import.deadline).await?)?;
            after += versions;
            result.revision = result.revision.max(made.revision);
            result.count(piece);
            tell(Progress { taken: result.created + result.updated, to_take });
            // An engine that commits at once would leave the sockets no turn between the pieces.
            yield_now().await;
        }
        Ok(())
    }

    /// A page of a namespace's catalog.
    ///
    /// # Errors
    /// A token that no page had.
    pub fn catalog_page(&self, namespace: &str, limit: usize, token: &str) -> Result<CatalogPage, Error> {
        let start = page_start(token)?;
        let (book, revision) = self.book(namespace);
        let mut types = Vec::new();
        if start.is_none() {
            let seeds = seeds();
            types.extend(book.types().values().filter(|entry| !seeds.contains(&entry.value)).cloned());
        }
        let mut applications: Vec<Arc<Entry<Application>>> = Vec::new();
        let (mut bytes, mut next_page_token) = (0, String::new());
        let after = start.map(|[_, _, id]| id).unwrap_or_default();
        for (id, entry) in book.applications().range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded)) {
            if applications.len() == limit || bytes > PAGE_BYTES_MAX {
                let last = applications.last().map(|last| last.value.id.clone()).unwrap_or_default();
                next_page_token = page_token(namespace, "", &last);
                break;
            }
            bytes += id.len() + entry.document.body.len();
            applications.push(Arc::clone(entry));
        }
        Ok(CatalogPage { types, applications, next_page_token, revision })
    }
}

/// Why a strict list is not taken.
fn refusal(refused: Refusals) -> Error {
    let violations = refused.into_entries().into_iter().flat_map(|refused| refused.violations);
    Error::Invalid(violations.take(VIOLATIONS_MAX).collect())
}

/// Whether anybody waits for a plan: not when this is dropped.
struct Awaited(Arc<AtomicBool>);

impl Default for Awaited {
    fn default() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

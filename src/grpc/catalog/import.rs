//! Imports: lists as one message or as a stream of pieces, read into what the registry takes, and what came of them. How
//! much of them is kept at a time is bounded here.

use std::{pin::Pin, sync::Arc, time::Duration};

use prost::Message as _;
use tokio::{
    sync::{Semaphore, SemaphorePermit, mpsc},
    time::{Instant, timeout, timeout_at},
};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Status, Streaming};

use super::read;
use crate::{
    access::Who,
    actor::{Import, Imported, Progress, RegistryHandle},
    grpc::{deadline, status},
    proto::{
        EntryViolation, ImportApplicationsRequest, ImportApplicationsResponse, ImportApplicationsStreamRequest,
        ImportApplicationsStreamResponse, ListedApplication, ListedServiceType, RefusedEntry,
    },
    registry::{
        Error, Violation,
        catalog::{self, List, Listed, ListedPort, MAX_APPLICATIONS, ServiceTypeDraft},
    },
};

/// Most service types of a list.
const TYPES_MAX: usize = 1_000;
/// Most applications of a list that is one message.
const APPLICATIONS_MAX: usize = 10_000;
/// Most bytes of a list as it is kept.
pub const LIST_BYTES_MAX: usize = 64 << 20;
/// What is kept of an application, a port and a dependency beside their texts.
const APPLICATION_BYTES: usize = 128;
const PORT_BYTES: usize = 64;
const DEPENDENCY_BYTES: usize = 24;
/// Most bytes of all lists that are not yet whole.
const GATHERED_BYTES_MAX: usize = 4 * LIST_BYTES_MAX;
/// Most ports, and most dependencies, of an application of a list: it may have more of neither.
const FIELDS_MAX: usize = 1_000;
/// About how many bytes of refused entries an answer has.
const REFUSALS_BYTES_MAX: usize = 1 << 20;
/// How long the next piece may take to come.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a list may take to be whole.
const GATHER_TIMEOUT: Duration = Duration::from_secs(300);
/// How long the last response waits for a caller that reads nothing.
const END_TIMEOUT: Duration = Duration::from_secs(30);
/// Responses that wait for a caller that reads slowly; of those that find no room, the next one tells.
const PROGRESS_ROOM: usize = 16;

/// Imports of one moment. Each holds its list, so that more of them wait outside.
pub const IMPORTS_MAX: usize = 2;
static IMPORTS: Semaphore = Semaphore::const_new(IMPORTS_MAX);

/// The responses to a stream.
pub type Progressing = Pin<Box<dyn Stream<Item = Result<ImportApplicationsStreamResponse, Status>> + Send>>;

/// The room for lists that are not yet whole, in KiB: who sends nothing takes none of it.
static GATHERED: Semaphore = Semaphore::const_new(GATHERED_BYTES_MAX >> 10);

fn full() -> Status {
    let maximum = IMPORTS_MAX as u64;
    Error::Limit { limit: "max_imports", maximum, usage: maximum }.into()
}

/// Why it failed, with how much was taken by then.
fn failed(error: Error, Progress { taken, to_take }: Progress) -> Status {
    let status = Status::from(error);
    if taken == 0 {
        return status;
    }
    let sentence = format!("{} ({taken} of {to_take} were taken; the list again completes it)", status.message());
    let details = bytes::Bytes::copy_from_slice(status.details());
    Status::with_details_and_metadata(status.code(), sentence, details, status.metadata().clone())
}

/// A list that is one message.
///
/// # Errors
/// Every refusal of it.
pub(super) async fn whole(
    handle: &RegistryHandle,
    who: &Who,
    request: Request<ImportApplicationsRequest>,
) -> Result<ImportApplicationsResponse, Status> {
    let _permit = IMPORTS.try_acquire().map_err(|_| full())?;
    let deadline = deadline::of(&request);
    let ImportApplicationsRequest { namespace, service_types, applications, strict, check_only } = request.into_inner();
    let mut violations = Vec::new();
    read::check_count("service_types", service_types.len(), TYPES_MAX, &mut violations);
    read::check_count("applications", applications.len(), APPLICATIONS_MAX, &mut violations);
    let namespace = read::namespace(&namespace);
    read::checked((), violations)?;
    let (namespace, list) = (namespace?, Arc::new(list(service_types, applications)));
    who.imports(&namespace, &list)?;
    let count = list.applications.len();
    let import = Import { namespace, list, strict, check_only, principal: who.allowed(), deadline };
    let mut so_far = Progress::default();
    let imported = handle.import(import, |progress| so_far = progress).await;
    Ok(response(count, imported.map_err(|error| failed(error, so_far))?))
}

/// A list in pieces. The call is begun when its last piece is there.
pub(super) fn streamed(
    handle: RegistryHandle,
    who: Who,
    request: Request<Streaming<ImportApplicationsStreamRequest>>,
) -> Progressing {
    let deadline = deadline::of(&request);
    let (tell, told) = mpsc::channel(PROGRESS_ROOM);
    tokio::spawn(async move {
        let run = async {
            // Who sends slowly keeps nobody from importing.
            let gathered = timeout(GATHER_TIMEOUT, gather(&handle, &who, request.into_inner())).await;
            let (mut import, room) = gathered.map_err(|_| Status::from(Error::Deadline))??;
            import.deadline = deadline;
            let _permit = IMPORTS.try_acquire().map_err(|_| full())?;
            drop(room);
            let count = import.list.applications.len();
            let mut so_far = Progress::default();
            let progress = |progress: Progress| {
                so_far = progress;
                let (taken, to_take) = (progress.taken as u64, progress.to_take as u64);
                // Who reads slowly is told less often.
                let _ = tell.try_send(Ok(ImportApplicationsStreamResponse { taken, to_take, result: None }));
            };
            let imported = handle.import(import, progress).await.map_err(|error| failed(error, so_far))?;
            let taken = (imported.created + imported.updated) as u64;
            let result = response(count, imported);
            who.came_to(Some(result.revision));
            let result = Some(result);
            Ok(ImportApplicationsStreamResponse { taken, to_take: taken, result })
        };
        tokio::select! {
            // Whoever asked may be gone.
            end = run => { let _ = timeout(END_TIMEOUT, tell.send(end)).await; }
            // Nobody waits for it any more.
            () = tell.closed() => {}
        }
    });
    Box::pin(ReceiverStream::new(told))
}

/// All pieces together, and the room that they take.
async fn gather(
    handle: &RegistryHandle,
    who: &Who,
    mut pieces: Streaming<ImportApplicationsStreamRequest>,
) -> Result<(Import, Option<SemaphorePermit<'static>>), Status> {
    let (mut first, mut all, mut bytes) = (None, List::default(), 0);
    let mut room: Option<SemaphorePermit<'static>> = None;
    let mut until = Instant::now() + PIECE_TIMEOUT;
    loop {
        let next = tokio::select! {
            next = timeout_at(until, pieces.next()) => next.map_err(|_| Status::from(Error::Deadline))?,
            () = handle.hub().closed() => return Err(status::shutting_down()),
        };
        let Some(piece) = next.transpose().map_err(status::of_transport)? else { break };
        let ImportApplicationsStreamRequest { namespace, service_types, applications, strict, check_only } = piece;
        // What has nothing in it is no sign that there is more to come.
        if !(service_types.is_empty() && applications.is_empty()) {
            until = Instant::now() + PIECE_TIMEOUT;
        }
        first.get_or_insert((namespace, strict, check_only));
        let kept: usize = applications.iter().map(kept).sum();
        bytes += kept;
        let check = |limit, maximum, usage| match usage > maximum {
            true => Err(Status::from(Error::Limit { limit, maximum, usage })),
            false => Ok(()),
        };
        check("max_import_bytes", LIST_BYTES_MAX as u64, bytes as u64)?;
        check("max_applications", MAX_APPLICATIONS, (all.applications.len() + applications.len()) as u64)?;
        check("max_service_types", TYPES_MAX as u64, (all.types.len() + service_types.len()) as u64)?;
        let more =
            GATHERED.try_acquire_many(u32::try_from((kept >> 10) + 1).unwrap_or(u32::MAX)).map_err(|_| full())?;
        match &mut room {
            Some(room) => room.merge(more),
            None => room = Some(more),
        }
        let more = list(service_types, applications);
        all.types.extend(more.types);
        all.applications.extend(more.applications);
    }
    let (namespace, strict, check_only) = first.unwrap_or_default();
    let namespace = read::namespace(&namespace)?;
    who.imports(&namespace, &all)?;
    let list = Arc::new(all);
    Ok((Import { namespace, list, strict, check_only, principal: who.allowed(), deadline: None }, room))
}

/// How many bytes are kept of an application.
fn kept(of: &ListedApplication) -> usize {
    let ports = of.ports.iter().map(|port| port.service.len() + PORT_BYTES);
    let dependencies = of.dependencies.iter().map(|id| id.len() + DEPENDENCY_BYTES);
    of.id.len() + APPLICATION_BYTES + ports.chain(dependencies).sum::<usize>()
}

/// A list as the rules take it. What no application can have so much of is dropped at once.
fn list(service_types: Vec<ListedServiceType>, applications: Vec<ListedApplication>) -> List {
    let draft = |ListedServiceType { id, default_port, offset }| ServiceTypeDraft {
        id,
        default_port: default_port.map(Into::into),
        offset: offset.map(Into::into),
        ..Default::default()
    };
    List {
        types: service_types.into_iter().map(draft).collect(),
        applications: applications.into_iter().map(listed).collect(),
    }
}

fn listed(of: ListedApplication) -> Listed {
    let ListedApplication { id, mut ports, mut dependencies, no_dependencies } = of;
    let mut faults = Vec::new();
    read::check_count("ports", ports.len(), FIELDS_MAX, &mut faults);
    read::check_count("dependencies", dependencies.len(), FIELDS_MAX, &mut faults);
    if no_dependencies && !dependencies.is_empty() {
        let description = "must not be given together with dependencies".to_owned();
        faults.push(Violation { field: "no_dependencies".to_owned(), description });
    }
    if !faults.is_empty() {
        ports.truncate(FIELDS_MAX);
        dependencies.truncate(FIELDS_MAX);
    }
    let port = |port: crate::proto::ListedPort| ListedPort {
        service: port.service.into(),
        external: port.external.map(Into::into),
        internal: port.internal.map(Into::into),
    };
    Listed {
        id: smol_str::SmolStr::from(id),
        ports: ports.into_iter().map(port).collect(),
        keeps: dependencies.is_empty() && !no_dependencies,
        dependencies: dependencies.into_iter().map(Into::into).collect(),
        faults,
    }
}

fn response(count: usize, imported: Imported) -> ImportApplicationsResponse {
    let Imported { created, updated, refused, revision } = imported;
    let (of_applications, all) = (refused.applications(), refused.count() as u64);
    ImportApplicationsResponse {
        applications: count as u64,
        created: created as u64,
        updated: updated as u64,
        // What was made before others changed something is found as it is to be.
        unchanged: count.saturating_sub(created + updated + of_applications) as u64,
        refused: all,
        refusals: refusals(refused.into_entries()),
        revision,
    }
}

/// Those that an answer has room for; the first one always.
fn refusals(refused: Vec<catalog::RefusedEntry>) -> Vec<RefusedEntry> {
    let mut bytes = 0;
    let entry = |catalog::RefusedEntry { place, id, violations }| {
        let violation =
            |of: crate::registry::Violation| EntryViolation { field: of.field, description: of.description };
        RefusedEntry { place, id, violations: violations.into_iter().map(violation).collect() }
    };
    let fits = |entry: &RefusedEntry| {
        let fits = bytes < REFUSALS_BYTES_MAX;
        bytes += entry.encoded_len();
        fits
    };
    refused.into_iter().map(entry).take_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of what no application can have so much of, nothing is kept but that it was too much.
    #[test]
    fn too_much_of_an_entry_is_dropped() {
        let ports = vec![crate::proto::ListedPort::default(); 500_000];
        let of =
            ListedApplication { id: "x".into(), ports, dependencies: vec!["y".into(); 1_001], no_dependencies: true };
        assert!(kept(&of) > 500_000 * PORT_BYTES);
        let Listed { ports, dependencies, faults, .. } = listed(of);
        assert_eq!((ports.len(), dependencies.len()), (FIELDS_MAX, FIELDS_MAX));
        let fields: Vec<&str> = faults.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(fields, ["ports", "dependencies", "no_dependencies"]);
        assert_eq!(faults[0].description, "must be at most 1000, not 500000");
    }

    #[test]
    fn a_failure_says_how_much_was_taken() {
        let limit = || Error::Limit { limit: "max_services", maximum: 3, usage: 3 };
        let status = failed(limit(), Progress { taken: 250, to_take: 600 });
        let told = "the limit max_services of 3 is reached (3) (250 of 600 were taken; the list again completes it)";
        assert_eq!((status.message(), status::reason_of(&status)), (told, status::Reason::Limit));
        assert!(!failed(limit(), Progress::default()).message().contains("taken"));
    }
}

//! Imports: lists as one message or as a stream of pieces, read into what the registry takes, and what came of them. How
//! much of them is kept at a time is bounded here.

use std::{pin::Pin, sync::Arc, time::Duration};

use prost::Message as _;
use tokio::{
    sync::{Semaphore, SemaphorePermit, mpsc},
    time::timeout,
};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Status, Streaming};

use super::read;
use crate::{
    actor::{Import, Imported, Progress, RegistryHandle, anyone},
    grpc::{deadline, status},
    proto::{
        EntryViolation, ImportApplicationsRequest, ImportApplicationsResponse, ImportApplicationsStreamRequest,
        ImportApplicationsStreamResponse, ListedApplication, ListedServiceType, RefusedEntry,
    },
    registry::{
        Error,
        catalog::{self, List, Listed, ListedPort, MAX_APPLICATIONS, ServiceTypeDraft},
    },
};

/// Most service types of a list.
const TYPES_MAX: usize = 1_000;
/// Most applications of a list that is one message.
const APPLICATIONS_MAX: usize = 10_000;
/// Most bytes of a list.
pub const LIST_BYTES_MAX: usize = 64 << 20;
/// Most refused entries that an answer has, and about how many bytes of them.
const REFUSALS_MAX: usize = 1_000;
const REFUSALS_BYTES_MAX: usize = 1 << 20;
/// How long the next piece may take to come.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);
/// Responses that wait for a caller that reads slowly; of those that find no room, the next one tells.
const PROGRESS_ROOM: usize = 16;

/// Imports of one moment. Each holds its list, so that more of them wait outside.
pub const IMPORTS_MAX: usize = 2;
static IMPORTS: Semaphore = Semaphore::const_new(IMPORTS_MAX);

/// The responses to a stream.
pub type Progressing = Pin<Box<dyn Stream<Item = Result<ImportApplicationsStreamResponse, Status>> + Send>>;

fn permit() -> Result<SemaphorePermit<'static>, Status> {
    let maximum = IMPORTS_MAX as u64;
    IMPORTS.try_acquire().map_err(|_| Error::Limit { limit: "max_imports", maximum, usage: maximum }.into())
}

/// A list that is one message.
///
/// # Errors
/// Every refusal of it.
pub(super) async fn whole(
    handle: &RegistryHandle,
    request: Request<ImportApplicationsRequest>,
) -> Result<ImportApplicationsResponse, Status> {
    let _permit = permit()?;
    let deadline = deadline::of(&request);
    let ImportApplicationsRequest { namespace, service_types, applications, strict, check_only } = request.into_inner();
    let mut violations = Vec::new();
    read::check_count("service_types", service_types.len(), TYPES_MAX, &mut violations);
    read::check_count("applications", applications.len(), APPLICATIONS_MAX, &mut violations);
    let namespace = read::namespace(&namespace);
    read::checked((), violations)?;
    let list = Arc::new(list(service_types, applications));
    let count = list.applications.len();
    let import = Import { namespace: namespace?, list, strict, check_only, principal: anyone(), deadline };
    Ok(response(count, handle.import(import, |_| {}).await?))
}

/// A list in pieces. The call is begun when its last piece is there.
///
/// # Errors
/// Too many imports are under way.
pub(super) fn streamed(
    handle: RegistryHandle,
    request: Request<Streaming<ImportApplicationsStreamRequest>>,
) -> Result<Progressing, Status> {
    let permit = permit()?;
    let deadline = deadline::of(&request);
    let (tell, told) = mpsc::channel(PROGRESS_ROOM);
    tokio::spawn(async move {
        let _permit = permit;
        let run = async {
            let mut import = gather(&handle, request.into_inner()).await?;
            import.deadline = deadline;
            let count = import.list.applications.len();
            let progress = |Progress { taken, to_take }| {
                let (taken, to_take) = (taken as u64, to_take as u64);
                // Who reads slowly is told less often.
                let _ = tell.try_send(Ok(ImportApplicationsStreamResponse { taken, to_take, result: None }));
            };
            let imported = handle.import(import, progress).await?;
            let taken = (imported.created + imported.updated) as u64;
            let result = Some(response(count, imported));
            Ok(ImportApplicationsStreamResponse { taken, to_take: taken, result })
        };
        tokio::select! {
            // Whoever asked may be gone.
            end = run => { let _ = tell.send(end).await; }
            // Nobody waits for it any more.
            () = tell.closed() => {}
        }
    });
    Ok(Box::pin(ReceiverStream::new(told)))
}

/// All pieces together.
async fn gather(
    handle: &RegistryHandle,
    mut pieces: Streaming<ImportApplicationsStreamRequest>,
) -> Result<Import, Status> {
    let (mut first, mut all, mut bytes) = (None, List::default(), 0);
    loop {
        let next = tokio::select! {
            next = timeout(PIECE_TIMEOUT, pieces.next()) => next.map_err(|_| Status::from(Error::Deadline))?,
            () = handle.hub().closed() => return Err(status::shutting_down()),
        };
        let Some(piece) = next.transpose().map_err(status::of_transport)? else { break };
        bytes += piece.encoded_len();
        let ImportApplicationsStreamRequest { namespace, service_types, applications, strict, check_only } = piece;
        first.get_or_insert((namespace, strict, check_only));
        let more = list(service_types, applications);
        all.types.extend(more.types);
        all.applications.extend(more.applications);
        let check = |limit, maximum, usage| match usage > maximum {
            true => Err(Status::from(Error::Limit { limit, maximum, usage })),
            false => Ok(()),
        };
        check("max_import_bytes", LIST_BYTES_MAX as u64, bytes as u64)?;
        check("max_applications", MAX_APPLICATIONS, all.applications.len() as u64)?;
        check("max_service_types", TYPES_MAX as u64, all.types.len() as u64)?;
    }
    let (namespace, strict, check_only) = first.unwrap_or_default();
    let namespace = read::namespace(&namespace)?;
    Ok(Import { namespace, list: Arc::new(all), strict, check_only, principal: anyone(), deadline: None })
}

fn list(service_types: Vec<ListedServiceType>, applications: Vec<ListedApplication>) -> List {
    let draft = |ListedServiceType { id, default_port, offset }| ServiceTypeDraft {
        id,
        default_port: default_port.map(Into::into),
        offset: offset.map(Into::into),
        ..Default::default()
    };
    let port = |port: crate::proto::ListedPort| ListedPort {
        service: port.service.into(),
        external: port.external.map(Into::into),
        internal: port.internal.map(Into::into),
    };
    let listed = |ListedApplication { id, ports, dependencies }| Listed {
        id: smol_str::SmolStr::from(id),
        ports: ports.into_iter().map(port).collect(),
        dependencies: dependencies.into_iter().map(Into::into).collect(),
    };
    List {
        types: service_types.into_iter().map(draft).collect(),
        applications: applications.into_iter().map(listed).collect(),
    }
}

fn response(count: usize, imported: Imported) -> ImportApplicationsResponse {
    let Imported { created, updated, refused, revision } = imported;
    let of_applications = refused.iter().filter(|refused| refused.place.starts_with("applications")).count();
    let all = refused.len() as u64;
    ImportApplicationsResponse {
        applications: count as u64,
        created: created as u64,
        updated: updated as u64,
        // What was made before others changed something is found as it is to be.
        unchanged: count.saturating_sub(created + updated + of_applications) as u64,
        refused: all,
        refusals: refusals(refused),
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
    refused.into_iter().take(REFUSALS_MAX).map(entry).take_while(fits).collect()
}

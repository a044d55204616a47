//! `onair app import`: a list from a file or from standard input, sent in pieces.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use prost::Message as _;

use super::listing::Listing;
use crate::{
    cli::{
        curl,
        failure::{CallFailed, Cause, Failure},
        print::note,
        session::Session,
        text::{Table, human_count, plural},
    },
    config::{ClientSettings, Given},
    proto::{
        ImportApplicationsRequest, ImportApplicationsResponse, ImportApplicationsStreamRequest, RefusedEntry,
        catalog_client::CatalogClient,
    },
};

const EXAMPLES: &str = "\
Examples:
  onair app import catalog.json
  onair app import catalog.json --strict
  curl -s http://registry.example/applications?limit=100 | onair app import - --check

It takes what it can, and tells what it cannot and why; the exit code is then 1.";

/// Most bytes of a file.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// A piece has at most so many applications, and about so many bytes.
const PIECE_APPLICATIONS: usize = 1_000;
const PIECE_BYTES: usize = 512 * 1024;
/// How often long work is told of.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// Arguments of `app import`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The file, or - for standard input.
    file: PathBuf,
    /// All of it or nothing.
    #[arg(long)]
    strict: bool,
    /// Only say what would come of it.
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    given: Given<ClientSettings>,
}

/// What a file is called in a sentence.
fn name(file: &Path) -> String {
    if file.as_os_str() == "-" { "standard input".to_owned() } else { file.display().to_string() }
}

fn read(file: &Path) -> Result<String, Failure> {
    let failed = |error: std::io::Error| Failure::Other(format!("cannot read {}: {error}", name(file)));
    let mut bytes = Vec::new();
    if file.as_os_str() == "-" {
        std::io::stdin().lock().take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        let opened = std::fs::File::open(file).map_err(failed)?;
        opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    }
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Failure::Usage(format!("{} is larger than {} MiB", name(file), FILE_BYTES_MAX >> 20)));
    }
    String::from_utf8(bytes).map_err(|_| Failure::Other(format!("{} is not UTF-8", name(file))))
}

/// Imports a list.
///
/// # Errors
/// What went wrong, or that not all of it was taken.
pub(super) async fn run(Args { file, strict, check, given }: Args) -> Result<(), Failure> {
    let mut session = Session::open(&given)?;
    let text = read(&file)?;
    let listing = Listing::read(&text).map_err(|why| Failure::Other(format!("{} is no list: {why}", name(&file))))?;
    drop(text);
    if strict && !listing.faults.is_empty() {
        show(&session, &listing.faults)?;
        return Err(Failure::Other(format!("{} cannot be read; nothing was taken", entries(listing.faults.len()))));
    }
    if session.print.is_curl() {
        let request = ImportApplicationsRequest {
            namespace: session.namespace.clone(),
            service_types: listing.types.into_iter().map(|(_, of)| of).collect(),
            applications: listing.applications.into_iter().map(|(_, of)| of).collect(),
            strict,
            check_only: check,
        };
        return curl::show(&session, "ImportApplications", &request);
    }
    let pieces = pieces(&session.namespace, &listing, strict, check);
    let result = send(&mut session, pieces).await?;
    tell(&session, &listing, result, check)
}

/// The list in pieces that are no larger than a message may be.
fn pieces(namespace: &str, listing: &Listing, strict: bool, check_only: bool) -> Vec<ImportApplicationsStreamRequest> {
    let mut piece = ImportApplicationsStreamRequest {
        namespace: namespace.to_owned(),
        service_types: listing.types.iter().map(|(_, of)| of.clone()).collect(),
        applications: Vec::new(),
        strict,
        check_only,
    };
    let (mut pieces, mut bytes) = (Vec::new(), piece.encoded_len());
    for (_, application) in &listing.applications {
        let more = application.encoded_len();
        if piece.applications.len() == PIECE_APPLICATIONS || bytes + more > PIECE_BYTES {
            pieces.push(std::mem::take(&mut piece));
            bytes = 0;
        }
        bytes += more;
        piece.applications.push(application.clone());
    }
    pieces.push(piece);
    pieces
}

async fn send(
    session: &mut Session,
    pieces: Vec<ImportApplicationsStreamRequest>,
) -> Result<ImportApplicationsResponse, Failure> {
    let pieces: Arc<[_]> = pieces.into();
    let send = async |channel, request: tonic::Request<Arc<[ImportApplicationsStreamRequest]>>| {
        // With all that the line says beside it.
        let request =
            request.map(|pieces| tokio_stream::iter((0..pieces.len()).map(move |place| pieces[place].clone())));
        CatalogClient::new(channel).import_applications_stream(request).await
    };
    let mut told = session.line.stream("import the list", pieces, send).await?;
    let mut last = Instant::now();
    loop {
        let status = match told.message().await {
            Ok(Some(progress)) => {
                if let Some(result) = progress.result {
                    return Ok(result);
                }
                if last.elapsed() >= TOLD_EVERY {
                    last = Instant::now();
                    note(&format!("{} of {} taken", human_count(progress.taken), human_count(progress.to_take)));
                }
                continue;
            }
            Ok(None) => tonic::Status::unavailable("it ended before it was done; import the list again"),
            Err(status) => status,
        };
        let causes = vec![(session.line.host(), Cause::from_status(status))];
        return Err(CallFailed { what: "import the list".to_owned(), causes }.into());
    }
}

fn entries(count: usize) -> String {
    let noun = if count == 1 { "entry" } else { "entries" };
    format!("{} {noun}", human_count(count as u64))
}

fn tell(
    session: &Session,
    listing: &Listing,
    mut result: ImportApplicationsResponse,
    check: bool,
) -> Result<(), Failure> {
    for refused in &mut result.refusals {
        refused.place = listing.place(&refused.place);
        refused.violations.iter_mut().for_each(|violation| violation.field = listing.place(&violation.field));
    }
    result.refusals.extend(listing.faults.iter().cloned());
    result.refused += listing.faults.len() as u64;
    result.applications += listing.faults.iter().filter(|fault| fault.place.starts_with("applications")).count() as u64;
    if session.print.is_json() {
        session.print.message("ImportApplicationsResponse", &result)?;
    } else {
        if !result.refusals.is_empty() {
            show(session, &result.refusals)?;
        }
        let more = result.refused.saturating_sub(result.refusals.len() as u64);
        if more > 0 {
            session.print.line(&format!(
                "and {} more, which are not told of",
                entries(usize::try_from(more).unwrap_or(usize::MAX))
            ))?;
        }
        let ImportApplicationsResponse { applications, created, updated, unchanged, refused, .. } = result;
        let would = if check { "would be " } else { "" };
        session.print.line(&format!(
            "{}: {would}{} created, {} updated, {} unchanged, {} refused",
            plural(applications, "application"),
            human_count(created),
            human_count(updated),
            human_count(unchanged),
            human_count(refused)
        ))?;
    }
    match result.refused {
        0 => Ok(()),
        refused => Err(Failure::Other(format!("{} refused", entries(refused as usize)))),
    }
}

fn show(session: &Session, refusals: &[RefusedEntry]) -> Result<(), Failure> {
    let mut table = Table::new(["ENTRY", "ID", "WHAT IS WRONG"]);
    for refused in refusals {
        let mut id = refused.id.clone();
        for violation in &refused.violations {
            table.row([violation.field.clone(), std::mem::take(&mut id), violation.description.clone()]);
        }
    }
    session.print.table(&table)
}

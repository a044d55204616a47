//! `--output curl`: the call that a command would make, as the `curl` command that makes the same one over HTTP. Nothing
//! is called. Made of the request message and the routes that the protos describe.

use prost::Message;
use prost_reflect::DynamicMessage;

use super::{failure::Failure, session::Session};
use crate::{
    config,
    http::{
        compose::{Composed, compose},
        curl::{Curl, quoted},
        routes::Table,
    },
    proto::{DeregisterRequest, HeartbeatRequest, RegisterRequest},
    tls::ClientFiles,
};

/// Quiet but for errors, with the exit code of a failure if the server refuses.
const OPTIONS: [&str; 2] = ["-sS", "--fail-with-body"];
/// Shell variable that holds the token of the lease that the commands before it have got.
const VARIABLE: &str = "LEASE_TOKEN";

/// Prints the call of `method` with this request.
///
/// # Errors
/// It cannot be written.
pub fn show(session: &Session, method: &str, request: &impl Message) -> Result<(), Failure> {
    session.print.line(&text(session, &call(session, method, request)?))
}

/// Prints the call of a `method` that streams its replies.
///
/// # Errors
/// It cannot be written.
pub fn show_stream(session: &Session, method: &str, request: &impl Message) -> Result<(), Failure> {
    let mut curl = call(session, method, request)?;
    // Each event when it comes.
    curl.options.push("-N".to_owned());
    curl.headers.push(("Accept".to_owned(), "text/event-stream".to_owned()));
    session.print.line(&text(session, &curl))
}

/// Prints the life of a lease: a script that registers, beats once, and leaves.
///
/// # Errors
/// It cannot be written.
pub fn show_lease(session: &Session, request: &RegisterRequest) -> Result<(), Failure> {
    let beat = crate::proto::Beat { lease_token: VARIABLE.to_owned(), status: 0 };
    let beats = HeartbeatRequest { beats: vec![beat], ..HeartbeatRequest::default() };
    let goodbye = DeregisterRequest { lease_token: VARIABLE.to_owned(), ..DeregisterRequest::default() };
    // Within single quotes the shell would not put the token in.
    let filled = |curl: Curl| text(session, &curl).replace(VARIABLE, &format!("'\"${VARIABLE}\"'"));
    let register = text(session, &call(session, "Register", request)?);
    session.print.line("# Registers; the answer has the token of the lease.")?;
    session.print.line(&format!("ANSWER=$({register}) && printf '%s\\n' \"$ANSWER\""))?;
    session.print.line(&format!(
        "{VARIABLE}=$(printf '%s\\n' \"$ANSWER\" | sed -n 's/.*\"lease\":{{[^}}]*\"token\":\"\\([^\"]*\\)\".*/\\1/p')"
    ))?;
    session.print.line("# Keeps it: again every third of the TTL, which is the answer's heartbeatInterval.")?;
    session.print.line(&filled(call(session, "Heartbeat", &beats)?))?;
    session.print.line("# Leaves.")?;
    session.print.line(&filled(call(session, "Deregister", &goodbye)?))
}

/// The command. The token comes to it by a pipe from where it is: it belongs into no history, and on no command line.
fn text(session: &Session, curl: &Curl) -> String {
    if session.line.token().is_none() {
        return curl.to_string();
    }
    let token = match &session.token_file {
        Some(path) => format!("$(cat {})", quoted(&path.display().to_string())),
        None => format!("${}", config::TOKEN),
    };
    format!("printf 'Authorization: Bearer %s\\n' \"{token}\" | {curl}")
}

fn call(session: &Session, method: &str, request: &impl Message) -> Result<Curl, Failure> {
    let table = Table::of_api().map_err(|error| Failure::Internal(error.to_string()))?;
    let route = table.routes().iter().find(|route| route.rpc.name() == method);
    let message = route.and_then(|route| DynamicMessage::decode(route.rpc.input(), &request.encode_to_vec()[..]).ok());
    let composed = message.and_then(|message| compose(&table, method, &message));
    let composed = composed.ok_or_else(|| Failure::Internal(format!("no route stands for this {method}")))?;
    let mut curl = curl(&session.line.host(), composed);
    if let Some(tls) = session.line.tls() {
        curl.options.extend(of_tls(&tls.files)?);
    }
    if session.line.token().is_some() {
        curl.options.extend(["-H", "@-"].map(str::to_owned));
    }
    Ok(curl)
}

/// What tells curl the same about TLS.
fn of_tls(files: &ClientFiles) -> Result<Vec<String>, Failure> {
    let (cert, key) = files.pair.as_ref().map_or((None, None), |(cert, key)| (Some(cert), Some(key)));
    let mut options = Vec::new();
    for (option, given) in [("--cacert", files.ca.as_ref()), ("--cert", cert), ("--key", key)] {
        let Some(given) = given else { continue };
        let path = given.path().ok_or_else(|| {
            Failure::Usage(format!("curl takes files alone for {option}: give the path of a file instead of PEM"))
        })?;
        options.extend([option.to_owned(), path.display().to_string()]);
    }
    Ok(options)
}

/// The command for a request to a host.
#[must_use]
pub fn curl(host: &str, request: Composed) -> Curl {
    let mut headers = request.headers;
    if request.body.is_some() {
        headers.push(("Content-Type".to_owned(), "application/json".to_owned()));
    }
    let mut options: Vec<_> = OPTIONS.map(str::to_owned).into();
    if request.target.split(['/', '?']).any(|segment| matches!(segment, "." | "..")) {
        options.push("--path-as-is".to_owned());
    }
    let url = format!("{host}{}", request.target);
    Curl { options, method: request.method, url, headers, body: request.body }
}

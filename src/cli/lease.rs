//! What is said of a registration that is kept: on standard output, or beside a program whose output that is. The keeping
//! is the client's.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    failure::{CallFailed, Failure, Report as _},
    print::{Printer, note, to_json},
    session::from_wire,
    text::{host_port, human, safe},
};
use crate::{
    client::Lost,
    proto::{DeregisterResponse, Instance, RegisterRequest, RegisterResponse},
    registry::{Context, IfMissing, Needs, Registration, Violation},
};

/// An outage that goes on is told again this often.
const REMINDER: Duration = Duration::from_secs(30);

/// What no registry takes of a registration, whatever it has: told before anything is started for it.
pub(super) fn refused(request: &RegisterRequest) -> Vec<String> {
    let instance = request.instance.clone().unwrap_or_default();
    let (name, namespace) = (instance.service.clone(), instance.namespace.clone());
    let context = Context { peer: Ipv4Addr::LOCALHOST.into(), fresh_id: &mut String::new, request_id: "" };
    let needs = Needs::parse(&namespace, &request.dependencies, &request.mocks, IfMissing::Fail);
    let wrong = Registration::parse(instance, request.ttl, context).err().unwrap_or_default();
    let wrong = wrong.into_iter().chain(needs.err().unwrap_or_default());
    wrong
        .map(|Violation { field, description }| {
            format!("{}: {}: {description}", name.escape_debug(), field.trim_start_matches("instance."))
        })
        .collect()
}

/// Tells what becomes of one registration.
pub(super) struct Teller {
    /// Where it is told; none: on standard error.
    print: Option<Printer>,
    /// `service`, or `service/id` once that is known.
    name: String,
    /// Where watchers see it.
    address: String,
    /// When what was told last, of this one and those beside it.
    trouble: Arc<Mutex<Option<(Instant, String)>>>,
}

impl Teller {
    pub(super) fn new(print: Option<Printer>, service: &str) -> Self {
        Self { print, name: service.to_owned(), address: String::new(), trouble: Arc::default() }
    }

    /// For another one: a trouble that both have is told once.
    pub(super) fn beside(&self, service: &str) -> Self {
        let (print, trouble) = (self.print.clone(), Arc::clone(&self.trouble));
        Self { print, name: service.to_owned(), address: String::new(), trouble }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// It is registered; again, if it says what became of the lease before.
    ///
    /// # Errors
    /// The answer lacks what was registered, or nothing can be written.
    pub(super) fn registered(&mut self, response: &RegisterResponse, lost: Option<Lost>) -> Result<(), Failure> {
        let (Some(instance), Some(lease)) = (&response.instance, &response.lease) else {
            return Err(Failure::Other("the server's answer lacks the instance or the lease".to_owned()));
        };
        self.name = format!("{}/{}", instance.service, instance.id);
        self.address = address(instance);
        let ttl = from_wire(lease.ttl).unwrap_or_default();
        let interval = from_wire(lease.heartbeat_interval).unwrap_or(ttl / 3);
        let again = lost.map_or_else(String::new, |why| format!(" again, since its lease was {}", why.name()));
        let text = format!(
            "registered {} at {}{again}; its lease lasts {}, a beat every {}",
            safe(&self.name),
            safe(&self.address),
            human(ttl),
            human(interval)
        );
        let needed = response.dependencies.iter().map(|(name, url)| format!("\n  {} is at {}", safe(name), safe(url)));
        let text = text + &needed.collect::<String>();
        let mut told = response.clone();
        if let Some(lease) = &mut told.lease {
            // A secret.
            lease.token.clear();
        }
        self.say(&text, "REGISTERED", || to_json("RegisterResponse", &told))
    }

    /// Something failed, and is tried again.
    ///
    /// # Errors
    /// Nothing can be written.
    pub(super) fn failing(&self, failed: &CallFailed) -> Result<(), Failure> {
        let (now, text) = (Instant::now(), failed.short());
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.as_ref().is_some_and(|(told, before)| *before == text && now - *told < REMINDER) {
            return Ok(());
        }
        let deed = if self.address.is_empty() { "register" } else { "renew the lease of" };
        note(&format!("cannot {deed} {}, trying again: {text}", safe(&self.name)));
        if let Some(print) = self.print.as_ref().filter(|print| print.is_json()) {
            print.value(&json!({"event": "FAILING", "name": self.name, "error": text}))?;
        }
        *trouble = Some((now, text));
        Ok(())
    }

    /// The registry answers again.
    pub(super) fn recovered(&self, outage: Duration) {
        if self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            note(&format!("the registry answers again, after {}", human(outage)));
        }
    }

    /// The program has not worked yet.
    ///
    /// # Errors
    /// Nothing can be written.
    pub(super) fn waiting(&self, why: &str) -> Result<(), Failure> {
        let name = &self.name;
        let text = format!("{} does not work yet: {}", safe(name), safe(why));
        self.say(&text, "WAITING", || Ok(json!({"why": why})))
    }

    /// The program works again, or why it does no more.
    ///
    /// # Errors
    /// Nothing can be written.
    pub(super) fn works(&self, seen: &Result<(), String>) -> Result<(), Failure> {
        let name = &self.name;
        match seen {
            Ok(()) => self.say(&format!("{} works again", safe(name)), "WORKS", || Ok(json!({}))),
            Err(why) => {
                let text = format!("{} is out of traffic: {}", safe(name), safe(why));
                self.say(&text, "OUT_OF_TRAFFIC", || Ok(json!({"why": why})))
            }
        }
    }

    /// It was taken away.
    ///
    /// # Errors
    /// Nothing can be written.
    pub(super) fn left(&self, response: &DeregisterResponse) -> Result<(), Failure> {
        let gone = if response.removed == 0 { ", its lease had ended already" } else { "" };
        let text = format!("took {} away{gone}", safe(&self.name));
        self.say(&text, "LEFT", || to_json("DeregisterResponse", response))
    }

    /// The end: another process has its key.
    pub(super) fn superseded(&self, holder: &str) -> Failure {
        let newer = match holder {
            "" => "a newer registration".to_owned(),
            holder => format!("a newer registration at {holder}"),
        };
        // Before it was registered it has none.
        let ours = if self.address.is_empty() { String::new() } else { format!(" at {}", self.address) };
        Failure::Superseded(format!(
            "{}{ours} was superseded by {newer}: this process stops, and does not register again",
            self.name
        ))
    }

    fn say(&self, text: &str, event: &str, json: impl FnOnce() -> Result<Value, Failure>) -> Result<(), Failure> {
        match &self.print {
            None => note(text),
            Some(print) if print.is_json() => {
                let mut json = json()?;
                json["event"] = json!(event);
                json["name"] = json!(self.name);
                print.value(&json)?;
            }
            Some(print) => print.line(text)?,
        }
        Ok(())
    }
}

/// Where an instance is, for people.
pub(super) fn address(instance: &Instance) -> String {
    if instance.port == 0 { instance.url.clone() } else { host_port(&instance.host, instance.port) }
}

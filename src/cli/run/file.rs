//! A file of programs: a table `[run.NAME]` each, read whole, with everything that is wrong and where it stands. Starts
//! nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    str::FromStr as _,
    time::Duration,
};

use clap::ValueEnum as _;
use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

use super::{
    OWN,
    order::Order,
    plan::{OnMove, Plan},
};
use crate::{
    cli::{check::Check, describe::to_proto, failure::Failure, needs, package::Package},
    config::{self, ConfigFile, Refused, in_order, nearest},
};

/// What the tables of the programs are in, and what else a file may have.
const SECTION: &str = "run";
const OTHERS: [&str; 2] = ["client", "serve"];
/// What a program's table may say besides what is an option, too.
const MORE: [&str; 4] = ["dir", "env", "mocks", "url"];

/// What a program's table may say.
fn keys() -> impl Iterator<Item = &'static str> {
    OWN.into_iter().filter(|key| *key != "mock").chain(MORE)
}

/// What a file says.
#[derive(Debug)]
pub(super) struct Programs {
    /// In the file's order.
    pub(super) plans: Vec<Plan>,
    pub(super) order: Order,
    /// It has settings of clients, too.
    pub(super) has_client: bool,
}

type Key<'i> = Spanned<DeString<'i>>;
type Value<'i> = Spanned<DeValue<'i>>;

/// Reads a file; of its programs those of these names, and all without any.
///
/// # Errors
/// It cannot be read, or everything that is wrong with it.
pub(super) fn read(path: &Path, names: &[String]) -> Result<Programs, Failure> {
    let file = ConfigFile::read(path)
        .map_err(|error| Failure::Usage(format!("{}: cannot be read: {error}", path.display())))?;
    parse(&file, names).map_err(|wrong| Failure::Settings(Refused(wrong)))
}

fn parse(file: &ConfigFile, names: &[String]) -> Result<Programs, Vec<String>> {
    let (document, faults) = DeTable::parse_recoverable(&file.text);
    if !faults.is_empty() {
        // What is read in spite of them may be something else than was meant.
        return Err(faults.iter().map(|fault| file.fault(fault)).collect());
    }
    let mut reader = Reader { file, asked: names, wrong: Vec::new() };
    let (mut plans, mut places, mut has_client) = (Vec::new(), Vec::new(), false);
    for (key, value) in in_order(document.get_ref()) {
        match (key.get_ref().as_ref(), value.get_ref().as_table()) {
            (SECTION, Some(table)) => reader.programs(table, &mut plans, &mut places),
            (name, Some(_)) if OTHERS.contains(&name) => has_client |= name == "client",
            (name, None) if name == SECTION || OTHERS.contains(&name) => {
                reader.wrong(key, format!("`{name}` is not a table"));
            }
            (name, _) => {
                reader.wrong(key, format!("unknown key `{name}`{}", nearest(name, [SECTION, "client", "serve"])));
            }
        }
    }
    if plans.is_empty() && reader.wrong.is_empty() {
        reader.wrong.push(format!("{}: there is no program in it: a table [run.NAME] each", file.path.display()));
    }
    let is_missing = |name: &&String| !plans.iter().any(|plan: &Plan| plan.name == **name);
    for name in names.iter().filter(is_missing) {
        reader.wrong.push(format!("{}: there is no [run.{}] in it", file.path.display(), name.escape_debug()));
    }
    let order = reader.together(&plans, &places);
    if !reader.wrong.is_empty() {
        return Err(reader.wrong);
    }
    match order {
        Some(order) if names.is_empty() => Ok(Programs { plans, order, has_client }),
        _ => {
            plans.retain(|plan| names.contains(&plan.name));
            let order = Order::new(needed(&plans)).map_err(|_| Vec::new())?;
            Ok(Programs { plans, order, has_client })
        }
    }
}

/// Of each program which others it waits for.
fn needed(plans: &[Plan]) -> Vec<BTreeSet<usize>> {
    let number = |name: &String| plans.iter().position(|plan| plan.name == *name);
    let of =
        |plan: &Plan| plan.needs.keys().filter(|name| !plan.mocks.contains_key(*name)).filter_map(number).collect();
    plans
        .iter()
        .map(|plan| if plan.if_missing == needs::IfMissing::Ignore { BTreeSet::new() } else { of(plan) })
        .collect()
}

/// Gathers what is wrong.
struct Reader<'f> {
    file: &'f ConfigFile,
    /// Who is asked for; everybody if nobody is named. Of the others nothing has to be there.
    asked: &'f [String],
    wrong: Vec<String>,
}

impl Reader<'_> {
    fn wrong<T>(&mut self, at: &Spanned<T>, why: impl AsRef<str>) {
        self.wrong.push(format!("{}: {}", self.file.place(at.span().start), why.as_ref()));
    }

    fn is_asked_for(&self, name: &str) -> bool {
        self.asked.is_empty() || self.asked.iter().any(|asked| asked == name)
    }

    fn programs(&mut self, table: &DeTable<'_>, plans: &mut Vec<Plan>, places: &mut Vec<usize>) {
        for (key, value) in in_order(table) {
            let name = key.get_ref().as_ref();
            let Some(table) = value.get_ref().as_table() else {
                self.wrong(key, format!("`run.{name}` is not a table: a program is [run.NAME]"));
                continue;
            };
            plans.push(self.program(key, table));
            places.push(key.span().start);
        }
    }

    fn program(&mut self, key: &Key<'_>, table: &DeTable<'_>) -> Plan {
        let name = key.get_ref().as_ref();
        let mut plan = Plan::new(name.to_owned(), Vec::new());
        let base = match self.file.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        plan.dir = Some(base.clone());
        let mut package = None;
        for (key, value) in in_order(table) {
            let said = key.get_ref().as_ref();
            let read = match said {
                "package" => text(value).map(|path| package = Some((value, base.join(path)))),
                "needs" | "mocks" | "env" | "command" => {
                    self.parts(&format!("run.{name}.{said}"), said, value, &mut plan);
                    Ok(())
                }
                "dir" => text(value).and_then(|path| {
                    let dir = plan.dir.insert(base.join(path));
                    let is_good = dir.is_dir() || !self.is_asked_for(name);
                    if is_good { Ok(()) } else { Err(format!("{} is no directory", dir.display())) }
                }),
                said if keys().any(|key| key == said) => one(said, value, &mut plan),
                said => {
                    self.wrong(key, format!("unknown key `run.{name}.{said}`{}", nearest(said, keys())));
                    Ok(())
                }
            };
            if let Err(why) = read {
                self.wrong(value, format!("run.{name}.{said}: {why}"));
            }
        }
        if !table.contains_key("command") {
            self.wrong(key, format!("run.{name}: there is no `command`"));
        }
        if let Some(said) = plan.variables.get("PORT") {
            let said = said.parse().ok().filter(|port: &u16| *port > 0);
            if said.is_none() || plan.port.is_some_and(|port| said != Some(port)) {
                self.wrong(key, format!("run.{name}.env.PORT: it is not the program's port: give `port`"));
            }
            plan.port = plan.port.or(said);
        }
        let plan = plan.listening();
        match package {
            Some((value, path)) => self.package(name, value, &path, plan),
            None => plan,
        }
    }

    fn package(&mut self, name: &str, value: &Value<'_>, path: &Path, plan: Plan) -> Plan {
        let read = fs::read_to_string(path).map_err(|error| vec![format!("cannot be read: {error}")]);
        if read.is_err() && !self.is_asked_for(name) {
            return plan;
        }
        match read.and_then(|text| Package::parse(&text)) {
            Ok(package) => return plan.completed(package),
            Err(wrong) => {
                for why in wrong {
                    self.wrong(value, format!("run.{name}.package: {}: {why}", path.display()));
                }
            }
        }
        plan
    }

    /// What consists of parts, each of which can be wrong.
    fn parts(&mut self, path: &str, said: &str, value: &Value<'_>, plan: &mut Plan) {
        match (said, value.get_ref()) {
            // As a shell reads it.
            ("command", DeValue::String(text)) if !text.trim().is_empty() => {
                plan.command = ["sh", "-c", text].map(OsString::from).into();
            }
            ("command", DeValue::Array(parts)) if !parts.is_empty() => {
                let texts = parts.iter().filter_map(|part| self.text(path, part));
                plan.command = texts.map(OsString::from).collect();
            }
            ("needs", DeValue::Array(parts)) => {
                for part in parts {
                    let Some(text) = self.text(path, part) else { continue };
                    match needs::need(&text) {
                        Ok((name, range)) => {
                            if plan.needs.insert(name.clone(), range).is_some() {
                                self.wrong(part, format!("{path}: {name} is there twice"));
                            }
                        }
                        Err(why) => self.wrong(part, format!("{path}: `{}`: {why}", text.escape_debug())),
                    }
                }
            }
            ("mocks" | "env", DeValue::Table(table)) => {
                let mut pairs = BTreeMap::new();
                for (key, value) in in_order(table) {
                    let name = key.get_ref().as_ref();
                    if let Some(text) = self.text(&format!("{path}.{name}"), value) {
                        if said == "env" && (name.is_empty() || name.contains(['=', '\0']) || text.contains('\0')) {
                            self.wrong(key, format!("{path}: `{}` cannot be in an environment", name.escape_debug()));
                        }
                        if said == "mocks"
                            && let Err(why) = needs::place(&text)
                        {
                            self.wrong(value, format!("{path}.{name}: {why}"));
                        }
                        pairs.insert(name.to_owned(), text);
                    }
                }
                *(if said == "env" { &mut plan.variables } else { &mut plan.mocks }) = pairs;
            }
            ("command", _) => self.wrong(value, format!("{path}: it is neither a text nor a list of texts")),
            ("needs", _) => self.wrong(value, format!("{path}: it is not a list of texts like \"api@^2\"")),
            _ => self.wrong(value, format!("{path}: it is not a table of texts")),
        }
    }

    fn text(&mut self, path: &str, value: &Value<'_>) -> Option<String> {
        text(value).map_err(|why| self.wrong(value, format!("{path}: {why}"))).ok()
    }

    /// What is wrong with the programs together; their order if nothing is.
    fn together(&mut self, plans: &[Plan], places: &[usize]) -> Option<Order> {
        let mut ports = BTreeMap::new();
        for (plan, at) in plans.iter().zip(places) {
            if let Some(port) = plan.port
                && let Some(other) = ports.insert(port, &plan.name)
            {
                self.wrong.push(format!("{}: run.{}: port {port} is {other}'s", self.file.place(*at), plan.name));
            }
        }
        match Order::new(needed(plans)) {
            Ok(order) => Some(order),
            Err(circle) => {
                let names = circle.iter().chain(circle.first()).filter_map(|one| plans.get(*one));
                let names: Vec<&str> = names.map(|plan| plan.name.as_str()).collect();
                let place = circle.first().and_then(|one| places.get(*one)).map(|at| self.file.place(*at));
                self.wrong.push(format!(
                    "{}: {}: nobody can start first; with if_missing = \"ignore\" one does not wait",
                    place.unwrap_or_default(),
                    names.join(" needs ")
                ));
                None
            }
        }
    }
}

/// Reads a value that is one thing.
fn one(said: &str, value: &Value<'_>, plan: &mut Plan) -> Result<(), String> {
    let instance = &mut plan.instance;
    match said {
        "port" => plan.port = Some(number(value, 1, u16::MAX.into())?.try_into().map_err(|_| "no port")?),
        "host" => instance.host = text(value)?,
        "id" => instance.id = text(value)?,
        "version" => instance.version = text(value)?,
        "protocol" => instance.protocol = text(value)?,
        "url" => instance.url = text(value)?,
        "zone" => instance.zone = text(value)?,
        "weight" => instance.weight = Some(number(value, 0, u32::MAX)?),
        "metadata" => instance.metadata = Some(to_proto(json(value)?)),
        "ttl" => plan.ttl = Some(span(value)?),
        "if_missing" => {
            plan.if_missing = needs::IfMissing::from_str(&text(value)?, false)
                .map_err(|_| "it is not fail, wait or ignore".to_owned())?;
        }
        "needs_timeout" => plan.needs_timeout = Some(span(value)?),
        "on_move" => {
            plan.on_move =
                OnMove::from_str(&text(value)?, false).map_err(|_| "it is not tell or restart".to_owned())?;
        }
        "check" => plan.check = Check::from_str(&text(value)?)?,
        "check_interval" => plan.times.interval = span(value)?.max(super::SHORTEST_INTERVAL),
        "start_timeout" => plan.times.start = super::some_time(&text(value)?)?,
        "wait" => plan.times.wait = span(value)?,
        "slack" => plan.times.slack = span(value)?,
        said => return Err(format!("nothing is done with `{said}`")),
    }
    Ok(())
}

fn text(value: &Value<'_>) -> Result<String, String> {
    match value.get_ref() {
        DeValue::String(text) if text.contains('\0') => Err("it has a zero byte".to_owned()),
        DeValue::String(text) => Ok(text.to_string()),
        other => Err(format!("it is of type {}, and not a text", other.type_str())),
    }
}

fn span(value: &Value<'_>) -> Result<Duration, String> {
    config::duration(&text(value)?)
}

fn number(value: &Value<'_>, least: u32, most: u32) -> Result<u32, String> {
    let read = match value.get_ref() {
        DeValue::Integer(figure) if figure.radix() == 10 => figure.as_str().replace('_', "").parse().ok(),
        _ => None,
    };
    read.filter(|number| (least..=most).contains(number))
        .ok_or_else(|| format!("it is not a number from {least} to {most}"))
}

fn json(value: &Value<'_>) -> Result<serde_json::Value, String> {
    use serde_json::Value as Json;
    Ok(match value.get_ref() {
        DeValue::String(text) => Json::String(text.to_string()),
        DeValue::Boolean(truth) => Json::Bool(*truth),
        DeValue::Integer(figure) => {
            let number = i64::from_str_radix(&figure.as_str().replace('_', ""), figure.radix());
            number.map_err(|_| format!("{} is too large", figure.as_str()))?.into()
        }
        DeValue::Float(figure) => {
            let number: f64 = figure.as_str().replace('_', "").parse().map_err(|_| "it is no number".to_owned())?;
            serde_json::Number::from_f64(number).map(Json::Number).ok_or("JSON has no such number")?
        }
        DeValue::Datetime(time) => Json::String(time.to_string()),
        DeValue::Array(parts) => Json::Array(parts.iter().map(json).collect::<Result<_, _>>()?),
        DeValue::Table(table) => {
            let members = table.iter().map(|(key, value)| Ok((key.get_ref().to_string(), json(value)?)));
            Json::Object(members.collect::<Result<_, String>>()?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_may_be_said_is_read() {
        for key in keys() {
            let text = format!("[run.a]\n{key} = []\n");
            let file = ConfigFile { path: "onair.toml".into(), text };
            let wrong = parse(&file, &[]).map(drop).unwrap_err().join("; ");
            assert!(!wrong.contains("unknown") && !wrong.contains("nothing is done"), "{key}: {wrong}");
        }
    }
}

//! `onair graph`: the dependencies as a picture, as text for Graphviz, or told in words. And `onair export`: the catalog
//! for other programs.

use std::collections::{HashMap, HashSet};

use super::{
    app,
    export::{told, whole},
};
use crate::{
    cli::{failure::Failure, needs::once_each, session::Session, text::safe},
    config::{ClientSettings, Given},
    export,
    proto::ListedApplication,
};

const GRAPH_EXAMPLES: &str = "\
Examples:
  onair graph > shop.svg
  onair graph shop-www > www.svg
  onair graph --format dot | dot -Tpng > shop.png
  onair graph --report
  onair graph --report shop-db

An arrow leads from an application to each one that it needs.";

/// Arguments of `graph`.
#[derive(Debug, clap::Args)]
#[command(after_help = GRAPH_EXAMPLES)]
pub struct GraphArgs {
    /// Only these, and all that they need. Default: every application.
    applications: Vec<String>,
    /// As what.
    #[arg(long, value_enum, default_value_t = Format::Svg)]
    format: Format,
    /// Tell roots, leaves and levels instead and, of an application, who is affected if it goes.
    #[arg(long, value_name = "APP", num_args = 0..=1, conflicts_with_all = ["applications", "format"])]
    report: Option<Option<String>>,
    #[command(flatten)]
    given: Given<ClientSettings>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    /// A picture.
    Svg,
    /// For Graphviz.
    Dot,
}

const EXPORT_EXAMPLES: &str = "\
Examples:
  onair export compose > compose.catalog.yaml
  docker compose -f compose.yaml -f compose.catalog.yaml up
  onair export compose shop-www --health 'redis=redis-cli ping'";

/// Arguments of `export`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXPORT_EXAMPLES)]
pub struct ExportArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// A compose file with ports, dependencies and where they are, to be laid over one with images.
    Compose {
        /// Only these, and all that they need. Default: every application.
        applications: Vec<String>,
        /// What a program of a service type is asked in its container, to know that it is ready, as `type=command`.
        /// Repeatable.
        #[arg(long = "health", value_name = "TYPE=COMMAND", value_parser = check)]
        checks: Vec<(String, String)>,
        #[command(flatten)]
        given: Given<ClientSettings>,
    },
}

fn check(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        // No line of a file carries them as they are.
        Some(_) if text.chars().any(char::is_control) => Err("it has control characters".to_owned()),
        Some((service, command)) if !service.is_empty() && !command.is_empty() => {
            Ok((service.to_owned(), command.to_owned()))
        }
        _ => Err("it is not TYPE=COMMAND".to_owned()),
    }
}

/// Draws the graph.
///
/// # Errors
/// What went wrong, or there are too many for a picture.
pub async fn graph(GraphArgs { applications, format, report, given }: GraphArgs) -> Result<(), Failure> {
    if let Some(id) = report {
        return app::report(id, false, &given).await;
    }
    let mut session = Session::open(&given)?;
    let Some(catalog) = whole(&mut session).await? else { return Ok(()) };
    let wanted = those(catalog.applications, &applications)?;
    let text = match format {
        Format::Dot => export::dot(&wanted),
        Format::Svg => export::svg(&wanted)
            .map_err(|why| Failure::Usage(format!("{why}: name some of them, or use --format dot and Graphviz")))?,
    };
    told(&session, &text)
}

/// Writes the catalog for other programs.
///
/// # Errors
/// What went wrong.
pub async fn export(ExportArgs { what }: ExportArgs) -> Result<(), Failure> {
    let What::Compose { applications, checks, given } = what;
    let mut session = Session::open(&given)?;
    session.print.is_no_call("a compose file")?;
    let Some(catalog) = whole(&mut session).await? else { return Ok(()) };
    let wanted = those(catalog.applications, &applications)?;
    let checks = once_each("--health", checks)?;
    let is_had = |service: &String| wanted.iter().flat_map(|of| &of.ports).any(|port| port.service == *service);
    if let Some(service) = checks.keys().find(|service| !is_had(service)) {
        let service = safe(service);
        return Err(Failure::Usage(format!("--health {service}: no application here has a port of {service}")));
    }
    let text = export::compose(&wanted, &checks).map_err(Failure::Other)?;
    told(&session, &text)
}

/// Those that are named, and all that they need; all, if none is.
fn those(all: Vec<ListedApplication>, named: &[String]) -> Result<Vec<ListedApplication>, Failure> {
    if named.is_empty() {
        return Ok(all);
    }
    let places: HashMap<&str, usize> = all.iter().enumerate().map(|(place, of)| (of.id.as_str(), place)).collect();
    if let Some(missing) = named.iter().find(|id| !places.contains_key(id.as_str())) {
        return Err(Failure::Nothing(format!("there is no application {}", safe(missing))));
    }
    let (mut seen, mut left): (HashSet<usize>, Vec<&str>) =
        (HashSet::new(), named.iter().map(String::as_str).collect());
    while let Some(id) = left.pop() {
        if let Some(place) = places.get(id).copied().filter(|place| seen.insert(*place)) {
            left.extend(all[place].dependencies.iter().map(String::as_str));
        }
    }
    let mut wanted: Vec<usize> = seen.into_iter().collect();
    wanted.sort_unstable();
    Ok(wanted.into_iter().map(|place| all[place].clone()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_are_named_and_what_they_need() {
        let of = |id: &str, needs: &[&str]| ListedApplication {
            id: id.into(),
            dependencies: needs.iter().map(|id| (*id).to_owned()).collect(),
            ..ListedApplication::default()
        };
        let all = vec![of("api", &["db"]), of("blog", &[]), of("db", &[]), of("www", &["api", "db"])];
        let ids = |named: &[&str]| {
            let named: Vec<String> = named.iter().map(|id| (*id).to_owned()).collect();
            let found = those(all.clone(), &named).ok()?;
            Some(found.into_iter().map(|of| of.id).collect::<Vec<_>>())
        };
        assert_eq!(ids(&["www"]).unwrap(), ["api", "db", "www"]);
        assert_eq!(ids(&[]).map(|ids| ids.len()), Some(4));
        assert!(ids(&["gone"]).is_none());
        assert_eq!(check("redis=redis-cli ping x=1"), Ok(("redis".to_owned(), "redis-cli ping x=1".to_owned())));
        assert!(check("redis").is_err() && check("=x").is_err());
    }
}

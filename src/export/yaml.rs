//! The catalog as YAML, in the shape that users of Flow Commerce's registry read: each port with a stanza that says how
//! its health is checked on a workstation.

use serde::Serialize;

use crate::proto::{ListedApplication, ListedPort};

/// The host of the checks: the workstation.
const WORKSTATION: &str = "ws";
/// The kind of program whose check is a log-in to a database.
const DATABASE: &str = "postgresql";

#[derive(Serialize)]
struct Entry<'a> {
    id: &'a str,
    ports: Vec<Port<'a>>,
    dependencies: &'a [String],
}

#[derive(Serialize)]
struct Port<'a> {
    healthcheck: Healthcheck<'a>,
    external: i32,
    internal: i32,
}

/// A kind that nobody knows is checked as most are: somebody listens there.
#[derive(Serialize)]
struct Healthcheck<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    dbname: Option<&'a str>,
    host: &'static str,
    port: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'static str>,
}

fn entry(application: &ListedApplication) -> Entry<'_> {
    let ListedApplication { id, ports, dependencies, .. } = application;
    let port = |port: &ListedPort| {
        let external = port.external.unwrap_or_default();
        let is_database = port.service == DATABASE;
        let (dbname, user) = (is_database.then_some(id.as_str()), is_database.then_some("api"));
        let healthcheck = Healthcheck { dbname, host: WORKSTATION, port: external, user };
        Port { healthcheck, external, internal: port.internal.unwrap_or_default() }
    };
    Entry { id, ports: ports.iter().map(port).collect(), dependencies }
}

/// The applications as a list of YAML. None are `[]`.
///
/// # Errors
/// The library cannot write them.
pub fn yaml(applications: &[ListedApplication]) -> Result<String, String> {
    let entries: Vec<Entry<'_>> = applications.iter().map(entry).collect();
    serde_saphyr::to_string(&entries).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_with_checks() {
        let port = |service: &str, external| ListedPort {
            service: service.into(),
            external: Some(external),
            internal: Some(5432),
        };
        let with = |id: &str, ports, dependencies: &[&str]| {
            let dependencies = dependencies.iter().map(|id| (*id).to_owned()).collect();
            ListedApplication { id: id.to_owned(), ports, dependencies, ..Default::default() }
        };
        let shop = with("shop-db", vec![port("postgresql", 6019), port("custom", 6012)], &[]);
        let text = yaml(&[shop, with("1.5", vec![], &["shop-db", "no", "---", "~"])]).expect("a text");
        let wanted = "\
- id: shop-db
  ports:
  - healthcheck:
      dbname: shop-db
      host: ws
      port: 6019
      user: api
    external: 6019
    internal: 5432
  - healthcheck:
      host: ws
      port: 6012
    external: 6012
    internal: 5432
  dependencies: []
- id: \"1.5\"
  ports: []
  dependencies:
  - shop-db
  - \"no\"
  - \"---\"
  - \"~\"
";
        assert_eq!(text, wanted);
        assert_eq!(yaml(&[]).expect("a text").trim(), "[]");
    }
}

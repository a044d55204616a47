//! The catalog as a compose file: ports, what is needed and when it is ready, and where a program finds it. It says
//! nothing of images: it is laid over a file that does.

use std::collections::BTreeMap;

use serde::Serialize;

use super::variables::{distinct, variable};
use crate::proto::{ListedApplication, ListedPort};

/// Only this machine reaches what is published for development.
const HOST_IP: &str = "127.0.0.1";
/// How each kind of program is asked whether it is ready, if nobody says otherwise: by what is in its image.
const CHECKS: [(&str, &str); 1] = [("postgresql", "pg_isready")];

#[derive(Serialize)]
struct File<'a> {
    services: BTreeMap<&'a str, Service<'a>>,
}

#[derive(Serialize)]
struct Service<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<Port<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    healthcheck: Option<Healthcheck>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    depends_on: BTreeMap<&'a str, Condition>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    environment: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Port<'a> {
    name: &'a str,
    target: i32,
    published: String,
    host_ip: &'static str,
}

#[derive(Serialize)]
struct Healthcheck {
    test: [String; 2],
    interval: &'static str,
    timeout: &'static str,
    retries: u32,
}

#[derive(Serialize)]
struct Condition {
    condition: &'static str,
}

/// The check of an application: that of the first of its kinds of programs that has one.
fn check<'a>(of: &'a ListedApplication, checks: &BTreeMap<&'a str, &'a str>) -> Option<&'a str> {
    of.ports.iter().find_map(|port| checks.get(port.service.as_str()).copied())
}

/// Where a program in another container finds an application: by its name, at the ports inside.
fn environment(needed: &ListedApplication) -> impl Iterator<Item = (String, String)> {
    let name = variable(&needed.id);
    let first = needed.ports.first().and_then(|port| port.internal).unwrap_or_default();
    let more = needed.ports.iter().skip(1).map(|port: &ListedPort| {
        let number = port.internal.unwrap_or_default().to_string();
        (format!("{}_PORT_{}", variable(&needed.id), variable(&port.service)), number)
    });
    let own = [(format!("{name}_HOST"), needed.id.clone()), (format!("{name}_PORT"), first.to_string())];
    own.into_iter().chain(more.collect::<Vec<_>>())
}

/// The compose file of these applications. A kind of program with a check (a command of its image's shell) is waited for
/// until that succeeds, any other until it was started.
///
/// # Errors
/// Two of what an application needs would be the same variable; the library cannot write it.
pub fn compose(applications: &[ListedApplication], given: &BTreeMap<String, String>) -> Result<String, String> {
    let mut checks: BTreeMap<&str, &str> = CHECKS.into();
    checks.extend(given.iter().map(|(service, command)| (service.as_str(), command.as_str())));
    let ids: BTreeMap<&str, &ListedApplication> = applications.iter().map(|of| (of.id.as_str(), of)).collect();
    let mut services = BTreeMap::new();
    for of in applications {
        let ports = of.ports.iter().map(|port| Port {
            name: &port.service,
            target: port.internal.unwrap_or_default(),
            published: port.external.unwrap_or_default().to_string(),
            host_ip: HOST_IP,
        });
        let needed: Vec<&ListedApplication> =
            of.dependencies.iter().filter_map(|id| ids.get(id.as_str()).copied()).collect();
        let depends_on = needed.iter().map(|needed| {
            let condition = if check(needed, &checks).is_some() { "service_healthy" } else { "service_started" };
            (needed.id.as_str(), Condition { condition })
        });
        let healthcheck = check(of, &checks).map(|command| Healthcheck {
            // A dollar is the file's own, unless there are two.
            test: ["CMD-SHELL".to_owned(), command.replace('$', "$$")],
            interval: "2s",
            timeout: "2s",
            retries: 30,
        });
        let (ports, depends_on) = (ports.collect(), depends_on.collect());
        let environment = distinct(&of.id, needed.iter().flat_map(|needed| environment(needed)))?;
        let service = Service { ports, healthcheck, depends_on, environment };
        services.insert(of.id.as_str(), service);
    }
    serde_saphyr::to_string(&File { services }).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_needs_and_where_they_are() {
        let port = |service: &str, external, internal| ListedPort {
            service: service.into(),
            external: Some(external),
            internal: Some(internal),
        };
        let of = |id: &str, ports, needs: &[&str]| {
            let dependencies = needs.iter().map(|id| (*id).to_owned()).collect();
            ListedApplication { id: id.into(), ports, dependencies, ..ListedApplication::default() }
        };
        let shop = [
            of("shop-db", vec![port("postgresql", 6019, 5432)], &[]),
            of("cache", vec![port("redis", 6022, 6379)], &[]),
            of("shop-api", vec![port("play", 6011, 9000), port("nodejs", 6010, 7050)], &["shop-db", "cache"]),
        ];
        let text = compose(&shop, &[("redis".to_owned(), "redis-cli ping".to_owned())].into()).expect("a text");
        let wanted = r#"services:
  cache:
    ports:
    - name: redis
      target: 6379
      published: "6022"
      host_ip: "127.0.0.1"
    healthcheck:
      test:
      - CMD-SHELL
      - redis-cli ping
      interval: 2s
      timeout: 2s
      retries: 30
  shop-api:
    ports:
    - name: play
      target: 9000
      published: "6011"
      host_ip: "127.0.0.1"
    - name: nodejs
      target: 7050
      published: "6010"
      host_ip: "127.0.0.1"
    depends_on:
      cache:
        condition: service_healthy
      shop-db:
        condition: service_healthy
    environment:
      CACHE_HOST: cache
      CACHE_PORT: "6379"
      SHOP_DB_HOST: shop-db
      SHOP_DB_PORT: "5432"
  shop-db:
    ports:
    - name: postgresql
      target: 5432
      published: "6019"
      host_ip: "127.0.0.1"
    healthcheck:
      test:
      - CMD-SHELL
      - pg_isready
      interval: 2s
      timeout: 2s
      retries: 30
"#;
        assert_eq!(text, wanted);
        let plain = compose(&shop, &BTreeMap::new()).expect("a text");
        assert!(plain.contains("cache:\n        condition: service_started"), "{plain}");
    }
}

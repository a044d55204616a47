//! Consul: an instance is a service of the one agent, with a check of its own that fails when it is not renewed. What the
//! agent is told, its server writes to the disk.

use std::{cell::RefCell, process::Command, rc::Rc, time::Instant};

use hyper::Method;
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    Result,
    events::{Fan, Lapses},
    http::Connection,
    load::{Meter, Until, batches, measure},
    model::{Job, Plan, Sample},
    onair::restarted,
    record,
    server::{Home, Server},
};

/// Seconds that checks hold which shall not fail.
const LONG: u32 = 3_600;
/// The service that changes.
const FAN: &str = "fan";

/// One agent that is its own server, keeping what it is told.
pub fn launch(command: &mut Command, home: &Home) {
    let ports = format!(
        "ports {{ dns = -1 grpc = -1 grpc_tls = -1 serf_wan = -1 http = {} server = {} serf_lan = {} }}",
        home.ports[0], home.ports[1], home.ports[2]
    );
    let limits = "limits { http_max_conns_per_client = 15000 }";
    command.args(["agent", "-server", "-bootstrap-expect", "1", "-bind", "127.0.0.1", "-client", "127.0.0.1"]);
    command.args(["-node", "one", "-log-level", "error", "-hcl", &ports, "-hcl", limits, "-data-dir"]).arg(home.data());
}

fn service(instance: usize) -> String {
    format!("s{:07}", instance / 10)
}

/// Consul under load: a connection for each call in flight, because calls on one wait for each other.
pub struct Consul {
    server: Server,
    connections: Vec<Connection>,
    registered: usize,
}

async fn register(
    connection: &mut Connection,
    (service, instance): (&str, usize),
    ttl: u32,
    version: &str,
) -> std::result::Result<u64, String> {
    let check = json!({ "TTL": format!("{ttl}s"), "Status": "passing" });
    let note = String::from_utf8_lossy(&record(instance)).into_owned();
    let meta = json!({ "record": note, "version": version });
    let body = json!({ "ID": id(service, instance), "Name": service, "Address": "10.0.0.1", "Port": 8080, "Meta": meta,
        "Check": check });
    let path = "/v1/agent/service/register?replace-existing-checks=true";
    connection.ask(Method::PUT, path, body.to_string().into_bytes()).await?;
    Ok(1)
}

fn id(service: &str, instance: usize) -> String {
    format!("{service}-i{instance:07}")
}

async fn renew(connection: &mut Connection, instance: usize) -> std::result::Result<u64, String> {
    let path = format!("/v1/agent/check/pass/service:{}", id(&service(instance), instance));
    connection.ask(Method::PUT, &path, Vec::new()).await?;
    Ok(1)
}

async fn lookup(connection: &mut Connection, number: usize) -> std::result::Result<u64, String> {
    let path = format!("/v1/health/service/{}?passing=1", service(number * 10));
    let answer = connection.ask(Method::GET, &path, Vec::new()).await?;
    // Once in each instance; to read all of the JSON would cost more than to write it.
    let found = answer.body.windows(11).filter(|part| part == b"\"Service\":{").count();
    if found == 10 { Ok(1) } else { Err(format!("a lookup found {found} instances, not 10")) }
}

impl Consul {
    /// Waits until it has a leader and takes a registration.
    pub async fn new(mut server: Server, plan: &Plan) -> Result<Self> {
        let first = async |home: &Home| {
            let mut connection = Connection::open(&home.address()).await?;
            let leader = connection.ask(Method::GET, "/v1/status/leader", Vec::new()).await?;
            if leader.body.len() < 5 {
                return Err("no leader".to_owned());
            }
            register(&mut connection, (FAN, 0), LONG, "0").await
        };
        server.until_right(first).await?;
        let mut connections = Vec::new();
        for _ in 0..plan.in_flight {
            connections.push(Connection::open(&server.home.address()).await?);
        }
        Ok(Self { server, connections, registered: 0 })
    }

    /// Its process.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Does a job; none if it has no such thing.
    pub async fn job(&mut self, job: Job, plan: &Plan) -> Result<Option<Sample>> {
        let (process, of) = (self.server.process(), self.registered);
        let (connections, forever) = (&mut self.connections[..], Until::seconds(plan.seconds));
        let nothing = || -> Result<()> { if of == 0 { Err("no whole service is registered".into()) } else { Ok(()) } };
        Ok(Some(match job {
            Job::Register => {
                let until = Until::calls(plan.instances as usize, plan.seconds * 4.0);
                let sample = measure(process, job, Rc::default(), async |meter| {
                    let turn = async |connection: &mut _, part: std::ops::Range<usize>| {
                        register(connection, (&service(part.start), part.start), LONG, "1.4.2").await
                    };
                    batches(&meter, connections, 1, until, turn).await
                })
                .await?;
                self.registered = sample.count as usize / 10 * 10;
                sample
            }
            Job::Renew => {
                nothing()?;
                measure(process, job, Rc::default(), async |meter| {
                    let turn = async |connection: &mut _, part: std::ops::Range<usize>| {
                        renew(connection, part.start.wrapping_mul(104_729) % of).await
                    };
                    batches(&meter, connections, 1, forever, turn).await
                })
                .await?
            }
            Job::Lookup => {
                nothing()?;
                measure(process, job, Rc::default(), async |meter| {
                    let turn = async |connection: &mut _, part: std::ops::Range<usize>| {
                        lookup(connection, part.start % (of / 10)).await
                    };
                    batches(&meter, connections, 1, forever, turn).await
                })
                .await?
            }
            Job::Fanout => self.fanout(plan).await?,
            Job::Expire => self.expire(plan).await?,
            Job::Restart => self.restart().await?,
            _ => return Ok(None),
        }))
    }

    /// Watchers that ask and are answered when something changed, a connection each.
    async fn fanout(&mut self, plan: &Plan) -> Result<Sample> {
        let fan = Fan::new(plan.watchers);
        let mut readers = JoinSet::new();
        for _ in 0..plan.watchers {
            let mut connection = Connection::open(&self.server.home.address()).await?;
            let fan = fan.clone();
            readers.spawn_local(async move {
                let why = watch(&mut connection, &fan).await.err().unwrap_or_default();
                fan.broken(why);
            });
        }
        fan.ready().await?;
        let changer = &mut self.connections[0];
        let change = async |number: u64| {
            register(changer, (FAN, 0), LONG, &number.to_string()).await?;
            Ok(())
        };
        let process = self.server.process();
        measure(process, Job::Fanout, fan.meter(), async |_| fan.change(plan.seconds, change).await).await
    }

    /// Checks that nobody renews, and who asks for those that failed.
    async fn expire(&mut self, plan: &Plan) -> Result<Sample> {
        let lapses = Lapses::new(plan.ttl);
        let mut told = Connection::open(&self.server.home.address()).await?;
        let (mut reader, heard) = (JoinSet::new(), lapses.clone());
        let done = Rc::new(RefCell::new(std::collections::HashSet::new()));
        reader.spawn_local(async move {
            let mut index = 0;
            loop {
                let path = format!("/v1/health/state/critical?index={index}&wait=60s");
                let Ok(answer) = told.ask(Method::GET, &path, Vec::new()).await else { return };
                let Ok(checks) = answer.json() else { return };
                for id in checks.as_array().into_iter().flatten().filter_map(|check| check["ServiceID"].as_str()) {
                    if done.borrow_mut().insert(id.to_owned()) {
                        heard.lapsed(id);
                    }
                }
                index = answer.index.unwrap_or(0);
            }
        });
        let until = Until::calls(plan.lapses as usize, f64::from(plan.ttl) / 2.0);
        let turn = async |connection: &mut _, part: std::ops::Range<usize>| {
            let asked = Instant::now();
            register(connection, ("lapse", part.start), plan.ttl, "1.4.2").await?;
            lapses.kept(id("lapse", part.start), asked);
            Ok(0)
        };
        batches(&Meter::default(), &mut self.connections, 1, until, turn).await?;
        lapses.measure(self.server.process()).await
    }

    async fn restart(&mut self) -> Result<Sample> {
        let begin = self.server.crash()?;
        let look = async |home: &Home| {
            let mut connection = Connection::open(&home.address()).await?;
            lookup(&mut connection, 0).await
        };
        self.server.until_right(look).await?;
        Ok(restarted(begin))
    }
}

/// Asks for the service that changes, again each time that it did.
async fn watch(connection: &mut Connection, fan: &Fan) -> std::result::Result<(), String> {
    let (mut index, mut last) = (0, None);
    loop {
        let path = format!("/v1/health/service/{FAN}?index={index}&wait=60s");
        let answer = connection.ask(Method::GET, &path, Vec::new()).await?;
        index = answer.index.ok_or("no index")?;
        let found = answer.json()?;
        let version = found[0]["Service"]["Meta"]["version"].as_str().unwrap_or_default();
        let change = version.parse().map_err(|_| format!("version {version:?}"))?;
        match &mut last {
            None => {
                last = Some(change);
                fan.opened(1);
            }
            // Asked again, it may tell of the same once more.
            Some(last) if *last == change => {}
            Some(last) => fan.heard(last, change),
        }
    }
}

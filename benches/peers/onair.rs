//! onair, and the floors: loaded by `onair bench`, whose figures are taken over as they are.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use onair::proto::{Instance, LookupRequest, RegisterRequest, registry_client::RegistryClient};
use serde_json::Value;

use crate::{
    Result,
    model::{Job, Plan, Sample},
    server::{Home, Server},
};

/// Bytes of metadata of an instance.
pub const METADATA_BYTES: &str = "150";

/// The registry, keeping what it is told.
pub fn launch(command: &mut Command, home: &Home) {
    command.args(["serve", "--bench-floor", "--breaker", "off", "--listen", &home.address()]);
    command.arg("--data-dir").arg(home.data()).env("ONAIR_LOG", "warn");
}

/// grpc-go's floor.
pub fn launch_floor(command: &mut Command, home: &Home) {
    command.arg(home.address());
}

/// The service that must be there again after a crash.
const PROOF: &str = "proof";

/// A server that `onair bench` drives.
pub struct Onair {
    program: PathBuf,
    /// The server.
    pub server: Server,
}

impl Onair {
    /// Waits until a server answers.
    pub async fn new(program: &Path, mut server: Server) -> Result<Self> {
        let program = program.to_owned();
        server.until_right(async |home: &Home| tokio::net::TcpStream::connect(home.address()).await).await?;
        Ok(Self { program, server })
    }

    /// Does a job.
    pub async fn job(&mut self, job: Job, plan: &Plan) -> Result<Option<Sample>> {
        let instances = plan.instances.to_string();
        let depth = plan.stream_depth.to_string();
        let connections = plan.connections.to_string();
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let args = match job {
            Job::Floor => [words(&["floor"]), self.calls(plan)].concat(),
            Job::Memory => words(&["fill", "--count", &instances, "--metadata-bytes", METADATA_BYTES]),
            Job::Register => {
                let own = words(&["register", "--count", &instances, "--metadata-bytes", METADATA_BYTES]);
                [own, self.calls(plan)].concat()
            }
            Job::Renew => [words(&["heartbeat", "--leases", &instances]), self.calls(plan)].concat(),
            Job::RenewStream => {
                let own = words(&["stream", "--leases", &instances, "--leases-per-message", "1"]);
                [own, words(&["--connections", &connections, "--in-flight", &depth])].concat()
            }
            Job::RenewMany => {
                let own = words(&["stream", "--leases", &instances, "--leases-per-message", "100"]);
                [own, words(&["--connections", &connections])].concat()
            }
            Job::Lookup => {
                let services = plan.services().to_string();
                let own = words(&["lookup", "--services", &services, "--metadata-bytes", METADATA_BYTES]);
                [own, self.calls(plan)].concat()
            }
            Job::Fanout => {
                let (watchers, connections) = (plan.watchers.to_string(), plan.watch_connections.to_string());
                words(&["fanout", "--connections", &connections, "--watchers", &watchers])
            }
            Job::FanoutShared => {
                let (watchers, connections) = (plan.sharing_watchers.to_string(), plan.sharing_connections.to_string());
                words(&["fanout", "--multiplexed", "--connections", &connections, "--watchers", &watchers])
            }
            Job::Expire => {
                let (lapses, ttl) = (plan.lapses.to_string(), plan.ttl.to_string());
                words(&["expire", "--leases", &lapses, "--ttl", &ttl, "--kept", "1", "--rate", "10"])
            }
            Job::Restart => return self.restart().await.map(Some),
        };
        let report = self.bench(&args, plan)?;
        Ok(report["jobs"].as_array().and_then(|jobs| jobs.first()).map(|figures| sample(job, figures)))
    }

    fn calls(&self, plan: &Plan) -> Vec<String> {
        let (connections, depth) = (plan.connections.to_string(), plan.depth().to_string());
        ["--connections", &connections, "--in-flight", &depth].map(str::to_owned).to_vec()
    }

    /// Runs `onair bench` on the load's core.
    fn bench(&self, args: &[String], plan: &Plan) -> Result<Value> {
        let mut command = Command::new(&self.program);
        command.arg("bench").args(args).args(["--output", "json", "--seconds", &plan.seconds.to_string()]);
        command.arg("--server-pid").arg(self.server.process().0.to_string());
        command.args(["--url", &format!("http://{}", self.server.home.address())]);
        let output = command.stdin(Stdio::null()).stderr(Stdio::piped()).output()?;
        // A fault makes the command fail, and is in what it printed.
        serde_json::from_slice(&output.stdout).map_err(|_| {
            let words = String::from_utf8_lossy(&output.stderr);
            format!("onair bench {}: {}", args.join(" "), words.lines().last().unwrap_or_default()).into()
        })
    }

    /// Registers a service besides what is there, and sees how long it is gone when the server crashes.
    async fn restart(&mut self) -> Result<Sample> {
        let mut client = RegistryClient::connect(format!("http://{}", self.server.home.address())).await?;
        for number in 0..10 {
            let instance = Instance {
                namespace: "bench".to_owned(),
                service: PROOF.to_owned(),
                id: format!("i-{number}"),
                host: "10.0.0.1".to_owned(),
                port: 8080,
                ..Instance::default()
            };
            let ttl = Some(prost_types::Duration { seconds: 3_600, nanos: 0 });
            client.register(RegisterRequest { instance: Some(instance), ttl, ..RegisterRequest::default() }).await?;
        }
        let begin = self.server.crash()?;
        self.server
            .until_right(async |home: &Home| {
                let mut client = RegistryClient::connect(format!("http://{}", home.address()))
                    .await
                    .map_err(|error| error.to_string())?;
                let (namespace, service) = ("bench".to_owned(), PROOF.to_owned());
                let request = LookupRequest { namespace, service, ..LookupRequest::default() };
                let found = client.lookup(request).await.map_err(|status| status.to_string())?;
                let found = found.into_inner().instances.len();
                if found == 10 { Ok(()) } else { Err(format!("{found} instances, not 10")) }
            })
            .await?;
        Ok(restarted(begin))
    }
}

/// A restart that began then and is over now.
pub fn restarted(begin: Instant) -> Sample {
    let seconds = begin.elapsed().as_secs_f64();
    Sample { count: 1, seconds, value: Some(seconds), ..Sample::new(Job::Restart) }
}

/// What `onair bench` found, in our words.
fn sample(job: Job, figures: &Value) -> Sample {
    let number = |name: &str| figures[name].as_f64();
    let latency = |name: &str| figures["latency_us"][name].as_f64();
    let shares = [(0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p999"), (1.0, "max")];
    let texts = |name: &str| {
        let list = figures[name].as_array().into_iter().flatten();
        list.filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
    };
    let extras = figures["extra"].as_array().into_iter().flatten();
    let mut extra: BTreeMap<String, f64> =
        extras.filter_map(|extra| Some((extra["name"].as_str()?.to_owned(), extra["value"].as_f64()?))).collect();
    let against = &figures["against"];
    for name in ["ratio", "cpu_ratio", "per_second", "server_us"] {
        if let Some(value) = against[name].as_f64() {
            extra.insert(format!("floor {name}"), value);
        }
    }
    let value = match job {
        Job::Memory => extra.get("memory of an instance").copied(),
        Job::Expire => extra.get("last OFFLINE after the latest deadline").copied(),
        _ => None,
    };
    let latency_us = match job {
        // Those are of heartbeats meanwhile, not of what lapsed.
        Job::Expire => Vec::new(),
        _ => shares.iter().filter_map(|(share, name)| Some((*share, latency(name)?))).collect(),
    };
    Sample {
        count: figures["count"].as_u64().unwrap_or(0),
        seconds: number("seconds").unwrap_or(0.0),
        per_second: number("per_second").unwrap_or(0.0),
        value,
        latency_us,
        server_us: number("server_us"),
        server_share: number("server_share"),
        load_share: number("generator_share"),
        extra,
        faults: texts("faults"),
        ..Sample::new(job)
    }
    .judge()
}

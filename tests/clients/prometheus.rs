//! Prometheus: its client library reads what `/metrics` says, and the real program scrapes the registry, discovers what is
//! registered, and takes the configuration and the alerts that docs/operating.md shows.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    http::http,
    server::Server,
    tools::{run, skipped, tool, top},
};

/// The longest that anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program, if this system has its package.
fn prometheus() -> Option<std::path::PathBuf> {
    let is_debian = Path::new("/usr/bin/apt-get").exists();
    if !is_debian {
        skipped("Prometheus comes as a package of Debian's");
    }
    is_debian.then(|| tool("prometheus"))
}

fn register(server: &Server, metrics_port: u16) {
    let metadata = json!({"team": "a\"b\\c\nü", "__address__": "evil.example:1", "0 day": 1});
    let instance = json!({"host": "127.0.0.1", "port": 8080, "ports": {"metrics": metrics_port}, "metadata": metadata});
    let request = json!({"instance": instance, "ttl": "600s"}).to_string();
    http(server.address(), "PUT", "/v1/namespaces/shop/services/web/instances/a", &request);
}

#[test]
fn both_formats_are_read_by_prometheus_own_parsers() {
    let server = Server::start();
    register(&server, 9_100);
    let url = format!("http://{}/metrics", server.address());
    let said = run(Command::new(tool("python")).arg(top().join("tests/clients/prometheus/parse.py")).arg(url));
    let read: Value = serde_json::from_str(&said).unwrap();
    assert!(read["kinds"]["openmetrics"].as_str().unwrap().starts_with("application/openmetrics-text; version=1.0.0"));
    assert!(read["kinds"]["text"].as_str().unwrap().starts_with("text/plain; version=0.0.4"));
    let differs = read["differs"].as_array().unwrap();
    let build = |name: &Value| name.as_str().unwrap().starts_with("onair_build_info");
    // An info is a gauge to the older one. The first scrape is an answer that the second tells of.
    let answers = |name: &Value| name.as_str().unwrap().starts_with("onair_http_answers_total");
    assert!(differs.iter().all(|name| build(name) || answers(name)), "{differs:?}");
    let samples = read["samples"].as_object().unwrap();
    for (sample, wanted) in [
        ("onair_instances{}", ("gauge", 1.0)),
        (r#"onair_calls_total{"code": "OK", "front": "http", "rpc": "Register"}"#, ("counter", 1.0)),
        (r#"onair_events_total{"cause": "REGISTERED"}"#, ("counter", 1.0)),
        ("onair_commit_duration_seconds_count{}", ("histogram", 1.0)),
        (r#"onair_limit{"limit": "max_watches"}"#, ("gauge", 100_000.0)),
    ] {
        let found = samples.get(sample).map(|found| (found[0].as_str().unwrap(), found[1].as_f64().unwrap()));
        assert_eq!(found, Some(wanted), "{sample}");
    }
}

#[test]
fn the_alerts_tell_a_registry_in_trouble_from_one_that_is_well() {
    let Some(prometheus) = prometheus() else { return };
    let promtool = prometheus.with_file_name("promtool");
    let docs = top().join("docs/prometheus");
    run(Command::new(&promtool).args(["check", "config"]).arg(docs.join("prometheus.yml")));
    let home = tempfile::tempdir().unwrap();
    fs::copy(docs.join("alerts.yml"), home.path().join("alerts.yml")).unwrap();
    fs::copy(top().join("tests/clients/prometheus/rules.yml"), home.path().join("rules.yml")).unwrap();
    run(Command::new(&promtool).args(["test", "rules", "rules.yml"]).current_dir(home.path()));
}

/// A program that can be scraped, and tells each time that it is.
fn target() -> (u16, mpsc::Receiver<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (scraped, scrapes) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut line = String::new();
            while stream.read_line(&mut line).unwrap() > 2 {
                line.clear();
            }
            let body = "# TYPE of_the_target gauge\nof_the_target 7\n";
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close\r\n";
            let length = body.len();
            // Whoever asked may be gone.
            let _ = write!(stream.get_mut(), "{head}Content-Length: {length}\r\n\r\n{body}");
            if scraped.send(()).is_err() {
                return;
            }
        }
    });
    (port, scrapes)
}

/// A running Prometheus.
struct Prometheus {
    process: Child,
    address: SocketAddr,
}

impl Prometheus {
    /// With the configuration that is documented, of this registry and in a hurry.
    fn start(program: &Path, registry: SocketAddr, home: &Path) -> Self {
        let docs = top().join("docs/prometheus");
        fs::copy(docs.join("alerts.yml"), home.join("alerts.yml")).unwrap();
        let documented = fs::read_to_string(docs.join("prometheus.yml")).unwrap();
        let hurried = documented
            .replace("127.0.0.1:6624", &registry.to_string())
            .replace("refresh_interval: 15s", "refresh_interval: 1s");
        assert_ne!(hurried, documented);
        let config = format!("global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n{hurried}");
        fs::write(home.join("prometheus.yml"), config).unwrap();
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let mut process = Command::new(program)
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address={free}"))
            .current_dir(home)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        let ready = log.by_ref().map(Result::unwrap).any(|line| line.contains("ready to receive web requests"));
        assert!(ready, "it does not start");
        // Whoever writes what nobody reads waits in the end.
        thread::spawn(move || log.for_each(drop));
        Self { process, address: free }
    }

    fn ask(&self, path: &str) -> Value {
        serde_json::from_str(&http(self.address, "GET", path, "")).unwrap()
    }

    /// The only value of a query.
    fn value(&self, query: &str) -> Value {
        let answer = self.ask(&format!("/api/v1/query?query={query}"));
        assert_eq!(answer["data"]["result"].as_array().map(Vec::len), Some(1), "{query}: {answer}");
        answer["data"]["result"][0].clone()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_prometheus_discovers_and_scrapes_what_is_registered() {
    let Some(program) = prometheus() else { return };
    let server = Server::start();
    let (port, scrapes) = target();
    register(&server, port);
    let home = tempfile::tempdir().unwrap();
    let prometheus = Prometheus::start(&program, server.address(), home.path());
    // Being scraped is being discovered; by the third time the registry was scraped, too, and rules were evaluated.
    for _ in 0..3 {
        scrapes.recv_timeout(PATIENCE).expect("it is never scraped");
    }
    let targets = prometheus.ask("/api/v1/targets?state=active");
    let active = targets["data"]["activeTargets"].as_array().unwrap();
    let found = active.iter().find(|target| target["scrapePool"] == "services").unwrap_or_else(|| panic!("{targets}"));
    assert_eq!(found["scrapeUrl"], format!("http://127.0.0.1:{port}/metrics"));
    let labels = json!({"job": "services", "namespace": "shop", "service": "web", "instance": "a"});
    assert_eq!((&found["labels"], &found["health"]), (&labels, &json!("up")));
    for (label, value) in [("team", "a\"b\\c\nü"), ("__address__", "evil.example:1"), ("0_day", "1")] {
        assert_eq!(found["discoveredLabels"][format!("__meta_onair_metadata_{label}")], value);
    }
    let value = prometheus.value("of_the_target");
    assert_eq!((&value["value"][1], &value["metric"]["service"]), (&json!("7"), &json!("web")));
    assert_eq!(prometheus.value("onair_instances")["value"][1], "1");
    assert_eq!(prometheus.value("up%7Bjob=%22onair%22%7D")["value"][1], "1");
    let rules = prometheus.ask("/api/v1/rules");
    let rules = rules["data"]["groups"][0]["rules"].as_array().unwrap();
    let well = |rule: &&Value| rule["health"] == "ok" && rule["state"] == "inactive";
    let documented = fs::read_to_string(top().join("docs/prometheus/alerts.yml")).unwrap().matches("- alert: ").count();
    assert_eq!(rules.iter().filter(well).count(), documented, "{rules:?}");
}

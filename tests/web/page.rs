//! `examples/watch.html` in a browser, of another origin than the registry's: it goes on after whatever becomes of the
//! server, and a client of gRPC-Web beside it.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    browser::{Browser, Pages, Site},
    http::{http, try_http},
    server::Server,
    tools::{offered, run, top},
};

/// The longest that anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// So often the page comes back in vain, with about a second in between.
const IN_VAIN: usize = 5;

/// The page in the browser, as far as it has told.
struct Page {
    browser: Browser,
    tells: mpsc::Receiver<Value>,
    /// How often a stream was opened.
    opened: usize,
    /// How often it broke, or could not be opened.
    broken: usize,
    snapshots: usize,
    resets: Vec<Value>,
    /// Revision, type, cause and id of every event that was of no snapshot.
    events: Vec<(u64, String)>,
    /// The list that people see.
    shown: Vec<String>,
    /// What the client of gRPC-Web was answered.
    called: Value,
}

impl Page {
    fn open(chromium: &Path, origin: &str, tells: mpsc::Receiver<Value>) -> Self {
        let browser = Browser::open(chromium, &format!("{origin}/"));
        let (events, resets, shown) = (Vec::new(), Vec::new(), Vec::new());
        Self { browser, tells, opened: 0, broken: 0, snapshots: 0, resets, events, shown, called: Value::Null }
    }

    /// Listens to what the page tells until that is so.
    fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is_so(self) {
            let told = self.tells.recv_timeout(end.saturating_duration_since(Instant::now()));
            match told {
                Ok(told) => self.take(&told),
                Err(_) => panic!(
                    "{what}: not so\nopened {}, broken {}, shown {:?}, events {:?}, resets {:?}\n{}",
                    self.opened,
                    self.broken,
                    self.shown,
                    self.events,
                    self.resets,
                    self.browser.log()
                ),
            }
        }
    }

    fn until_shown(&mut self, ids: &[&str]) {
        let lines: Vec<_> = ids.iter().map(|id| format!("web {id} 1.0.0")).collect();
        self.until(&format!("{ids:?} are shown"), |page| page.shown == lines);
    }

    fn take(&mut self, told: &Value) {
        let (kind, value) = told.as_object().unwrap().iter().next().unwrap();
        match kind.as_str() {
            "opened" => self.opened += 1,
            "broken" => {
                assert_eq!(value, "for now", "the browser does not come back");
                self.broken += 1;
            }
            "message" => self.message(value),
            "shown" => self.shown = serde_json::from_value(value.clone()).unwrap(),
            "called" => self.called = value.clone(),
            _ => panic!("{told}"),
        }
    }

    fn message(&mut self, message: &Value) {
        self.snapshots += usize::from(message["snapshotEnd"] == true);
        self.resets.extend(message.get("reset").map(|reset| reset["reason"].clone()));
        let revision = message["revision"].as_str().unwrap_or("0").parse().unwrap();
        for event in message["events"].as_array().into_iter().flatten() {
            if event["cause"] != "CAUSE_SNAPSHOT" {
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                let (cause, id) = (text(&event["cause"]), text(&event["instance"]["id"]));
                self.events.push((revision, format!("{cause} {id}")));
            }
        }
    }
}

/// Where an instance is, over HTTP.
fn path(id: &str) -> String {
    format!("/v1/namespaces/default/services/web/instances/{id}")
}

const REGISTRATION: &str = r#"{"instance": {"port": 8000, "version": "1.0.0"}, "ttl": "600s"}"#;

/// The revision and the token of a registration.
fn registered(answer: &str) -> (u64, String) {
    let answer: Value = serde_json::from_str(answer).unwrap();
    let token = answer["lease"]["token"].as_str().unwrap().to_owned();
    (answer["revision"].as_str().unwrap().parse().unwrap(), token)
}

fn register(server: &Server, id: &str) -> (u64, String) {
    registered(&http(server.address(), "PUT", &path(id), REGISTRATION))
}

/// The revision.
fn deregister(server: &Server, token: &str) -> u64 {
    let answer = http(server.address(), "POST", "/v1/deregister", &json!({"leaseToken": token}).to_string());
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["removed"], "1");
    answer["revision"].as_str().unwrap().parse().unwrap()
}

/// Starts the server again, and registers with the first answer that it gives.
fn register_while_starting(server: &mut Server, id: &str) -> (u64, String) {
    let address = server.address();
    thread::scope(|scope| {
        let early = scope.spawn(move || {
            let end = Instant::now() + PATIENCE;
            loop {
                match try_http(address, "PUT", &path(id), REGISTRATION) {
                    Ok(answer) => return registered(&answer),
                    Err(fault) => assert!(Instant::now() < end, "{fault}"),
                }
                // Refused as long as nothing listens.
                thread::yield_now();
            }
        });
        server.again(false);
        early.join().unwrap()
    })
}

/// One script of `calls.js`, of the code that is generated from the protos for it, and of its libraries.
fn bundle(buf: &Path, esbuild: &Path) -> String {
    let modules = esbuild.parent().and_then(Path::parent).unwrap();
    let into = tempfile::tempdir().unwrap();
    let plugin = json!({
        "local": modules.join(".bin/protoc-gen-es"), "out": into.path(), "opt": ["target=js"], "include_imports": true
    });
    let template = json!({"version": "v2", "plugins": [plugin]}).to_string();
    let mut generate = Command::new(buf);
    generate.current_dir(top()).env("BUF_CACHE_DIR", into.path().join("cache"));
    run(generate.args(["generate", "proto", "--path", "proto/onair", "--template", &template]));
    let mut bundle = Command::new(esbuild);
    let places = std::env::join_paths([modules, into.path()]).unwrap();
    bundle.current_dir(top()).env("NODE_PATH", places);
    run(bundle.args(["tests/web/page/calls.js", "--bundle", "--format=iife", "--log-level=warning"]))
}

/// The example, with a script before its own that tells what comes, and one that calls after it.
fn pages(server: &Server, calls: String) -> Pages {
    let example = fs::read_to_string(top().join("examples/watch.html")).unwrap();
    let telling = fs::read_to_string(top().join("tests/web/page/told.js")).unwrap();
    let before = format!("<ul></ul>\n<script>\nconst REGISTRY = \"http://{}\";\n{telling}</script>", server.address());
    let page = example.replacen("<ul></ul>", &before, 1) + "<script src=\"calls.js\"></script>\n";
    assert!(page.contains(&telling));
    [("/", ("text/html", page)), ("/calls.js", ("text/javascript", calls))].into()
}

#[test]
fn a_page_sees_each_change_once_whatever_becomes_of_the_server() {
    let tools = ["chromium", "grpc-web", "buf"].map(offered);
    let [Some(chromium), Some(esbuild), Some(buf)] = tools else { return };
    let site = Site::bind();
    let origin = site.origin();
    let mut server = Server::start_with(&["--cors-origins", &origin]);
    register(&server, "early");
    let tells = site.serve(pages(&server, bundle(&buf, &esbuild)));
    let mut page = Page::open(&chromium, &origin, tells);

    page.until_shown(&["early"]);
    page.until("calls by gRPC-Web are answered", |page| !page.called.is_null());
    let version = &page.called["version"];
    assert!(version.as_str().is_some_and(|version| version.starts_with(env!("CARGO_PKG_VERSION"))), "{version}");
    assert_eq!(page.called["found"], json!(["early"]));
    assert_eq!(page.called["streamed"], json!(["early"]));
    let details = ["google.rpc.ErrorInfo", "google.rpc.BadRequest"];
    assert_eq!(page.called["refused"], json!({"code": "InvalidArgument", "details": details}));

    let (live, token) = register(&server, "live");
    let (dying, _) = register(&server, "dying");
    server.kill();
    page.until("the page comes back in vain", |page| page.broken >= IN_VAIN);
    let (starting, _) = register_while_starting(&mut server, "starting");
    let (after, _) = register(&server, "after");
    page.until_shown(&["early", "live", "dying", "starting", "after"]);
    assert_eq!((page.opened, page.snapshots), (2, 1), "it went on where it was");

    server.ask_to_stop();
    assert!(server.ended().success());
    server.again(false);
    let gone = deregister(&server, &token);
    page.until_shown(&["early", "dying", "starting", "after"]);
    assert_eq!((page.opened, page.snapshots), (3, 1), "it went on where it was");
    let online = [(live, "live"), (dying, "dying"), (starting, "starting"), (after, "after")];
    let online = online.map(|(revision, id)| (revision, format!("CAUSE_REGISTERED {id}")));
    let all: Vec<_> = online.into_iter().chain([(gone, "CAUSE_DEREGISTERED live".to_owned())]).collect();
    assert_eq!(page.events, all, "each once, and in order");
    assert!(page.events.is_sorted() && page.resets.is_empty(), "{:?}", page.resets);

    // Another registry on the same port: the page keeps what it shows until it has that one's snapshot.
    server.kill();
    server.again(true);
    register(&server, "new");
    page.until_shown(&["new"]);
    assert_eq!(page.resets, ["RESET_REASON_ANOTHER_REGISTRY"]);
}

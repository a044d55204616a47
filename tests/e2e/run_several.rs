//! `onair run --file`: several programs start in order, say who prints, and stop in reverse, all of them when one ends;
//! and the show of two terminals, with programs of node as anybody writes them.

use std::{fs, path::Path, time::Duration};

use onair::client::{Client, Instances};

use crate::{
    client::of,
    harness::{ONAIR, Running, Server, onair, said, signal, within},
    readme::is_there,
    run::until,
};

fn run_file(server: &Server, path: &Path) -> Running {
    Running::start(&["run", "--file", &path.display().to_string(), "--url", &format!("{}?ttl=2s", server.url())])
}

/// A place with this file of programs, in which ONAIR is the command.
fn programs(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("onair.toml");
    fs::write(&path, text.replace("ONAIR", ONAIR)).unwrap();
    (place, path)
}

fn has(count: usize) -> impl Fn(&Instances) -> bool {
    move |known| known.all().len() == count
}

#[tokio::test]
async fn programs_of_a_file_start_in_order_and_stop_in_reverse() {
    let server = Server::ephemeral(&[]).await;
    // The catalog knows that the database is before the cache, of which the file says nothing.
    for args in [
        &["app", "create", "db", "--service", "postgresql"][..],
        &["app", "create", "cache", "--service", "play", "--depends-on", "db"],
    ] {
        let (code, _, errors) = said(&onair(&[args, &["--url", &server.url()]].concat()).await);
        assert_eq!(code, 0, "{errors}");
    }
    let (place, path) = programs(
        r#"
        [run.web]
        command = "echo at $API_URL in $LOG; trap 'echo bye; exit 0' TERM; touch web; while :; do sleep 0.05; done"
        check = "cmd:test -f web"
        check_interval = "50ms"
        needs = ["api@^1"]
        env = { LOG = "debug" }

        [run.api]
        command = "exec ONAIR serve --listen 127.0.0.1:$PORT --ephemeral"
        version = "1.2.0"
        check = "grpc"

        [run.cache]
        command = ["sh", "-c", "echo started; exec sleep 600"]
        check = "cmd:true"

        [run.db]
        command = "exec sleep 600"
        check = "cmd:true"
        "#,
    );
    let mut running = run_file(&server, &path);
    let client = of(&server);
    let port = until(&mut client.service("api"), "the api", has(1)).await[0].port;
    let expected = format!("web   | at http://127.0.0.1:{port} in debug");
    assert_eq!(running.out.line("at http").await, expected, "no colours in a pipe");
    for service in ["db", "cache", "api", "web"] {
        until(&mut client.service(service), service, has(1)).await;
    }
    let all = onair::proto::LookupRequest::default();
    let found = client.lookup_with(all).await.unwrap();
    let revision = |name: &str| found.iter().find(|instance| instance.service == name).unwrap().incarnation;
    assert!(revision("api") < revision("web"), "it needs it");
    assert!(revision("db") < revision("cache"), "the catalog says so");

    running.signal("INT");
    // The program of a shell has no SIGINT in mind, and is killed by it all the same.
    let mut order = Vec::new();
    for _ in 0..4 {
        order.push(running.err.line("took").await);
    }
    let place_of = |name: &str| order.iter().position(|line| line.contains(&format!("took {name}/"))).unwrap();
    assert!(place_of("web") < place_of("api"), "{order:?}");
    assert!(place_of("cache") < place_of("db"), "{order:?}");
    assert_eq!(running.ended().await, 130);
    assert!(client.list("").await.unwrap().iter().all(|service| service.instances == 0));
    drop(place);
}

#[tokio::test]
async fn when_one_ends_all_others_are_stopped() {
    let server = Server::ephemeral(&[]).await;
    let (_place, path) = programs(
        "[run.one]\ncommand = 'echo pid $$; exec sleep 600'\ncheck = 'cmd:true'\n\
         [run.two]\ncommand = 'echo pid $$; exec sleep 600'\ncheck = 'cmd:true'\nneeds = ['one']\n",
    );
    let mut running = run_file(&server, &path);
    let pid = running.out.line("two | pid").await.rsplit(' ').next().unwrap().parse().unwrap();
    until(&mut of(&server).service("two"), "two", has(1)).await;
    signal(pid, "KILL");
    assert!(running.err.line("two ended").await.contains("all others are stopped"));
    running.err.line("took one/").await;
    assert_eq!(running.ended().await, 137);
}

#[tokio::test]
async fn a_broken_file_tells_everything_with_its_place() {
    let (_place, path) = programs(
        "[run.api]\nneds = ['db']\nport = 70000\ncheck = 'udp'\nttl = 5\n[run.web]\ncommand = []\nneeds = ['@1', 'a', 'a']\n\
         mocks = { a = 1 }\n[run.b]\ncommand = 'true'\nneeds = ['c']\nport = 80\n[run.c]\ncommand = 'true'\nneeds = ['b']\nport = 80\n\
         package = 'nowhere.json'\n[runs]\n",
    );
    let shown = path.display().to_string();
    let (code, _, errors) = said(&onair(&["run", "--file", &shown]).await);
    assert_eq!(code, 2);
    for (line, part) in [
        (1, "run.api: there is no `command`"),
        (2, "unknown key `run.api.neds`; did you mean `needs`?"),
        (3, "run.api.port: it is not a number from 1 to 65535"),
        (4, "run.api.check: it is not tcp"),
        (5, "run.api.ttl: it is of type integer"),
        (7, "run.web.command: it is neither"),
        (8, "run.web.needs: `@1`"),
        (8, "run.web.needs: a is there twice"),
        (9, "run.web.mocks.a: it is of type integer"),
        (10, "b needs c needs b: nobody can start first"),
        (14, "run.c: port 80 is b's"),
        (18, "run.c.package: "),
        (19, "unknown key `runs`; did you mean `run`?"),
    ] {
        let expected = format!("line {line}: {part}");
        assert!(errors.contains(&expected), "{expected} is not in\n{errors}");
    }
    for (text, part, not) in [
        ("[run.a]\ncommand = 'x\n[client]\n", "line 2: ", "line 3: "),
        // What is read in spite of that is not what was meant.
        ("[run.a\ncommand = 3\n", "line 1: ", "line 2: "),
        ("[client]\n", "there is no program in it", "line"),
        ("[run.a]\ncommand = 'true'\ndir = 'nowhere'\n", "line 3: run.a.dir: ", "settings are wrong"),
        (
            "[run.a]\ncommand = 'true'\nstart_timeout = '0s'\n",
            "line 3: run.a.start_timeout: 0 is",
            "settings are wrong",
        ),
        ("[run.'a/b']\ncommand = 'true'\n", "a/b: service: must not have `/`", "settings are wrong"),
    ] {
        let (_place, path) = programs(text);
        let (code, _, errors) = said(&onair(&["run", "--file", &path.display().to_string()]).await);
        assert!(code == 2 && errors.contains(part) && !errors.contains(not), "{text}: {code}: {errors}");
    }
    let (code, _, errors) = said(&onair(&["run", "a", "--file", &shown, "--port", "1"]).await);
    assert!(code == 2 && errors.contains("--port"), "{errors}");
}

/// Who works on one of them need not have what the others need.
#[tokio::test]
async fn what_is_not_asked_for_need_not_be_there() {
    let server = Server::ephemeral(&[]).await;
    let (_place, path) = programs(
        "[run.web]\ncommand = 'exit 7'\n[run.api]\ncommand = 'true'\ndir = 'api'\n\
         [run.cron]\ncommand = 'true'\npackage = 'cron/package.json'\n",
    );
    let (shown, url) = (path.display().to_string(), server.url());
    let run =
        async |names: &[&str]| said(&onair(&[&["run"][..], names, &["--file", &shown, "--url", &url]].concat()).await);
    let (code, _, errors) = run(&["web"]).await;
    assert_eq!(code, 7, "{errors}");
    for (names, parts) in [
        (&["api"][..], &["line 5: run.api.dir: "][..]),
        (&["web", "cron"], &["line 8: run.cron.package: "]),
        (&[], &["line 5: run.api.dir: ", "line 8: run.cron.package: "]),
    ] {
        let (code, _, errors) = run(names).await;
        assert!(code == 2 && parts.iter().all(|part| errors.contains(part)), "{names:?}: {errors}");
        assert_eq!(errors.matches("line ").count(), parts.len(), "{names:?}: {errors}");
    }
}

const API: &str = "\
const http = require('http');
http.createServer((_, answer) => answer.end('hello from ' + process.pid)).listen(process.env.PORT);
";
const WEB: &str = "\
const http = require('http');
http.createServer((_, answer) => {
  http.get(process.env.API_URL, (from) => from.pipe(answer)).on('error', (error) => { answer.statusCode = 502; answer.end(error.code); });
}).listen(process.env.PORT);
";

/// What web answers at this moment.
async fn asked(client: &Client) -> Option<String> {
    let at = client.lookup("web").await.ok()?.first()?.url.clone();
    let at = at.strip_prefix("http://")?.to_owned();
    let mut stream = tokio::net::TcpStream::connect(&at).await.ok()?;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    stream.write_all(format!("GET / HTTP/1.0\r\nhost: {at}\r\n\r\n").as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    answer.starts_with("HTTP/1.1 200").then(|| answer.rsplit_once("hello from ").map(|(_, pid)| pid.to_owned()))?
}

async fn until_answered(client: &Client, besides: &str) -> String {
    let mut again = tokio::time::interval(Duration::from_millis(20));
    let answered = async {
        loop {
            again.tick().await;
            if let Some(pid) = asked(client).await.filter(|pid| pid != besides) {
                return pid;
            }
        }
    };
    within("web answers with what api says", answered).await
}

#[tokio::test]
async fn two_terminals_without_configuration() {
    if !is_there("node") {
        println!("SKIPPED: there is no node here");
        return;
    }
    let server = Server::ephemeral(&[]).await;
    let place = tempfile::tempdir().unwrap();
    let (api, web) = (place.path().join("api.js"), place.path().join("web.js"));
    fs::write(&api, API).unwrap();
    fs::write(&web, WEB).unwrap();
    let (api, web, url) = (api.display().to_string(), web.display().to_string(), format!("{}?ttl=1s", server.url()));
    let start_api = || Running::start(&["run", "api", "--url", &url, "--", "node", &api]);
    let start_web = || Running::start(&["run", "web", "--needs", "api", "--url", &url, "--", "node", &web]);
    let client = of(&server);

    // In either order.
    let mut second = start_web();
    second.err.line("waiting for what it needs").await;
    let mut first = start_api();
    let mut pid = until_answered(&client, "").await;

    // Either program is killed, or either command, and started again: they find each other.
    signal(pid.parse().unwrap(), "KILL");
    assert_eq!(first.ended().await, 137);
    let first = start_api();
    pid = until_answered(&client, &pid).await;
    first.kill().await;
    let first = start_api();
    pid = until_answered(&client, &pid).await;
    second.kill().await;
    let mut second = start_web();
    assert_eq!(until_answered(&client, "").await, pid);
    second.signal("INT");
    second.ended().await;
    until(&mut client.service("web"), "no web", has(0)).await;
    let _second = start_web();
    assert_eq!(until_answered(&client, "").await, pid);
    drop(first);
}

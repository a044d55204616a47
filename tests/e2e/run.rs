//! `onair run`: a program that is registered while it runs and works, that finds what it needs, and of which nothing is
//! left, however the command or the program ends. The programs are small scripts, and registries, which listen and have
//! a health.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    time::{Duration, Instant},
};

use onair::{
    client::{Client, Instances, Service},
    proto::Instance,
};

use crate::{
    client::{of, one},
    harness::{ONAIR, Running, Server, onair, pass, said, within},
};

/// A program that listens on PORT and ends well on SIGTERM.
fn listener() -> String {
    format!("exec {ONAIR} serve --listen 127.0.0.1:$PORT --ephemeral")
}

/// `run` with these arguments for a script of the shell.
fn run(server: &Server, args: &[&str], script: &str) -> Running {
    let url = server.url();
    Running::start(&[&["run"], args, &["--url", &url, "--", "sh", "-c", script]].concat())
}

/// The service as soon as it is as wanted.
pub async fn until(service: &mut Service, what: &str, wanted: impl Fn(&Instances) -> bool) -> Vec<Instance> {
    within(what, async {
        service.known().await.unwrap();
        while !wanted(&service.instances()) {
            service.changed().await.unwrap();
        }
        service.instances().all().iter().map(|instance| Instance::clone(instance)).collect()
    })
    .await
}

async fn until_gone(pid: &str) {
    let path = format!("/proc/{pid}/stat");
    within(&format!("the end of {pid}"), async {
        // One that nobody has waited for yet has ended all the same.
        while fs::read_to_string(&path)
            .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
        {
            pass(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn two_programs_find_each_other_in_any_order_and_go_in_order() {
    let server = Server::ephemeral(&[]).await;
    let mut api = of(&server).service("api");
    // What it needs is not there yet.
    let mut web = run(&server, &["web", "--needs", "api@^1"], "echo \"at $API_URL $API_HOST $API_PORT\"; exit 7");
    assert!(web.err.line("waiting").await.contains("api@^1"));
    let mut run_api = run(&server, &["api", "--version", "1.2.0", "--ttl", "2s", "--check", "grpc"], &listener());
    let at = &until(&mut api, "the api", |known| known.all().len() == 1).await[0];
    let expected = format!("at http://127.0.0.1:{0} 127.0.0.1 {0}", at.port);
    assert_eq!(web.out.line("at ").await, expected);
    assert_eq!(web.ended().await, 7, "its own code; it never listened, and was never registered");
    assert!(of(&server).lookup("web").await.unwrap().is_empty());

    // Who follows the service hears before the program ends; then it ends as it wants to.
    run_api.signal("TERM");
    until(&mut api, "nobody", |known| known.all().is_empty()).await;
    run_api.err.line("took api/").await;
    assert_eq!(run_api.ended().await, 0, "a registry ends well on SIGTERM");
}

#[tokio::test]
async fn it_is_in_traffic_while_its_check_passes_and_kept_only_then() {
    let server = Server::ephemeral(&[]).await;
    let place = tempfile::tempdir().unwrap();
    let up = place.path().join("up");
    let check = format!("cmd:test -f {}", up.display());
    let args = ["web", "--check", &check, "--check-interval", "50ms", "--ttl", "1s", "--version", "2"];
    let mut web = run(&server, &args, "exec sleep 600");
    let mut service = of(&server).service("web");
    within("what is there", service.known()).await.unwrap();
    assert!(service.instances().all().is_empty(), "it does not work yet");
    fs::write(&up, "").unwrap();
    until(&mut service, "it works", |known| known.all().len() == 1).await;
    fs::remove_file(&up).unwrap();
    until(&mut service, "out of traffic", |known| known.all().is_empty()).await;
    web.err.line("out of traffic: `test -f").await;
    // Not kept, it is gone when its TTL has passed.
    let everything = onair::proto::LookupRequest {
        service: "web".into(),
        selector: "status=*".into(),
        ..onair::proto::LookupRequest::default()
    };
    within("the end of its lease", async {
        while !of(&server).lookup_with(everything.clone()).await.unwrap().is_empty() {
            pass(Duration::from_millis(50)).await;
        }
    })
    .await;
    fs::write(&up, "").unwrap();
    until(&mut service, "it works again", |known| known.all().len() == 1).await;
    web.signal("INT");
    assert_eq!(web.ended().await, 130, "as SIGINT ended it");
    until(&mut service, "it is gone", |known| known.all().is_empty()).await;
}

#[tokio::test]
async fn a_check_that_fails_while_the_registry_is_away_is_told_when_it_is_back() {
    let mut server = Server::start(&[]).await;
    let place = tempfile::tempdir().unwrap();
    let up = place.path().join("up");
    fs::write(&up, "").unwrap();
    let check = format!("cmd:test -f {}", up.display());
    let mut web =
        run(&server, &["web", "--check", &check, "--check-interval", "50ms", "--ttl", "1h"], "exec sleep 600");
    web.err.line("registered web/").await;
    server.kill().await;
    fs::remove_file(&up).unwrap();
    web.err.line("out of traffic").await;
    web.err.line("trying again").await;
    server.again().await;
    let mut service = of(&server).service("web");
    until(&mut service, "out of traffic", |known| known.all().is_empty()).await;
    web.signal("INT");
    assert_eq!(web.ended().await, 130);
}

#[tokio::test]
async fn nothing_is_left_of_a_program_whoever_is_killed() {
    let server = Server::ephemeral(&[]).await;
    let script = "sleep 600 & echo \"child $!\"; echo \"program $$\"; wait";
    let pid = |line: String| line.rsplit(' ').next().unwrap().to_owned();
    // The command is killed: the program goes, and its child.
    let mut web = run(&server, &["web", "--check", "cmd:true", "--ttl", "1s"], script);
    let (child, program) = (pid(web.out.line("child").await), pid(web.out.line("program").await));
    web.err.line("registered web/").await;
    web.kill().await;
    until_gone(&program).await;
    until_gone(&child).await;
    let mut service = of(&server).service("web");
    until(&mut service, "its lease ends by itself", |known| known.all().is_empty()).await;

    // The program is killed: it is taken away at once, and its child goes.
    let mut web = run(&server, &["web", "--check", "cmd:true", "--ttl", "1h"], script);
    let (child, program) = (pid(web.out.line("child").await), pid(web.out.line("program").await));
    web.err.line("registered web/").await;
    crate::harness::signal(program.parse().unwrap(), "KILL");
    assert_eq!(web.ended().await, 128 + 9);
    until_gone(&child).await;
    assert!(of(&server).lookup("web").await.unwrap().is_empty());

    // It does not listen to SIGTERM, and is killed after the slack.
    let mut web = run(
        &server,
        &["web", "--check", "cmd:true", "--slack", "200ms"],
        "trap '' TERM; echo ready; while :; do sleep 1; done",
    );
    web.out.line("ready").await;
    web.err.line("registered web/").await;
    web.signal("TERM");
    web.err.line("did not end within 200ms, and was killed").await;
    assert_eq!(web.ended().await, 128 + 9);
}

#[tokio::test]
async fn what_a_shell_has_started_has_its_time_too_and_sigquit_ends_what_waits() {
    let server = Server::ephemeral(&[]).await;
    // The shell has no SIGTERM in mind, and goes at once.
    let script = "(trap 'sleep 0.3; echo done; exit' TERM; echo ready; while :; do sleep 0.05; done) & wait";
    let mut web = run(&server, &["web", "--check", "cmd:true"], script);
    web.out.line("ready").await;
    web.err.line("registered web/").await;
    web.signal("TERM");
    web.out.line("done").await;
    assert_eq!(web.ended().await, 128 + 15);

    let mut web = run(&server, &["web", "--needs", "api"], "true");
    web.err.line("waiting").await;
    // SIGHUP may be ignored where these tests run.
    web.signal("QUIT");
    assert_eq!(web.ended().await, 128 + 3);
}

#[tokio::test]
async fn a_registry_that_hangs_holds_no_program_up() {
    let server = Server::ephemeral(&[]).await;
    let script = "trap 'echo told; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let args = ["web", "--check", "cmd:true", "--wait", "100ms"];
    let mut told = run(&server, &args, script);
    let mut killed = run(&server, &["killed", "--check", "cmd:true", "--wait", "1h"], script);
    for running in [&mut told, &mut killed] {
        running.out.line("ready").await;
        running.err.line("registered").await;
    }
    server.signal("STOP");
    let since = Instant::now();
    told.signal("TERM");
    told.err.line("is not drained: the registry does not answer").await;
    told.out.line("told").await;
    assert!(since.elapsed() < Duration::from_secs(8), "a call alone takes 10 s there: {:?}", since.elapsed());
    assert_eq!(told.ended().await, 5);
    // A second signal does not wait for the drain of an hour, nor for its call.
    killed.signal("TERM");
    pass(Duration::from_millis(100)).await;
    killed.signal("TERM");
    assert_eq!(killed.ended().await, 128 + 9);
    server.signal("CONT");
}

#[tokio::test]
async fn what_cannot_be_run_says_why_and_registers_nothing() {
    let server = Server::ephemeral(&[]).await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let url = server.url();
    let said_of = async |args: &[&str]| said(&onair(&[&["run", "--url", &url], args].concat()).await);
    let cases: [(&[&str], i32, &str); 10] = [
        (&["web", "--", "/no/such/program"], 127, "there is no such program"),
        (&["web", "--port", &port, "--", "true"], 1, "is in use already"),
        (&["web", "--start-timeout", "200ms", "--", "sleep", "600"], 1, "nothing listens on port"),
        (&["web", "--", "sh", "-c", "exit 3"], 3, "ended before it worked"),
        (&["web", "--needs", "api", "--if-missing", "fail", "--", "true"], 3, "api"),
        // What no registry would ever take is told before anything is started.
        (&["a/b", "--check", "cmd:true", "--", "/no/such/program"], 2, "a/b: service: must not have `/`"),
        (&["web", "--mock", "api=ht!tp://", "--", "/no/such/program"], 2, "neither HOST:PORT nor a url"),
        (&["web", "--start-timeout", "0s", "--", "/no/such/program"], 2, "0 is too short"),
        (&["web", "node", "web.js"], 2, "onair run web -- node web.js"),
        (&["--file", "f", "--port", "80"], 2, "'--port <PORT>'"),
    ];
    for (args, code, why) in cases {
        let (ended, _, errors) = said_of(args).await;
        assert!(ended == code && errors.contains(why), "{args:?}: {ended}: {errors}");
    }
    for args in [&["web"][..], &["--", "true"], &["web", "--check", "udp", "--", "true"]] {
        assert_eq!(said_of(args).await.0, 2, "{args:?}");
    }
    assert!(Client::connect(&url).unwrap().list("").await.unwrap().is_empty());
}

#[tokio::test]
async fn it_looks_in_every_way_there_is() {
    let server = Server::ephemeral(&[]).await;
    for (service, check) in [("a", "tcp"), ("b", "http:/healthz"), ("c", "grpc"), ("d", "cmd:test $PORT -gt 0")] {
        let mut running = run(&server, &[service, "--check", check], &listener());
        running.err.line(&format!("registered {service}/")).await;
        running.signal("INT");
        running.ended().await;
    }
    // What it says is not good enough.
    for (check, why) in [("http:/nowhere", "404"), ("grpc:nobody", "NOT_FOUND")] {
        let mut running = run(&server, &["web", "--check", check, "--start-timeout", "1s"], &listener());
        let line = running.err.line("does not work after 1s").await;
        assert!(line.contains(why), "{line}");
        assert_eq!(running.ended().await, 1);
    }
}

#[tokio::test]
async fn a_package_says_what_is_not_given_and_another_process_is_yielded_to() {
    let server = Server::ephemeral(&[]).await;
    let place = tempfile::tempdir().unwrap();
    let package = |text: &str| {
        let path = place.path().join("package.json");
        fs::write(&path, text).unwrap();
        path
    };
    let shown = |path: &Path| path.display().to_string();
    let path = package(
        r#"{"name": "shop", "version": "1.2.3", "onair": {"mocks": {"auth": "localhost:3"}, "dependencies": {"auth": "1"}}}"#,
    );
    let script = format!("echo \"auth at $AUTH_PORT\"; {}", listener());
    let mut shop = run(&server, &["--package", &shown(&path), "--id", "one", "--ttl", "1s"], &script);
    assert_eq!(shop.out.line("auth at").await, "auth at 3");
    shop.err.line("registered shop/one").await;
    let other = of(&server).join(one("shop", "one")).await.unwrap();
    assert!(shop.err.line("was superseded").await.contains("127.0.0.1:8000"));
    assert_eq!(shop.ended().await, 4);
    assert!(!other.has_ended());

    let broken = package("{");
    let mut shop = run(&server, &["--package", &shown(&broken)], "true");
    shop.err.line("Invalid package").await;
    assert_eq!(shop.ended().await, 2);
}

#[tokio::test]
async fn who_was_told_of_a_program_that_moved_hears_of_it_or_starts_again() {
    let server = Server::ephemeral(&[]).await;
    let client = of(&server);
    let before = client.join(one("api", "before")).await.unwrap();
    let script = "echo \"at $API_URL\"; exec sleep 600";
    let mut told = run(&server, &["told", "--needs", "api", "--check", "cmd:true"], script);
    let args = ["again", "--needs", "api", "--check", "cmd:true", "--on-move", "restart", "--wait", "100ms"];
    let mut again = run(&server, &args, script);
    assert_eq!(told.out.line("at ").await, "at http://127.0.0.1:8000");
    again.out.line("at http://127.0.0.1:8000").await;
    // Another one beside it is no move.
    let _after = client.join(one("api", "after").port(8_001)).await.unwrap();
    before.leave().await.unwrap();
    assert!(told.err.line("api is at http://127.0.0.1:8001 now").await.contains("told was told http://127.0.0.1:8000"));
    again.err.line("again starts again").await;
    again.out.line("at http://127.0.0.1:8001").await;
    let mut services = client.service("again");
    until(&mut services, "it is registered again", |known| known.all().len() == 1).await;
    again.signal("INT");
    assert_eq!(again.ended().await, 130);
    until(&mut services, "nobody", |known| known.all().is_empty()).await;
}

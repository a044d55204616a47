//! Every `onair` command as a script uses it: exit codes, and JSON.

use serde_json::Value;

use crate::harness::{Running, Server, onair, said};

/// Runs a command against a server: exit code, standard output, standard error.
async fn ask(server: &Server, args: &[&str]) -> (i32, String, String) {
    let url = server.url();
    said(&onair(&[args, &["--url", &url]].concat()).await)
}

/// The one object that it prints.
async fn ask_json(server: &Server, args: &[&str]) -> (i32, Value) {
    let (code, out, err) = ask(server, &[args, &["--output", "json"]].concat()).await;
    assert_eq!(out.lines().count(), 1, "{out}{err}");
    (code, serde_json::from_str(&out).unwrap())
}

/// The next object that a stream prints.
async fn next(running: &mut Running) -> Value {
    serde_json::from_str(&running.out.line("").await).unwrap()
}

#[tokio::test]
async fn every_command_has_its_exit_codes_and_json() {
    let server = Server::start(&[]).await;
    let url = server.url();
    let (code, nothing) = ask_json(&server, &["lookup", "web"]).await;
    assert_eq!((code, &nothing["emptiness"]), (3, &"EMPTINESS_UNKNOWN_SERVICE".into()));
    let (code, health) = ask_json(&server, &["health", "web"]).await;
    assert_eq!((code, &health["status"]), (3, &"SERVICE_UNKNOWN".into()));

    let mut watch = Running::start(&["watch", "--output", "json", "--url", &url]);
    assert_eq!(next(&mut watch).await["snapshotEnd"], true);
    let more = ["--version", "1.4.2", "--zone", "eu", "--weight", "3", "--named-port", "admin=9000"];
    let metadata = ["--metadata", "{\"tier\":\"gold\",\"n\":[1,null]}", "--ttl", "5s", "--id", "one"];
    let join = ["join", "web", "--port", "8000", "--output", "json", "--url", &url];
    let mut join = Running::start(&[&join[..], &more, &metadata].concat());
    let registered = next(&mut join).await;
    let token = registered["lease"]["token"].as_str().unwrap_or_default();
    assert!(token.is_empty() || !token.contains("http"), "{registered}");
    let event = next(&mut watch).await["events"][0].clone();
    assert_eq!((&event["type"], &event["cause"]), (&"EVENT_TYPE_ONLINE".into(), &"CAUSE_REGISTERED".into()));
    let instance = &event["instance"];
    assert_eq!(instance["metadata"], serde_json::json!({"tier": "gold", "n": [1, null]}));
    assert_eq!(
        (&instance["zone"], &instance["weight"], &instance["ports"]["admin"]),
        (&"eu".into(), &3.into(), &9000.into())
    );

    let lookup = ["lookup", "web", "--version", "^1.2", "--selector", "zone=eu,metadata.tier=gold"];
    let (code, found) = ask_json(&server, &lookup).await;
    assert_eq!((code, &found["instances"][0]), (0, instance));
    assert_eq!(ask_json(&server, &["lookup", "web", "--version", "^2"]).await.0, 3);
    let (code, picked) = ask_json(&server, &["lookup", "web", "--pick", "rendezvous", "--pick-key", "k"]).await;
    assert_eq!((code, &picked["instances"][0]["id"]), (0, &"one".into()));
    let (code, list) = ask_json(&server, &["list"]).await;
    assert_eq!(
        (code, &list["services"][0]["service"], &list["services"][0]["routable"]),
        (0, &"web".into(), &1.into())
    );
    assert_eq!(ask_json(&server, &["health", "web"]).await, (0, serde_json::json!({"status": "SERVING"})));
    let (code, info) = ask_json(&server, &["info"]).await;
    assert_eq!((code, &info["durable"], &info["counts"]["instances"]), (0, &true.into(), &"1".into()));
    let (code, out, err) = ask(&server, &["doctor", "--output", "json"]).await;
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{out}");

    // Taken away by an operator: the one who holds it registers it again, for it is no ban.
    let (code, left) = ask_json(&server, &["leave", "web", "--id", "one"]).await;
    assert_eq!((code, &left["removed"]), (0, &"1".into()));
    assert_eq!(next(&mut watch).await["events"][0]["cause"], "CAUSE_OPERATOR");
    assert_eq!(next(&mut watch).await["events"][0]["cause"], "CAUSE_REGISTERED");
    // Superseded: it stops, and says by whom.
    let mut newer = Running::start(&["join", "web", "--port", "8001", "--ttl", "5s", "--id", "one", "--url", &url]);
    let said = join.err.line("superseded").await;
    assert!(said.contains("127.0.0.1:8000") && said.contains("127.0.0.1:8001"), "{said}");
    assert_eq!(join.ended().await, 4);
    newer.signal("TERM");
    assert_eq!(newer.ended().await, 0);
    let (code, _, err) = ask(&server, &["lookup", "web"]).await;
    assert!(code == 3 && err.contains("ALL_OFFLINE"), "{err}");
    watch.kill().await;
}

#[tokio::test]
async fn what_goes_wrong_is_told_in_a_sentence_with_its_exit_code() {
    let server = Server::ephemeral(&[]).await;
    for (args, field) in [
        (&["lookup", "web", "--selector", "zone="][..], "selector"),
        (&["lookup", "a/b"], "service"),
        (&["watch", "web", "--version", ">=1 <"], "version"),
        (&["join", "web", "--port", "80", "--host", "not a host"], "host"),
    ] {
        let (code, out, err) = ask(&server, args).await;
        assert_eq!((code, out.as_str()), (1, ""), "{args:?}: {err}");
        assert!(err.starts_with("onair: ") && err.contains("INVALID_ARGUMENT") && err.contains(field), "{err}");
    }
    for args in
        [&["lookup"][..], &["join", "web"], &["join", "web", "--port", "0"], &["nonsense"], &["lookup", "--nonsense"]]
    {
        let (code, out, err) = said(&onair(args).await);
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}: {err}");
    }
    let (code, _, err) = said(&onair(&["info", "--url", "gopher://nowhere"]).await);
    assert!(code == 2 && err.contains("--url"), "{err}");
    // Nobody there.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{gone}");
    for command in [&["lookup", "web"][..], &["list"], &["watch"], &["health"], &["info"], &["doctor"]] {
        let (code, _, err) = said(&onair(&[command, &["--url", &url]].concat()).await);
        assert!(code == 1 && !err.is_empty(), "{command:?}: {code} {err}");
    }
    // Another that answers is found.
    let both = format!("http://{gone},{}", server.address());
    let (code, _, err) = said(&onair(&["list", "--url", &both]).await);
    assert_eq!(code, 0, "{err}");
}

#[tokio::test]
async fn help_version_and_completions_need_no_server() {
    let (code, version, _) = said(&onair(&["--version"]).await);
    assert!(code == 0 && version.starts_with("onair ") && version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    assert!(version.trim_end().ends_with(')'), "with the commit: {version}");
    let (code, help, _) = said(&onair(&["--help"]).await);
    assert!(code == 0 && help.contains("Exit codes:"));
    for command in
        ["serve", "join", "leave", "lookup", "list", "watch", "health", "info", "doctor", "bench", "completions"]
    {
        assert!(help.contains(&format!("\n  {command} ")), "{command} is not in the help");
        let (code, help, _) = said(&onair(&[command, "--help"]).await);
        assert!(code == 0 && help.contains(&format!("onair {command}")), "{help}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = said(&onair(&["completions", shell]).await);
        assert!(code == 0 && script.contains("onair"), "{shell}");
    }
}

//! `--output curl`: what a command prints instead of calling is run by a shell, and answers as the command does.

use serde_json::Value;
use tokio::process::Command;

use crate::harness::{Server, onair, said};

/// What a command prints, with further arguments.
async fn printed(server: &Server, args: &[&str], more: &[&str]) -> String {
    let url = server.url();
    let (code, out, err) = said(&onair(&[args, &["--url", &url], more].concat()).await);
    assert!(code == 0 || code == 3, "{args:?}: {code}\n{out}{err}");
    out
}

/// What a shell makes of a command's `--output curl`: an object a line.
async fn by_curl(server: &Server, args: &[&str]) -> Vec<Value> {
    let script = printed(server, args, &["--output", "curl"]).await;
    let ran = Command::new("sh").args(["-c", &script]).output().await.unwrap();
    let (code, out, err) = said(&ran);
    assert_eq!(code, 0, "{script}\n{out}{err}");
    let stream = serde_json::Deserializer::from_str(&out).into_iter();
    stream.map(|value| value.unwrap_or_else(|error| panic!("{script}\n{out}: {error}"))).collect()
}

/// The command's own answer.
async fn by_command(server: &Server, args: &[&str]) -> Value {
    serde_json::from_str(&printed(server, args, &["--output", "json"]).await).unwrap()
}

/// Whether there is a curl; without one there is nothing to run.
async fn curl_is_missing() -> bool {
    let missing = Command::new("curl").arg("--version").output().await.is_err();
    if missing {
        println!("SKIPPED: there is no curl on this machine");
    }
    missing
}

#[tokio::test]
async fn what_is_printed_asks_for_the_same() {
    if curl_is_missing().await {
        return;
    }
    let server = Server::start(&["--ephemeral"]).await;
    let odd = "it's a $(name) \"of\" 50% & `more` ünï";
    for (service, id) in [("web", "one"), ("web", "two"), ("web", "?#../x%2F".replace('/', "_").as_str()), (odd, odd)] {
        let join =
            ["join", service, "--port", "8000", "--id", id, "--version", "1.4.2", "--metadata", "{\"a\":[\"'\",null]}"];
        let script = printed(&server, &join, &["--output", "curl"]).await;
        // Only its first command: the instance is to stay.
        let register = script.lines().find(|line| line.starts_with("ANSWER=")).unwrap();
        let ran = Command::new("sh").args(["-c", register]).output().await.unwrap();
        assert_eq!(said(&ran).0, 0, "{register}: {ran:?}");
    }
    for args in [
        &["lookup", "web"][..],
        &["lookup", odd],
        &["lookup", "none"],
        &["lookup", "web", "--namespace", "*"],
        &[
            "lookup",
            "web",
            "--version",
            "^1.2 || >=3 <4",
            "--selector",
            "id in (one, \"t&wo\"), metadata.a",
            "--limit",
            "1",
        ],
        &["lookup", "web", "--pick", "rendezvous", "--pick-key", "k=1&l=+ ", "--wait", "1500ms", "--min-revision", "1"],
        &["list"],
        &["list", "it's", "--namespace", "*"],
        &["list", "--namespace", "no such"],
        &["info"],
    ] {
        let mut expected = by_command(&server, args).await;
        let mut got = by_curl(&server, args).await;
        // A page by HTTP says where the next one begins; the command has asked for it.
        got[0].as_object_mut().unwrap().remove("nextPageToken");
        expected.as_object_mut().unwrap().remove("nextPageToken");
        assert_eq!(got, [expected], "{args:?}");
    }
    let removed = |answer: &Value| answer["removed"].clone();
    let one = by_command(&server, &["leave", "web", "--id", "one"]).await;
    let two = by_curl(&server, &["leave", "web", "--id", "two"]).await;
    assert_eq!((removed(&one), removed(&two[0])), ("1".into(), "1".into()));
    let rest = by_curl(&server, &["leave", "web", "--all"]).await;
    assert_eq!(removed(&rest[0]), "1");
    let (code, out, err) = said(&onair(&["doctor", "--output", "curl"]).await);
    assert_eq!((code, out.as_str()), (2, ""), "{err}");
}

/// Registers, beats, leaves; the token goes from one command to the next.
#[tokio::test]
async fn a_printed_lease_lives_and_ends() {
    if curl_is_missing().await {
        return;
    }
    let server = Server::start(&["--ephemeral"]).await;
    let join =
        ["join", "web", "--port", "8000", "--zone", "it's", "--ttl", "30s", "--metadata", "{\"token\":\"no\\\\n\"}"];
    let answers = by_curl(&server, &join).await;
    let [registered, beat, left] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!((&registered["instance"]["zone"], &registered["lease"]["ttl"]), (&"it's".into(), &"30s".into()));
    assert_eq!(beat["results"][0]["state"], "BEAT_STATE_RENEWED");
    assert_eq!(left["removed"], "1");
}

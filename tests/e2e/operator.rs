//! The first token, and the command that makes others: what a start writes and what it leaves alone, what was there before
//! anybody was asked who they are, and what may not be rotated, cleared or sent.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use crate::harness::{Server, onair, said};

/// A command of `onair` by a token's file: exit code, and what it said.
async fn by(server: &Server, file: &Path, args: &[&str]) -> (i32, String) {
    let (url, file) = (server.url(), file.display().to_string());
    let (code, out, err) = said(&onair(&[args, &["--url", &url, "--token-file", &file]].concat()).await);
    (code, out + &err)
}

async fn stop(mut server: Server) {
    server.terminate();
    server.ended().await;
}

#[tokio::test]
async fn who_came_before_anybody_was_asked_does_not_keep_the_operator_out() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data").display().to_string();
    let server = Server::start(&["--data-dir", &data]).await;
    let url = server.url();
    for name in ["guest", "operator"] {
        let all = "*=read,register,publish,deploy,catalog,operate,admin";
        let (code, out, err) = said(&onair(&["token", "create", name, "--grant", all, "--url", &url]).await);
        assert_eq!(code, 0, "{err}");
        fs::write(directory.path().join(name), out).unwrap();
    }
    let post = ["-sS", "-d", "{}", "-H", "Content-Type: application/json", "-o", "/dev/null", "-w", "%{http_code}"];
    let place = |server: &Server| format!("{}/registrations/web/1.0.0/10.0.0.1/80", server.url());
    let renew = async |server: &Server, header: &[&str]| {
        let place = place(server);
        let args = [&post[..], header, &[place.as_str()]].concat();
        let output = tokio::process::Command::new("curl").args(args).output().await.unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(renew(&server, &[]).await.starts_with("20"));
    stop(server).await;

    let server = Server::start(&["--data-dir", &data, "--auth"]).await;
    let file = server.data_dir().join("operator.token");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let (code, told) = by(&server, &file, &["token", "list"]).await;
    assert!(code == 0 && told.contains("guest"), "{told}");
    assert!(server.log().contains("nobody was asked") && server.log().contains("guest"), "{}", server.log());
    let (code, told) = by(&server, &directory.path().join("operator"), &["token", "list"]).await;
    assert!(code != 0 && told.contains("not good"), "somebody's own token of that name: {told}");
    // What was registered before goes on, and is from then on whose it became.
    let token = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap().trim().to_owned();
    for name in ["owner", "other"] {
        let (code, made) = by(&server, &file, &["token", "create", name, "--allow", "register"]).await;
        assert_eq!(code, 0, "{made}");
        fs::write(directory.path().join(name), made).unwrap();
    }
    let bearer = |name: &str| format!("Authorization: Bearer {}", token(name));
    assert!(renew(&server, &["-H", &bearer("owner")]).await.starts_with("20"), "it is not refused");
    assert_eq!(renew(&server, &["-H", &bearer("other")]).await, "409");
    assert!(renew(&server, &["-H", &bearer("owner")]).await.starts_with("20"));
    stop(server).await;
}

#[tokio::test]
async fn a_named_file_gets_a_token_once_and_nothing_else_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let named = directory.path().join("named");
    let path = named.display().to_string();
    let mut server = Server::start(&["--auth", "--operator-token", &path]).await;
    let first = directory.path().join("first");
    fs::copy(&named, &first).unwrap();
    server.kill().await;
    server.again().await;
    assert_eq!(fs::read(&named).unwrap(), fs::read(&first).unwrap(), "it is good");
    // It was lost, as in a directory of memory: who has the one before is not cut off.
    fs::remove_file(&named).unwrap();
    server.kill().await;
    server.again().await;
    assert_ne!(fs::read(&named).unwrap(), fs::read(&first).unwrap());
    for file in [&named, &first] {
        assert_eq!(by(&server, file, &["token", "list"]).await.0, 0, "{}", file.display());
    }
    // A start that broke off before the token was good.
    fs::write(&named, format!("onair_operator_{}\n", "A".repeat(43))).unwrap();
    server.kill().await;
    server.again().await;
    assert_eq!(by(&server, &named, &["token", "list"]).await.0, 0, "it was made anew");
    server.kill().await;
    for foreign in ["-----BEGIN PRIVATE KEY-----\n", "", &format!("onair_ci_{}\n", "A".repeat(43))] {
        fs::write(&named, foreign).unwrap();
        let why = server.try_again().await.expect_err("it does not start");
        assert!(why.contains(&path) && why.contains("something else"), "{why}");
        assert_eq!(fs::read_to_string(&named).unwrap(), foreign, "it is left alone");
    }
    let (code, _, err) = said(&onair(&["serve", "--operator-token", &path, "--ephemeral"]).await);
    assert!(code == 2 && err.contains("operator_token: says nothing without --auth"), "{err}");
}

#[tokio::test]
async fn ends_and_certificates_are_cleared_and_secrets_keep_their_time() {
    let server = Server::start(&["--auth"]).await;
    let file = server.data_dir().join("operator.token");
    let create = ["token", "create", "ci", "--allow", "read", "--expires", "1d", "--certificate", "dns:ci.example"];
    assert_eq!(by(&server, &file, &create).await.0, 0);
    let shown = by(&server, &file, &["token", "get", "ci"]).await.1;
    assert!(shown.contains("dns:ci.example") && !shown.contains("never"), "{shown}");
    let cleared = by(&server, &file, &["token", "update", "ci", "--without-expiry", "--without-certificates"]).await.1;
    assert!(!cleared.contains("dns:ci.example") && cleared.contains("never") && cleared.contains("read"), "{cleared}");
    for _ in 0..3 {
        assert_eq!(by(&server, &file, &["token", "rotate", "ci"]).await.0, 0);
    }
    // A file that is to have the next one keeps the one before when there is none.
    let kept = server.data_dir().join("ci.token");
    fs::write(&kept, "before").unwrap();
    let path = kept.display().to_string();
    let (code, told) = by(&server, &file, &["token", "rotate", "ci", "--write", &path]).await;
    assert!(code != 0 && told.contains("max_token_secrets"), "{told}");
    assert_eq!(fs::read_to_string(&kept).unwrap(), "before");
    let rotate = ["token", "rotate", "ci", "--overlap", "0s", "--write", &path];
    let (code, told) = by(&server, &file, &rotate).await;
    assert!(code == 0 && told.contains(&path) && !told.contains("onair_ci_"), "{told}");
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fs::read_to_string(&kept).unwrap().starts_with("onair_ci_"));
    let (code, told) = by(&server, &kept, &["info"]).await;
    assert_eq!(code, 0, "{told}");
    assert_eq!(by(&server, &file, &["token", "rotate", "ci", "--overlap", "0s"]).await.0, 0);
}

#[tokio::test]
async fn a_token_is_on_no_command_line_and_not_sent_in_the_clear() {
    let server = Server::start(&["--auth"]).await;
    let file = server.data_dir().join("operator.token");
    let (code, script) = by(&server, &file, &["info", "--output", "curl"]).await;
    let token = fs::read_to_string(&file).unwrap();
    assert!(code == 0 && !script.contains(token.trim()), "{script}");
    let ran = tokio::process::Command::new("sh").args(["-c", &script]).output().await.unwrap();
    let (code, out, err) = said(&ran);
    assert!(code == 0 && out.contains("registryId"), "{script}\n{out}{err}");
    let path = file.display().to_string();
    let far = ["info", "--url", "http://192.0.2.1:1", "--timeout", "1ms", "--token-file", &path];
    let (code, _, err) = said(&onair(&far).await);
    assert!(code == 2 && err.contains("in the clear") && !err.contains(token.trim()), "{code} {err}");
    let (code, _, err) = said(&onair(&[&far[..], &["--token-in-clear"]].concat()).await);
    assert!(code != 2 && !err.contains("in the clear"), "{code} {err}");
}

//! A server that may not or cannot start says why in one sentence, and harms nobody.

use std::{fs, net::TcpListener, time::Duration};

use crate::{
    harness::{Running, Server, lookup, onair, register, said},
    history::{Recorder, Settings},
};

/// Runs a server that has to refuse: its exit code, and its last line, which is for people.
async fn refusal(flags: &[&str]) -> (i32, String) {
    let (code, out, err) = said(&onair(&[&["serve"], flags].concat()).await);
    assert_eq!(out, "", "it did not listen");
    (code, err.lines().last().unwrap_or_default().to_owned())
}

fn is_a_sentence(text: &str) {
    assert!(text.starts_with("onair: "), "{text}");
    assert!(!text.contains("Error") && !text.contains("Os {") && !text.contains("panicked"), "{text}");
}

#[tokio::test]
async fn a_second_server_on_the_same_data_says_so_in_one_sentence() {
    let server = Server::start(&[]).await;
    let recorder = Recorder::new(Settings::default());
    let client = server.client(&recorder).await;
    client.register(register("web", "a", 60.0)).await.unwrap();
    let dir = server.data_dir().display().to_string();
    let (code, sentence) = refusal(&["--listen", "127.0.0.1:0", "--data-dir", &dir]).await;
    is_a_sentence(&sentence);
    assert!(sentence.contains(&dir) && sentence.contains("another onair"), "{sentence}");
    assert_eq!(code, 1);
    // The first one has not noticed.
    client.register(register("web", "b", 60.0)).await.unwrap();
    assert_eq!(client.lookup(lookup("web")).await.unwrap().instances.len(), 2);
    recorder.assert_clean();
}

#[tokio::test]
async fn a_port_in_use_is_told_in_one_sentence_also_when_it_is_another_onair() {
    let server = Server::ephemeral(&[]).await;
    let taken = server.address().to_string();
    let (code, sentence) = refusal(&["--listen", &taken, "--ephemeral"]).await;
    is_a_sentence(&sentence);
    assert!(sentence.contains(&taken) && sentence.contains("another onair"), "{sentence}");
    assert!(sentence.contains(&server.info().await.version), "{sentence}");
    assert_eq!(code, 1);
    let somebody = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = somebody.local_addr().unwrap().to_string();
    let (code, sentence) = refusal(&["--listen", &taken, "--ephemeral"]).await;
    is_a_sentence(&sentence);
    assert!(sentence.contains(&taken) && sentence.contains("another program"), "{sentence}");
    assert_eq!(code, 1);
}

#[tokio::test]
async fn safe_by_default_it_refuses_to_be_reached_from_elsewhere() {
    for address in ["0.0.0.0:0", "[::]:0"] {
        let (code, sentence) = refusal(&["--listen", address, "--ephemeral"]).await;
        is_a_sentence(&sentence);
        assert!(sentence.contains(address) && sentence.contains("--insecure"), "{sentence}");
        assert_eq!(code, 2);
    }
    let mut open = Running::start(&["serve", "--listen", "0.0.0.0:0", "--ephemeral", "--insecure"]);
    open.out.line(" is listening on 0.0.0.0:").await;
    open.signal("INT");
    assert_eq!(open.ended().await, 0);
}

#[tokio::test]
async fn data_that_is_not_ours_or_of_a_newer_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), "years of work").unwrap();
    let path = dir.path().display().to_string();
    let (code, sentence) = refusal(&["--listen", "127.0.0.1:0", "--data-dir", &path]).await;
    is_a_sentence(&sentence);
    assert!(code == 1 && sentence.contains(&path), "{sentence}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was added");
    let file = dir.path().join("thesis.tex").display().to_string();
    let (code, sentence) = refusal(&["--listen", "127.0.0.1:0", "--data-dir", &file]).await;
    is_a_sentence(&sentence);
    assert!(code == 1 && sentence.contains(&file), "{sentence}");

    let mut server = Server::start(&[]).await;
    let recorder = Recorder::new(Settings { cuts: true, ..Settings::default() });
    server.client(&recorder).await.register(register("web", "a", 60.0)).await.unwrap();
    server.terminate();
    server.ended().await;
    let format = server.data_dir().join("store").join("format");
    let known = fs::read_to_string(&format).unwrap();
    fs::write(&format, "onair store, format 999\n").unwrap();
    let path = server.data_dir().display().to_string();
    let (code, sentence) = refusal(&["--listen", "127.0.0.1:0", "--data-dir", &path]).await;
    is_a_sentence(&sentence);
    assert!(code == 1 && sentence.contains("newer"), "{sentence}");
    fs::write(&format, known).unwrap();
    server.again().await;
    let client = server.client(&recorder).await;
    assert_eq!(client.lookup(lookup("web")).await.unwrap().instances.len(), 1);
    recorder.assert_clean();
}

#[tokio::test]
async fn settings_come_from_flags_variables_and_a_file_in_that_order() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("onair.toml");
    fs::write(&file, "[serve]\nrestart_grace = \"7s\"\nmax_log_bytes = \"1MiB\"\n").unwrap();
    let config = file.display().to_string();
    let (code, out, err) = said(
        &onair(&["serve", "--print-config", "--output", "json", "--config", &config, "--max-log-bytes", "2MiB"]).await,
    );
    assert_eq!((code, err.as_str()), (0, ""));
    let settings: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(settings["restart_grace"]["value"], "7s");
    assert!(settings["restart_grace"]["origin"].as_str().unwrap().contains("onair.toml"), "{settings}");
    assert_eq!(settings["max_log_bytes"]["value"], "2MiB");
    assert_eq!(settings["io_threads"]["value"], "1");
    let server = Server::ephemeral(&["--restart-grace", "7s", "--max-log-bytes", "2MiB"]).await;
    let info = server.info().await;
    assert_eq!(info.limits.unwrap().max_log_bytes, 2 << 20);
    assert_eq!(Duration::try_from(info.intervals.unwrap().restart_grace.unwrap()).unwrap(), Duration::from_secs(7));
    assert!(!info.durable && info.members == [server.address().to_string()]);
    for wrong in [&["--io-threads", "0"][..], &["--max-log-bytes", "1"], &["--listen", "nowhere"], &["--nonsense"]] {
        let (code, out, _) = said(&onair(&[&["serve"], wrong].concat()).await);
        assert_eq!((code, out.as_str()), (2, ""), "{wrong:?}");
    }
}

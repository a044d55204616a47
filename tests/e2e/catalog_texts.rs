//! What the command makes of the catalog for people and other programs: pictures, environments, compose files.

use onair::proto::{Instance, RegisterRequest};
use serde_json::{Value as Json, json};

use crate::{
    harness::{Server, onair, said},
    tools,
};

async fn shop(server: &Server) {
    let list = json!([
        {"id": "shop-db", "ports": [{"service": "postgresql"}], "dependencies": []},
        {"id": "shop-api", "ports": [{"service": "play"}, {"service": "nodejs"}], "dependencies": ["shop-db"]},
        {"id": "shop-www", "ports": [{"service": "nodejs"}], "dependencies": ["shop-api", "shop-db"]},
        {"id": "blog", "ports": [{"service": "nodejs"}], "dependencies": []},
    ]);
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("list.json");
    std::fs::write(&file, list.to_string()).unwrap();
    let (code, out, err) = run(server, &["app", "import", &file.display().to_string(), "--strict"]).await;
    assert_eq!(code, 0, "{out}{err}");
}

async fn run(server: &Server, args: &[&str]) -> (i32, String, String) {
    said(&onair(&[args, &["--url", &server.url()]].concat()).await)
}

#[tokio::test]
async fn a_program_finds_what_it_needs_online_or_declared() {
    let server = Server::ephemeral(&[]).await;
    shop(&server).await;
    let (code, out, err) = run(&server, &["env", "shop-www"]).await;
    let wanted = "PORT=6020\nSHOP_API_HOST=localhost\nSHOP_API_PORT=6011\nSHOP_API_PORT_NODEJS=6010\n\
                  SHOP_API_URL=http://localhost:6011\nSHOP_DB_HOST=localhost\nSHOP_DB_PORT=6019\n\
                  SHOP_DB_URL=postgresql://localhost:6019\n";
    assert_eq!((code, out.as_str()), (0, wanted), "{err}");
    assert!(out.contains("SHOP_DB_URL=postgresql://localhost:6019\n"), "{out}");
    let url = "http://h:1/a?b='$(x)'&c";
    let instance = Instance { service: "shop-api".into(), id: "one".into(), url: url.into(), ..Default::default() };
    let request = RegisterRequest { instance: Some(instance), ..Default::default() };
    server.api().await.register(request).await.unwrap();
    let (_, out, _) = run(&server, &["env", "shop-www", "--format", "json"]).await;
    let found: Json = serde_json::from_str(&out).unwrap();
    assert_eq!((&found["SHOP_API_URL"], &found["SHOP_API_HOST"]), (&url.into(), &"h".into()), "{out}");
    let (_, out, _) = run(&server, &["env", "shop-www", "--format", "shell"]).await;
    assert!(out.contains("export SHOP_API_URL='http://h:1/a?b='\\''$(x)'\\''&c'\n"), "{out}");
    let (code, out, err) = run(&server, &["env", "shop-www"]).await;
    assert!(code == 1 && out.is_empty() && err.contains("SHOP_API_URL is") && err.contains("--format json"), "{err}");
    let mocked = ["env", "shop-www", "--mock", "shop-api=http://localhost:9/x", "--host", "ws"];
    let (_, out, _) = run(&server, &mocked).await;
    assert!(out.contains("SHOP_API_PORT=9\n") && out.contains("SHOP_DB_HOST=ws\n"), "{out}");
    let (code, _, err) = run(&server, &["env", "shop-www", "--mock", "shop-ap=http://localhost:9/x"]).await;
    assert!(code == 2 && err.contains("--mock shop-ap: shop-www does not need shop-ap"), "{err}");
    let (code, _, err) = run(&server, &["export", "compose", "--health", "plya=true"]).await;
    assert!(code == 2 && err.contains("no application here has a port of plya"), "{err}");
    let (code, _, err) = run(&server, &["export", "compose", "--health", "play=printf \"a\tb\""]).await;
    assert!(code == 2 && err.contains("it has control characters"), "{err}");
    let (code, _, err) = run(&server, &["env", "gone"]).await;
    assert!(code == 1 && err.contains("NOT_FOUND"), "{err}");
}

#[tokio::test]
async fn graphs_are_drawn_and_told() {
    let server = Server::ephemeral(&[]).await;
    shop(&server).await;
    let (code, picture, err) = run(&server, &["graph"]).await;
    assert!(code == 0 && picture.contains("<svg") && picture.trim_end().ends_with("</svg>"), "{picture}{err}");
    assert!(["shop-db", "shop-api", "shop-www", "blog"].iter().all(|id| picture.contains(&format!(">{id}<"))));
    let (_, dot, _) = run(&server, &["graph", "shop-api", "--format", "dot"]).await;
    assert!(dot.contains("\"shop-api\" -> \"shop-db\";") && !dot.contains("shop-www"), "{dot}");
    let (code, report, _) = run(&server, &["graph", "--report", "shop-db"]).await;
    assert!(code == 0 && report.contains("without shop-db, 1") && report.contains("shop-api shop-www"), "{report}");
    let (code, report, _) = run(&server, &["graph", "--report"]).await;
    assert!(code == 0 && report.contains("nobody needs") && report.contains("blog shop-www"), "{report}");
    assert_eq!(run(&server, &["graph", "gone"]).await.0, 3);
}

#[tokio::test]
async fn compose_files_are_what_the_published_schema_says() {
    let server = Server::ephemeral(&[]).await;
    shop(&server).await;
    let (code, text, err) = run(&server, &["export", "compose", "--health", "play=curl -f localhost:$PORT"]).await;
    assert!(code == 0 && text.contains("condition: service_healthy"), "{text}{err}");
    assert!(text.contains("localhost:$$PORT") && text.contains("published: \"6019\""), "{text}");
    let Some(judge) = tools::offered("compose") else { return };
    let home = tempfile::tempdir().unwrap();
    let judged = |name: &str, text: &str| {
        let file = home.path().join(name);
        std::fs::write(&file, text).unwrap();
        let schema = ["--builtin-schema", "vendor.compose-spec"];
        std::process::Command::new(&judge).args(schema).arg(file).output().unwrap()
    };
    let right = judged("right.yaml", &text);
    assert!(right.status.success(), "{}{text}", String::from_utf8_lossy(&right.stdout));
    let wrong = judged("wrong.yaml", &text.replace("service_healthy", "service_happy"));
    assert!(!wrong.status.success(), "it is judged");
}

//! Lists of the catalog on real connections: in by stream, by HTTP and by the command, whole or in part; out as JSON, YAML
//! and a graph; and lists so long that they take many messages and revisions.

use std::path::Path;

use onair::proto::{
    CreateApplicationRequest, GetApplicationRequest, ImportApplicationsRequest, ImportApplicationsStreamRequest,
    ListCatalogRequest, ListedApplication, ListedPort, catalog_client::CatalogClient,
};
use serde_json::{Value as Json, json};
use tokio_stream::StreamExt as _;
use tonic::{Code, transport::Channel};

use crate::{
    harness::{Http, Said, Server, onair, said},
    input::refusal,
};

type Client = CatalogClient<Channel>;

async fn client(server: &Server) -> Client {
    CatalogClient::new(server.channel().await)
}

fn listed(id: &str, external: Option<i32>, dependencies: &[&str]) -> ListedApplication {
    let port = ListedPort { service: "nodejs".into(), external, internal: None };
    let dependencies = dependencies.iter().map(|id| (*id).to_owned()).collect();
    ListedApplication { id: id.into(), ports: vec![port], dependencies, ..Default::default() }
}

fn list(applications: Vec<ListedApplication>, strict: bool) -> ImportApplicationsRequest {
    ImportApplicationsRequest { applications, strict, ..ImportApplicationsRequest::default() }
}

async fn how_many(client: &Client) -> usize {
    client.clone().list_catalog(ListCatalogRequest::default()).await.unwrap().into_inner().applications.len()
}

async fn ask(server: &Server, head: &str, body: &str) -> Said {
    let length = body.len();
    let text = format!("{head}\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}");
    Http::connect(server.address()).await.ask(text).await
}

#[tokio::test]
async fn what_is_right_is_taken_or_nothing() {
    let server = Server::ephemeral(&[]).await;
    let client = client(&server).await;
    let entries = || {
        vec![
            listed("www", None, &["api"]),
            listed("api", Some(7010), &["db"]),
            listed("db", None, &[]),
            listed("one", None, &["two"]),
            listed("two", None, &["one"]),
        ]
    };
    let circles = [
        "applications[3].dependencies[0]: Application[one] Cannot declare a circular dependency on[two]",
        "applications[4].dependencies[0]: Application[two] Cannot declare a circular dependency on[one]",
    ];
    let status = client.clone().import_applications(list(entries(), true)).await.unwrap_err();
    assert_eq!((status.code(), refusal(&status).1), (Code::InvalidArgument, "INVALID".to_owned()));
    assert!(circles.iter().all(|circle| status.message().contains(circle)), "{status:?}");
    assert_eq!(how_many(&client).await, 0);
    let check = ImportApplicationsRequest { check_only: true, ..list(entries(), false) };
    let would = client.clone().import_applications(check).await.unwrap().into_inner();
    assert_eq!((would.created, would.refused, how_many(&client).await), (3, 2, 0));
    let made = client.clone().import_applications(list(entries(), false)).await.unwrap().into_inner();
    assert_eq!((made.applications, made.created, made.updated, made.unchanged, made.refused), (5, 3, 0, 0, 2));
    let told: Vec<String> = made
        .refusals
        .iter()
        .flat_map(|entry| &entry.violations)
        .map(|one| format!("{}: {}", one.field, one.description))
        .collect();
    assert_eq!(told, circles);
    let get = GetApplicationRequest { id: "www".into(), ..Default::default() };
    let www = client.clone().get_application(get).await.unwrap().into_inner().application.unwrap();
    assert_eq!((www.revision, www.dependencies), (made.revision, vec!["api".to_owned()]), "one revision for all");
    let again = client.clone().import_applications(list(entries(), false)).await.unwrap().into_inner();
    assert_eq!((again.unchanged, again.refused, again.revision), (3, 2, made.revision), "nothing changes");
}

/// More than a message carries, in pieces; while single changes go on, and then once more after a crash.
#[tokio::test]
async fn a_long_list_is_taken_in_pieces_and_holds_nobody_up() {
    const LONG: usize = 20_000;
    let mut server = Server::start(&[]).await;
    let client = client(&server).await;
    let entry = |number: usize| {
        let (id, needed) = (format!("n-{number}"), format!("n-{}", number / 2 + LONG / 2));
        let needs: &[&str] = if number < LONG / 2 { &[&needed] } else { &[] };
        listed(&id, Some(i32::try_from(20_000 + number).unwrap()), needs)
    };
    let pieces: Vec<ImportApplicationsStreamRequest> = (0..LONG)
        .collect::<Vec<_>>()
        .chunks(1_000)
        .map(|numbers| ImportApplicationsStreamRequest {
            applications: numbers.iter().map(|number| entry(*number)).collect(),
            strict: true,
            ..Default::default()
        })
        .collect();
    let import = async |client: &Client| {
        let stream = tokio_stream::iter(pieces.clone());
        let mut told = client.clone().import_applications_stream(stream).await.unwrap().into_inner();
        let mut steps = Vec::new();
        while let Some(step) = told.message().await.unwrap() {
            steps.push((step.taken, step.to_take));
            if let Some(result) = step.result {
                return (steps, result);
            }
        }
        panic!("it ended without a result: {steps:?}");
    };
    let other = async {
        for number in 0..20 {
            let (id, service) = (format!("other-{number}"), "play".to_owned());
            let request = CreateApplicationRequest { id, service, ..Default::default() };
            client.clone().create_application(request).await.unwrap();
        }
    };
    let ((steps, result), ()) = tokio::join!(import(&client), other);
    assert_eq!((result.applications, result.created, result.refused), (LONG as u64, LONG as u64, 0));
    assert!(steps.len() > 3 && steps.is_sorted() && steps.last() == Some(&(LONG as u64, LONG as u64)), "{steps:?}");
    server.kill().await;
    server.again().await;
    let client = self::client(&server).await;
    let (steps, result) = import(&client).await;
    assert_eq!((result.unchanged, steps.last()), (LONG as u64, Some(&(0, 0))));
    let mut request = ListCatalogRequest { limit: 999, ..Default::default() };
    let mut all = Vec::new();
    loop {
        let page = client.clone().list_catalog(request.clone()).await.unwrap().into_inner();
        all.extend(page.applications.into_iter().map(|of| of.id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert!(all.len() == LONG + 20 && all.is_sorted(), "{}", all.len());
}

/// Who is slow to send keeps nobody from importing, however many do so.
#[tokio::test]
async fn silent_callers_keep_nobody_out() {
    let server = Server::ephemeral(&[]).await;
    let client = client(&server).await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        let pieces = tokio_stream::iter([ImportApplicationsStreamRequest::default()]).chain(tokio_stream::pending());
        silent.push(client.clone().import_applications_stream(pieces).await.unwrap());
    }
    let taken = client.clone().import_applications(list(vec![listed("www", None, &[])], true)).await.unwrap();
    assert_eq!(taken.into_inner().created, 1);
}

/// What was not taken, and how much was, is told; and services have room for all of it, or some are refused.
#[tokio::test]
async fn a_list_that_finds_no_room_is_refused_as_a_whole() {
    let server = Server::ephemeral(&["--max-services", "300"]).await;
    let client = client(&server).await;
    let entries = || (0..600).map(|number| listed(&format!("n-{number}"), None, &[])).collect::<Vec<_>>();
    let status = client.clone().import_applications(list(entries(), true)).await.unwrap_err();
    assert_eq!((status.code(), how_many(&client).await), (Code::InvalidArgument, 0));
    assert!(status.message().contains("the limit max_services of 300 is reached"), "{status:?}");
    let made = client.clone().import_applications(list(entries(), false)).await.unwrap().into_inner();
    assert_eq!(made.created + made.refused, 600);
    assert!(made.created > 290, "{made:?}");
}

#[tokio::test]
async fn lists_that_are_too_long_or_none_at_all() {
    let server = Server::ephemeral(&[]).await;
    let client = client(&server).await;
    let nothing = tokio_stream::iter(Vec::<ImportApplicationsStreamRequest>::new());
    let mut told = client.clone().import_applications_stream(nothing).await.unwrap().into_inner();
    let mut last = None;
    while let Some(step) = told.message().await.unwrap() {
        last = step.result.or(last);
    }
    assert_eq!(last.unwrap().applications, 0);
    let piece =
        ImportApplicationsStreamRequest { applications: vec![listed("x", None, &[]); 25_000], ..Default::default() };
    let endless = tokio_stream::iter(std::iter::repeat_n(piece, 5));
    let mut told = client.clone().import_applications_stream(endless).await.unwrap().into_inner();
    let status = loop {
        match told.message().await {
            Ok(step) => assert!(step.is_some(), "it was taken"),
            Err(status) => break status,
        }
    };
    assert_eq!((status.code(), refusal(&status).1), (Code::ResourceExhausted, "LIMIT".to_owned()));
    let many = list(vec![listed("x", None, &[]); 10_001], false);
    let status = client.clone().import_applications(many).await.unwrap_err();
    assert!(status.code() == Code::InvalidArgument && status.message().contains("applications: must be at most 10000"));
    assert_eq!(how_many(&client).await, 0);
}

fn shop() -> Json {
    json!({
        "serviceTypes": [{"id": "redis", "defaultPort": 6379}],
        "applications": [
            {"id": "shop-www", "ports": [{"service": "nodejs"}], "dependencies": ["shop-api", "cache"]},
            {"id": "shop-api", "ports": [{"service": "play", "external": 7011}, {"service": "redis"}], "dependencies": []},
            {"id": "cache", "ports": [{"service": "redis", "internal": 6380}], "dependencies": []},
        ],
    })
}

#[tokio::test]
async fn in_and_out_by_http() {
    let server = Server::ephemeral(&[]).await;
    let at = "/v1/namespaces/default/catalog";
    let post = format!("POST {at}/import HTTP/1.1\r\nContent-Type: application/json");
    let made = ask(&server, &post, &shop().to_string()).await;
    assert_eq!((made.status, &made.json()["created"]), (200, &"3".into()), "{made:?}");
    let out = ask(&server, &format!("GET {at} HTTP/1.1"), "").await.json();
    let other = Server::ephemeral(&[]).await;
    let list = json!({"serviceTypes": out["serviceTypes"], "applications": out["applications"], "strict": true});
    let made = ask(&other, &post, &list.to_string()).await;
    assert_eq!(made.status, 200, "{made:?}");
    let same = ask(&other, &format!("GET {at} HTTP/1.1"), "").await.json();
    assert_eq!((&same["applications"], &same["serviceTypes"]), (&out["applications"], &out["serviceTypes"]));
    let wrong = json!({"applications": [{"id": "A", "ports": []}], "strict": true}).to_string();
    let refused = ask(&server, &post, &wrong).await;
    assert_eq!((refused.status, refused.json()["violations"].as_array().map(Vec::len)), (400, Some(2)), "{refused:?}");
    for (accept, kind, start) in [
        ("application/yaml", "application/yaml", "- id: cache\n"),
        ("text/vnd.graphviz", "text/vnd.graphviz", "digraph catalog {\n"),
        ("*/*", "application/json", "[{"),
    ] {
        let said = ask(&server, &format!("GET /applications HTTP/1.1\r\nAccept: {accept}"), "").await;
        assert_eq!((said.status, said.header("content-type")), (200, kind), "{said:?}");
        assert!(said.body.starts_with(start), "{said:?}");
    }
    let plain = ask(&server, "GET /applications/yaml HTTP/1.1", "").await;
    let yaml = ask(&server, "GET /applications HTTP/1.1\r\nAccept: application/yaml", "").await;
    assert_eq!((plain.header("content-type"), &plain.body), ("text/plain; charset=utf-8", &yaml.body));
    let filtered = ask(&server, "GET /applications?prefix=shop HTTP/1.1\r\nAccept: application/yaml", "").await;
    assert_eq!(filtered.status, 422);
}

#[tokio::test]
async fn in_and_out_by_the_command() {
    let server = Server::ephemeral(&[]).await;
    let url = server.url();
    let run = async |args: &[&str]| said(&onair(&[args, &["--url", &url]].concat()).await);
    let home = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = home.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (code, _, err) = run(&["app", "import", &file("none.json", "not json")]).await;
    assert!(code == 1 && err.contains("is no list: it is no JSON"), "{err}");
    let missing = Path::new(&file("x", "")).with_file_name("missing").display().to_string();
    assert_eq!(run(&["app", "import", &missing]).await.0, 1);
    let mut mixed = shop();
    let wrong = json!([7, {"id": "Bad Id", "ports": [{"service": "nodejs"}]}]);
    mixed["applications"].as_array_mut().unwrap().splice(0..0, wrong.as_array().unwrap().iter().cloned());
    let mixed = file("mixed.json", &mixed.to_string());
    let (code, out, err) = run(&["app", "import", &mixed, "--strict"]).await;
    assert!(code == 1 && out.contains("applications[0]") && err.contains("nothing was taken"), "{out}{err}");
    let (code, out, err) = run(&["app", "import", &mixed]).await;
    assert!(code == 1 && err.contains("2 entries refused"), "{out}{err}");
    assert!(out.contains("applications[1].id") && out.contains("A valid key would be: badid"), "{out}");
    assert!(out.ends_with("5 applications: 3 created, 0 updated, 0 unchanged, 2 refused\n"), "{out}");
    let bad: Vec<Json> = (0..1_003).map(|number| json!({"id": format!("B {number}"), "ports": []})).collect();
    let (_, out, _) = run(&["app", "import", &file("bad.json", &json!(bad).to_string())]).await;
    assert!(out.contains("applications[999].id") && !out.contains("applications[1000].id"), "{out}");
    assert!(out.contains("\nand 3 entries more, which are not told of\n1,003 applications"), "{out}");
    let (code, list, _) = run(&["app", "export"]).await;
    assert_eq!(code, 0);
    let other = Server::ephemeral(&[]).await;
    let list_file = file("list.json", &list);
    let there = other.url();
    let (code, out, err) = said(&onair(&["app", "import", &list_file, "--strict", "--url", &there]).await);
    assert_eq!((code, out.as_str()), (0, "3 applications: 3 created, 0 updated, 0 unchanged, 0 refused\n"), "{err}");
    let (_, again, _) = said(&onair(&["app", "export", "--url", &there]).await);
    assert_eq!(again, list);
    let (_, yaml, _) = run(&["app", "export", "--format", "yaml"]).await;
    assert!(yaml.starts_with("- id: cache\n  ports:\n  - healthcheck:\n      host: ws\n"), "{yaml}");
    let (_, dot, _) = run(&["app", "export", "--format", "dot"]).await;
    assert!(dot.contains("\"shop-www\" -> \"cache\";\n"), "{dot}");
    let (code, curl, _) = run(&["app", "import", &list_file, "--output", "curl"]).await;
    assert!(code == 0 && curl.contains("/catalog/import"), "{curl}");
}

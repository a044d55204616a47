//! The catalog on real connections: ports by families and blocks, everything that is wrong at once, callers of one
//! instant, what stays after a crash, and the same by HTTP and by the command.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use onair::proto::{
    AddDependencyRequest, Application, CatalogChange, CatalogVersion, CreateApplicationRequest,
    CreateServiceTypeRequest, DeleteApplicationRequest, GetApplicationRequest, GetDependencyReportRequest,
    GetStartOrderRequest, ListApplicationsRequest, ListCatalogVersionsRequest, ListPortsRequest,
    ListServiceTypesRequest, PutApplicationRequest, StartLevel, catalog_client::CatalogClient, catalog_version::Value,
};
use serde_json::{Value as Json, json};
use tonic::{Code, Request, Status, transport::Channel};

use crate::{
    harness::{Http, Server, onair, said},
    input::refusal,
};

type Client = CatalogClient<Channel>;

async fn client(server: &Server) -> Client {
    CatalogClient::new(server.channel().await)
}

fn app(id: &str, service: &str, dependencies: &[&str]) -> CreateApplicationRequest {
    let dependencies = dependencies.iter().map(|id| (*id).to_owned()).collect();
    CreateApplicationRequest { id: id.into(), service: service.into(), dependencies, ..Default::default() }
}

async fn create(client: &Client, request: CreateApplicationRequest) -> Result<Application, Status> {
    Ok(client.clone().create_application(request).await?.into_inner().application.unwrap())
}

async fn put(client: &Client, request: PutApplicationRequest) -> Result<Application, Status> {
    Ok(client.clone().put_application(request).await?.into_inner().application.unwrap())
}

fn ports(application: &Application) -> Vec<(&str, u32, u32)> {
    application.ports.iter().map(|port| (port.service.as_str(), port.external, port.internal)).collect()
}

fn sentences(status: &Status) -> Vec<String> {
    use tonic_types::StatusExt;
    let violations = status.get_details_bad_request().map(|details| details.field_violations).unwrap_or_default();
    violations.into_iter().map(|one| format!("{}: {}", one.field, one.description)).collect()
}

/// db, api that needs it, www that needs that.
async fn shop(client: &Client) {
    for (id, service, dependencies) in
        [("shop-db", "postgresql", &[][..]), ("shop-api", "play", &["shop-db"]), ("shop-www", "nodejs", &["shop-api"])]
    {
        create(client, app(id, service, dependencies)).await.unwrap();
    }
}

#[tokio::test]
async fn ports_dependencies_and_versions_by_the_rules() {
    let server = Server::ephemeral(&[]).await;
    let client = client(&server).await;
    let by_id = ListServiceTypesRequest { sort: "id".into(), ..Default::default() };
    let seeds = client.clone().list_service_types(by_id).await.unwrap().into_inner().service_types;
    let seeds: Vec<_> = seeds.iter().map(|of| (of.id.as_str(), of.default_port, of.offset)).collect();
    assert_eq!(seeds, [("nodejs", 7050, Some(0)), ("play", 9000, Some(1)), ("postgresql", 5432, Some(9))]);
    shop(&client).await;
    assert_eq!(ports(&get(&client, "shop-db").await), [("postgresql", 6019, 5432)]);
    assert_eq!(ports(&get(&client, "shop-api").await), [("play", 6011, 9000)]);
    assert_eq!(ports(&get(&client, "shop-www").await), [("nodejs", 6010, 7050)]);
    let redis = CreateServiceTypeRequest { id: "redis".into(), default_port: Some(6379), ..Default::default() };
    client.clone().create_service_type(redis).await.unwrap();
    let sibling = PutApplicationRequest { id: "shop-api".into(), service: Some("redis".into()), ..Default::default() };
    assert_eq!(ports(&put(&client, sibling.clone()).await.unwrap()), [("play", 6011, 9000), ("redis", 6012, 6379)]);
    let revision = get(&client, "shop-api").await.revision;
    assert_eq!(put(&client, sibling).await.unwrap().revision, revision, "the same again changes nothing");
    assert_eq!(ports(&create(&client, app("blog", "nodejs", &[])).await.unwrap()), [("nodejs", 6020, 7050)]);

    let order = client.clone().get_start_order(GetStartOrderRequest::default()).await.unwrap().into_inner();
    let levels = |levels: Vec<StartLevel>| levels.into_iter().map(|level| level.applications).collect::<Vec<_>>();
    assert_eq!(levels(order.levels), [vec!["blog", "shop-db"], vec!["shop-api"], vec!["shop-www"]]);
    let request = GetDependencyReportRequest { application: "shop-db".into(), ..Default::default() };
    let report = client.clone().get_dependency_report(request).await.unwrap().into_inner();
    assert_eq!((report.applications, report.dependencies, report.depth), (4, 2, 3));
    assert_eq!(levels(report.affected), [["shop-api"], ["shop-www"]]);
    let blocks = client.clone().list_ports(ListPortsRequest::default()).await.unwrap().into_inner().blocks;
    assert_eq!((blocks[0].first, blocks[0].last, blocks[0].ports.len()), (6010, 6019, 4));
    // A part is told in whole blocks, so that what is not told of one is denied.
    let part = ListPortsRequest { first: 6012, last: 6012, ..Default::default() };
    assert_eq!(client.clone().list_ports(part).await.unwrap().into_inner().blocks, blocks[..1]);
    let turned = ListPortsRequest { first: 9, last: 3, ..Default::default() };
    let status = client.clone().list_ports(turned).await.unwrap_err();
    assert_eq!(sentences(&status), ["last: must not be below first, which is 9"]);
    assert_eq!(blocks[0].free, [6013, 6014, 6015, 6016, 6017, 6018]);

    let gone = DeleteApplicationRequest { id: "shop-www".into(), ..Default::default() };
    client.clone().delete_application(gone).await.unwrap();
    let request = ListCatalogVersionsRequest { entries: vec!["shop-www".into()], ..Default::default() };
    let found = client.clone().list_catalog_versions(request).await.unwrap().into_inner();
    let changes: Vec<_> = found.versions.iter().map(CatalogVersion::change).collect();
    assert_eq!(changes, [CatalogChange::Insert, CatalogChange::Delete]);
    assert!(matches!(&found.versions[1].value, Some(Value::Application(last)) if last.ports.len() == 1));
    let request = ListApplicationsRequest { prefix: "shop".into(), sort: "-port".into(), ..Default::default() };
    let found = client.clone().list_applications(request).await.unwrap().into_inner();
    let ids: Vec<_> = found.applications.iter().map(|found| found.id.as_str()).collect();
    assert_eq!((ids, found.total), (vec!["shop-db", "shop-api"], 2));
}

async fn get(client: &Client, id: &str) -> Application {
    let request = GetApplicationRequest { id: id.into(), ..Default::default() };
    client.clone().get_application(request).await.unwrap().into_inner().application.unwrap()
}

#[tokio::test]
async fn everything_that_is_wrong_is_told_at_once() {
    let server = Server::ephemeral(&[]).await;
    let client = client(&server).await;
    shop(&client).await;
    let wrong = CreateApplicationRequest {
        external: Some(6019),
        internal: Some(0),
        ..app("Shop Admin", "cobol", &["gone", "Shop Admin"])
    };
    let status = create(&client, wrong).await.unwrap_err();
    assert_eq!((status.code(), refusal(&status).1), (Code::InvalidArgument, "INVALID".to_owned()));
    assert_eq!(
        sentences(&status),
        [
            "id: Key must be in all lower case and contain alphanumerics only (-, _, and . are supported). A valid key \
             would be: shopadmin",
            "service: Service not found",
            "dependencies[0]: Dependency[gone] references a non existing application",
            "dependencies[1]: Cannot declare dependency[Shop Admin] on self",
            "external: External port 6019 is already assigned to the application shop-db",
            "internal: Internal port must be > 0",
        ]
    );
    let wrong = PutApplicationRequest {
        namespace: "*".into(),
        id: "x".into(),
        dependencies: vec!["gone".into()],
        no_dependencies: true,
        ..Default::default()
    };
    let fields: Vec<String> = sentences(&put(&client, wrong).await.unwrap_err());
    let fields: Vec<&str> = fields.iter().filter_map(|one| one.split(':').next()).collect();
    assert_eq!(fields, ["namespace", "no_dependencies", "id", "service", "dependencies[0]"]);
    let status = create(&client, app("shop-db", "nodejs", &[])).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::AlreadyExists, "Application with this id already exists"));
    let circle = AddDependencyRequest { id: "shop-db".into(), dependency: "shop-www".into(), ..Default::default() };
    let status = client.clone().add_dependency(circle).await.unwrap_err();
    let circular = ["dependency: Application[shop-db] Cannot declare a circular dependency on[shop-www]"];
    assert_eq!((status.code(), sentences(&status)), (Code::InvalidArgument, circular.map(str::to_owned).to_vec()));
    let gone = DeleteApplicationRequest { id: "shop-db".into(), ..Default::default() };
    let status = client.clone().delete_application(gone.clone()).await.unwrap_err();
    assert_eq!((status.code(), refusal(&status).1), (Code::FailedPrecondition, "IN_USE".to_owned()));
    let stale = DeleteApplicationRequest { id: "shop-www".into(), expected_revision: 1, ..Default::default() };
    let status = client.clone().delete_application(stale).await.unwrap_err();
    assert_eq!((status.code(), refusal(&status).1), (Code::Aborted, "STALE_REVISION".to_owned()));
    let missing = DeleteApplicationRequest { id: "gone".into(), ..gone };
    assert_eq!(client.clone().delete_application(missing).await.unwrap_err().code(), Code::NotFound);
}

/// 64 callers of one instant: each has its own port, and together they have what one after the other would.
#[tokio::test]
async fn callers_of_one_instant_get_a_port_each_and_leave_no_gap() {
    let mut server = Server::start(&[]).await;
    let client = client(&server).await;
    let plain = CreateServiceTypeRequest { id: "plain".into(), default_port: Some(4000), ..Default::default() };
    client.clone().create_service_type(plain).await.unwrap();
    let calls = (0..64).map(|number| create(&client, app(&format!("shop-{number}"), "plain", &[])));
    let made: Vec<Application> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
    let given: BTreeSet<u32> = made.iter().map(|application| application.ports[0].external).collect();
    // Seven of a block, the blocks one after the other, without the one that ends in 00.
    let wanted: BTreeSet<u32> = (0..63).map(|number| 6012 + number / 7 * 10 + number % 7).chain([6112]).collect();
    assert_eq!(given, wanted);
    // Of those who want the same id at one instant, one gets it.
    let same = join_all((0..16).map(|_| create(&client, app("same", "plain", &[])))).await;
    let lost: Vec<Code> = same.iter().filter_map(|one| one.as_ref().err().map(Status::code)).collect();
    assert_eq!(lost, [Code::AlreadyExists; 15]);
    // What was answered is there after a crash, and what comes then goes on above it.
    server.kill().await;
    server.again().await;
    let client = self::client(&server).await;
    for application in &made {
        assert_eq!(get(&client, &application.id).await, *application);
    }
    assert_eq!(create(&client, app("other", "plain", &[])).await.unwrap().ports[0].external, 6132);
    let versions = ListCatalogVersionsRequest { sort: "-timestamp".into(), limit: 1, ..Default::default() };
    let versions = client.clone().list_catalog_versions(versions).await.unwrap().into_inner();
    // Three seeds, a type, 64 applications, and two more.
    assert_eq!((versions.total, versions.versions[0].id), (70, 70));
}

/// Killed again and again while applications are made: what was answered is there, and the versions tell all that is.
#[tokio::test]
async fn kill_9_while_applications_are_made_loses_no_answer() {
    let mut server = Server::start(&[]).await;
    let plain = CreateServiceTypeRequest { id: "plain".into(), default_port: Some(4000), ..Default::default() };
    client(&server).await.create_service_type(plain).await.unwrap();
    let mut answered: Vec<Application> = Vec::new();
    for round in 0..4 {
        let client = client(&server).await;
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        for caller in 0..16 {
            let (client, tell) = (client.clone(), tell.clone());
            tokio::spawn(async move {
                for number in 0..1_000 {
                    let made = create(&client, app(&format!("r{round}-{caller}-{number}"), "plain", &[])).await;
                    let Ok(made) = made else { return };
                    tell.send(made).unwrap();
                }
            });
        }
        drop(tell);
        for _ in 0..100 {
            answered.push(told.recv().await.unwrap());
        }
        server.kill().await;
        while let Some(made) = told.recv().await {
            answered.push(made);
        }
        server.again().await;
    }
    let client = client(&server).await;
    let mut all = BTreeMap::new();
    loop {
        let request = ListApplicationsRequest {
            sort: "created_at".into(),
            limit: 100,
            offset: u32::try_from(all.len()).unwrap(),
            ..Default::default()
        };
        let page = client.clone().list_applications(request).await.unwrap().into_inner();
        if page.applications.is_empty() {
            assert_eq!(page.total, all.len() as u64);
            break;
        }
        all.extend(page.applications.into_iter().map(|made| (made.id.clone(), made)));
    }
    assert!(answered.len() >= 400 && answered.iter().all(|made| all.get(&made.id) == Some(made)));
    let given: BTreeSet<u32> = all.values().map(|made| made.ports[0].external).collect();
    assert_eq!(given.len(), all.len(), "a port each");
    let last = ListCatalogVersionsRequest { sort: "-timestamp".into(), limit: 1, ..Default::default() };
    let versions = client.clone().list_catalog_versions(last).await.unwrap().into_inner();
    // Three seeds and a type, too.
    assert_eq!((versions.total, versions.versions[0].id), (all.len() as u64 + 4, all.len() as u64 + 4));
}

#[tokio::test]
async fn a_full_catalog_says_so_and_loses_nothing() {
    let server = Server::ephemeral(&["--catalog-ceiling", "6019"]).await;
    let client = client(&server).await;
    create(&client, app("aa", "nodejs", &[])).await.unwrap();
    let status = create(&client, app("bb", "nodejs", &[])).await.unwrap_err();
    assert_eq!((status.code(), refusal(&status).1), (Code::ResourceExhausted, "LIMIT".to_owned()));
    assert!(status.message().contains("catalog_ceiling of 6019"), "{status:?}");
    create(&client, app("aa-db", "postgresql", &[])).await.unwrap();
    let all = client.clone().list_applications(ListApplicationsRequest::default()).await.unwrap().into_inner();
    assert_eq!(all.total, 2);
}

#[tokio::test]
async fn settings_that_do_not_go_with_what_is_stored_are_refused() {
    let server = Server::start(&["--catalog-block-size", "20"]).await;
    let client = client(&server).await;
    let wide = CreateServiceTypeRequest {
        id: "wide".into(),
        default_port: Some(4000),
        offset: Some(15),
        ..Default::default()
    };
    client.clone().create_service_type(wide).await.unwrap();
    let data = server.data_dir().display().to_string();
    server.terminate();
    let mut server = server;
    server.ended().await;
    let (code, _, log) = said(&onair(&["serve", "--listen", "127.0.0.1:0", "--data-dir", &data]).await);
    assert_ne!(code, 0);
    assert!(log.contains("in default, the service type wide has the offset 15, beyond a block of 10"), "{log}");
    let (_, _, log) = said(&onair(&["serve", "--ephemeral", "--catalog-floor", "6001"]).await);
    assert!(log.contains("catalog_floor: must be a multiple of the block size 10, not 6001"), "{log}");
}

async fn ask(server: &Server, request: &str, body: Option<Json>) -> (u16, Json) {
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    let text = format!(
        "{request} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let said = Http::connect(server.address()).await.ask(text).await;
    (said.status, said.json())
}

#[tokio::test]
async fn the_same_by_http_and_by_the_command() {
    let server = Server::ephemeral(&[]).await;
    let at = "/v1/namespaces/default/applications";
    let (status, made) =
        ask(&server, &format!("POST {at}"), Some(json!({"id": "shop-db", "service": "postgresql"}))).await;
    assert_eq!((status, &made["application"]["ports"][0]["external"]), (200, &6019.into()), "{made}");
    let more = json!({"service": "nodejs", "dependencies": ["shop-db"]});
    let (status, made) = ask(&server, &format!("PUT {at}/shop-www"), Some(more)).await;
    assert_eq!(
        (status, &made["application"]["dependencies"], &made["created"]),
        (200, &json!(["shop-db"]), &true.into())
    );
    let (status, refused) = ask(&server, &format!("POST {at}"), Some(json!({"id": "A"}))).await;
    let told: Vec<&str> =
        refused["violations"].as_array().unwrap().iter().filter_map(|one| one["description"].as_str()).collect();
    let wanted = ["Key must be at least 2 characters", "Must specify service when creating application"];
    assert_eq!((status, told), (400, wanted.to_vec()), "{refused}");
    let (status, found) = ask(&server, &format!("GET {at}?prefix=shop&sort=port"), None).await;
    assert_eq!((status, &found["applications"][0]["id"]), (200, &"shop-www".into()), "{found}");

    let url = server.url();
    let run = async |args: &[&str]| said(&onair(&[args, &["--url", &url]].concat()).await);
    let (code, out, err) = run(&["app", "create", "shop-api", "--service", "play", "--depends-on", "shop-db"]).await;
    assert_eq!((code, out.contains("play:6011->9000")), (0, true), "{out}{err}");
    let (code, out, err) = run(&["app", "depend", "shop-www", "shop-api"]).await;
    assert_eq!((code, out.contains("shop-db shop-api")), (0, true), "{out}{err}");
    let (code, out, _) = run(&["start-order", "shop-www"]).await;
    let lines: Vec<Vec<&str>> = out.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((code, lines), (0, vec![vec!["1", "shop-db"], vec!["2", "shop-api"], vec!["3", "shop-www"]]), "{out}");
    let (code, out, _) = run(&["ports"]).await;
    assert_eq!((code, out.lines().count(), out.contains("6012 6013")), (0, 4, true), "{out}");
    let (code, out, _) = run(&["app", "versions", "shop-www"]).await;
    assert_eq!((code, out.contains("insert"), out.contains("update")), (0, true, true), "{out}");
    let (code, _, err) = run(&["app", "delete", "shop-db"]).await;
    assert!(code != 0 && err.contains("1 or more applications depend on this application"), "{err}");
    let (code, out, _) = run(&["app", "delete", "shop-www"]).await;
    assert_eq!((code, out.trim()), (0, "shop-www is gone"));
    let (code, out, _) = run(&["service-type", "put", "redis", "--default-port", "6379"]).await;
    assert_eq!((code, out.contains("6379")), (0, true), "{out}");
    let (code, out, _) = run(&["app", "report", "shop-db"]).await;
    assert_eq!((code, out.contains("without shop-db, 1")), (0, true), "{out}");
    let mut client = client(&server).await;
    let all = client.list_applications(Request::new(ListApplicationsRequest::default())).await.unwrap().into_inner();
    assert_eq!(all.total, 2);
}

async fn ask_as_before(server: &Server, request: &str, kind: &str, body: &str) -> (u16, String) {
    let length = body.len();
    let head =
        format!("{request} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n");
    let said = Http::connect(server.address()).await.ask(head + body).await;
    (said.status, said.body)
}

/// What clients of the registry that went before send, and what they are answered.
#[tokio::test]
async fn the_routes_of_before() {
    const FORM: &str = "application/x-www-form-urlencoded";
    let server = Server::ephemeral(&[]).await;
    let form = async |request: &str, body: &str| {
        let (status, body) = ask_as_before(&server, request, FORM, body).await;
        (status, serde_json::from_str::<Json>(&body).unwrap_or_default())
    };
    let www = json!({
        "id": "www",
        "ports": [{"service": {"id": "nodejs"}, "external": 6010, "internal": 7050}],
        "dependencies": [],
    });
    assert_eq!(form("POST /applications", "id=www&service=nodejs").await, (201, www.clone()));
    let refused = |messages: &[&str]| (422, json!({"code": "generic_error", "messages": messages}));
    let wrong = "id=A&service=cobol&external=80&internal=x";
    let all = [
        "Key must be at least 2 characters",
        "Service not found",
        "External port must be > 1024",
        "Internal port must be a number",
    ];
    assert_eq!(form("POST /applications", wrong).await, refused(&all));
    let all = ["sort must be created_at, id or port, with or without - before it", "Offset must be a number"];
    assert_eq!(form("GET /applications?sort=age&offset=x", "").await, refused(&all));
    let wrong = form("POST /applications", "id=A&service=cobol&external=80&internal=-1&dependency=gone").await;
    let all = [
        "Key must be at least 2 characters",
        "Service not found",
        "Dependency[gone] references a non existing application",
        "External port must be > 1024",
        "Internal port must be > 0",
    ];
    assert_eq!(wrong, refused(&all));
    let taken = form("POST /applications", "id=www&service=nodejs").await;
    assert_eq!(taken, refused(&["Application with this id already exists"]));
    assert_eq!(form("PUT /applications/api", "").await, refused(&["Must specify service when creating application"]));
    let api = json!({"service": "play", "dependency": ["www"]}).to_string();
    assert_eq!(ask_as_before(&server, "PUT /applications/api", "application/json", &api).await.0, 201);
    assert_eq!(form("PUT /applications/api", "service=play").await.1["ports"][0]["external"], 6021);
    assert_eq!(form("PUT /applications/api", "service=play").await.0, 200);
    let circle = form("PUT /applications/www/dependencies/api", "").await;
    assert_eq!(circle, refused(&["Application[www] Cannot declare a circular dependency on[api]"]));
    let missing = form("PUT /applications/www/dependencies/gone", "").await;
    assert_eq!(missing, refused(&["Application named[gone] not found"]));
    assert_eq!(form("DELETE /applications/api/dependencies/www", "").await.1["dependencies"], json!([]));
    let used = form("DELETE /services/play", "").await;
    assert_eq!(used, refused(&["1 or more applications is using this service"]));
    assert_eq!(form("GET /applications?service=nodejs&sort=port", "").await, (200, json!([www])));
    assert_eq!(form("GET /applications?limit=101", "").await, refused(&["limit must be 1 to 100, not 101"]));
    assert_eq!(form("GET /applications?limit=0", "").await.0, 422);
    assert_eq!(ask_as_before(&server, "POST /applications", "text/xml", "<a/>").await.0, 415);
    assert_eq!(form("GET /applications/gone", "").await, (404, Json::Null));
    let redis = json!({"id": "redis", "default_port": 6379});
    assert_eq!(form("POST /services", "id=redis&default_port=6379").await, (201, redis.clone()));
    assert_eq!(form("GET /services/redis", "").await, (200, redis));
    assert_eq!(form("DELETE /applications/www", "").await, (204, Json::Null));
    let (_, versions) = form("GET /applications/versions?application=www", "").await;
    let kinds: Vec<&str> = versions.as_array().unwrap().iter().filter_map(|one| one["type"].as_str()).collect();
    assert_eq!((kinds, &versions[1]["application"]["id"]), (vec!["insert", "delete"], &"www".into()));
    let (status, yaml) = ask_as_before(&server, "GET /applications/yaml", FORM, "").await;
    assert!(status == 200 && yaml.starts_with("- id: api\n  ports:\n  - healthcheck:\n"), "{yaml}");
}

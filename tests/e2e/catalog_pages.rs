//! Lists of the catalog page by page: behind what was told, whatever is made meanwhile, and never larger than a client
//! takes.

use onair::proto::{
    CreateApplicationRequest, ImportApplicationsRequest, ListApplicationsRequest, ListApplicationsResponse,
    ListCatalogVersionsRequest, ListedApplication, ListedPort, catalog_client::CatalogClient,
};
use serde_json::Value as Json;
use tonic::{Code, Status, transport::Channel};

use crate::{
    harness::{Http, Server, onair, said},
    input::refusal,
};

type Client = CatalogClient<Channel>;

fn listed(id: String, dependencies: Vec<String>) -> ListedApplication {
    let ports = vec![ListedPort { service: "nodejs".into(), ..Default::default() }];
    ListedApplication { id, ports, dependencies, ..Default::default() }
}

async fn import(client: &Client, applications: Vec<ListedApplication>) {
    let request = ImportApplicationsRequest { applications, strict: true, ..Default::default() };
    client.clone().import_applications(request).await.unwrap();
}

async fn list(client: &Client, request: ListApplicationsRequest) -> Result<ListApplicationsResponse, Status> {
    client.clone().list_applications(request).await.map(tonic::Response::into_inner)
}

async fn get(server: &Server, path: &str) -> Json {
    let text = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    Http::connect(server.address()).await.ask(text).await.json()
}

fn ids(page: &ListApplicationsResponse) -> Vec<&str> {
    page.applications.iter().map(|of| of.id.as_str()).collect()
}

#[tokio::test]
async fn a_page_begins_behind_the_one_before() {
    let server = Server::ephemeral(&[]).await;
    let client = CatalogClient::new(server.channel().await);
    import(&client, ["a", "b", "c", "d"].map(|id| listed(format!("{id}-app"), Vec::new())).into()).await;
    let request = ListApplicationsRequest { limit: 2, ..Default::default() };
    let first = list(&client, request.clone()).await.unwrap();
    // What is made now would move what an offset counts.
    let made = CreateApplicationRequest { id: "newer".into(), service: "play".into(), ..Default::default() };
    client.clone().create_application(made).await.unwrap();
    let next = ListApplicationsRequest { page_token: first.next_page_token.clone(), ..request.clone() };
    let second = list(&client, next.clone()).await.unwrap();
    assert_eq!((first.total, ids(&first)), (4, vec!["d-app", "c-app"]));
    assert_eq!((second.total, ids(&second), second.next_page_token.as_str()), (0, vec!["b-app", "a-app"], ""));

    let sentence = "is not one that this server gave for a list in this order";
    let wrong = ListApplicationsRequest { offset: 1, sort: "port".into(), limit: 101, ..next };
    let refused = list(&client, wrong).await.unwrap_err();
    assert_eq!((refused.code(), refusal(&refused).1.as_str()), (Code::InvalidArgument, "INVALID"));
    for told in ["limit: must be 1 to 100", "page_token: must not be given together with offset", sentence] {
        assert!(refused.message().contains(told), "{refused:?}");
    }
    let path = format!("/v1/namespaces/default/applications?limit=2&pageToken={}", first.next_page_token);
    let told = get(&server, &path).await;
    assert_eq!(told["applications"][1]["id"], "a-app", "{told}");
}

#[tokio::test]
async fn what_is_large_is_told_in_more_pages() {
    const LARGE: usize = 24;
    let server = Server::ephemeral(&[]).await;
    let client = CatalogClient::new(server.channel().await);
    let needed: Vec<String> = (0..1_000).map(|number| format!("{number:0>200}")).collect();
    import(&client, needed.iter().map(|id| listed(id.clone(), Vec::new())).collect()).await;
    for number in 0..LARGE {
        import(&client, vec![listed(format!("large-{number:02}"), needed.clone())]).await;
    }
    let mut request =
        ListApplicationsRequest { prefix: "large".into(), sort: "id".into(), limit: 100, ..Default::default() };
    let mut told = Vec::new();
    loop {
        // What a client takes by default is less than all of it.
        let page = list(&client, request.clone()).await.unwrap();
        assert!(prost::Message::encoded_len(&page) < 1_200_000);
        told.extend(page.applications.into_iter().map(|of| of.id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let wanted: Vec<String> = (0..LARGE).map(|number| format!("large-{number:02}")).collect();
    assert_eq!(told, wanted);
    let mut versions = ListCatalogVersionsRequest { entries: told, limit: 100, ..Default::default() };
    let mut count = 0;
    loop {
        let page = client.clone().list_catalog_versions(versions.clone()).await.unwrap().into_inner();
        count += page.versions.len();
        if page.next_page_token.is_empty() {
            break;
        }
        versions.page_token = page.next_page_token;
    }
    assert_eq!(count, LARGE);
    // Where there are no tokens, a page has all that were asked for.
    for (path, wanted) in [("?prefix=large&limit=20", 20), ("/versions?limit=100&sort=-timestamp", 100)] {
        let all = get(&server, &format!("/applications{path}")).await;
        assert_eq!(all.as_array().unwrap().len(), wanted, "{path}");
    }
    let command = ["app", "list", "large", "--output", "json", "--url", &server.url()];
    let (code, out, err) = said(&onair(&command).await);
    assert_eq!((code, out.lines().count()), (0, LARGE), "{err}");
}

//! Lists by limit and offset, as these routes have them: always as many as were asked for, also where a page of the
//! catalog ends before.

use axum::{body::Body, extract::Request, response::Response};
use http::StatusCode;
use prost::Message;
use serde_json::Value;

use super::{
    Catalog, answered, body_of,
    form::{Fields, Read},
    shapes,
};
use crate::proto::*;

/// How many there are on a page unless asked otherwise, as the catalog has it.
const LIMIT: u32 = 25;

/// A request for a list.
pub(super) trait List: Message {
    /// What it is called.
    const METHOD: &'static str;
    /// Its answer.
    type Page: Message + Default;

    /// Turns it to what comes after a page, and gives what that shows; false: nothing comes after it.
    fn turn(&mut self, page: Self::Page) -> (Vec<Value>, bool);
}

/// Goes on behind what was found.
fn turned(limit: &mut u32, offset: &mut u32, page_token: &mut String, found: usize, next: String) -> bool {
    let asked = if *limit == 0 { LIMIT } else { *limit };
    *limit = asked.saturating_sub(u32::try_from(found).unwrap_or(u32::MAX));
    *offset = 0;
    *page_token = next;
    *limit > 0 && !page_token.is_empty()
}

impl List for ListApplicationsRequest {
    type Page = ListApplicationsResponse;
    const METHOD: &'static str = "ListApplications";

    fn turn(&mut self, page: Self::Page) -> (Vec<Value>, bool) {
        let Self { limit, offset, page_token, .. } = self;
        let goes_on = turned(limit, offset, page_token, page.applications.len(), page.next_page_token);
        (page.applications.iter().map(shapes::application).collect(), goes_on)
    }
}

impl List for ListServiceTypesRequest {
    type Page = ListServiceTypesResponse;
    const METHOD: &'static str = "ListServiceTypes";

    fn turn(&mut self, page: Self::Page) -> (Vec<Value>, bool) {
        let Self { limit, offset, page_token, .. } = self;
        let goes_on = turned(limit, offset, page_token, page.service_types.len(), page.next_page_token);
        (page.service_types.iter().map(shapes::service).collect(), goes_on)
    }
}

impl List for ListCatalogVersionsRequest {
    type Page = ListCatalogVersionsResponse;
    const METHOD: &'static str = "ListCatalogVersions";

    fn turn(&mut self, page: Self::Page) -> (Vec<Value>, bool) {
        let Self { limit, offset, page_token, .. } = self;
        let goes_on = turned(limit, offset, page_token, page.versions.len(), page.next_page_token);
        (page.versions.iter().map(shapes::version).collect(), goes_on)
    }
}

/// The answer to a request for a list, read from the variables of its query.
pub(super) async fn answer<Q: List>(
    catalog: &Catalog,
    request: Request,
    read: impl FnOnce(Fields) -> Read<Q>,
) -> Response<Body> {
    let (parts, _) = request.into_parts();
    let whole = async {
        let Read { request: mut wanted, mut faults } = read(Fields::of_query(&parts.uri)?);
        let mut all = Vec::new();
        loop {
            // Every page is a call of the same caller.
            let page = catalog.call(&mut parts.clone(), Q::METHOD, &wanted).await;
            let page = std::mem::take(&mut faults).told(page)?;
            let (mut found, goes_on) = wanted.turn(page);
            all.append(&mut found);
            if !goes_on {
                return Ok(body_of(StatusCode::OK, &Value::Array(all)));
            }
        }
    };
    answered(whole.await)
}

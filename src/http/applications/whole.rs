//! The whole catalog as one text: asked for and sent page by page, so that it may be as long as it likes.

use std::sync::Arc;

use axum::{body::Body, response::Response};
use futures_util::stream;
use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE, request::Parts};
use tokio::task::yield_now;
use tonic::Status;

use super::{Answer, Catalog};
use crate::{
    export,
    grpc::status::{self, Reason},
    http::negotiate,
    proto::{ListCatalogRequest, ListCatalogResponse},
    registry::Error,
};

/// What the text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// YAML, as plain text: what the path for it always answered.
    Plain,
    /// YAML.
    Yaml,
    /// The graph, for Graphviz.
    Dot,
}

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const DOT: &str = "text/vnd.graphviz";

impl Form {
    /// What the client would rather have than JSON.
    pub(super) fn wanted(headers: &HeaderMap) -> Option<Self> {
        match negotiate::accepted(headers, &[JSON, YAML, DOT]) {
            Ok(YAML) => Some(Self::Yaml),
            Ok(DOT) => Some(Self::Dot),
            // Clients of before say whatever they like, and get JSON.
            Ok(_) | Err(_) => None,
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::Plain => "text/plain; charset=utf-8",
            Self::Yaml => YAML,
            Self::Dot => DOT,
        }
    }

    /// A page as a part of the text.
    fn part(self, page: &ListCatalogResponse, is_first: bool) -> Result<String, Status> {
        let is_last = page.next_page_token.is_empty();
        match self {
            Self::Plain | Self::Yaml if page.applications.is_empty() && !is_first => Ok(String::new()),
            Self::Plain | Self::Yaml => {
                export::yaml(&page.applications).map_err(|error| status::plain(Reason::Internal, error))
            }
            Self::Dot => {
                let head = if is_first { export::DOT_HEAD } else { "" };
                let end = if is_last { export::DOT_END } else { "" };
                Ok(format!("{head}{}{end}", export::dot_part(&page.applications)))
            }
        }
    }
}

/// A text that is not at its end: who is asked, for whom, and from where on.
struct Rest {
    catalog: Arc<Catalog>,
    parts: Parts,
    page_token: String,
    form: Form,
}

impl Rest {
    async fn next(&mut self, is_first: bool) -> Result<String, Status> {
        let page_token = std::mem::take(&mut self.page_token);
        let request = ListCatalogRequest { page_token, ..ListCatalogRequest::default() };
        // Every page is a call of the same caller.
        let mut parts = self.parts.clone();
        let page: ListCatalogResponse = self.catalog.call(&mut parts, "ListCatalog", &request).await?;
        let part = self.form.part(&page, is_first)?;
        self.page_token = page.next_page_token;
        Ok(part)
    }
}

/// Answers with the whole catalog.
pub(super) async fn answer(catalog: Arc<Catalog>, parts: Parts, form: Form) -> Answer {
    if form != Form::Plain && parts.uri.query().is_some_and(|query| !query.is_empty()) {
        let sentence = "the whole catalog has no filters; lists of JSON have";
        return Err(Error::invalid("", sentence).into());
    }
    let mut rest = Rest { catalog, parts, page_token: String::new(), form };
    let first = rest.next(true).await?;
    let texts = stream::unfold((Some(first), rest), |(text, mut rest)| async move {
        match text {
            Some(text) => Some((Ok::<_, Status>(text), (None, rest))),
            None if rest.page_token.is_empty() => None,
            None => {
                // A page in process never waits: the sockets have their turn between two of them.
                yield_now().await;
                Some((rest.next(false).await, (None, rest)))
            }
        }
    });
    let mut response = Response::new(Body::from_stream(texts));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(form.kind()));
    Ok(response)
}

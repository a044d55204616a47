//! What the catalog has, as responses say it.

use std::sync::Arc;

use tonic::{Response, Status};

use crate::{
    actor::CatalogPage,
    grpc::status::{self, Reason},
    proto::{
        self, ApplicationPort, CatalogChange, CatalogVersion, GetDependencyReportResponse, ListCatalogResponse,
        ListedApplication, ListedPort, ListedServiceType, PortBlock, PortInUse, StartLevel, catalog_version,
    },
    registry::catalog::{Application, Block, Book, Cycle, Entry, Recorded, ServiceType, Shape, Version, VersionChange},
};

/// How large an answer without pages may be: what clients take unless they are told otherwise.
pub const REPLY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// An answer, unless it is larger than clients take.
pub(super) fn bounded<R: prost::Message>(response: R, narrower: &str) -> Result<Response<R>, Status> {
    let bytes = response.encoded_len();
    if bytes <= REPLY_BYTES_MAX { Ok(Response::new(response)) } else { Err(status::reply_too_large(bytes, narrower)) }
}

fn service_type_of(namespace: &str, value: &ServiceType) -> proto::ServiceType {
    proto::ServiceType {
        namespace: namespace.to_owned(),
        id: value.id.to_string(),
        default_port: value.default_port.into(),
        offset: value.offset.map(Into::into),
        ..proto::ServiceType::default()
    }
}

pub(super) fn service_type(namespace: &str, entry: &Entry<ServiceType>) -> proto::ServiceType {
    let touched = entry.document.revision != 0;
    proto::ServiceType {
        revision: entry.document.revision,
        created_at: touched.then_some(entry.created_at),
        updated_at: touched.then_some(entry.updated_at),
        ..service_type_of(namespace, &entry.value)
    }
}

fn application_of(namespace: &str, value: &Application) -> proto::Application {
    let port = |port: &crate::registry::catalog::Port| ApplicationPort {
        service: port.service.to_string(),
        external: port.external.into(),
        internal: port.internal.into(),
    };
    proto::Application {
        namespace: namespace.to_owned(),
        id: value.id.to_string(),
        ports: value.ports.iter().map(port).collect(),
        dependencies: value.dependencies.iter().map(ToString::to_string).collect(),
        ..proto::Application::default()
    }
}

pub(in crate::grpc) fn application(namespace: &str, entry: &Entry<Application>) -> proto::Application {
    proto::Application {
        revision: entry.document.revision,
        created_at: Some(entry.created_at),
        updated_at: Some(entry.updated_at),
        ..application_of(namespace, &entry.value)
    }
}

pub(super) fn version(namespace: &str, version: &Version) -> CatalogVersion {
    let change = match version.change {
        VersionChange::Insert => CatalogChange::Insert,
        VersionChange::Update => CatalogChange::Update,
        VersionChange::Delete => CatalogChange::Delete,
    };
    let value = match &version.value {
        Recorded::ServiceType(value) => catalog_version::Value::ServiceType(service_type_of(namespace, value)),
        Recorded::Application(value) => catalog_version::Value::Application(application_of(namespace, value)),
    };
    CatalogVersion {
        id: version.number,
        at: Some(version.at),
        change: change.into(),
        value: Some(value),
        revision: version.revision,
    }
}

pub(super) fn levels(levels: Vec<Vec<smol_str::SmolStr>>) -> Vec<StartLevel> {
    let level =
        |level: Vec<smol_str::SmolStr>| StartLevel { applications: level.into_iter().map(Into::into).collect() };
    levels.into_iter().map(level).collect()
}

/// No change of the catalog closes a cycle.
pub(super) fn cycle(Cycle(cycle): Cycle) -> Status {
    status::plain(Reason::Internal, format!("the catalog has a cycle of {} applications", cycle.len()))
}

pub(super) fn report(
    shape: Shape,
    affected: Vec<StartLevel>,
    revision: u64,
    numbers_only: bool,
) -> GetDependencyReportResponse {
    let texts = |ids: Vec<smol_str::SmolStr>| {
        if numbers_only { Vec::new() } else { ids.into_iter().map(Into::into).collect() }
    };
    GetDependencyReportResponse {
        applications: shape.applications as u64,
        dependencies: shape.dependencies as u64,
        roots: texts(shape.roots),
        leaves: texts(shape.leaves),
        depth: shape.depth as u64,
        affected,
        revision,
    }
}

pub(super) fn block(book: &Book, block: Block) -> PortBlock {
    let used = |(external, owner): (u16, smol_str::SmolStr)| {
        let entry = book.applications().get(&owner);
        let port = entry.and_then(|entry| entry.value.ports.iter().find(|port| port.external == external));
        PortInUse {
            external: external.into(),
            application: owner.into(),
            service: port.map(|port| port.service.to_string()).unwrap_or_default(),
            internal: port.map_or(0, |port| port.internal.into()),
        }
    };
    PortBlock {
        first: block.first.into(),
        last: block.last.into(),
        ports: block.used.into_iter().map(used).collect(),
        free: block.free.into_iter().map(Into::into).collect(),
    }
}

pub(super) fn page_of_catalog(page: CatalogPage) -> ListCatalogResponse {
    let service_type = |of: &Arc<Entry<ServiceType>>| ListedServiceType {
        id: of.value.id.to_string(),
        default_port: Some(of.value.default_port.into()),
        offset: of.value.offset.map(Into::into),
    };
    let port = |port: &crate::registry::catalog::Port| ListedPort {
        service: port.service.to_string(),
        external: Some(port.external.into()),
        internal: Some(port.internal.into()),
    };
    let application = |of: &Arc<Entry<Application>>| ListedApplication {
        id: of.value.id.to_string(),
        ports: of.value.ports.iter().map(port).collect(),
        dependencies: of.value.dependencies.iter().map(ToString::to_string).collect(),
        no_dependencies: of.value.dependencies.is_empty(),
    };
    ListCatalogResponse {
        service_types: page.types.iter().map(service_type).collect(),
        applications: page.applications.iter().map(application).collect(),
        next_page_token: page.next_page_token,
        revision: page.revision,
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::grpc::status::Reason;

    #[test]
    fn an_answer_is_as_large_as_clients_take() {
        let order = |count: usize| proto::GetStartOrderResponse {
            levels: vec![StartLevel { applications: vec!["x".repeat(250); count] }],
            revision: 1,
        };
        assert!(bounded(order(16_000), "").is_ok());
        let refused = bounded(order(17_000), "ask for some applications").unwrap_err();
        assert_eq!((refused.code(), status::reason_of(&refused)), (Code::ResourceExhausted, Reason::TooLarge));
        let told = "the answer would have 4301007 bytes, more than 4194304: ask for some applications";
        assert_eq!(refused.message(), told);
    }
}

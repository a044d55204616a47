//! What is online of what is declared, as responses say it.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use smol_str::SmolStr;
use tokio_stream::Stream;
use tonic::Status;

use crate::{
    actor::{CatalogList, Standings},
    proto::{
        ApplicationState, ApplicationStatus, GetCatalogStatusResponse, PortStatus, UnexpectedInstance,
        WaitReadyResponse,
    },
    registry::{
        Record,
        catalog::{Standing, Stood},
    },
    watch::{Progress, ReadyWatch},
};

/// The replies to who waits.
#[derive(Debug)]
pub struct ReadyReplies(pub(super) ReadyWatch);

impl Stream for ReadyReplies {
    type Item = Result<WaitReadyResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let told = Pin::new(&mut self.0).poll_next(context);
        told.map(|told| told.map(|told| told.map(progress).map_err(Status::from)))
    }
}

fn number(count: impl TryInto<u32>) -> u32 {
    count.try_into().unwrap_or(u32::MAX)
}

fn progress(Progress { online, offline, ready, total, revision }: Progress) -> WaitReadyResponse {
    let texts = |names: Vec<SmolStr>| names.into_iter().map(Into::into).collect();
    WaitReadyResponse {
        online: texts(online),
        offline: texts(offline),
        ready: number(ready),
        total: number(total),
        revision,
    }
}

/// How a request names a standing.
pub(super) fn standing(state: ApplicationState) -> Option<Standing> {
    match state {
        ApplicationState::Unspecified => None,
        ApplicationState::Online => Some(Standing::Online),
        ApplicationState::Missing => Some(Standing::Missing),
        ApplicationState::UnexpectedPort => Some(Standing::UnexpectedPort),
    }
}

pub(super) fn standings(Standings { listed, tally }: Standings) -> GetCatalogStatusResponse {
    let CatalogList { found, total, next_page_token, revision } = listed;
    GetCatalogStatusResponse {
        applications: found.into_iter().map(stood).collect(),
        total,
        online: tally.online,
        missing: tally.missing,
        unexpected_port: tally.unexpected,
        revision,
        next_page_token,
    }
}

fn stood(stood: Stood) -> ApplicationStatus {
    let application = &stood.entry.value;
    let ports = application.ports.iter().zip(&stood.by_port).map(|(port, instances)| PortStatus {
        service: port.service.to_string(),
        external: port.external.into(),
        internal: port.internal.into(),
        instances: number(*instances),
    });
    let elsewhere = |record: &Record| {
        let instance = record.instance();
        UnexpectedInstance { id: instance.id, host: instance.host, port: instance.port }
    };
    let state = match stood.standing {
        Standing::Online => ApplicationState::Online,
        Standing::Missing => ApplicationState::Missing,
        Standing::UnexpectedPort => ApplicationState::UnexpectedPort,
    };
    ApplicationStatus {
        id: application.id.to_string(),
        state: state.into(),
        ports: ports.collect(),
        instances: number(stood.instances),
        unexpected: stood.elsewhere.iter().map(elsewhere).collect(),
        unexpected_instances: number(stood.elsewhere_count),
        missing_dependencies: stood.missing.iter().map(ToString::to_string).collect(),
    }
}

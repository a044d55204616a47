//! What the transport costs without a registry: the service that benchmarks compare with.
//!
//! It answers with as many bytes as asked for and does nothing else. It must not know the registry, so that its cost
//! stays that of the server's transport alone; it is mounted only with the hidden flag `serve --bench-floor`.

use std::pin::Pin;

use bytes::Bytes;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use crate::proto::bench::{EchoRequest, EchoResponse, floor_server};

/// The largest reply that can be asked for: what gRPC clients accept by default.
pub const REPLY_MAX: usize = 4 << 20;

/// The floor service.
#[derive(Clone, Debug)]
pub struct Floor {
    /// What replies are cut from, so that none of them allocates. Never written, so it takes no memory of its own.
    filler: Bytes,
}

impl Floor {
    /// A floor, ready to be mounted with `floor_server::FloorServer::new`.
    #[must_use]
    pub fn new() -> Self {
        Self { filler: vec![0; REPLY_MAX].into() }
    }

    /// The reply to one request.
    fn answer(&self, request: &EchoRequest) -> Result<EchoResponse, Status> {
        let wanted = request.reply_bytes as usize;
        if wanted > REPLY_MAX {
            return Err(Status::invalid_argument(format!(
                "reply_bytes: {wanted} is more than {REPLY_MAX}, the largest reply"
            )));
        }
        Ok(EchoResponse { payload: self.filler.slice(..wanted) })
    }
}

impl Default for Floor {
    fn default() -> Self {
        Self::new()
    }
}

#[tonic::async_trait]
impl floor_server::Floor for Floor {
    type EchoStreamStream = Pin<Box<dyn Stream<Item = Result<EchoResponse, Status>> + Send>>;

    async fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        self.answer(request.get_ref()).map(Response::new)
    }

    async fn echo_stream(
        &self,
        request: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<Self::EchoStreamStream>, Status> {
        let floor = self.clone();
        let replies = request.into_inner().map(move |request| request.and_then(|request| floor.answer(&request)));
        Ok(Response::new(Box::pin(replies)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::bench::floor_server::Floor as _;

    #[tokio::test]
    async fn answers_with_as_many_bytes_as_asked_for() {
        let floor = Floor::new();
        for (asked, answered) in [(0, Some(0)), (37, Some(37)), (4 << 20, Some(4 << 20)), ((4 << 20) + 1, None)] {
            let request = EchoRequest { payload: Bytes::from_static(b"x"), reply_bytes: asked };
            let got = floor.echo(Request::new(request)).await.map(|reply| reply.get_ref().payload.len());
            match answered {
                Some(bytes) => assert_eq!(got.unwrap(), bytes),
                None => assert_eq!(got.unwrap_err().code(), tonic::Code::InvalidArgument),
            }
        }
    }
}

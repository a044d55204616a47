//! A stream of heartbeats: what is ready in the socket goes to the registry as one command, and each message is answered
//! in order.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tokio_stream::Stream;
use tonic::{Extensions, Request, Status, Streaming, metadata::MetadataMap};

use super::{
    beats::{HeartbeatRequest, HeartbeatResponse},
    convert, status,
};
use crate::{
    access::{Gate, of_rpc},
    actor::{Beat, BeatReply, Holder, RegistryHandle},
    registry::Error,
};

/// Who sends beats: asked when they are to be told who has a key, and not before, since beats are judged by what they
/// bring.
#[derive(Debug)]
pub(super) struct Sender {
    gate: Gate,
    metadata: MetadataMap,
    extensions: Extensions,
}

impl Sender {
    /// Who sent a request, and what it brought.
    pub(super) fn of<T>(gate: &Gate, request: Request<T>) -> (Self, T) {
        let (metadata, extensions, message) = request.into_parts();
        (Self { gate: gate.clone(), metadata, extensions }, message)
    }

    /// What they may know of a reply.
    pub(super) fn told(&self, mut reply: BeatReply) -> BeatReply {
        if !reply.holders.is_empty() {
            let rule = of_rpc("/onair.v1.Registry/Heartbeat");
            let who = self.gate.admit(rule, self.metadata.as_ref(), &self.extensions).ok();
            reply.holders.retain(|(_, holder)| who.as_ref().is_some_and(|who| who.may_know(&holder.key)));
        }
        reply
    }
}

type Beating = Pin<Box<dyn Future<Output = Result<BeatReply, Error>> + Send>>;

/// The server's side of a heartbeat stream.
pub struct BeatStream {
    input: Streaming<HeartbeatRequest>,
    sender: Sender,
    handle: RegistryHandle,
    max_beats: usize,
    /// The beats under way, and how many of them each message had.
    beating: Option<(Beating, Vec<usize>)>,
    ready: VecDeque<HeartbeatResponse>,
    closed: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// How the stream ends once everything read is answered.
    end: Option<Result<(), Status>>,
}

impl std::fmt::Debug for BeatStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BeatStream").field("ready", &self.ready.len()).finish_non_exhaustive()
    }
}

impl BeatStream {
    pub(super) fn new(
        (sender, input): (Sender, Streaming<HeartbeatRequest>),
        handle: RegistryHandle,
        max_beats: usize,
    ) -> Self {
        let closed = Box::pin(handle.hub().closed());
        Self { input, sender, handle, max_beats, beating: None, ready: VecDeque::new(), closed, end: None }
    }

    /// Takes the messages that are ready, up to `max_beats` beats.
    fn gather(&mut self, context: &mut Context<'_>) -> (Vec<Beat>, Vec<usize>) {
        let (mut beats, mut sizes) = (Vec::new(), Vec::new());
        while beats.len() < self.max_beats && self.end.is_none() {
            match Pin::new(&mut self.input).poll_next(context) {
                Poll::Ready(Some(Ok(message))) => match convert::beats(&message, self.max_beats) {
                    Ok(mut read) => {
                        sizes.push(read.len());
                        beats.append(&mut read);
                    }
                    Err(status) => self.end = Some(Err(status)),
                },
                Poll::Ready(Some(Err(error))) => self.end = Some(Err(status::of_transport(error))),
                Poll::Ready(None) => self.end = Some(Ok(())),
                Poll::Pending => break,
            }
        }
        (beats, sizes)
    }

    fn answer(&mut self, reply: Result<BeatReply, Error>, sizes: &[usize]) {
        let reply = match reply {
            Ok(reply) => self.sender.told(reply),
            Err(error) => {
                self.end = Some(Err(error.into()));
                return;
            }
        };
        let BeatReply { outcomes, holders, revision } = reply;
        let (mut outcomes, mut holders, mut begin) = (outcomes.into_iter(), holders.into_iter().peekable(), 0);
        for size in sizes {
            let outcomes = outcomes.by_ref().take(*size).collect();
            let of_this = |(place, _): &(usize, Holder)| *place < begin + *size;
            let named = std::iter::from_fn(|| holders.next_if(of_this));
            let holders = named.map(|(place, holder)| (place - begin, holder.address)).collect();
            begin += size;
            self.ready.push_back(HeartbeatResponse { outcomes, holders, revision });
        }
    }
}

impl Stream for BeatStream {
    type Item = Result<HeartbeatResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(response) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(response)));
            }
            if let Some((beating, _)) = &mut this.beating {
                let Poll::Ready(reply) = beating.as_mut().poll(context) else { return Poll::Pending };
                let sizes = this.beating.take().map(|(_, sizes)| sizes).unwrap_or_default();
                this.answer(reply, &sizes);
                continue;
            }
            // Before anything more is read: a client that is never silent would keep the stream open.
            if this.end.is_none() && this.closed.as_mut().poll(context).is_ready() {
                this.end = Some(Err(status::shutting_down()));
            }
            let (beats, sizes) = this.gather(context);
            if !sizes.is_empty() {
                let handle = this.handle.clone();
                this.beating = Some((Box::pin(async move { handle.beat(beats).await }), sizes));
                continue;
            }
            return match this.end.take() {
                Some(Ok(())) => Poll::Ready(None),
                Some(Err(status)) => {
                    this.end = Some(Ok(()));
                    Poll::Ready(Some(Err(status)))
                }
                None => Poll::Pending,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body::Frame;
    use prost::Message as _;
    use tokio_stream::StreamExt as _;
    use tonic::{Code, codec::Codec as _};
    use uuid::Uuid;

    use super::*;
    use crate::{actor::ActorOptions, engine::memory::MemoryEngine, grpc::codec::Codec, proto};

    /// A client that always has another message ready.
    struct Endless(Bytes);

    impl http_body::Body for Endless {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(Some(Ok(Frame::data(self.0.clone()))))
        }
    }

    #[tokio::test]
    async fn a_stream_that_is_never_silent_ends_when_the_server_does() {
        let recovered = MemoryEngine::recovered(Uuid::nil(), 1);
        let (handle, actor) = RegistryHandle::new(MemoryEngine::default(), recovered, ActorOptions::default());
        tokio::spawn(actor.run());
        let request =
            proto::HeartbeatRequest { beats: vec![proto::Beat::default()], ..Default::default() }.encode_to_vec();
        let message = [&[0, 0, 0, 0, request.len() as u8], &request[..]].concat();
        let decoder = Codec::<HeartbeatResponse, HeartbeatRequest>::default().decoder();
        let input = Streaming::new_request(decoder, Endless(message.into()), None, None);
        let input = Sender::of(&Gate::open(), Request::new(input));
        let mut stream = BeatStream::new(input, handle.clone(), 10);
        assert!(stream.next().await.is_some_and(|answer| answer.is_ok()));
        handle.hub().close();
        let mut answers = 0;
        let status = loop {
            match stream.next().await {
                Some(Ok(_)) => answers += 1,
                Some(Err(status)) => break status,
                None => panic!("it ended without a word"),
            }
            assert!(answers < 100, "it goes on");
        };
        assert_eq!(status.code(), Code::Unavailable);
        assert!(stream.next().await.is_none());
    }
}

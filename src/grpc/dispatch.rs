//! The gRPC services of a port, each by its name. What answers a call is called as it is: no router, and no box around
//! what it answers.

use std::{
    convert::Infallible,
    future::{Future, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use tonic::{body::Body, server::NamedService};
use tower::Service;

use super::status::{self, Reason};

/// A call under way.
pub type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// Gives each call to the service that its path names. Cheap to clone.
#[derive(Clone, Default)]
pub struct Dispatch(Arc<[(&'static str, Arc<dyn Call>)]>);

trait Call: Send + Sync {
    fn answer(&self, request: Request<Body>) -> Answering;
}

impl<S> Call for S
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future = Answering>
        + Clone
        + Send
        + Sync
        + 'static,
{
    fn answer(&self, request: Request<Body>) -> Answering {
        // None of ours has to be asked whether it is ready.
        Service::call(&mut self.clone(), request)
    }
}

impl std::fmt::Debug for Dispatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Dispatch {
    /// To these, and to `service`.
    #[must_use]
    pub fn and<S>(self, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future = Answering>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
    {
        let one: (&str, Arc<dyn Call>) = (S::NAME, Arc::new(service));
        Self(self.0.iter().cloned().chain([one]).collect())
    }

    /// The one that a path names.
    fn of(&self, path: &str) -> Option<&dyn Call> {
        let (wanted, _) = path.strip_prefix('/')?.split_once('/')?;
        self.0.iter().find(|(name, _)| *name == wanted).map(|(_, service)| &**service)
    }
}

impl<B> Service<Request<B>> for Dispatch
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Answering {
        match self.of(request.uri().path()) {
            Some(service) => service.answer(request.map(Body::new)),
            None => Box::pin(ready(Ok(status::plain(Reason::NotSupported, "there is no such service").into_http()))),
        }
    }
}

/// One service, whatever its methods, that answers every call so.
#[cfg(test)]
pub(crate) fn answering<F, R>(name: &'static str, answer: F) -> Dispatch
where
    F: Fn(Request<Body>) -> R + Send + Sync + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    struct Answers<F>(F);
    impl<F, R> Call for Answers<F>
    where
        F: Fn(Request<Body>) -> R + Send + Sync,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        fn answer(&self, request: Request<Body>) -> Answering {
            let answer = (self.0)(request);
            Box::pin(async { Ok(answer.await) })
        }
    }
    Dispatch([(name, Arc::new(Answers(answer)) as Arc<dyn Call>)].into())
}

#[cfg(test)]
mod tests {
    use tonic::{Code, Status};

    use super::*;

    #[tokio::test]
    async fn a_call_is_for_the_service_that_its_path_names() {
        let named = |name| answering(name, move |_| ready(Status::new(Code::Ok, name).into_http()));
        let mut both = Dispatch(named("a.B").0.iter().chain(named("a.B.C").0.iter()).cloned().collect());
        for (path, wanted) in [
            ("/a.B/D", Some("a.B")),
            ("/a.B.C/D", Some("a.B.C")),
            ("/a.B/", Some("a.B")),
            ("/a.B/D/E", Some("a.B")),
            ("/a.B", None),
            ("/a/D", None),
            ("/a.b/D", None),
            ("/", None),
        ] {
            let request = Request::post(path).body(Body::empty()).expect("a request");
            let Ok(response) = both.call(request).await;
            let told = Status::from_header_map(response.headers()).expect("a status");
            match wanted {
                Some(name) => assert_eq!((told.code(), told.message()), (Code::Ok, name), "{path}"),
                None => assert_eq!(told.code(), Code::Unimplemented, "{path}"),
            }
        }
    }
}

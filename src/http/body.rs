//! Bodies of requests that are read whole: within a limit, and in time. What is over the limit is not read; what does not
//! come is not waited for. Knows nothing of what is in them.

use std::{error::Error, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::Body as _;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::time::timeout;
use tonic::Status;

use crate::grpc::status::{self, Reason};

/// How long a body may take to come. The connection of one that takes longer is closed.
pub const BODY_WAIT: Duration = Duration::from_secs(30);

/// All of `body`, of at most `limit` bytes.
///
/// # Errors
/// `TOO_LARGE` as soon as that is known, `SLOW_BODY`, and `MALFORMED` if it ends before its end.
pub async fn read(body: Body, limit: usize) -> Result<Bytes, Status> {
    // Said beforehand, and so refused before a client that asked (`Expect: 100-continue`) sends it.
    if body.size_hint().lower() > limit as u64 {
        return Err(status::too_large(limit as u64));
    }
    match timeout(BODY_WAIT, Limited::new(body, limit).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => Err(status::too_large(limit as u64)),
        Ok(Err(error)) => Err(broken(error.as_ref())),
        Err(_) => Err(slow()),
    }
}

/// A body did not come in time.
pub(super) fn slow() -> Status {
    status::plain(Reason::SlowBody, format!("the body did not come within {} s", BODY_WAIT.as_secs()))
}

/// Whoever sent it seldom reads this: it is gone, or wrote what is no body.
fn broken(error: &(dyn Error + Send + Sync + 'static)) -> Status {
    status::plain(Reason::Malformed, format!("the body cannot be read: {error}"))
}

/// Whether a body is sent as it is: what is compressed could be a thousand times larger than what the limits count.
#[must_use]
pub fn is_plain(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
    codings.all(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity"))
}

/// Whether a request's body is one, or pieces of one: of another transfer coding it would be read as it is not meant.
#[must_use]
pub fn is_framed_plainly(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    codings.all(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::{Context, Poll},
    };

    use http_body::Frame;
    use tokio::time::Instant;
    use tonic_types::StatusExt as _;

    use super::*;

    /// A client that sends pieces of 1,000 bytes as long as somebody reads them.
    struct Endless(Arc<AtomicUsize>);

    impl http_body::Body for Endless {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            self.0.fetch_add(1_000, Ordering::Relaxed);
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'x'; 1_000])))))
        }
    }

    /// One that sends nothing.
    struct Silent;

    impl http_body::Body for Silent {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Pending
        }
    }

    fn reason(read: Result<Bytes, Status>) -> String {
        read.unwrap_err().get_details_error_info().unwrap().reason
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_not_read_further() {
        let read_bytes = Arc::new(AtomicUsize::new(0));
        let endless = Body::new(Endless(Arc::clone(&read_bytes)));
        assert_eq!(reason(read(endless, 10_000).await), "TOO_LARGE");
        assert_eq!(read_bytes.load(Ordering::Relaxed), 11_000);
        assert_eq!(reason(read(Body::from("12345"), 4).await), "TOO_LARGE");
        assert_eq!(read(Body::from("1234"), 4).await.unwrap(), "1234");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let begun = Instant::now();
        assert_eq!(reason(read(Body::new(Silent), 4).await), "SLOW_BODY");
        assert_eq!(begun.elapsed(), BODY_WAIT);
    }

    #[test]
    fn bodies_in_pieces() {
        for (codings, wanted) in [
            (&[][..], true),
            (&["chunked"], true),
            (&["Chunked"], true),
            (&["gzip, chunked"], false),
            (&["gzip", "chunked"], false),
            (&["identity"], false),
        ] {
            let mut headers = HeaderMap::new();
            for coding in codings {
                headers.append(header::TRANSFER_ENCODING, coding.parse().unwrap());
            }
            assert_eq!(is_framed_plainly(&headers), wanted, "{codings:?}");
        }
    }

    #[test]
    fn plain_bodies() {
        for (codings, wanted) in [
            (&[][..], true),
            (&["identity"], true),
            (&["Identity"], true),
            (&["gzip"], false),
            (&["identity", "gzip"], false),
            (&["identity, gzip"], false),
            (&["br"], false),
        ] {
            let mut headers = HeaderMap::new();
            for coding in codings {
                headers.append(header::CONTENT_ENCODING, coding.parse().unwrap());
            }
            assert_eq!(is_plain(&headers), wanted, "{codings:?}");
        }
    }
}

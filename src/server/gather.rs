//! What a connection of HTTP/2 writes while it is polled goes out in one piece afterwards: the transport asks for each larger
//! frame to be written by itself, and a system call costs as much as the frames of several calls. Knows nothing of what is
//! written, but that a connection that is told of a failure reads or writes or shuts down in its next turn.

use std::{
    cell::Cell,
    future::Future,
    io, mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// So much is gathered before it is written although there is more to come.
const GATHERED_MAX: usize = 64 << 10;
/// While the other side has not taken all of an earlier turn, no more is gathered than up to this.
const BEHIND_MAX: usize = 16 << 10;
/// What is larger is not worth a copy.
const COPIED_MAX: usize = 16 << 10;

thread_local! {
    /// A buffer for whoever writes next: most connections have nothing to write between two turns, and keep none.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A stream whose writes are gathered until `Turns` sends them.
#[derive(Debug)]
pub(super) struct Gathering<S>(Arc<Mutex<Inner<S>>>);

#[derive(Debug)]
struct Inner<S> {
    stream: S,
    gathered: Vec<u8>,
    /// How much of it was written.
    written: usize,
    /// The other side has not taken all of it.
    is_behind: bool,
    /// What went wrong after a turn; the connection is told at the next.
    failed: Option<io::Error>,
    /// So many bytes may still be read in this turn, and somewhat more.
    to_read: usize,
    /// More may have come than that.
    is_cut: bool,
}

/// A connection and its stream: after each of its turns what it wrote is sent.
pub(super) struct Turns<C, S> {
    connection: C,
    stream: Gathering<S>,
}

impl<S> Gathering<S> {
    pub(super) fn new(stream: S) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            stream,
            gathered: Vec::new(),
            written: 0,
            is_behind: false,
            failed: None,
            to_read: 0,
            is_cut: false,
        })))
    }

    /// The same stream.
    pub(super) fn share(&self) -> Self {
        Self(Arc::clone(&self.0))
    }

    fn inner(&self) -> MutexGuard<'_, Inner<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: AsyncWrite + Unpin> Inner<S> {
    /// Writes what was gathered.
    fn poll_gathered(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.gathered.len() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(context, &self.gathered[self.written..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
        }
        self.is_behind = false;
        if self.written > 0 {
            self.written = 0;
            self.gathered.clear();
            SPARE.set(mem::take(&mut self.gathered));
        }
        Poll::Ready(Ok(()))
    }

    /// Makes room for `bytes` more. What is large is to be written as it is, and nothing is before it then: true.
    fn poll_room(&mut self, bytes: usize, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if let Some(failed) = self.failed.take() {
            return Poll::Ready(Err(failed));
        }
        let most = if self.is_behind { BEHIND_MAX } else { GATHERED_MAX };
        if self.gathered.len() + bytes > most {
            ready!(self.poll_gathered(context))?;
        }
        if self.gathered.is_empty() {
            if bytes > COPIED_MAX {
                return Poll::Ready(Ok(true));
            }
            self.gathered = SPARE.take();
            self.gathered.reserve_exact(GATHERED_MAX);
        }
        Poll::Ready(Ok(false))
    }

    /// The connection's turn is over.
    fn send(&mut self, context: &mut Context<'_>) {
        if self.failed.is_some() {
            return;
        }
        let sent = match self.poll_gathered(context) {
            // TLS may have something of its own to send.
            Poll::Ready(Ok(())) => Pin::new(&mut self.stream).poll_flush(context),
            other => other,
        };
        self.is_behind = !self.gathered.is_empty();
        if let Poll::Ready(Err(error)) = sent {
            self.failed = Some(error);
            context.waker().wake_by_ref();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathering<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        if let Some(failed) = inner.failed.take() {
            return Poll::Ready(Err(failed));
        }
        if inner.to_read == 0 {
            // Whoever gave it this turn sees to the next.
            inner.is_cut = true;
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut inner.stream).poll_read(context, buffer);
        inner.to_read = inner.to_read.saturating_sub(buffer.filled().len() - before);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathering<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.inner();
        if ready!(inner.poll_room(bytes.len(), context))? {
            return Pin::new(&mut inner.stream).poll_write(context, bytes);
        }
        inner.gathered.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = pieces.iter().map(|piece| piece.len()).sum();
        let mut inner = self.inner();
        if ready!(inner.poll_room(bytes, context))? {
            return Pin::new(&mut inner.stream).poll_write_vectored(context, pieces);
        }
        pieces.iter().for_each(|piece| inner.gathered.extend_from_slice(piece));
        Poll::Ready(Ok(bytes))
    }

    /// What is gathered is copied, but once only.
    fn is_write_vectored(&self) -> bool {
        true
    }

    /// When its turn is over.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.inner().failed.take().map_or(Ok(()), Err))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        ready!(inner.poll_gathered(context))?;
        Pin::new(&mut inner.stream).poll_shutdown(context)
    }
}

impl<C, S> Turns<C, S> {
    /// A connection that writes to `stream`.
    pub(super) fn new(connection: C, stream: Gathering<S>) -> Self {
        Self { connection, stream }
    }

    pub(super) fn connection(self: Pin<&mut Self>) -> Pin<&mut C>
    where
        C: Unpin,
    {
        Pin::new(&mut self.get_mut().connection)
    }
}

impl<C: Future + Unpin, S: AsyncWrite + Unpin> Turns<C, S> {
    /// A turn, in which no more is read than about `most` bytes. With it: whether that was not all, and it needs another
    /// turn, for which nobody wakes it.
    pub(super) fn turn(&mut self, most: usize, context: &mut Context<'_>) -> (Poll<C::Output>, bool) {
        (self.stream.inner().to_read, self.stream.inner().is_cut) = (most, false);
        let ended = Pin::new(&mut self.connection).poll(context);
        let mut stream = self.stream.inner();
        // One that has ended has mostly shut its stream down, with all that was written before it.
        stream.send(context);
        let is_cut = stream.is_cut && ended.is_pending();
        (ended, is_cut)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    const TEXT: &[u8] = b"0123456789";

    /// Writes as long as it may, `left` times; then shuts down.
    struct Writer {
        stream: Gathering<DuplexStream>,
        left: usize,
        /// Goes on at once, or at the next turn.
        rests: bool,
    }

    impl Future for Writer {
        type Output = io::Result<()>;

        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            while self.left > 0 {
                let pieces = [io::IoSlice::new(TEXT), io::IoSlice::new(TEXT)];
                let count = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, &pieces))?;
                assert_eq!(count, 2 * TEXT.len());
                ready!(Pin::new(&mut self.stream).poll_flush(context))?;
                self.left -= 1;
                if self.rests {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
            Pin::new(&mut self.stream).poll_shutdown(context)
        }
    }

    async fn ended(mut turns: Turns<Writer, DuplexStream>) -> io::Result<()> {
        poll_fn(|context| turns.turn(usize::MAX, context).0).await
    }

    fn scene(room: usize, left: usize, rests: bool) -> (Turns<Writer, DuplexStream>, DuplexStream) {
        let (ours, theirs) = duplex(room);
        let stream = Gathering::new(ours);
        (Turns::new(Writer { stream: stream.share(), left, rests }, stream), theirs)
    }

    #[tokio::test]
    async fn a_turn_is_sent_in_one_piece_when_it_is_over() {
        let (mut turns, mut theirs) = scene(1 << 20, 3, true);
        let mut read = [0; 100];
        for _ in 0..3 {
            let turn = poll_fn(|context| Poll::Ready(turns.turn(usize::MAX, context).0.is_pending())).await;
            assert!(turn);
            assert_eq!(theirs.read(&mut read).await.expect("bytes"), 20);
        }
        ended(turns).await.expect("it is shut down");
        assert_eq!(theirs.read(&mut read).await.expect("the end"), 0);
    }

    #[tokio::test]
    async fn nothing_is_lost_however_slowly_it_is_taken_and_what_waits_is_bounded() {
        let (turns, mut theirs) = scene(100, 50_000, false);
        let stream = turns.stream.share();
        let writing = tokio::spawn(ended(turns));
        let mut all = Vec::new();
        let mut read = [0; 4_096];
        loop {
            let count = theirs.read(&mut read).await.expect("bytes");
            if count == 0 {
                break;
            }
            all.extend_from_slice(&read[..count]);
            assert!(stream.inner().gathered.len() <= GATHERED_MAX);
        }
        writing.await.expect("no panic").expect("written");
        assert!(all.len() == 1_000_000 && all.chunks(TEXT.len()).all(|chunk| chunk == TEXT));
    }

    #[tokio::test]
    async fn what_is_large_goes_as_it_is_after_what_was_before_it() {
        let (ours, mut theirs) = duplex(1 << 20);
        let mut stream = Gathering::new(ours);
        let large = vec![b'x'; COPIED_MAX + 1];
        stream.write_all(TEXT).await.expect("gathered");
        stream.write_all(&large).await.expect("gathered, after what is there");
        assert_eq!(stream.inner().gathered.len(), TEXT.len() + large.len());
        stream.inner().send(&mut Context::from_waker(std::task::Waker::noop()));
        stream.write_all(&large).await.expect("written");
        assert_eq!(stream.inner().gathered.capacity(), 0, "the buffer is for whoever is next");
        let mut read = vec![0; TEXT.len() + 2 * large.len()];
        theirs.read_exact(&mut read).await.expect("all of it");
        assert!(read.starts_with(TEXT) && read.ends_with(&large));
    }

    #[tokio::test]
    async fn a_connection_is_told_at_its_next_turn_that_nobody_is_there() {
        let (turns, theirs) = scene(1 << 20, 10, true);
        drop(theirs);
        let error = ended(turns).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}

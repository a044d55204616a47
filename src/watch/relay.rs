//! Wakes the readers of another thread together. To wake one across threads takes a system call, and each would have its
//! turn, and its connection's write, by itself; so who wakes them leaves them with their thread's relay, and wakes that.

use std::{
    cell::RefCell,
    future::Future,
    mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use futures_util::task::AtomicWaker;

thread_local! {
    static HERE: RefCell<Option<Arc<Shared>>> = const { RefCell::new(None) };
}

/// The relay of the thread that polls it, for those who fall asleep there while it runs. It never completes.
#[derive(Debug, Default)]
pub struct Relay(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Whom to wake; none: the relay is gone.
    woken: Mutex<Option<Vec<Waker>>>,
    task: AtomicWaker,
}

/// A reader that sleeps, and how it is woken.
#[derive(Debug)]
pub(super) struct Sleeper {
    waker: Waker,
    relay: Option<Arc<Shared>>,
}

impl Shared {
    fn woken(&self) -> MutexGuard<'_, Option<Vec<Waker>>> {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_here(self: &Arc<Self>) -> bool {
        HERE.with_borrow(|here| here.as_ref().is_some_and(|here| Arc::ptr_eq(here, self)))
    }

    /// Leaves one to be woken; it is given back if the relay is gone.
    fn leave(&self, waker: Waker) -> Result<(), Waker> {
        let mut woken = self.woken();
        let Some(waiting) = woken.as_mut() else { return Err(waker) };
        waiting.push(waker);
        let is_first = waiting.len() == 1;
        drop(woken);
        if is_first {
            self.task.wake();
        }
        Ok(())
    }
}

impl Sleeper {
    /// The reader of `context`, which is polled on this thread.
    pub(super) fn of(context: &Context<'_>) -> Self {
        Self { waker: context.waker().clone(), relay: HERE.with_borrow(Clone::clone) }
    }

    pub(super) fn is_of(&self, context: &Context<'_>) -> bool {
        self.waker.will_wake(context.waker())
    }

    pub(super) fn wake(self) {
        let left = match self.relay {
            Some(relay) if !relay.is_here() => relay.leave(self.waker),
            _ => Err(self.waker),
        };
        if let Err(waker) = left {
            waker.wake();
        }
    }
}

impl Future for Relay {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.task.register(context.waker());
        HERE.with_borrow_mut(|here| _ = here.get_or_insert_with(|| Arc::clone(&self.0)));
        let woken = mem::take(self.0.woken().get_or_insert_default());
        woken.into_iter().for_each(Waker::wake);
        Poll::Pending
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        HERE.with_borrow_mut(|here| _ = here.take_if(|here| Arc::ptr_eq(here, &self.0)));
        self.0.woken().take().into_iter().flatten().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::mpsc, thread};

    use tokio::runtime::Builder;

    use super::*;
    use crate::watch::listener::Listener;

    #[test]
    fn who_is_woken_from_another_thread_is_woken_by_the_relay() {
        let listeners = [Listener::new(), Listener::new()];
        let (sleeping, asleep) = mpsc::channel();
        let readers = listeners.clone();
        let thread = thread::spawn(move || {
            let runtime = Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(async {
                let relay = tokio::spawn(Relay::default());
                tokio::task::yield_now().await;
                let readers = readers.map(|listener| {
                    let sleeping = sleeping.clone();
                    tokio::spawn(async move {
                        let mut turns = 0;
                        poll_fn(|context| {
                            turns += 1;
                            if listener.poll_woken(context) {
                                return Poll::Ready(());
                            }
                            sleeping.send(()).expect("somebody waits");
                            Poll::Pending
                        })
                        .await;
                        turns
                    })
                });
                for reader in readers {
                    assert_eq!(reader.await.expect("no panic"), 2);
                }
                relay.abort();
                assert!(relay.await.expect_err("it never completes").is_cancelled());
                assert!(HERE.with_borrow(Option::is_none));
            });
        });
        asleep.recv().expect("one sleeps");
        asleep.recv().expect("both sleep");
        listeners.iter().for_each(|listener| listener.wake());
        thread.join().expect("both were woken");
    }

    #[test]
    fn nobody_sleeps_on_when_a_relay_goes() {
        let mut relay = Box::pin(Relay::default());
        let mut nobody = Context::from_waker(Waker::noop());
        assert!(relay.as_mut().poll(&mut nobody).is_pending());
        let (listener, other) = (Listener::new(), Listener::new());
        let flag = Arc::new(Flag::default());
        let waker = Waker::from(Arc::clone(&flag));
        let context = Context::from_waker(&waker);
        assert!(!listener.poll_woken(&context) && !other.poll_woken(&context));
        thread::scope(|scope| scope.spawn(|| listener.wake()).join().expect("no panic"));
        assert_eq!(flag.woken(), 0, "it is left to the relay");
        drop(relay);
        assert_eq!(flag.woken(), 1);
        thread::scope(|scope| scope.spawn(|| other.wake()).join().expect("no panic"));
        assert_eq!(flag.woken(), 2, "nobody is there to leave it to");
    }

    #[derive(Default)]
    struct Flag(std::sync::atomic::AtomicUsize);

    impl Flag {
        fn woken(&self) -> usize {
            self.0.load(std::sync::atomic::Ordering::SeqCst)
        }
    }

    impl std::task::Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    }
}

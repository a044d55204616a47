//! A registration from the command's side: tried until it is made, told of while the client keeps it, and ended by a
//! signal.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use tokio::time::timeout;
use uuid::Uuid;

use crate::{
    cli::{
        failure::{Cause, Failure},
        lease::Teller,
        needs,
        session::{Backoff, Session},
    },
    client::{Client, Joined, LeaseEvent},
    proto::RegisterRequest,
};

/// How long a call under way may take once we are told to stop.
const GOODBYE: Duration = Duration::from_secs(3);

/// SIGINT and SIGTERM. Once one has come it stays.
pub(super) struct Stop {
    #[cfg(unix)]
    signals: [tokio::signal::unix::Signal; 2],
    told: bool,
}

impl Stop {
    #[cfg(unix)]
    pub(super) fn listen() -> Result<Self, Failure> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { signals: [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?], told: false })
    }

    #[cfg(not(unix))]
    pub(super) fn listen() -> Result<Self, Failure> {
        Ok(Self { told: false })
    }

    async fn wait(&mut self) {
        if self.told {
            return;
        }
        #[cfg(unix)]
        {
            let [interrupt, terminate] = &mut self.signals;
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.told = true;
    }

    /// Whether it came within `pause`.
    async fn within(&mut self, pause: Duration) -> bool {
        timeout(pause, self.wait()).await.is_ok()
    }

    /// Lets `call` end, but not for long once we are told to stop: it may be a registration that is made already.
    async fn let_end<T>(&mut self, call: impl Future<Output = T>) -> Option<T> {
        let mut call = pin!(call);
        tokio::select! {
            biased;
            answer = &mut call => Some(answer),
            () = self.wait() => timeout(GOODBYE, call).await.ok(),
        }
    }
}

/// Keeps one instance registered.
pub(super) struct Keeper {
    client: Client,
    stop: Stop,
    request: RegisterRequest,
    teller: Teller,
    joined: Option<Joined>,
}

impl Keeper {
    pub(super) fn new(session: Session, stop: Stop, mut request: RegisterRequest) -> Self {
        // The same for every attempt at this registration: it is made once, however often it is sent.
        request.request_id = Uuid::now_v7().to_string();
        let client = session.client();
        let service = request.instance.as_ref().map_or("", |instance| &instance.service);
        let teller = Teller::new(Some(session.print), service);
        Self { client, stop, request, teller, joined: None }
    }

    /// Registers, and tells what becomes of it until we are told to stop.
    ///
    /// # Errors
    /// The registration was refused, or somebody else has our key.
    pub(super) async fn keep(&mut self) -> Result<(), Failure> {
        if !self.register().await? {
            return Ok(());
        }
        let Some(joined) = &mut self.joined else { return Ok(()) };
        self.teller.registered(joined.response(), None)?;
        loop {
            let event = tokio::select! {
                biased;
                () = self.stop.wait() => return Ok(()),
                event = joined.event() => event,
            };
            match event {
                Some(LeaseEvent::Registered { response, lost }) => self.teller.registered(&response, Some(lost))?,
                Some(LeaseEvent::Failing(failed)) => self.teller.failing(&failed)?,
                Some(LeaseEvent::Recovered { outage }) => self.teller.recovered(outage),
                Some(LeaseEvent::Superseded { holder }) => return Err(self.teller.superseded(&holder)),
                Some(LeaseEvent::Refused(failed)) => return Err(needs::failure(failed)),
                None => return Err(Failure::Internal("the lease is kept no more".to_owned())),
            }
        }
    }

    /// Registers, as often as it takes; false if we are told to stop first.
    async fn register(&mut self) -> Result<bool, Failure> {
        let (mut backoff, mut since) = (Backoff::default(), None);
        loop {
            let failed = match self.stop.let_end(self.client.join(self.request.clone())).await {
                None => return Ok(false),
                Some(Ok(joined)) => {
                    self.teller.recovered(since.map_or(Duration::ZERO, |since: Instant| since.elapsed()));
                    self.joined = Some(joined);
                    return Ok(true);
                }
                Some(Err(failed)) if failed.reason().as_deref() == Some("SUPERSEDED") => {
                    return Err(self.teller.superseded(&failed.holder().unwrap_or_default()));
                }
                Some(Err(failed)) if !failed.is_transient() => return Err(needs::failure(failed)),
                Some(Err(failed)) => failed,
            };
            since.get_or_insert_with(Instant::now);
            self.teller.failing(&failed)?;
            let wait = backoff.pause().max(failed.last().and_then(Cause::retry_after).unwrap_or_default());
            if self.stop.within(wait).await {
                return Ok(false);
            }
        }
    }

    /// Takes the instance away, if it is ours.
    ///
    /// # Errors
    /// It could not be taken away, or it is somebody else's.
    pub(super) async fn leave(&mut self) -> Result<(), Failure> {
        let Some(joined) = self.joined.take() else {
            return Err(Failure::Other(format!("{} was never registered", self.teller.name())));
        };
        match joined.leave().await {
            Ok(response) => self.teller.left(&response),
            Err(failed) if failed.reason().as_deref() == Some("SUPERSEDED") => {
                Err(self.teller.superseded(&failed.holder().unwrap_or_default()))
            }
            Err(failed) => Err(failed.into()),
        }
    }
}

//! A registration from the command's side: told of while the client makes and keeps it, and ended by a signal.

use crate::{
    cli::{failure::Failure, lease::Teller, needs, session::Session},
    client::{Joined, LeaseEvent},
    proto::RegisterRequest,
};

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
}

/// Keeps one instance registered.
pub(super) struct Keeper {
    stop: Stop,
    teller: Teller,
    joined: Option<Joined>,
}

impl Keeper {
    /// Begins to register.
    pub(super) fn new(session: Session, stop: Stop, request: RegisterRequest) -> Self {
        let client = session.client();
        let service = request.instance.as_ref().map_or("", |instance| &instance.service);
        let teller = Teller::new(Some(session.print), service);
        Self { stop, teller, joined: Some(client.join_soon(request)) }
    }

    /// Tells what becomes of it until we are told to stop.
    ///
    /// # Errors
    /// The registration was refused, or somebody else has our key.
    pub(super) async fn keep(&mut self) -> Result<(), Failure> {
        let Some(joined) = &mut self.joined else { return Ok(()) };
        loop {
            let event = tokio::select! {
                biased;
                () = self.stop.wait() => return Ok(()),
                event = joined.event() => event,
            };
            match event {
                Some(LeaseEvent::Registered { response, lost }) => {
                    self.teller.registered(&response, lost)?;
                }
                // Told when it is registered again.
                Some(LeaseEvent::Lost(_)) => {}
                Some(LeaseEvent::Failing(failed)) => self.teller.failing(&failed)?,
                Some(LeaseEvent::Recovered { outage }) => self.teller.recovered(outage),
                Some(LeaseEvent::Superseded { holder }) => return Err(self.teller.superseded(&holder)),
                Some(LeaseEvent::Refused(failed)) => return Err(needs::failure(failed)),
                None => return Err(Failure::Internal("the lease is kept no more".to_owned())),
            }
        }
    }

    /// Takes the instance away, if it is ours.
    ///
    /// # Errors
    /// It could not be taken away, or it is somebody else's.
    pub(super) async fn leave(&mut self) -> Result<(), Failure> {
        let Some(joined) = self.joined.take() else { return Ok(()) };
        let was_registered = joined.was_registered();
        match joined.leave().await {
            Ok(response) if was_registered || response.removed > 0 => self.teller.left(&response),
            Ok(_) => Err(Failure::Other(format!("{} was never registered", self.teller.name()))),
            Err(failed) if failed.reason().as_deref() == Some("SUPERSEDED") => {
                Err(self.teller.superseded(&failed.holder().unwrap_or_default()))
            }
            Err(failed) => Err(failed.into()),
        }
    }
}

//! Registrations that nobody gets a token of: the way in, and their renewals, which are heard as beats are. Whose they are
//! is the registry's to say.

use tokio::{sync::oneshot, time::Instant};

use super::{
    Actor, RegistryHandle,
    handle::{fresh_secret, refusal, wall_clock},
    request::{Answer, Lane, Reply, Request},
    toll::Paid,
};
use crate::{
    engine::Engine,
    registry::{Command, Error, Keep, Place, Principal, Record, Register, Registration},
};

impl RegistryHandle {
    /// Registers what left its id to the server, or renews it, without a token; and whether that is a change.
    ///
    /// # Errors
    /// `Fenced`, and those of every registration.
    pub async fn keep(&self, mut registration: Registration, principal: Principal) -> Result<(Record, bool), Error> {
        let place = Place::of(&mut registration);
        let is_held = self.hub.registry().unfenced_at(&place, &principal).is_ok_and(|held| held.is_some());
        let register = Register { registration, token: None, principal, secret: fresh_secret()?, at: wall_clock() };
        let command = Command::Keep(Box::new(Keep { register, place }));
        let (paid, refused) = match self.charge(&command) {
            Ok(paid) => (paid, None),
            Err(error) => (Paid::default(), Some(error)),
        };
        let Command::Keep(keep) = command else { return Err(Error::Deadline) };
        let (answer, answered) = oneshot::channel();
        let since = Instant::now();
        if is_held {
            // A beat has to be in the beats' lane before the mark that says that all were heard.
            let item = Lane::Keep { keep, refused, answer, since };
            self.lane.try_send(item).map_err(|refused| refusal(&refused, &self.lane))?;
        } else if let Some(error) = refused {
            return Err(error);
        } else {
            self.send(Request::Command { command: Command::Keep(keep), deadline: None, answer, since })?;
        }
        match self.settled(&paid, answered.await.map_err(|_| Error::ShuttingDown)?)? {
            Reply::Kept { record, is_change } => Ok((record, is_change)),
            // The actor answers a command with what goes with it.
            Reply::Registered { .. } | Reply::Removed { .. } | Reply::Deployed { .. } | Reply::Drained { .. } => {
                Err(Error::Deadline)
            }
        }
    }
}

impl<E: Engine> Actor<E> {
    /// A renewal: heard whatever becomes of what it says, unless its lease is over.
    pub(super) fn keep(&mut self, keep: Box<Keep>, refused: Option<Error>, answer: Answer<Reply>, since: Instant) {
        {
            let registry = self.hub.registry();
            let held = registry.unfenced_at(&keep.place, &keep.register.principal);
            let slot = held.ok().flatten().and_then(|_| registry.slot_of(&keep.place.key));
            let mut table = self.leases.lock();
            if let Some(slot) = slot.filter(|slot| !table.time.is_expiring(*slot)) {
                table.time.hear(slot);
            }
        }
        if let Some(error) = refused {
            // Who asked may be gone.
            let _ = answer.send(Err(error));
            return;
        }
        self.request(Request::Command { command: Command::Keep(keep), deadline: None, answer, since });
    }
}

//! Registrations that nobody gets a token of: the way in, and their renewals, which are heard as beats are. Whose they are
//! is the registry's to say.

use tokio::time::Instant;

use super::{
    Actor, Recipient, RegistryHandle,
    handle::{fresh_secret, refusal, wall_clock},
    request::{Lane, Reply, Request},
    toll::{Charged, Paid},
};
use crate::{
    engine::Engine,
    registry::{Command, Error, Keep, Place, Principal, Record, Register, Registration, Revision},
};

impl RegistryHandle {
    /// Registers what left its id to the server, or renews it, without a token; and at which revision that changed
    /// something, if it did.
    ///
    /// # Errors
    /// `Fenced`, and those of every registration.
    pub async fn keep(
        &self,
        mut registration: Registration,
        principal: Principal,
    ) -> Result<(Record, Option<Revision>), Error> {
        let place = Place::of(&mut registration);
        let is_held = self.hub.registry().unfenced_at(&place, &principal).is_ok_and(|held| held.is_some());
        let register = Register { registration, token: None, principal, secret: fresh_secret()?, at: wall_clock() };
        let command = Command::Keep(Box::new(Keep { register, place }));
        let reply = if is_held { self.renew(command).await? } else { self.command(command, None).await? };
        match reply {
            Reply::Kept { record, changed_at, .. } => Ok((record, changed_at)),
            // The actor answers a command with what goes with it.
            Reply::Registered { .. } | Reply::Removed { .. } | Reply::Deployed { .. } | Reply::Drained { .. } => {
                Err(Error::Deadline)
            }
        }
    }

    /// As `command`, of what is heard whether or not there is a quota in its way.
    async fn renew(&self, command: Command) -> Result<Reply, Error> {
        // A beat has to be in the beats' lane before the mark that says that all were heard.
        let place = self.lane.try_reserve().map_err(|refused| refusal(&refused, &self.lane))?;
        let paid = self.charge(&command).unwrap_or_else(|error| Paid::Refused(Box::new(error)));
        let (answer, answered) = Charged::new(paid);
        let Command::Keep(keep) = command else { return Err(Error::Deadline) };
        place.send(Lane::Keep { keep, answer, since: Instant::now() });
        answered.await.map_err(|_| Error::ShuttingDown)?
    }
}

impl<E: Engine> Actor<E> {
    /// A renewal: heard whatever becomes of what it says, unless its lease is over.
    pub(super) fn keep(&mut self, keep: Box<Keep>, answer: Charged, since: Instant) {
        {
            let registry = self.hub.registry();
            let held = registry.unfenced_at(&keep.place, &keep.register.principal);
            let slot = held.ok().flatten().and_then(|_| registry.slot_of(&keep.place.key));
            let mut table = self.leases.lock();
            if let Some(slot) = slot.filter(|slot| !table.time.is_expiring(*slot)) {
                table.time.hear(slot);
            }
        }
        self.request(Request::Command { command: Command::Keep(keep), deadline: None, answer, since });
    }

    /// Why it is refused, if whoever says it has no write left and it is no renewal. Only now that is known: when they said
    /// it, the same may have been on its way already.
    pub(super) fn too_fast(&self, command: &Command, recipient: &Recipient) -> Option<Error> {
        let (Command::Keep(keep), Recipient::Caller { answer, .. }) = (command, recipient) else { return None };
        let error = answer.refused()?;
        (!self.hub.registry().is_renewal(keep)).then(|| error.clone())
    }
}

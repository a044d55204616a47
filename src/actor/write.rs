//! Writing the documents that no other rule speaks of. Reads of them never take the actor's time.

use std::sync::Arc;

use tokio::time::Instant;

use super::{RegistryHandle, Reply, Standing};
use crate::registry::{Command, Document, Error, Revision, Write};

impl RegistryHandle {
    /// Writes the document of a token or of a namespace's settings: how it stands now, none if it is no more, and at which revision.
    ///
    /// # Errors
    /// `AlreadyExists`, `NoSuch` or `StaleRevision`, if something else stands there than was expected; and those of every
    /// command.
    pub async fn write(
        &self,
        write: Write,
        deadline: Option<Instant>,
    ) -> Result<(Option<Arc<Document>>, Revision), Error> {
        match self.command(Command::Write(Box::new(write)), deadline).await? {
            Reply::Deployed { deployed: Standing::Document(document), revision, .. } => Ok((Some(document), revision)),
            Reply::Deployed { revision, .. } => Ok((None, revision)),
            // The actor answers a command with what goes with it.
            Reply::Registered { .. } | Reply::Removed { .. } | Reply::Kept { .. } | Reply::Drained { .. } => {
                Err(Error::Deadline)
            }
        }
    }

    /// A token's document, if there is one, and the revision that this shows.
    #[must_use]
    pub fn token(&self, name: &str) -> (Option<Arc<Document>>, Revision) {
        let registry = self.hub.registry();
        (registry.tokens().get(name).cloned(), registry.revision())
    }
}

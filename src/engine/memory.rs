//! An engine that commits at once and keeps nothing: `--ephemeral`, and tests.

use std::{collections::VecDeque, future};

use uuid::Uuid;

use super::{Engine, EngineError, Epoch, Proposal, Recovered, Step, committed, next_group};
use crate::registry::Revision;

/// Commits to nowhere.
#[derive(Debug, Default)]
pub struct MemoryEngine {
    revision: Revision,
    queue: VecDeque<Proposal>,
}

impl MemoryEngine {
    /// What an engine without data holds. `registry_id` and `epoch` are drawn by the caller.
    #[must_use]
    pub fn recovered(registry_id: Uuid, epoch: u64) -> Recovered {
        Recovered {
            registry_id,
            epochs: vec![Epoch { id: epoch, after: 0 }],
            revision: 0,
            records: Vec::new(),
            known: Vec::new(),
            documents: Vec::new(),
            tail: Vec::new(),
            tail_after: 0,
        }
    }
}

impl Engine for MemoryEngine {
    fn propose(&mut self, batch: Vec<Proposal>) {
        self.queue.extend(batch);
    }

    async fn next(&mut self) -> Result<Step, EngineError> {
        let group = next_group(&mut self.queue);
        if group.is_empty() {
            // Only `propose` changes that, and its caller asks again afterwards.
            return future::pending().await;
        }
        self.revision += 1;
        Ok(committed(self.revision, group))
    }

    async fn close(self) {}
}

//! Changes of a catalog that waited for one another: decided in one go, each on what those before it left, and one
//! proposal. So many callers at one instant cost one write, not one each.

use std::collections::HashSet;

use tokio::time::Instant;

use super::{Actor, Recipient};
use crate::{
    engine::Engine,
    registry::{
        Command, Error, Outcome,
        catalog::{CatalogAction, CatalogCommand},
    },
};

/// Most changes decided in one go: as many as a revision carries commands.
const TOGETHER_MAX: usize = 100;

/// A change that was decided together with others.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) command: Box<CatalogCommand>,
    pub(super) recipient: Recipient,
    /// What it comes to when all of it is committed.
    pub(super) outcome: Result<Outcome, Error>,
}

impl<E: Engine> Actor<E> {
    /// Runs changes that waited for the same latch.
    pub(super) fn change_catalog(&mut self, waiting: Vec<(Box<CatalogCommand>, Recipient)>) {
        let (mut taken, mut left, mut subjects) = (Vec::new(), Vec::new(), HashSet::new());
        for (command, recipient) in waiting {
            if let Recipient::Together(members) = recipient {
                self.again(members);
                continue;
            }
            // Nobody waits for it any more: looked at by itself, and dropped.
            let is_over = match &recipient {
                Recipient::Caller { answer, deadline } => {
                    answer.is_closed() || deadline.is_some_and(|deadline| deadline <= Instant::now())
                }
                _ => true,
            };
            let (kind, id) = command.action.subject();
            let fits = !is_over
                && taken.len() < TOGETHER_MAX
                // Who imports is told what the piece comes to by itself, or that it is to be planned anew.
                && !matches!(command.action, CatalogAction::Import { .. })
                && taken.first().is_none_or(|(first, _): &(Box<CatalogCommand>, _)| first.namespace == command.namespace)
                // Its answer is how the entry stands when all of it is done; and what it expects, no other one changes.
                && subjects.insert((kind, id.to_owned()));
            if fits { taken.push((command, recipient)) } else { left.push((command, recipient)) }
        }
        match taken.len() {
            0 => {}
            1 => taken
                .into_iter()
                .for_each(|(command, recipient)| self.run_command(Command::Catalog(command), recipient)),
            _ => self.change_together(taken),
        }
        for (command, recipient) in left {
            self.run_command(Command::Catalog(command), recipient);
        }
    }

    fn change_together(&mut self, mut taken: Vec<(Box<CatalogCommand>, Recipient)>) {
        let Some(first) = taken.first().map(|(command, _)| command.clone()) else { return };
        let commands = taken.iter().map(|(command, _)| &**command);
        let (changes, outcomes) =
            self.hub.registry().change_catalog_all(&first.namespace, commands, self.new_applications);
        let later = taken.split_off(outcomes.len());
        let member = |((command, recipient), outcome)| Member { command, recipient, outcome };
        let members: Vec<Member> = taken.into_iter().zip(outcomes).map(member).collect();
        let (command, recipient) = (Command::Catalog(first), Recipient::Together(members));
        if changes.is_empty() {
            self.reply(&command, recipient, Ok(Outcome::Done));
        } else {
            // Those that are refused wait as well: they are refused for what is not committed yet.
            self.propose(command, recipient, changes, Outcome::Done);
        }
        for (command, recipient) in later {
            self.run_command(Command::Catalog(command), recipient);
        }
    }

    /// Runs changes whose proposal came to nothing.
    pub(super) fn again(&mut self, members: Vec<Member>) {
        for Member { command, recipient, .. } in members {
            self.run_command(Command::Catalog(command), recipient);
        }
    }

    /// Tells each of them what it came to, or all of them why it came to nothing.
    pub(super) fn reply_together(&mut self, members: Vec<Member>, outcome: &Result<Outcome, Error>) {
        for Member { command, recipient, outcome: own } in members {
            let outcome = outcome.as_ref().map_err(Error::clone).and(own);
            self.reply(&Command::Catalog(command), recipient, outcome);
        }
    }
}

//! The rules of ports once more, from their words alone: plain lists, all of them read at every step. Slow and obvious.

use std::collections::BTreeSet;

/// The settings as text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) block_size: u32,
    pub(super) floor: u32,
    pub(super) ceiling: u32,
    pub(super) denied_blocks: &'static [&'static str],
    pub(super) denied_ports: &'static [u32],
}

/// Applications in no order, each with (service type, external port).
#[derive(Clone, Debug)]
pub(super) struct Naive {
    pub(super) settings: Settings,
    pub(super) applications: Vec<(String, Vec<(String, u32)>)>,
}

fn offset(service: &str) -> Option<u32> {
    match service {
        "postgresql" => Some(9),
        "play" => Some(1),
        "nodejs" => Some(0),
        _ => None,
    }
}

impl Naive {
    fn is_used(&self, port: u32) -> bool {
        self.applications.iter().any(|(_, ports)| ports.iter().any(|(_, used)| *used == port))
    }

    /// Every block there is, without those that are denied.
    fn allowed_blocks(&self) -> Vec<u32> {
        let Settings { block_size, floor, ceiling, denied_blocks, .. } = self.settings;
        let mut blocks = Vec::new();
        let mut block = floor;
        while block <= ceiling {
            let denied = denied_blocks.iter().any(|pattern| match pattern.strip_prefix('*') {
                Some(ending) => block.to_string().ends_with(ending),
                None => (block..block + block_size).contains(&pattern.parse().unwrap()),
            });
            if !denied {
                blocks.push(block);
            }
            block += block_size;
        }
        blocks
    }

    fn in_block(&self, block: u32, service: &str) -> Option<u32> {
        let candidates: Vec<u32> = match offset(service) {
            Some(offset) => vec![block + offset],
            None => (block + 2..block + self.settings.block_size - 1).collect(),
        };
        let may = |port: &u32| {
            *port <= self.settings.ceiling && !self.settings.denied_ports.contains(port) && !self.is_used(*port)
        };
        candidates.into_iter().find(may)
    }

    /// The next port for an application and a type; none: it is full.
    pub(super) fn next(&self, id: &str, service: &str) -> Option<u32> {
        let family = match id.rfind('-') {
            Some(at) => &id[..at],
            None => id,
        };
        let belongs = |other: &str| other == family || other.starts_with(&format!("{family}-"));
        let size = self.settings.block_size;
        let members = self.applications.iter().filter(|(other, _)| belongs(other));
        let own: BTreeSet<u32> = members.flat_map(|(_, ports)| ports).map(|(_, port)| port / size * size).collect();
        let allowed = self.allowed_blocks();
        for block in own {
            if allowed.contains(&block)
                && let Some(port) = self.in_block(block, service)
            {
                return Some(port);
            }
        }
        let highest = self.applications.iter().flat_map(|(_, ports)| ports).map(|(_, port)| *port).max().unwrap_or(0);
        allowed.into_iter().filter(|block| *block > highest).find_map(|block| self.in_block(block, service))
    }

    /// Gives an application a port for a type, unless it has one; false: it is full.
    pub(super) fn put(&mut self, id: &str, service: &str, external: Option<u32>) -> bool {
        let held = self.applications.iter().find(|(other, _)| other == id);
        if held.is_some_and(|(_, ports)| ports.iter().any(|(of, _)| of == service)) {
            return true;
        }
        let Some(port) = external.or_else(|| self.next(id, service)) else { return false };
        match self.applications.iter_mut().find(|(other, _)| other == id) {
            Some((_, ports)) => ports.push((service.to_owned(), port)),
            None => self.applications.push((id.to_owned(), vec![(service.to_owned(), port)])),
        }
        true
    }

    pub(super) fn delete(&mut self, id: &str) {
        self.applications.retain(|(other, _)| other != id);
    }

    /// All of it, in order.
    pub(super) fn sorted(&self) -> Vec<(String, Vec<(String, u32)>)> {
        let mut applications = self.applications.clone();
        applications.sort();
        applications
    }
}

//! The external ports in use, by port and by family, and which one is next. Knows no applications but by name.

use std::collections::BTreeSet;

use imbl::OrdMap;
use smol_str::SmolStr;

use super::PortRules;

/// No block is left above the highest port in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// The highest port in use, anybody's.
    pub highest: Option<u16>,
    /// The last that may be given out.
    pub ceiling: u16,
}

/// The external ports in use. A look for the next one costs what the family has and no more, however many others there
/// are. Cloning is O(1).
#[derive(Clone, Debug, Default)]
pub struct Ports {
    owners: OrdMap<u16, SmolStr>,
    /// The ports of each application.
    of: OrdMap<SmolStr, OrdMap<u16, ()>>,
}

/// The family whose blocks an application is given ports of: its name up to the last `-`, or all of it.
#[must_use]
pub fn family(application: &str) -> &str {
    application.rsplit_once('-').map_or(application, |(family, _)| family)
}

impl Ports {
    /// Whose port it is.
    #[must_use]
    pub fn owner(&self, port: u16) -> Option<&SmolStr> {
        self.owners.get(&port)
    }

    /// The ports in use from `first` to `last` with their owners, in order.
    pub fn within(&self, first: u16, last: u16) -> impl Iterator<Item = (u16, &SmolStr)> {
        let ports = (first <= last).then(|| self.owners.range(first..=last));
        ports.into_iter().flatten().map(|(port, owner)| (*port, owner))
    }

    /// The highest port in use.
    #[must_use]
    pub fn highest(&self) -> Option<u16> {
        self.owners.get_max().map(|(port, _)| *port)
    }

    /// The port is the application's.
    pub fn take(&mut self, application: &SmolStr, port: u16) {
        self.owners.insert(port, application.clone());
        self.of.entry(application.clone()).or_default().insert(port, ());
    }

    /// The port is the application's no longer. If it is another one's already, it stays so.
    pub fn free(&mut self, application: &str, port: u16) {
        if self.owner(port).is_some_and(|owner| owner == application) {
            self.owners.remove(&port);
        }
        let Some(ports) = self.of.get_mut(application) else { return };
        ports.remove(&port);
        if ports.is_empty() {
            self.of.remove(application);
        }
    }

    /// The blocks that have a port of the application's family, in order. An application is of many families: `a-b-c` is
    /// one of `a`'s, of `a-b`'s and of its own.
    pub(super) fn blocks(&self, rules: &PortRules, application: &str) -> BTreeSet<u16> {
        let family = family(application);
        // `.` is what follows `-`.
        let members = self.of.range(SmolStr::from(format!("{family}-"))..SmolStr::from(format!("{family}.")));
        let members = members.map(|(_, ports)| ports).chain(self.of.get(family));
        members.flat_map(OrdMap::keys).map(|port| rules.block_of(*port)).collect()
    }

    /// The next port for a program of the application with this offset: the first free one in the blocks of its family,
    /// else in the first allowed block above everything in use.
    ///
    /// # Errors
    /// There is no such block.
    pub fn next(&self, rules: &PortRules, application: &str, offset: Option<u16>) -> Result<u16, Full> {
        self.next_among(rules, offset, self.blocks(rules, application))
    }

    /// The same, where these are the blocks of the family.
    ///
    /// # Errors
    /// As `next`.
    pub(super) fn next_among(
        &self,
        rules: &PortRules,
        offset: Option<u16>,
        own: impl IntoIterator<Item = u16>,
    ) -> Result<u16, Full> {
        let place = |block: u16| rules.places(block, offset).find(|port| self.owner(*port).is_none());
        let mut own = own.into_iter().filter(|block| rules.allows_block(*block));
        if let Some(port) = own.find_map(place) {
            return Ok(port);
        }
        let highest = self.highest();
        let full = Full { highest, ceiling: rules.ceiling };
        let above = match highest.filter(|highest| *highest >= rules.floor) {
            Some(highest) => rules.block_of(highest).checked_add(rules.block_size).ok_or(full)?,
            None => rules.floor,
        };
        let blocks = (above..=rules.ceiling).step_by(usize::from(rules.block_size));
        blocks.filter(|block| rules.allows_block(*block)).find_map(place).ok_or(full)
    }
}

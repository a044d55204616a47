//! How external ports are given out: the settings, parsed and checked. Knows no ports that are in use.

use std::{collections::BTreeSet, fmt, str::FromStr};

use super::{Ports, ServiceType};

/// Blocks that are never given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BlockPattern {
    /// The block with this port.
    With(u16),
    /// Every block that begins with a number of this ending, of so many digits: `*00`.
    Ending {
        /// The ending.
        value: u16,
        /// How many digits it has.
        digits: u32,
    },
}

impl FromStr for BlockPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = || format!("`{text}` is neither a port nor an ending such as `*00`");
        let (ending, number) = text.strip_prefix('*').map_or((false, text), |rest| (true, rest));
        if number.is_empty() || number.len() > 5 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(expected());
        }
        let value: u16 = number.parse().map_err(|_| expected())?;
        Ok(if ending { Self::Ending { value, digits: number.len() as u32 } } else { Self::With(value) })
    }
}

impl fmt::Display for BlockPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::With(port) => write!(f, "{port}"),
            Self::Ending { value, digits } => write!(f, "*{value:0width$}", width = digits as usize),
        }
    }
}

/// How external ports are given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRules {
    /// How many ports a block has. Default 10.
    pub block_size: u16,
    /// The first block begins here. Default 6000.
    pub floor: u16,
    /// The last port that is given out. Default 65535.
    pub ceiling: u16,
    /// Blocks that are never given out. Default: those that end in 00, and that of 8080.
    pub denied_blocks: Vec<BlockPattern>,
    /// Ports that are never given out. Default: 8080.
    pub denied_ports: BTreeSet<u16>,
}

impl Default for PortRules {
    fn default() -> Self {
        Self {
            block_size: 10,
            floor: 6000,
            ceiling: u16::MAX,
            denied_blocks: vec![BlockPattern::Ending { value: 0, digits: 2 }, BlockPattern::With(8080)],
            denied_ports: BTreeSet::from([8080]),
        }
    }
}

impl PortRules {
    /// What is wrong with them beside one another, each as a setting's name and a sentence.
    #[must_use]
    pub fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if !self.floor.is_multiple_of(self.block_size) {
            faults.push((
                "floor",
                format!("must be a multiple of the block size {}, not {}", self.block_size, self.floor),
            ));
        }
        if self.ceiling < self.floor {
            faults.push(("ceiling", format!("must be at least the floor {}, not {}", self.floor, self.ceiling)));
        }
        faults
    }

    /// Why a kind of program cannot be in a catalog with these rules.
    #[must_use]
    pub fn fault_of(&self, service_type: &ServiceType) -> Option<String> {
        let offset = service_type.offset.filter(|offset| *offset >= self.block_size)?;
        let id = &service_type.id;
        Some(format!("the service type {id} has the offset {offset}, beyond a block of {}", self.block_size))
    }

    /// What keeps new families from ports in a catalog with these rules: blocks are given out above the highest port in
    /// use, and that may be where none are.
    #[must_use]
    pub fn hint_of(&self, ports: &Ports) -> Option<String> {
        let above = ports.within(self.ceiling.checked_add(1)?, u16::MAX);
        let (mut count, mut first) = (0, None);
        for (port, owner) in above {
            count += 1;
            first.get_or_insert((port, owner));
        }
        let (port, owner) = first?;
        let ceiling = self.ceiling;
        Some(format!(
            "ports in use above catalog_ceiling {ceiling}: {count}, the first is {port} of {owner}; new families get no port"
        ))
    }

    /// Where the block of a port begins.
    #[must_use]
    pub fn block_of(&self, port: u16) -> u16 {
        port - port % self.block_size
    }

    /// Whether ports of the block that begins here may be given out.
    #[must_use]
    pub fn allows_block(&self, block: u16) -> bool {
        let denies = |pattern: &BlockPattern| match *pattern {
            BlockPattern::With(port) => self.block_of(port) == block,
            BlockPattern::Ending { value, digits } => u32::from(block) % 10u32.pow(digits) == u32::from(value),
        };
        (self.floor..=self.ceiling).contains(&block) && !self.denied_blocks.iter().any(denies)
    }

    /// The ports of a block that a program with this offset, or with none, may get, in the order in which they are tried.
    /// Those without leave the first two and the last to known types.
    pub fn places(&self, block: u16, offset: Option<u16>) -> impl Iterator<Item = u16> {
        let places = match offset {
            Some(offset) => offset..=offset,
            None => 2..=self.block_size - 2,
        };
        let ports = places.filter_map(move |place| block.checked_add(place));
        ports.filter(|port| *port <= self.ceiling && !self.denied_ports.contains(port))
    }
}

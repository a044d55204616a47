//! The machine: what it is, which core a process keeps to, and what processes use. Linux, as the peers' packages are.

use std::{fs, thread::available_parallelism, time::Duration};

use rustix::thread::{CpuSet, sched_setaffinity};
use serde::{Deserialize, Serialize};

use crate::Result;

/// Ticks a second in which the kernel tells CPU times.
const TICKS: f64 = 100.0;

/// What figures were taken on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Cores that may be used.
    pub cores: usize,
    /// What the processor calls itself.
    pub cpu: String,
    /// The kernel's version.
    pub kernel: String,
    /// Memory in MiB.
    pub memory_mib: u64,
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(':').map_or(String::new(), |(_, value)| value.trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        Self {
            cores: available_parallelism().map_or(1, usize::from),
            cpu: field(&read("/proc/cpuinfo"), "model name"),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_mib: memory.trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1024,
        }
    }
}

/// How many processes wanted to run, on average over the last minute, five and fifteen.
pub fn load_average() -> Vec<f64> {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).filter_map(|number| number.parse().ok()).collect()
}

/// Keeps this thread, and the processes and threads that it starts from now on, to one core.
pub fn keep_to(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

/// A process to look at.
#[derive(Clone, Copy, Debug)]
pub struct Process(pub u32);

impl Process {
    /// This one.
    pub fn own() -> Self {
        Self(std::process::id())
    }

    /// The CPU time it has used, in all its threads.
    pub fn cpu(self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap_or_default();
        // The name before the last parenthesis may hold anything; user and system time are fields 14 and 15.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let times = fields.split_ascii_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
        Duration::from_secs_f64(times.sum::<f64>() / TICKS)
    }

    /// The memory it holds, in bytes.
    pub fn memory(self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most that it ever held.
    pub fn peak(self) -> u64 {
        self.status("VmHWM:")
    }

    fn status(self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
    }

    /// The CPU time it has used, finer than `cpu` tells: of its threads that are there now.
    pub fn cpu_of_threads(self) -> Duration {
        let threads = fs::read_dir(format!("/proc/{}/task", self.0)).into_iter().flatten().flatten();
        let used = threads.filter_map(|thread| {
            let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split_ascii_whitespace().next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(used.sum::<u64>())
    }
}

//! What processes and threads use, as the system tells. Linux only; elsewhere every answer is `None`.

use std::{fs, time::Duration};

/// Ticks a second in which the kernel tells CPU times, whatever its own clock runs at.
const TICKS: f64 = 100.0;

/// A process to look at.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli::bench) struct Process(pub(in crate::cli::bench) u32);

impl Process {
    /// The CPU time it has used, in all its threads.
    pub(in crate::cli::bench) fn cpu(self) -> Option<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).ok()?;
        // The name before the last parenthesis may hold anything; user and system time are fields 14 and 15.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut times = fields.split_ascii_whitespace().skip(11).map_while(|field| field.parse::<f64>().ok());
        Some(Duration::from_secs_f64((times.next()? + times.next()?) / TICKS))
    }

    /// The memory it holds, in bytes.
    pub(in crate::cli::bench) fn memory(self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    }
}

/// One of our own threads.
#[derive(Clone, Debug)]
pub(in crate::cli::bench) struct Thread(String);

impl Thread {
    /// The thread that asks.
    pub(in crate::cli::bench) fn current() -> Option<Self> {
        let link = fs::read_link("/proc/thread-self").ok()?;
        Some(Self(format!("/proc/{}/schedstat", link.to_str()?)))
    }

    /// The CPU time it has used.
    pub(in crate::cli::bench) fn cpu(&self) -> Option<Duration> {
        let stat = fs::read_to_string(&self.0).ok()?;
        stat.split_ascii_whitespace().next()?.parse().ok().map(Duration::from_nanos)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let process = Process(std::process::id());
        assert!(process.memory().unwrap() > 100_000);
        assert!(process.cpu().is_some());
        assert!(Thread::current().unwrap().cpu().unwrap() > Duration::ZERO);
        assert!(Process(u32::MAX).cpu().is_none());
    }
}

//! What the system says of this process, where it says it.

use super::Metrics;

impl Metrics {
    /// Reads the process's own figures; those that cannot be read stay as they were.
    #[cfg(target_os = "linux")]
    pub fn read_process(&self) {
        use std::time::Duration;

        use procfs::{
            WithCurrentSystemInfo as _,
            process::{LimitValue, Process},
        };

        let Ok(process) = Process::myself() else { return };
        let ticks = procfs::ticks_per_second().max(1);
        let time = |count: u64| Duration::from_secs(count / ticks) + Duration::from_secs(count % ticks) / ticks as u32;
        if let Ok(stat) = process.stat() {
            self.process_cpu.set(time(stat.utime + stat.stime));
            self.process_resident.set(stat.rss_bytes().get());
            self.process_virtual.set(stat.vsize);
            self.process_threads.set(stat.num_threads.unsigned_abs());
            if let Ok(boot) = procfs::boot_time_secs() {
                self.process_start.set(Duration::from_secs(boot) + time(stat.starttime));
            }
        }
        if let Ok(count) = process.fd_count() {
            self.process_fds.set(count as u64);
        }
        if let Ok(limits) = process.limits()
            && let LimitValue::Value(most) = limits.max_open_files.soft_limit
        {
            self.process_max_fds.set(most);
        }
    }

    /// Nothing is known here how this system tells it.
    #[cfg(not(target_os = "linux"))]
    pub fn read_process(&self) {}
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_this_one() {
        let metrics = Metrics::default();
        metrics.read_process();
        assert!(metrics.process_threads.get() >= 1 && metrics.process_fds.get() >= 3);
        assert!(metrics.process_resident.get() > 1 << 20);
        assert!(metrics.process_max_fds.get() >= metrics.process_fds.get());
    }
}

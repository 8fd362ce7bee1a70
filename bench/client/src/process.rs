//! The resources that a process has used, from `/proc`; on another system there is nothing to
//! report.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// A process on this machine.
pub(crate) struct Process {
    folder: PathBuf,
}

impl Process {
    pub(crate) fn new(pid: u64) -> Self {
        Self {
            folder: format!("/proc/{pid}").into(),
        }
    }

    pub(crate) fn this() -> Self {
        Self {
            folder: "/proc/self".into(),
        }
    }

    /// Processor time of all its threads so far, in the kernel's steps of 10 ms.
    pub(crate) fn cpu(&self) -> Option<Duration> {
        const TICK: Duration = Duration::from_millis(10); // USER_HZ is 100 on every Linux
        let stat = fs::read_to_string(self.folder.join("stat")).ok()?;
        let (_, after_name) = stat.rsplit_once(") ")?;
        let mut fields = after_name.split(' ').skip(11);
        let user: u32 = fields.next()?.parse().ok()?;
        let system: u32 = fields.next()?.parse().ok()?;
        Some(TICK * (user + system))
    }

    /// Returns its current bytes of memory.
    pub(crate) fn memory(&self) -> Option<u64> {
        self.status("VmRSS:")
    }

    /// Returns the most bytes that it has had since the last [`reset_peak`](Self::reset_peak).
    pub(crate) fn peak_memory(&self) -> Option<u64> {
        self.status("VmHWM:")
    }

    pub(crate) fn reset_peak(&self) {
        // Without it the peak is that of the whole life of the process.
        let _ = fs::write(self.folder.join("clear_refs"), "5");
    }

    /// How many files and sockets it has open.
    pub(crate) fn files(&self) -> Option<usize> {
        Some(fs::read_dir(self.folder.join("fd")).ok()?.count())
    }

    fn status(&self, name: &str) -> Option<u64> {
        let status = fs::read_to_string(self.folder.join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kilobytes * 1024)
    }
}

//! What a process costs, as the kernel counts it: CPU time to the nanosecond, and resident memory.
//! Read from /proc before and after a stretch of work; nothing here samples, and nothing here asks the process itself.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// CPU time of all threads of a process. Threads that have ended are not in it: none of the measured servers ends one.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let mut nanoseconds = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid} is gone"))? {
        // schedstat: time on a CPU (ns), time waiting for one, time slices. stat would count in steps of 10 ms.
        let line = fs::read_to_string(task?.path().join("schedstat")).context("the kernel counts no schedstat")?;
        let on_cpu = line.split(' ').next().context("an empty schedstat")?;
        nanoseconds += on_cpu
            .parse::<u64>()
            .with_context(|| format!("schedstat says {line:?}"))?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// The memory of a process that is in RAM, in bytes.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid} is gone"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS")?;
    let kibibytes: u64 = line
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .with_context(|| format!("VmRSS says {line:?}"))?;
    Ok(kibibytes * 1024)
}

/// The CPU time that several processes have used since `start`.
pub struct Meter {
    pids: Vec<u32>,
    before: Vec<Duration>,
}

impl Meter {
    pub fn start(pids: &[u32]) -> Result<Meter> {
        let before = pids.iter().map(|pid| cpu_time(*pid)).collect::<Result<_>>()?;
        Ok(Meter {
            pids: pids.to_vec(),
            before,
        })
    }

    /// One figure a process, in the order of `start`.
    pub fn stop(self) -> Result<Vec<Duration>> {
        self.pids
            .iter()
            .zip(self.before)
            .map(|(pid, before)| Ok(cpu_time(*pid)?.saturating_sub(before)))
            .collect()
    }
}

/// Lets this process hold as many sockets as it may at all; returns how many that is.
pub fn raise_open_files() -> Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls get a valid pointer to a limit of ours.
    unsafe {
        anyhow::ensure!(
            libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0,
            "getrlimit refused"
        );
        limit.rlim_cur = limit.rlim_max;
        anyhow::ensure!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit) == 0, "setrlimit refused");
    }
    Ok(limit.rlim_cur)
}

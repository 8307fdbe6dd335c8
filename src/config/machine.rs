//! What the machine has, for the keys whose 0 means "as the machine is". Asked once, at the start.

use std::fs;
use std::thread;

/// Cores that this process may use, as the scheduler and the container allow.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Bytes of memory: the machine's, or the container's limit if that is lower.
pub fn memory() -> usize {
    let limit = fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let container = limit.and_then(|limit| limit.trim().parse().ok()).unwrap_or(usize::MAX); // "max": no limit
    container.min(physical_memory())
}

fn physical_memory() -> usize {
    // SAFETY: sysconf reads a constant of the system; it has no other effect, and answers -1 for what it doesn't know.
    let (pages, page) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    let bytes = usize::try_from(pages).ok().zip(usize::try_from(page).ok());
    // 2 GiB: a guess on the small side, where the system keeps it to itself.
    bytes.map_or(2 << 30, |(pages, page)| pages.saturating_mul(page))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_machine_has_cores_and_memory() {
        assert!(super::cores() >= 1);
        assert!(super::memory() > 16 << 20);
    }
}

//! How far a queue's jobs are, so that its producers do not run away from its consumers.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A backlog that does not shrink for so long holds jobs that Redis has forgotten: they are waited for no more.
const WITHIN: Duration = Duration::from_secs(5);

pub struct Tally {
    pub queue: &'static str,
    counts: Mutex<Counts>,
    changed: Condvar,
}

#[derive(Default)]
struct Counts {
    done: usize,
    open: usize,
}

impl Tally {
    pub fn of(queue: &'static str) -> Tally {
        Tally {
            queue,
            counts: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Jobs that went all their way.
    pub fn done(&self) -> usize {
        self.lock().done
    }

    /// Counts a job that is to be pushed, when fewer than `backlog` are open, or there is to be no more.
    pub fn open(&self, backlog: usize, no_more: impl Fn() -> bool) {
        let full = |counts: &mut Counts| counts.open >= backlog && !no_more();
        let waited = self.changed.wait_timeout_while(self.lock(), WITHIN, full);
        let (mut counts, result) = waited.unwrap_or_else(PoisonError::into_inner);
        if result.timed_out() {
            counts.open = 0;
        }
        counts.open += 1;
    }

    /// One that was not pushed, as far as its producer knows.
    pub fn drop_out(&self) {
        let mut counts = self.lock();
        counts.open = counts.open.saturating_sub(1);
        self.changed.notify_one();
    }

    pub fn close(&self) {
        let mut counts = self.lock();
        counts.done += 1;
        counts.open = counts.open.saturating_sub(1);
        self.changed.notify_one();
    }

    pub fn wake(&self) {
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! `QRESULT … BLOCK`: who waits for which job's end, and for how long. Redis knows which worker to tell; nobody polls.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::time::Instant;

use super::id::LocalId;
use super::lane::LaneKey;
use super::waiting::Patience;
use crate::asker::Asker;

/// All of a worker that wait, asked for or about to be.
#[derive(Debug, Default)]
pub struct Awaiting {
    waits: HashMap<Asker, Wait, ahash::RandomState>,
    by_job: HashMap<(LaneKey, LocalId), Vec<Asker>, ahash::RandomState>,
    /// When patience ends. An entry whose asker is gone by then means nothing.
    ends: BinaryHeap<Reverse<(Instant, u64)>>,
    ending: HashMap<u64, Asker, ahash::RandomState>,
    numbers: u64,
}

#[derive(Clone, Copy, Debug)]
struct Wait {
    lane: LaneKey,
    job: LocalId,
    number: u64,
}

impl Awaiting {
    pub fn insert(&mut self, asker: Asker, lane: LaneKey, job: LocalId, patience: Patience) {
        self.numbers += 1;
        let number = self.numbers;
        if let Patience::Until(end) = patience {
            self.ends.push(Reverse((end, number)));
            self.ending.insert(number, asker);
        }
        self.waits.insert(asker, Wait { lane, job, number });
    }

    /// The job has not ended: Redis will tell when it has. Nothing, if the asker waits no longer.
    pub fn park(&mut self, asker: Asker) {
        if let Some(wait) = self.waits.get(&asker) {
            self.by_job.entry((wait.lane, wait.job)).or_default().push(asker);
        }
    }

    /// The job has ended: who waits for it is to ask again.
    pub fn told(&mut self, lane: LaneKey, job: LocalId) -> Vec<Asker> {
        self.by_job.remove(&(lane, job)).unwrap_or_default()
    }

    /// It has its answer, or nobody to give it to. False: it did not wait.
    pub fn remove(&mut self, asker: &Asker) -> bool {
        let Some(wait) = self.waits.remove(asker) else {
            return false;
        };
        self.ending.remove(&wait.number);
        if self.ends.len() > 64 + 4 * self.ending.len() {
            let ending = &self.ending;
            self.ends.retain(|Reverse((_, number))| ending.contains_key(number));
        }
        if let Some(askers) = self.by_job.get_mut(&(wait.lane, wait.job)) {
            askers.retain(|other| other != asker);
            if askers.is_empty() {
                self.by_job.remove(&(wait.lane, wait.job));
            }
        }
        true
    }

    pub fn next_end(&self) -> Option<Instant> {
        self.ends.peek().map(|Reverse((end, _))| *end)
    }

    /// One whose patience has ended by `now`; it waits no longer.
    pub fn take_ended(&mut self, now: Instant) -> Option<Asker> {
        while self.next_end().is_some_and(|end| end <= now) {
            let Reverse((_, number)) = self.ends.pop()?;
            if let Some(asker) = self.ending.remove(&number) {
                self.remove(&asker);
                return Some(asker);
            }
        }
        None
    }

    /// Everybody who waits for a job of that lane; they wait no longer.
    pub fn take_those_in(&mut self, lane: LaneKey) -> Vec<Asker> {
        let those = self.waits.iter().filter(|(_, wait)| wait.lane == lane);
        let askers: Vec<_> = those.map(|(asker, _)| *asker).collect();
        for asker in &askers {
            self.remove(asker);
        }
        askers
    }

    /// Everybody; they wait no longer.
    pub fn take_all(&mut self) -> Vec<Asker> {
        let askers = self.waits.keys().copied().collect();
        *self = Self::default();
        askers
    }

    /// Jobs that are waited for, after a time in which their ends may have been missed.
    pub fn jobs(&self) -> BTreeSet<(LaneKey, LocalId)> {
        self.by_job.keys().copied().collect()
    }

    pub fn awaits(&self, lane: LaneKey) -> bool {
        self.waits.values().any(|wait| wait.lane == lane)
    }

    /// How many wait.
    pub fn count(&self) -> usize {
        self.waits.len()
    }
}

//! `QRESULT … BLOCK`: who waits for which job's end, and for how long. Redis knows which worker to tell; nobody polls.
//!
//! Redis notes who waits in the call that finds the job unfinished. Its word that the job has ended comes over another
//! connection, so it may be here before that call's reply: then the asker asks once more instead of waiting for a word that
//! was said already.

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
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Redis is being asked.
    Asking,
    /// Redis is being asked, and has said meanwhile that the job ended.
    AskingInVain,
    /// Redis will tell.
    Parked,
}

impl Awaiting {
    pub fn insert(&mut self, asker: Asker, lane: LaneKey, job: LocalId, patience: Patience) {
        self.numbers += 1;
        let number = self.numbers;
        if let Patience::Until(end) = patience {
            self.ends.push(Reverse((end, number)));
            self.ending.insert(number, asker);
        }
        let stage = Stage::Asking;
        self.by_job.entry((lane, job)).or_default().push(asker);
        self.waits.insert(
            asker,
            Wait {
                lane,
                job,
                number,
                stage,
            },
        );
    }

    /// The job had not ended when Redis was asked. The job to ask for once more, as it has ended meanwhile; else Redis will
    /// tell, or the asker waits no longer.
    pub fn park(&mut self, asker: Asker) -> Option<LocalId> {
        let wait = self.waits.get_mut(&asker)?;
        let before = wait.stage;
        wait.stage = match before {
            Stage::AskingInVain => Stage::Asking,
            Stage::Asking | Stage::Parked => Stage::Parked,
        };
        (before == Stage::AskingInVain).then_some(wait.job)
    }

    /// The job has ended: those who are to ask again. Who is just asking does so afterwards.
    pub fn told(&mut self, lane: LaneKey, job: LocalId) -> Vec<Asker> {
        let mut again = Vec::new();
        for asker in self.by_job.get(&(lane, job)).into_iter().flatten() {
            let Some(wait) = self.waits.get_mut(asker) else {
                continue;
            };
            if wait.stage == Stage::Parked {
                again.push(*asker);
            }
            wait.stage = match wait.stage {
                Stage::Parked => Stage::Asking,
                Stage::Asking | Stage::AskingInVain => Stage::AskingInVain,
            };
        }
        again
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asker::asker;

    fn job() -> LocalId {
        LocalId::parse(b"hoferp624400n").unwrap()
    }

    #[test]
    fn who_is_told_of_the_end_before_the_reply_asks_once_more() {
        let (mut awaiting, job) = (Awaiting::default(), job());
        for index in 0..2 {
            awaiting.insert(asker(index), 0, job, Patience::Forever);
        }
        assert_eq!(awaiting.park(asker(0)), None);
        assert_eq!(awaiting.told(0, job), [asker(0)]);
        assert_eq!(awaiting.park(asker(1)), Some(job), "it was asking");
        for index in 0..2 {
            assert_eq!(awaiting.park(asker(index)), None, "once");
        }
        assert_eq!(awaiting.told(0, job), [asker(0), asker(1)]);
    }

    #[test]
    fn nothing_is_left_of_those_who_wait_no_longer() {
        let (mut awaiting, job) = (Awaiting::default(), job());
        let now = Instant::now();
        awaiting.insert(asker(0), 0, job, Patience::Until(now));
        awaiting.insert(asker(1), 0, job, Patience::Forever);
        assert_eq!(awaiting.take_ended(now), Some(asker(0)));
        assert!(awaiting.remove(&asker(1)) && !awaiting.remove(&asker(1)));
        assert!(awaiting.jobs().is_empty() && awaiting.count() == 0);
    }
}

//! The pushes of one lane that were answered lately, to be pushed again should Redis lose them: with a primary whose replica
//! was behind, or in a restart whose file was.
//!
//! 1. Of each call that pushed, its jobs are kept: for as long as replication may be behind, within a bound on the bytes of
//!    all lanes of the worker. Those that end through this proxy (acknowledged, deleted, popped with NOACK) go at once.
//! 2. Each later call says the number of the last one that is kept here. If Redis, whose record of the lane is as old as its
//!    jobs, has not applied that one, it does nothing and says which one it applied last (`prelude.lua`).
//! 3. All that was pushed by later ones is pushed again, under the same ids; what is there already stays as it is. A job that
//!    had been handed out counts that delivery as lost, so that its receipt is good for nothing any more.
//! 4. What had to go for want of room can only be counted.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::id::LocalId;
use super::operation::{JobOptions, Push, Return};
use crate::script::record::encode_kept;

/// Of payloads and what goes with them, all lanes of a worker together: some ten thousand jobs of usual size, which is more
/// than replication is behind by unless it is broken.
pub const KEPT_BYTES: usize = 8 << 20;
/// Replication that is further behind has lost its connection.
const KEPT_FOR: Duration = Duration::from_secs(60);
/// Of a job besides its payload, and of a call besides its jobs.
const OVERHEAD: usize = 80;

#[derive(Debug, Default)]
pub struct Recent {
    calls: VecDeque<Kept>,
    /// Calls that had to go, and how many of their jobs had not ended.
    forgotten: VecDeque<(u64, Instant, u64)>,
    bytes: usize,
}

/// What one call pushed.
#[derive(Debug)]
struct Kept {
    sequence: u64,
    at: Instant,
    /// Connections that there had been by then.
    epoch: u64,
    first: LocalId,
    /// In the order of their ids; none when all of them have ended.
    jobs: Vec<KeptJob>,
    left: usize,
}

#[derive(Debug)]
pub struct KeptJob {
    id: LocalId,
    payload: Bytes,
    options: Rc<JobOptions>,
    deliveries: u32,
    ended: bool,
}

/// What Redis has lost.
#[derive(Debug, Default)]
pub struct Lost {
    pub again: Vec<Return>,
    /// Jobs that were not kept.
    pub gone: u64,
}

impl Recent {
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty() && self.forgotten.is_empty()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Since when the oldest call is kept.
    pub fn oldest(&self) -> Option<Instant> {
        Some(self.calls.front()?.at)
    }

    /// The number of the last call that is kept; 0: none is.
    pub fn newest(&mut self, now: Instant) -> u64 {
        self.age(now);
        let kept = self.calls.back().map(|call| call.sequence);
        let forgotten = self.forgotten.back().map(|(sequence, ..)| *sequence);
        kept.max(forgotten).unwrap_or_default()
    }

    pub fn keep(&mut self, sequence: u64, epoch: u64, jobs: Vec<KeptJob>, now: Instant) {
        self.age(now);
        let Some(first) = jobs.first() else { return };
        let call = Kept {
            sequence,
            at: now,
            epoch,
            first: first.id,
            left: jobs.len(),
            jobs,
        };
        self.bytes += call.bytes();
        self.calls.push_back(call);
    }

    /// It has ended.
    pub fn ended(&mut self, id: LocalId) {
        let Some((call, job)) = self.find(id) else { return };
        let call = &mut self.calls[call];
        let job = &mut call.jobs[job];
        if std::mem::replace(&mut job.ended, true) {
            return;
        }
        self.bytes -= std::mem::take(&mut job.payload).len();
        call.left -= 1;
        if call.left == 0 {
            self.bytes -= call.jobs.len() * OVERHEAD;
            call.jobs = Vec::new();
        }
        while self.calls.front().is_some_and(|call| call.left == 0) {
            self.drop_oldest();
        }
    }

    pub fn delivered(&mut self, id: LocalId, delivery: u32) {
        if let Some((call, job)) = self.find(id) {
            self.calls[call].jobs[job].deliveries = delivery;
        }
    }

    /// There is no room for the oldest call any more.
    pub fn make_room(&mut self) {
        if let Some(call) = self.drop_oldest().filter(|call| call.left > 0) {
            self.forgotten.push_back((call.sequence, call.at, call.left as u64));
        }
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// What was pushed after the call `applied`. It is kept here no longer. `epoch`: the connections that there have been. If
    /// there was none since, and Redis has no record at all, it was told to forget everything, and nothing is lost.
    pub fn lost(&mut self, applied: u64, epoch: u64, most_lapses: impl Fn(&JobOptions) -> u32) -> Lost {
        let told_to_forget = applied == 0 && self.calls.back().is_none_or(|call| call.epoch == epoch);
        let Self { calls, forgotten, .. } = std::mem::take(self);
        let mut lost = Lost::default();
        if told_to_forget {
            return lost;
        }
        for call in calls {
            if call.sequence <= applied {
                self.bytes += call.bytes();
                self.calls.push_back(call);
                continue;
            }
            let left = call.jobs.into_iter().filter(|job| !job.ended);
            lost.again.extend(left.map(|job| {
                let lapses = job.deliveries.min(most_lapses(&job.options));
                job.again(lapses)
            }));
        }
        let gone = forgotten.iter().filter(|(sequence, ..)| *sequence > applied);
        lost.gone = gone.map(|(.., jobs)| jobs).sum();
        lost
    }

    fn age(&mut self, now: Instant) {
        while self.calls.front().is_some_and(|call| call.at + KEPT_FOR < now) {
            self.drop_oldest();
        }
        while self.forgotten.front().is_some_and(|(_, at, _)| *at + KEPT_FOR < now) {
            self.forgotten.pop_front();
        }
    }

    fn drop_oldest(&mut self) -> Option<Kept> {
        let call = self.calls.pop_front()?;
        self.bytes -= call.bytes();
        Some(call)
    }

    /// Ids rise from call to call and within each.
    fn find(&self, id: LocalId) -> Option<(usize, usize)> {
        let next = self.calls.partition_point(|call| call.first <= id);
        let call = next.checked_sub(1)?;
        let job = self.calls[call].jobs.binary_search_by_key(&id, |job| job.id).ok()?;
        Some((call, job))
    }
}

impl Kept {
    fn bytes(&self) -> usize {
        let payloads: usize = self.jobs.iter().map(|job| job.payload.len()).sum();
        payloads + (1 + self.jobs.len()) * OVERHEAD
    }
}

impl KeptJob {
    pub fn of(push: Push, ids: &[LocalId]) -> impl Iterator<Item = Self> {
        let options = Rc::new(push.options);
        push.payloads.into_iter().zip(ids).map(move |(payload, id)| Self {
            id: *id,
            payload: payload.stored().clone(),
            options: options.clone(),
            deliveries: 0,
            ended: false,
        })
    }

    fn again(self, lapses: u32) -> Return {
        let record = Bytes::from(encode_kept(&self.options, self.id.pushed_ms(), lapses));
        Return {
            job: self.id,
            delivery: lapses + 1,
            taken: Some((self.payload, Some(record).filter(|record| !record.is_empty()))),
            lost: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> LocalId {
        LocalId::parse(format!("0000000{number:03}0n").as_bytes()).expect("an id")
    }

    fn push(numbers: std::ops::Range<usize>) -> Vec<KeptJob> {
        let ids: Vec<_> = numbers.map(id).collect();
        let push = Push {
            payloads: ids.iter().map(|_| Bytes::from_static(b"payload").into()).collect(),
            options: JobOptions::default(),
        };
        KeptJob::of(push, &ids).collect()
    }

    fn again(lost: &Lost) -> Vec<(LocalId, u32)> {
        lost.again.iter().map(|job| (job.job, job.delivery)).collect()
    }

    #[test]
    fn what_was_pushed_after_the_last_call_applied_is_lost_but_for_what_has_ended() {
        let now = Instant::now();
        let mut recent = Recent::default();
        recent.keep(1, 1, push(0..2), now);
        recent.keep(4, 1, push(2..5), now);
        recent.keep(6, 1, push(5..7), now);
        recent.ended(id(3));
        recent.ended(id(5));
        recent.delivered(id(4), 2);
        assert_eq!(recent.newest(now), 6);
        let lost = recent.lost(1, 2, |_| 19);
        assert_eq!(again(&lost), [(id(2), 1), (id(4), 3), (id(6), 1)]);
        assert_eq!((lost.gone, recent.newest(now)), (0, 1));
        assert!(recent.lost(1, 2, |_| 19).again.is_empty(), "once");
    }

    #[test]
    fn what_had_to_go_is_counted_and_what_is_old_is_not() {
        let now = Instant::now();
        let mut recent = Recent::default();
        recent.keep(1, 1, push(0..3), now);
        recent.ended(id(0));
        recent.make_room();
        recent.keep(2, 1, push(3..4), now);
        let lost = recent.lost(0, 2, |_| 19);
        assert_eq!((again(&lost), lost.gone, recent.bytes()), (vec![(id(3), 1)], 2, 0));
        recent.keep(3, 1, push(4..5), now);
        assert_eq!(recent.newest(now + KEPT_FOR * 2), 0);
        assert!(recent.is_empty() && recent.bytes() == 0);
    }

    #[test]
    fn a_redis_that_was_told_to_forget_everything_has_lost_nothing() {
        let now = Instant::now();
        let mut recent = Recent::default();
        recent.keep(1, 7, push(0..2), now);
        assert!(
            recent.lost(0, 7, |_| 19).again.is_empty(),
            "no connection was lost meanwhile: FLUSHALL"
        );
        assert!(recent.is_empty());
    }

    #[test]
    fn what_has_ended_takes_no_room() {
        let now = Instant::now();
        let mut recent = Recent::default();
        for call in 1..=3 {
            recent.keep(call as u64, 1, push(call * 10..call * 10 + 10), now);
        }
        let full = recent.bytes();
        (20..30).for_each(|number| recent.ended(id(number)));
        assert_eq!(recent.bytes(), full - 10 * (OVERHEAD + "payload".len()));
        (10..20).for_each(|number| recent.ended(id(number)));
        (30..40).for_each(|number| recent.ended(id(number)));
        assert_eq!(recent.bytes(), 0);
    }
}

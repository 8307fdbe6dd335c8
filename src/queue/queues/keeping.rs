//! What the keeper of repeated jobs ([`crate::queue::crons`]) asks, and what becomes of the answers. A queue's repeated jobs are kept
//! in its partition 0.
//!
//! 1. A tick goes where a push with these options goes: to the partition of its group or key, else to the one that partition 0 has
//!    noted for it, so that all proxies go to the same.
//! 2. If that is partition 0, one step pushes the job and notes which tick is next. If not, the other partition pushes it, unless
//!    it has pushed one of that name as late as this; then partition 0 notes the next. Between the two a proxy may die: then
//!    the tick is still due, and whoever asks does both again.
//! 3. Where the two are on different primaries, the job of the one may be lost in a failover that the other's note survives. So it
//!    is kept for a while and pushed again, as clients' pushes are ([`super::replays`]).
//! 4. What waits in a lane goes nowhere when the queue has other partitions than were thought: what is due is asked for again.
//!    Else two proxies might push the same tick in two partitions.

use std::time::Instant;

use bytes::Bytes;

use super::Queues;
use super::waking::at_redis_time;
use crate::queue::cron::Repeated;
use crate::queue::crons::Wants;
use crate::queue::lane::{Entry, LaneKey, QueueKey, To, Work};
use crate::queue::operation::{Operation, QueueName, Tick};
use crate::queue::single::{CronCall, News, Single};
use crate::script::cron::{self, Told};
use crate::script::{Outcome, Standing};

/// A tick after which there is none is asked after so many ms later, so that it is not forgotten before it is made.
const LAST: u64 = 1000;

impl Queues {
    pub(super) fn push_single(&mut self, queue: &QueueName, single: Single, to: To, since: Instant) {
        let queue = self.queue(queue);
        let lane = self.queues[queue as usize].lanes[0];
        self.enter(lane, Entry::again(Work::Single(single), to, since));
    }

    /// What the keeper of repeated jobs has asked is here.
    pub(super) fn keep(&mut self, key: LaneKey, news: News, standing: Standing, now: Instant) {
        let Some(crons) = &mut self.crons else { return };
        let wants = match news {
            News::Table(rows) => {
                let rows = rows.into_iter();
                let named = rows.filter_map(|(name, version)| Some((QueueName::new(&name)?, version)));
                crons.read(named.collect())
            }
            News::Due(told) => self.make_due(self.lanes[key as usize].of, told, standing, now),
        };
        self.ask_for_keeper(wants, now);
    }

    fn make_due(&mut self, queue: QueueKey, told: Told, standing: Standing, now: Instant) -> Vec<Wants> {
        let mut soonest = told.soonest.into_iter().chain(told.more.then_some(standing.now)).min();
        for entry in told.entries {
            let next = self.make(queue, entry, standing.now, now);
            soonest = soonest.into_iter().chain(next).min();
        }
        let due = soonest.map(|due| at_redis_time(due, standing.now, now));
        let Some(crons) = &mut self.crons else {
            return Vec::new();
        };
        crons
            .expect(&self.queues[queue as usize].name, due)
            .into_iter()
            .collect()
    }

    /// A tick is due. When to ask for the next one.
    fn make(&mut self, queue: QueueKey, entry: cron::Entry, redis_now: u64, now: Instant) -> Option<u64> {
        let job = Repeated::from_words(&entry.words)?;
        let next = job.schedule.following(entry.tick, redis_now);
        self.open(queue, now);
        let random = self.random();
        let settings = &self.queues[queue as usize].settings;
        let mut push = job.push;
        push.payloads
            .iter_mut()
            .for_each(|payload| payload.pack(settings.compress_over));
        let spread = settings.spread.as_ref();
        let its = spread.and_then(|spread| spread.partition_of(&push.options));
        let lender = spread.and_then(|spread| spread.lender(&push.options));
        let then = (random % u64::from(settings.active().max(1))) as u16;
        let tick = Tick {
            name: entry.name,
            at: entry.tick,
            next,
            then,
            push: Some(push),
            is_duplicate: false,
        };
        match lender {
            Some(_) => self.borrow(queue, entry_of(queue, tick, now)),
            None => self.enter_tick(queue, its.unwrap_or(entry.place), tick, now),
        }
        Some(next.unwrap_or(redis_now + LAST))
    }

    pub(super) fn enter_tick(&mut self, queue: QueueKey, partition: u16, tick: Tick, now: Instant) {
        match self.lane_of(queue, partition) {
            Some(lane) => self.enter(lane, entry_of(queue, tick, now)),
            None => self.keeper_failed(queue, now),
        }
    }

    /// What a tick came to, whose push is dealt with.
    pub(super) fn ticked(&mut self, key: LaneKey, tick: Tick, outcome: &Outcome, now: Instant) {
        let lane = &self.lanes[key as usize];
        let (queue, partition) = (lane.of, lane.origin.partition);
        match (outcome, partition) {
            (Outcome::OutOfMemory, _) => self.keeper_failed(queue, now),
            (_, 0) if tick.next.is_none() => self.forget_ticks(queue, &tick.name, now),
            (_, 0) => {}
            _ => self.enter_tick(queue, 0, tick, now),
        }
    }

    /// Partition 0 of this one's queue is on another primary. If this primary loses a job of a tick that was noted there, the tick
    /// is not due again.
    pub(super) fn is_noted_elsewhere(&self, key: LaneKey) -> bool {
        let lane = &self.lanes[key as usize];
        let authority = self.queues[lane.of as usize].lanes[0];
        let primary = |lane: LaneKey| self.primaries.owner(self.lanes[lane as usize].partition.slot);
        primary(key) != primary(authority)
    }

    /// Partition 0 has no such repeated job any more: what the others remember of it goes. Nobody waits for that, and what a
    /// proxy that dies leaves goes by itself, after a while.
    pub(super) fn forget_ticks(&mut self, queue: QueueKey, name: &Bytes, now: Instant) {
        for lane in self.queues[queue as usize].lanes.clone().into_iter().skip(1) {
            let single = Single::Cron(CronCall::Delete(name.clone()));
            self.enter(lane, Entry::again(Work::Single(single), To::Nobody, now));
        }
    }

    /// Ticks that wait in these lanes may have to go elsewhere.
    pub(super) fn ask_for_ticks_again(&mut self, lanes: &[LaneKey], now: Instant) {
        let is_tick = |entry: &Entry| matches!(entry.work, Work::Operation(Operation::Tick(_)));
        for &key in lanes {
            let lane = &mut self.lanes[key as usize];
            if lane.waiting.iter().any(is_tick) {
                lane.take_waiting(is_tick);
                let queue = lane.queue.clone();
                self.ask_for_keeper(vec![Wants::Due(queue)], now);
            }
        }
    }

    pub(super) fn ask_for_keeper(&mut self, wants: Vec<Wants>, now: Instant) {
        let crontab = QueueName::of_crontab();
        for wanted in wants {
            let (name, call) = match wanted {
                Wants::Table => {
                    let table = self.queue(&crontab);
                    self.want_ear(self.queues[table as usize].lanes[0]);
                    let (cursor, seen) = (Bytes::from_static(b"0"), Vec::new());
                    (crontab.clone(), CronCall::ReadTable { cursor, seen })
                }
                Wants::Due(queue) => (queue, CronCall::Due),
                Wants::Forget(queue, version) => (crontab.clone(), CronCall::Forget(queue, version)),
            };
            let to = To::Keeper(self.queue(&name));
            self.push_single(&name, Single::Cron(call), to, now);
        }
    }

    pub(super) fn keeper_failed(&mut self, queue: QueueKey, now: Instant) {
        if let Some(crons) = &mut self.crons {
            crons.failed(&self.queues[queue as usize].name, now);
        }
    }
}

fn entry_of(queue: QueueKey, tick: Tick, now: Instant) -> Entry {
    Entry::again(Work::Operation(Operation::Tick(Box::new(tick))), To::Keeper(queue), now)
}

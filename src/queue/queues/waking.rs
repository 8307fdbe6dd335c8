//! Waking those who wait: by a message from Redis, when something falls due, and by asking now and then.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use super::Queues;
use super::errands::Errand;
use super::replays::TELLING;
use crate::queue::crons::Crons;
use crate::queue::lane::{Lane, LaneKey};
use crate::queue::operation::QueueName;
use crate::queue::reply::Reply;
use crate::script::Standing;
use crate::script::wake::Wake;

/// A worker that is called comes within a millisecond or two. One that has not for so long is frozen, cut off or dead, and the
/// next one is called.
const COMES_WITHIN: Duration = Duration::from_millis(100);

impl Queues {
    /// A message on this worker's wake channel.
    pub fn wake(&mut self, message: &[u8], now: Instant) {
        match Wake::parse(message) {
            Some(Wake::Come(queue, partition)) => {
                let queue = self.queue(&queue);
                match self.lane_of(queue, partition) {
                    Some(lane) => self.come(lane),
                    None => self.put_off(queue, Errand::Come(partition), now),
                }
            }
            Some(Wake::Due(queue, partition, due)) => {
                let (Some(key), Some((redis_now, at))) = (self.known_lane(&queue, partition), self.clock) else {
                    return;
                };
                let due = at_redis_time(due, redis_now, at).max(now);
                let lane = &mut self.lanes[key as usize];
                lane.due = Some(lane.due.map_or(due, |earlier| earlier.min(due)));
                self.expect_due(key);
            }
            Some(Wake::Ended(queue, partition, job)) => {
                if let Some(key) = self.known_lane(&queue, partition) {
                    self.ask_again(key, job, now);
                }
            }
            Some(Wake::Crontab) => {
                if let Some(crons) = &mut self.crons {
                    crons.changed(now);
                }
            }
            None => {}
        }
    }

    fn known_lane(&self, queue: &QueueName, partition: u16) -> Option<LaneKey> {
        let queue = *self.by_name.get(queue)?;
        self.lane_of(queue, partition)
    }

    /// This worker was called to a partition: if it has nobody to serve any more, the next one must be.
    pub(super) fn come(&mut self, key: LaneKey) {
        let lane = &mut self.lanes[key as usize];
        lane.registered = false;
        lane.woken = true;
        lane.hopeful = lane.parked.live();
        self.list(key);
    }

    /// Nobody has come for a job here. Whoever waits at this worker gets it, or else the next worker is called.
    fn call_the_next(&mut self, key: LaneKey) {
        let lane = &mut self.lanes[key as usize];
        lane.called = None;
        lane.woken = true;
        lane.hopeful = lane.hopeful.max(1);
        self.list(key);
    }

    /// Wake-ups are heard again, after some may have been missed: Redis is asked for those who wait, and told of them.
    pub fn hears_again(&mut self, now: Instant) {
        if let Some(crons) = &mut self.crons {
            crons.changed(now);
        }
        for (key, job) in self.awaiting.jobs() {
            self.ask_again(key, job, now);
        }
        for (key, lane) in &mut self.lanes {
            lane.registered = false;
            if lane.parked.live() > 0 && !lane.listed {
                lane.listed = true;
                self.listed.push(key as LaneKey);
            }
        }
    }

    /// How a queue stands after a call.
    pub(super) fn stand(&mut self, key: LaneKey, standing: Standing, now: Instant) {
        self.clock = Some((standing.now, now));
        let lane = &mut self.lanes[key as usize];
        (lane.ready, lane.top, lane.dear, lane.plain) = (standing.ready, standing.top, standing.dear, standing.plain);
        lane.due = standing.next_due.map(|due| at_redis_time(due, standing.now, now));
        lane.called = match (standing.called, lane.called) {
            (true, None) => {
                self.called.push_back((now + COMES_WITHIN, key));
                Some(now + COMES_WITHIN)
            }
            (true, known) => known,
            (false, _) => None,
        };
        self.expect_due(key);
        if standing.overdue {
            self.look_after_loans(key, now);
        }
    }

    /// Parked pops must be asked for when something falls due.
    pub(super) fn expect_due(&mut self, key: LaneKey) {
        let lane = &self.lanes[key as usize];
        if let Some(due) = lane.due
            && lane.parked.live() > 0
        {
            self.dues.push(Reverse((due, key)));
        }
    }

    /// When `tick` should be called next, on account of those who wait.
    pub fn next_tick(&self) -> Option<Instant> {
        let due = self.dues.peek().map(|Reverse((due, _))| *due);
        let poll = (!self.pops.is_empty())
            .then_some(self.polled)
            .flatten()
            .map(|at| at + self.poll_pause());
        let cron = self.crons.as_ref().and_then(Crons::next);
        let telling = self.losses.map(|(_, since)| since + TELLING);
        let ends = [self.pops.next_end(), self.awaiting.next_end()];
        let called = self.called.front().map(|(end, _)| *end);
        let rest = [due, called, self.held_until, poll, cron, telling];
        ends.into_iter().chain(rest).flatten().min()
    }

    /// Time has passed: patience ends, jobs fall due.
    pub fn tick(&mut self, now: Instant) {
        if self.held_until.is_some_and(|end| end <= now) {
            self.end_holds();
        }
        if let Some(crons) = &mut self.crons {
            let wants = crons.wants(now);
            self.ask_for_keeper(wants, now);
        }
        while let Some(asker) = self.pops.take_ended(now) {
            self.forget(asker);
            self.answer(asker, Reply::NoJob);
        }
        while let Some(asker) = self.awaiting.take_ended(now) {
            self.answer(asker, Reply::Nothing);
        }
        while self.dues.peek().is_some_and(|Reverse((due, _))| *due <= now) {
            let Some(Reverse((_, key))) = self.dues.pop() else {
                break;
            };
            if let Some(lane) = self.lanes.get_mut(key as usize)
                && lane.due.is_some_and(|due| due <= now)
            {
                lane.hopeful = lane.parked.live();
                self.list(key);
            }
        }
        while let Some((end, key)) = self.called.front().copied().filter(|(end, _)| *end <= now) {
            self.called.pop_front();
            if self
                .lanes
                .get(key as usize)
                .is_some_and(|lane| lane.called == Some(end))
            {
                self.call_the_next(key);
            }
        }
        if self.polled.is_none_or(|polled| polled + self.poll_pause() <= now) {
            self.polled = Some(now);
            match self.ears.is_deaf() {
                true => self.hears_again(now),
                false => self.poll_one(),
            }
        }
    }

    fn poll_one(&mut self) {
        let parked = |(_, lane): &(usize, &Lane)| lane.parked.live() > 0;
        let from = self.poll_next;
        let after = self.lanes.iter().filter(parked).find(|(key, _)| *key >= from);
        let found = after.or_else(|| self.lanes.iter().find(parked)).map(|(key, _)| key);
        if let Some(key) = found {
            self.poll_next = key + 1;
            let lane = &mut self.lanes[key];
            lane.hopeful = lane.hopeful.max(1);
            self.list(key as LaneKey);
        }
    }
}

/// When Redis's clock will say `at`, given that it said `redis_now` at `now`. A millisecond late: never too early.
pub(super) fn at_redis_time(at: u64, redis_now: u64, now: Instant) -> Instant {
    now + Duration::from_millis(at.saturating_sub(redis_now) + 1)
}

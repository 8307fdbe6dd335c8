//! All queues as one worker sees them: requests come in ([`asks`]), calls go out, replies come back ([`outcomes`]), answers go
//! to their askers.
//!
//! A state machine without I/O, clock or threads: it is told the time, hands its calls to whoever sends them, and lays its
//! answers down for whoever writes them. A queue has one lane for each of its partitions ([`partitions`]); which of them a
//! push or a pop goes to is in [`turn`], what goes to several at once in [`fans`]. What a lane gathers and when it sends is in
//! [`super::lane`], who waits is in [`super::waiting`], what Redis does with a call is in `src/script`.

mod asks;
mod ears;
mod fans;
mod forgotten;
mod keeping;
mod outcomes;
mod partitions;
mod replays;
mod turn;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use slab::Slab;

use super::awaiting::Awaiting;
use super::crons::Crons;
use super::flight::{Askers, Call, Flight, Outgoing};
use super::lane::{Lane, LaneKey, QueueKey, To};
use super::operation::QueueName;
use super::reply::Reply;
use super::spread::Primaries;
use super::waiting::{Patience, Pops};
use crate::asker::Asker;
use crate::config::{Config, Source};
use crate::script::batch::{self, Batch};
use crate::script::wake::Wake;
use crate::script::{Scripts, Standing};

use ears::Ears;
use fans::Fans;
use partitions::{Errand, Queue, default_partitions};
pub use replays::Losses;
use replays::TELLING;

/// Lanes that nobody uses are looked for when there are more than so many.
const IDLE_LANES: usize = 1024;
/// A parked pop whose wake-up was lost is found by this: every so often one queue is asked again. Slow, as wake-ups are lost
/// only with a worker that died between being woken and popping.
const SAFETY_POLL: Duration = Duration::from_secs(5);

/// A reply on its way to its asker.
#[derive(Debug)]
pub struct Answer {
    pub asker: Asker,
    pub reply: Reply,
}

/// What the queues did, for the metrics. Counters since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub pushed: u64,
    pub popped: u64,
    pub acked: u64,
    pub nacked: u64,
    pub batches: u64,
    pub batched: u64,
    /// Acknowledged pushes that Redis lost: pushed again, and not kept.
    pub resent: u64,
    pub lost: u64,
}

pub struct Queues {
    config: Arc<Config>,
    scripts: Arc<Scripts>,
    /// Names this worker's lanes in Redis.
    worker: String,
    /// Where partitions can be.
    primaries: Primaries,
    ears: Ears,
    lanes: Slab<Lane>,
    queues: Slab<Queue>,
    by_name: HashMap<QueueName, QueueKey, ahash::RandomState>,
    fans: Fans,
    /// Pushes that some partitions have refused as full, and how many have.
    refused: HashMap<Asker, u16, ahash::RandomState>,
    pops: Pops,
    awaiting: Awaiting,
    /// `None`: another worker of this proxy keeps them.
    crons: Option<Crons>,
    /// Lanes that may have something to send.
    listed: Vec<LaneKey>,
    /// Lanes that could not call when they were asked, as their primary could not be reached.
    stalled: Vec<LaneKey>,
    /// Lanes that hold their call for a crowd, and until when the first of them does.
    held_lanes: Vec<LaneKey>,
    held_until: Option<Instant>,
    /// When something falls due in a lane where pops are parked.
    dues: BinaryHeap<Reverse<(Instant, LaneKey)>>,
    answers: Vec<Answer>,
    /// Calls in flight.
    flights: usize,
    /// Bytes that all lanes hold.
    held: usize,
    sequence: u64,
    /// Connections that there have been.
    epoch: u64,
    /// Bytes that all lanes keep of recent pushes.
    recent: usize,
    /// What Redis has lost and nobody was told yet, and since when.
    losses: Option<(Losses, Instant)>,
    /// Redis's clock beside ours, at the last reply.
    clock: Option<(u64, Instant)>,
    polled: Option<Instant>,
    poll_next: usize,
    jitter: u64,
    pub tally: Tally,
}

impl Queues {
    pub fn new(config: Arc<Config>, scripts: Arc<Scripts>, worker: String, seed: u64) -> Self {
        let is_cluster = matches!(config.upstream.source, Source::Cluster(_));
        Self {
            config,
            scripts,
            worker,
            primaries: Primaries::one(),
            ears: Ears::new(is_cluster),
            lanes: Slab::new(),
            queues: Slab::new(),
            by_name: HashMap::default(),
            fans: Fans::default(),
            refused: HashMap::default(),
            pops: Pops::default(),
            awaiting: Awaiting::default(),
            crons: None,
            listed: Vec::new(),
            stalled: Vec::new(),
            held_lanes: Vec::new(),
            held_until: None,
            dues: BinaryHeap::new(),
            answers: Vec::new(),
            flights: 0,
            held: 0,
            sequence: 0,
            epoch: 0,
            recent: 0,
            losses: None,
            clock: None,
            polled: None,
            poll_next: 0,
            jitter: seed | 1,
            tally: Tally::default(),
        }
    }

    /// From now on this worker sees to it that repeated jobs are pushed.
    pub fn keep_crons(&mut self, now: Instant) {
        self.crons = Some(Crons::new(now));
    }

    /// The cluster's primaries, by which new partitions are placed.
    pub fn know_primaries(&mut self, primaries: Primaries) {
        self.primaries = primaries;
        for (_, queue) in &mut self.queues {
            queue.settings.partitions = default_partitions(&self.config, &self.primaries, &queue.name);
        }
    }

    /// A lane that may have a call to make, and the slot of its keys: [`Self::call`] makes it, if it can go to its primary now,
    /// else the lane is [stalled](Self::stall).
    pub fn next_lane(&mut self, now: Instant) -> Option<(LaneKey, u16)> {
        while let Some(key) = self.listed.pop() {
            let lane = &mut self.lanes[key as usize];
            lane.listed = false;
            match lane.holds(now) {
                Some(end) => self.hold(key, end),
                None => return Some((key, lane.partition.slot)),
            }
        }
        None
    }

    /// It gathers on until [`Self::resume`].
    pub fn stall(&mut self, key: LaneKey, now: Instant) {
        let lane = &mut self.lanes[key as usize];
        if !lane.stalled {
            lane.stalled = true;
            self.stalled.push(key);
        }
        self.step_aside(key, now);
    }

    /// Some of the lanes that were stalled may be able to call.
    pub fn resume(&mut self) {
        for key in std::mem::take(&mut self.stalled) {
            self.lanes[key as usize].stalled = false;
            self.list(key);
        }
    }

    /// The lane's next call, if it has one to make.
    pub fn call(&mut self, key: LaneKey, now: Instant) -> Option<Outgoing> {
        let lane = &self.lanes[key as usize];
        if lane.settings.dropping && !lane.waiting.is_empty() {
            self.finish_drop(lane.of, now);
        }
        let lane = &mut self.lanes[key as usize];
        let (call, to) = lane.next_call(&mut self.pops)?;
        for asker in std::mem::take(&mut lane.taken) {
            self.left_others(key, asker);
        }
        self.sequence += 1;
        let lane = &self.lanes[key as usize];
        if let Call::Batch { operations, .. } = &call {
            let (queue, partition, requests) = (lane.of, lane.origin.partition, operations.len());
            self.tally.batches += 1;
            self.tally.batched += requests as u64;
            self.turn_sent(queue, partition, requests);
        }
        Some(self.fly(key, call, to, self.sequence, now))
    }

    /// The call is in flight as soon as what comes back is sent.
    fn fly(&mut self, key: LaneKey, call: Call, to: Askers, sequence: u64, now: Instant) -> Outgoing {
        let jitter = (self.random() >> 11) as f64 / (1u64 << 53) as f64;
        let lane = &mut self.lanes[key as usize];
        lane.partition.applied = lane.recent.newest(now);
        let mut bytes = encode(&self.scripts, lane, &call, sequence, jitter);
        let wait = lane.wait(&call, self.config.upstream.response_timeout / 2);
        if let Some(wait) = wait {
            bytes = wait.behind(&bytes);
        }
        lane.pace.sent();
        self.flights += 1;
        let flight = Flight {
            sent: now,
            sequence,
            call,
            to,
            bytes,
            wait,
        };
        let outgoing = flight.outgoing();
        lane.flight = Some(flight);
        self.count(key);
        outgoing
    }

    /// Its next call may have to wait for replicas.
    pub fn may_wait(&self, lane: LaneKey) -> bool {
        self.lanes[lane as usize].settings.replicas > 0
    }

    pub fn queue_of(&self, lane: LaneKey) -> QueueKey {
        self.lanes[lane as usize].of
    }

    /// Its call in flight does.
    pub fn waits(&self, lane: LaneKey) -> bool {
        let flight = self.lanes.get(lane as usize).and_then(|lane| lane.flight.as_ref());
        flight.is_some_and(|flight| flight.wait.is_some())
    }

    /// It is parked in this lane no longer, and so in no other.
    fn left_others(&mut self, key: LaneKey, asker: Asker) {
        let lanes = self.pops.get(&asker).map(|request| request.lanes.clone());
        for other in lanes.into_iter().flatten().filter(|other| *other != key) {
            self.lanes[other as usize].parked.left(&self.pops);
        }
    }

    fn random(&mut self) -> u64 {
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        self.jitter
    }

    fn hold(&mut self, key: LaneKey, end: Instant) {
        let lane = &mut self.lanes[key as usize];
        if !lane.held {
            lane.held = true;
            self.held_lanes.push(key);
        }
        self.held_until = Some(self.held_until.map_or(end, |sooner| sooner.min(end)));
    }

    /// The calls that were held are looked at again.
    fn end_holds(&mut self) {
        self.held_until = None;
        for key in std::mem::take(&mut self.held_lanes) {
            self.lanes[key as usize].held = false;
            self.list(key);
        }
    }

    /// The call in flight, to be sent again: Redis had forgotten its script.
    pub fn call_in_flight(&self, lane: LaneKey) -> Option<Outgoing> {
        Some(self.lanes.get(lane as usize)?.flight.as_ref()?.outgoing())
    }

    /// How a queue stands after a call.
    fn stand(&mut self, key: LaneKey, standing: Standing, now: Instant) {
        self.clock = Some((standing.now, now));
        let lane = &mut self.lanes[key as usize];
        (lane.ready, lane.top) = (standing.ready, standing.top);
        lane.due = standing.next_due.map(|due| at_redis_time(due, standing.now, now));
        self.expect_due(key);
    }

    /// Parked pops must be asked for when something falls due.
    fn expect_due(&mut self, key: LaneKey) {
        let lane = &self.lanes[key as usize];
        if let Some(due) = lane.due
            && lane.parked.live() > 0
        {
            self.dues.push(Reverse((due, key)));
        }
    }

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
    fn come(&mut self, key: LaneKey) {
        let lane = &mut self.lanes[key as usize];
        lane.registered = false;
        lane.woken = true;
        lane.hopeful = lane.parked.live();
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
        let rest = [due, self.held_until, poll, cron, telling];
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

    /// Lanes where somebody has been kept waiting since before `deadline`, and the slot of their keys.
    pub fn late_lanes(&self, deadline: Instant) -> Vec<(LaneKey, u16)> {
        let late = |to: &To, since: Instant| is_late(&self.pops, to, since, deadline);
        let is_late = |lane: &Lane| {
            let mut flight = lane.flight.iter().flat_map(|flight| &flight.to);
            lane.waiting.iter().any(|entry| late(&entry.to, entry.since))
                || flight.any(|(to, since)| late(to, *since))
                || lane.origin.partition == 0 && self.queues[lane.of as usize].has_put_off_since(deadline)
        };
        let lanes = self.lanes.iter().filter(|(_, lane)| is_late(lane));
        lanes.map(|(key, lane)| (key as LaneKey, lane.partition.slot)).collect()
    }

    /// Answers those of a lane whom Redis has kept waiting since before `deadline`. A pop that blocks has the patience it
    /// said. `line`: why, for those never sent; `doubt`: for those whose call may have been applied.
    pub fn give_up(&mut self, key: LaneKey, deadline: Instant, line: &Bytes, doubt: &Bytes) {
        let Some(lane) = self.lanes.get_mut(key as usize) else {
            return;
        };
        let late = |to: &To, since: Instant| is_late(&self.pops, to, since, deadline);
        let gone = lane.take_waiting(|entry| late(&entry.to, entry.since));
        let mut refused: Vec<_> = gone.into_iter().map(|entry| (entry.to, line)).collect();
        let flight = lane.flight.iter_mut().flat_map(|flight| &mut flight.to);
        for (to, since) in flight {
            if late(to, *since) {
                let error = match to {
                    To::Pop(_) => line,
                    _ => doubt,
                };
                refused.push((std::mem::replace(to, To::Nobody), error));
            }
        }
        let (of, partition) = (lane.of, lane.origin.partition);
        self.count(key);
        if partition == 0 && self.queues.contains(of as usize) {
            refused.extend(self.give_up_put_off(of, deadline).into_iter().map(|to| (to, line)));
        }
        for (to, line) in refused {
            self.refuse(to, line.clone(), deadline);
        }
    }

    /// Answers laid down since the last call.
    pub fn take_answers(&mut self, into: &mut Vec<Answer>) {
        std::mem::swap(into, &mut self.answers);
        self.answers.clear();
    }

    pub fn has_answers(&self) -> bool {
        !self.answers.is_empty()
    }

    pub fn has_calls(&self) -> bool {
        !self.listed.is_empty()
    }

    /// Whether anybody waits for Redis.
    pub fn is_waiting(&self) -> bool {
        self.flights > 0 || !self.listed.is_empty() || !self.stalled.is_empty() || !self.held_lanes.is_empty()
    }

    /// Bytes of payloads that wait.
    pub fn buffered(&self) -> usize {
        self.held
    }

    /// The proxy stops: who is parked gets nothing more, and is told so.
    pub fn end_waits(&mut self) {
        for asker in self.pops.parked() {
            self.forget(asker);
            self.answer(asker, Reply::NoJob);
        }
        for asker in self.awaiting.take_all() {
            self.answer(asker, Reply::Nothing);
        }
    }

    /// Requests that wait for a job, or for its end.
    pub fn blocked(&self) -> usize {
        self.pops.len() + self.awaiting.count()
    }

    fn answer(&mut self, asker: Asker, reply: Reply) {
        self.answers.push(Answer { asker, reply });
    }

    fn list(&mut self, key: LaneKey) {
        self.count(key);
        let lane = &mut self.lanes[key as usize];
        if !lane.listed {
            lane.listed = true;
            self.listed.push(key);
        }
    }

    /// The worker's sum follows what one lane holds.
    fn count(&mut self, key: LaneKey) {
        let lane = &mut self.lanes[key as usize];
        let held = lane.buffered();
        self.held = self.held - lane.counted + held;
        lane.counted = held;
    }
}

fn encode(scripts: &Scripts, lane: &Lane, call: &Call, sequence: u64, jitter: f64) -> Bytes {
    let (partition, settings) = (&lane.partition, &lane.settings);
    match call {
        Call::Batch { operations, parked } => {
            let batch = Batch {
                sequence,
                jitter,
                parked: *parked,
                operations,
            };
            batch::encode(scripts, partition, settings, &batch)
        }
        Call::Single(single) => single.encode(scripts, partition, settings, sequence),
    }
}

/// It has waited since before `deadline`, and nobody said that it may for longer.
fn is_late(pops: &Pops, to: &To, since: Instant, deadline: Instant) -> bool {
    since <= deadline
        && match to {
            To::Pop(asker) => pops.get(asker).is_none_or(|request| {
                !request.may_park() || matches!(request.patience, Patience::Until(end) if end <= deadline)
            }),
            To::Asker(_) | To::ManyIds(_) | To::Part(..) => true,
            To::Keeper(_) | To::Nobody => false,
        }
}

/// When Redis's clock will say `at`, given that it said `redis_now` at `now`. A millisecond late: never too early.
fn at_redis_time(at: u64, redis_now: u64, now: Instant) -> Instant {
    now + Duration::from_millis(at.saturating_sub(redis_now) + 1)
}

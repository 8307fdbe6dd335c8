//! All queues as one worker sees them: requests come in ([`asks`]), calls go out ([`calls`]), replies come back ([`outcomes`],
//! [`singles`]), those who wait are woken ([`waking`]), answers go to their askers.
//!
//! A state machine without I/O, clock or threads: it is told the time, hands its calls to whoever sends them, and lays its
//! answers down for whoever writes them. A queue has one lane for each of its partitions ([`partitions`]); which of them a
//! push or a pop goes to is in [`turn`], what goes to several at once in [`fans`], what needs its unique key from another one first
//! in [`loans`]. What a lane gathers and when it sends is in
//! [`super::lane`], who waits is in [`super::waiting`], what Redis does with a call is in `src/script`.

mod asks;
mod calls;
mod ears;
mod errands;
mod fans;
mod forgotten;
mod keeping;
mod loans;
mod moving;
mod outcomes;
mod partitions;
mod replays;
mod singles;
mod turn;
mod waking;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use slab::Slab;

use super::awaiting::Awaiting;
use super::crons::Crons;
use super::lane::{Lane, LaneKey, QueueKey, To};
use super::operation::QueueName;
use super::reply::Reply;
use super::spread::Primaries;
use super::waiting::{Patience, Pops};
use crate::asker::Asker;
use crate::config::{Config, Source};
use crate::script::Scripts;

use ears::Ears;
use fans::Fans;
use loans::Borrowers;
use partitions::{Queue, default_partitions};
pub use replays::Losses;

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
    borrowers: Borrowers,
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
    /// When a worker that was called must have come, in the order in which they were.
    called: VecDeque<(Instant, LaneKey)>,
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
            borrowers: Borrowers::default(),
            refused: HashMap::default(),
            pops: Pops::default(),
            awaiting: Awaiting::default(),
            crons: None,
            listed: Vec::new(),
            stalled: Vec::new(),
            held_lanes: Vec::new(),
            held_until: None,
            called: VecDeque::new(),
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

    fn random(&mut self) -> u64 {
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        self.jitter
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
                    To::Pop(_) | To::Borrower(..) => line,
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

    /// Answers laid down since the last call.
    pub fn take_answers(&mut self, into: &mut Vec<Answer>) {
        std::mem::swap(into, &mut self.answers);
        self.answers.clear();
    }

    pub fn has_answers(&self) -> bool {
        !self.answers.is_empty()
    }

    /// Whether anybody waits for Redis.
    pub fn is_waiting(&self) -> bool {
        self.flights > 0 || !self.listed.is_empty() || !self.stalled.is_empty() || !self.held_lanes.is_empty()
    }

    /// Bytes of payloads that wait.
    pub fn buffered(&self) -> usize {
        self.held + self.borrowers.bytes()
    }

    /// Requests that wait for a job, or for its end.
    pub fn blocked(&self) -> usize {
        self.pops.len() + self.awaiting.count()
    }

    fn answer(&mut self, asker: Asker, reply: Reply) {
        self.answers.push(Answer { asker, reply });
    }

    /// The worker's sum follows what one lane holds.
    fn count(&mut self, key: LaneKey) {
        let lane = &mut self.lanes[key as usize];
        let held = lane.buffered();
        self.held = self.held - lane.counted + held;
        lane.counted = held;
    }
}

/// It has waited since before `deadline`, and nobody said that it may for longer.
fn is_late(pops: &Pops, to: &To, since: Instant, deadline: Instant) -> bool {
    since <= deadline
        && match to {
            To::Pop(asker) => pops.get(asker).is_none_or(|request| {
                !request.may_park() || matches!(request.patience, Patience::Until(end) if end <= deadline)
            }),
            To::Asker(_) | To::ManyIds(_) | To::Part(..) | To::Borrower(..) => true,
            To::Keeper(_) | To::Nobody => false,
        }
}

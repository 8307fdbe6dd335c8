//! All queues as one worker sees them: requests come in, calls go out, replies come back, answers go to their askers.
//!
//! A state machine without I/O, clock or threads: it is told the time, hands its calls to whoever sends them, and lays its
//! answers down for whoever writes them. A queue has one lane for each of its partitions ([`partitions`]); which of them a
//! push or a pop goes to is in [`turn`], what goes to several at once in [`fans`]. What a lane gathers and when it sends is in
//! [`super::lane`], who waits is in [`super::waiting`], what Redis does with a call is in `src/script`.

mod ears;
mod fans;
mod keeping;
mod partitions;
mod replays;
mod turn;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use slab::Slab;
use smallvec::SmallVec;

use super::awaiting::Awaiting;
use super::crons::Crons;
use super::id::LocalId;
use super::lane::{Askers, Call, Entry, Flight, Lane, LaneKey, Outgoing, QueueKey, To, Trust, Work};
use super::operation::{Claim, Operation, Push, QueueName, Return};
use super::parse::{Ask, Block, PopAsk, Unknown};
use super::recent::KeptJob;
use super::reply::{Popped, Reply};
use super::settings::{Change, Pause, SPREAD};
use super::single::{CronCall, Elsewhere, Single, Step};
use super::spread::{Primaries, Spread};
use super::waiting::{Patience, PopRequest, Pops};
use crate::asker::Asker;
use crate::config::{Config, Source};
use crate::script::batch::{self, Batch, BatchReply, Shortage};
use crate::script::wake::Wake;
use crate::script::{CallError, Changed, Job, Outcome, Scripts, Standing, last_applied};

use ears::Ears;
use fans::{Fan, Fans};
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

    /// A client's request. `pipelined`: it has sent others before, which have no reply yet.
    pub fn ask(&mut self, asker: Asker, ask: Ask, pipelined: bool, now: Instant) {
        let queue = self.queue(ask.queue());
        match ask.last_partition() {
            Some(last) if self.lane_of(queue, last).is_none() => {
                let ask = Box::new(ask);
                self.put_off(queue, Errand::Ask { asker, ask, pipelined }, now);
            }
            _ => self.ask_known(queue, asker, ask, pipelined, now),
        }
    }

    /// A request all of whose partitions are known, or are none of this queue.
    fn ask_known(&mut self, queue: QueueKey, asker: Asker, ask: Ask, pipelined: bool, now: Instant) {
        let entry = |work| Entry {
            work,
            to: To::Asker(asker),
            since: now,
            pipelined,
        };
        match ask {
            Ask::Pop(pop) => self.ask_pop(asker, pop, pipelined, now),
            Ask::Push { push, many, .. } => {
                let to = if many { To::ManyIds(asker) } else { To::Asker(asker) };
                self.enter_push(queue, push, to, pipelined, now);
            }
            Ask::Settle { operation, .. } => match self.lane_of_all(queue, operation.claims()) {
                Some(lane) => self.enter(lane, entry(Work::Operation(operation))),
                None => {
                    let claims = operation.claims().to_vec();
                    let work = |claims| Work::Operation(operation.of(claims));
                    self.ask_parts(queue, claims, work, Reply::Integer(0), entry);
                }
            },
            Ask::About { jobs, what, .. } => {
                let work = |claims: Vec<Claim>| Work::Single(what.single(&claims));
                self.ask_parts(queue, jobs, work, what.nothing(), entry);
            }
            Ask::Result {
                partition, job, block, ..
            } => match self.lane_of(queue, partition) {
                Some(lane) => self.ask_result(asker, lane, job, block, now),
                None => self.answer(asker, Reply::Nothing),
            },
            Ask::NoJob { unknown, .. } => self.answer(asker, of_no_job(unknown)),
            Ask::Single { single, .. } => match self.lane_of(queue, single.partition()) {
                Some(lane) => self.enter(lane, entry(Work::Single(single))),
                None => self.answer(asker, single.of_nothing(&self.queues[queue as usize].settings)),
            },
        }
    }

    /// The lane of the one partition where all of these are.
    fn lane_of_all(&self, queue: QueueKey, claims: &[Claim]) -> Option<LaneKey> {
        let first = claims.first()?.partition;
        let all = claims.iter().all(|claim| claim.partition == first);
        self.lane_of(queue, first).filter(|_| all)
    }

    /// What is asked about jobs goes to their partitions. `nothing`: the reply, if they are in none of this queue's.
    fn ask_parts(
        &mut self,
        queue: QueueKey,
        mut claims: Vec<Claim>,
        work: impl Fn(Vec<Claim>) -> Work,
        nothing: Reply,
        entry: impl Fn(Work) -> Entry,
    ) {
        let to = entry(Work::Pop).to;
        let known = self.queues[queue as usize].lanes.len();
        claims.retain(|claim| usize::from(claim.partition) < known);
        if let Some(lane) = self.lane_of_all(queue, &claims) {
            return self.enter(lane, entry(work(claims)));
        }
        let parts: Vec<_> = by_partition(claims)
            .into_iter()
            .map(|(partition, claims)| (partition, entry(work(claims))))
            .collect();
        match parts.first() {
            None => self.reply_to(to, nothing),
            Some((_, first)) => self.fan_out(Fan::new(first.to, queue, parts.len(), first.since), parts),
        }
    }

    /// A push goes to the partition where its jobs belong, or to the one whose turn it is.
    fn enter_push(&mut self, queue: QueueKey, mut push: Push, to: To, pipelined: bool, since: Instant) {
        self.open(queue, since);
        let known = &self.queues[queue as usize];
        let spread = known.settings.spread.as_ref();
        if spread.is_some_and(|spread| spread.refuses(&push.options)) {
            let line = format!(
                "ERR UNIQUE and GROUP exclude each other in queue '{}', which has several partitions: the key is judged in one, \
                 and the group in another",
                known.name
            );
            return self.refuse(to, line.into(), since);
        }
        let over = known.settings.compress_over;
        push.payloads.iter_mut().for_each(|payload| payload.pack(over));
        let lane = match spread.and_then(|spread| spread.partition_of(&push.options)) {
            Some(partition) => known.lanes[usize::from(partition)],
            None => self.push_lane(queue),
        };
        let work = Work::Operation(Operation::Push(push));
        self.enter(
            lane,
            Entry {
                work,
                to,
                since,
                pipelined,
            },
        );
    }

    fn enter(&mut self, lane: LaneKey, entry: Entry) {
        self.lanes[lane as usize].push(entry);
        self.list(lane);
    }

    fn ask_result(&mut self, asker: Asker, lane: LaneKey, job: LocalId, block: Option<Block>, now: Instant) {
        if let Some(block) = block {
            self.awaiting.insert(asker, lane, job, Patience::of(Some(block), now));
            self.want_ear(lane);
        }
        self.look_for_result(asker, lane, job, block.is_some(), now);
    }

    fn look_for_result(&mut self, asker: Asker, lane: LaneKey, job: LocalId, waits: bool, now: Instant) {
        let work = Work::Single(Single::Result { job, waits });
        self.enter(lane, Entry::again(work, To::Asker(asker), now));
    }

    /// This job has ended, or its end may have been missed: those who wait for it ask again.
    fn ask_again(&mut self, lane: LaneKey, job: LocalId, now: Instant) {
        for asker in self.awaiting.told(lane, job) {
            self.look_for_result(asker, lane, job, true, now);
        }
    }

    fn ask_pop(&mut self, asker: Asker, ask: PopAsk, pipelined: bool, now: Instant) {
        let mut lanes = SmallVec::new();
        for name in &ask.queues {
            let queue = self.queue(name);
            self.pop_lanes(queue, &mut lanes);
        }
        let patience = Patience::of(ask.block, now);
        self.pops.insert(
            asker,
            PopRequest {
                lanes,
                at: 0,
                pop: ask.pop,
                many: ask.many,
                with_meta: ask.with_meta,
                bound: ask.bound,
                patience,
                since: now,
                got: Vec::new(),
                parked: false,
                turn: None,
            },
        );
        self.ask_lane(asker, pipelined, now);
    }

    /// Asks the lane whose turn it is, or passes it over where others are parked and would have been served first.
    fn ask_lane(&mut self, asker: Asker, pipelined: bool, now: Instant) {
        let Some(request) = self.pops.get_mut(&asker) else {
            return;
        };
        loop {
            let key = request.lanes[request.at];
            let lane = &mut self.lanes[key as usize];
            let behind_others =
                lane.registered && lane.parked.live() > 0 && lane.hopeful == 0 && lane.waiting.is_empty() && !pipelined;
            if !(behind_others && request.may_park()) {
                let entry = Entry {
                    work: Work::Pop,
                    to: To::Pop(asker),
                    since: now,
                    pipelined,
                };
                return self.enter(key, entry);
            }
            if request.is_at_last() {
                return self.park(asker, now);
            }
            request.at += 1;
        }
    }

    /// Nothing in the lane that was asked: the next one, or park, or say so.
    fn found_nothing(&mut self, asker: Asker, now: Instant) {
        let Some(request) = self.pops.get_mut(&asker) else {
            return;
        };
        match request.is_at_last() {
            true => self.park(asker, now),
            false => {
                request.at += 1;
                self.ask_lane(asker, false, now);
            }
        }
    }

    /// There is nothing in any lane.
    fn park(&mut self, asker: Asker, now: Instant) {
        let Some(request) = self.pops.get(&asker) else {
            return;
        };
        let waits = match request.patience {
            Patience::None => false,
            Patience::Until(end) => end > now,
            Patience::Forever => true,
        };
        if !waits {
            self.pops.remove(&asker);
            return self.answer(asker, Reply::NoJob);
        }
        let Some((request, place)) = self.pops.park(asker) else {
            return;
        };
        for key in request.lanes.clone() {
            self.lanes[key as usize].parked.park(place);
            self.want_ear(key);
            self.expect_due(key);
            self.list(key);
        }
    }

    /// The client is gone, and with it this request. What it popped and never got comes by [`Self::give_back`].
    /// False: it is no pop, or it has its answer.
    pub fn forget(&mut self, asker: Asker) -> bool {
        let Some(request) = self.pops.remove(&asker) else {
            return self.awaiting.remove(&asker);
        };
        if request.parked {
            for key in &request.lanes {
                self.lanes[*key as usize].parked.left(&self.pops);
            }
        }
        true
    }

    /// Jobs of one partition that were popped and did not reach their client's socket.
    pub fn give_back(&mut self, queue: &QueueName, partition: u16, returns: Vec<Return>, now: Instant) {
        let queue = self.queue(queue);
        match self.lane_of(queue, partition) {
            Some(lane) => self.for_nobody(lane, Operation::Return(returns), now),
            None => self.put_off(queue, Errand::GiveBack { partition, returns }, now),
        }
    }

    /// Jobs that were bound to a connection which is closed.
    pub fn lapse(&mut self, queue: &QueueName, claims: Vec<Claim>, now: Instant) {
        let queue = self.queue(queue);
        let last = claims.iter().map(|claim| claim.partition).max();
        match last.is_some_and(|last| self.lane_of(queue, last).is_none()) {
            true => self.put_off(queue, Errand::Lapse(claims), now),
            false => self.lapse_known(queue, claims, now),
        }
    }

    fn lapse_known(&mut self, queue: QueueKey, claims: Vec<Claim>, now: Instant) {
        for (partition, claims) in by_partition(claims) {
            if let Some(lane) = self.lane_of(queue, partition) {
                self.for_nobody(lane, Operation::Lapse(claims), now);
            }
        }
    }

    fn for_nobody(&mut self, lane: LaneKey, operation: Operation, now: Instant) {
        self.lanes[lane as usize].push_front(Entry::again(Work::Operation(operation), To::Nobody, now));
        self.list(lane);
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
        let (queue, batch) = (self.lanes[key as usize].of, matches!(call, Call::Batch { .. }));
        if let Call::Batch { operations, .. } = &call {
            self.tally.batches += 1;
            self.tally.batched += operations.len() as u64;
        }
        let outgoing = self.fly(key, call, to, self.sequence, now);
        if batch {
            self.turn_sent(queue);
        }
        Some(outgoing)
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

    /// Redis's reply to a lane's call, and how many replicas have what it pushed, if it waited for any.
    /// Gives back a call that is to be sent at once, if this one has to be made again.
    #[must_use]
    pub fn replied(&mut self, key: LaneKey, reply: Bytes, confirmed: Option<u32>, now: Instant) -> Option<Outgoing> {
        let flight = self.lanes.get_mut(key as usize)?.flight.take()?;
        self.flights -= 1;
        if let Some(applied) = last_applied(&reply) {
            return Some(self.push_again(key, flight, applied, now));
        }
        self.land(key, flight, reply, confirmed, now);
        None
    }

    fn land(&mut self, key: LaneKey, flight: Flight, reply: Bytes, confirmed: Option<u32>, now: Instant) {
        let lane = &mut self.lanes[key as usize];
        lane.answered = flight.sequence;
        let answered_before = self.answers.len();
        let took = now.saturating_duration_since(flight.sent);
        let (queue, partition, retired) = (lane.of, lane.origin.partition, lane.retired);
        let shortage = flight
            .wait
            .zip(confirmed)
            .and_then(|(wait, confirmed)| wait.shortage(confirmed));
        let failed = match Changed::read(&reply) {
            Some(Ok(changed)) => return self.start_over(key, flight.call, flight.to, changed, now),
            Some(Err(error)) => Some((flight.call, flight.to, error.into())),
            None => self.settle_call(key, flight.call, flight.to, (reply, shortage), now),
        };
        if let Some((call, to, error)) = failed {
            self.fail(key, &call, &to, &error, now);
        } else if !retired {
            self.turn_replied(queue, partition);
            if partition == 0 {
                self.confirmed(queue, flight.sequence, now);
            }
        }
        let mut clients = self.answers[answered_before..]
            .iter()
            .map(|answer| answer.asker.client)
            .peekable();
        let mut answered = 0;
        while let Some(client) = clients.next() {
            answered += usize::from(clients.peek() != Some(&client));
        }
        self.lanes[key as usize].replied(answered, took, now);
        self.list(key);
        if retired {
            self.scatter(key, now);
        }
    }

    /// What a call came to is dealt out. Gives it back if the reply says that it failed.
    fn settle_call(
        &mut self,
        key: LaneKey,
        call: Call,
        to: Askers,
        (reply, shortage): (Bytes, Option<Shortage>),
        now: Instant,
    ) -> Option<(Call, Askers, CallError)> {
        match call {
            Call::Batch { operations, parked } => {
                let settings = &self.lanes[key as usize].settings;
                match batch::decode(&operations, settings, reply) {
                    Ok(mut reply) => {
                        if let Some(shortage) = shortage {
                            reply.fall_short(shortage);
                        }
                        self.settle_batch(key, operations, to, parked, reply, now);
                        None
                    }
                    Err(error) => Some((Call::Batch { operations, parked }, to, error)),
                }
            }
            Call::Single(single) => {
                let asked = single.clone();
                let asker = to.first().copied().unwrap_or((To::Nobody, now));
                let settled = self.settle_single(key, single, asker, reply, now);
                settled.err().map(|error| (Call::Single(asked), to, error))
            }
        }
    }

    fn fail(&mut self, key: LaneKey, call: &Call, to: &[(To, Instant)], error: &CallError, now: Instant) {
        let line = match error {
            CallError::Refused(line) => line.clone(),
            CallError::BadReply(_) => Bytes::from(format!("ERR unexpected reply from Redis: {error}")),
        };
        for (to, _) in to {
            self.refuse(*to, line.clone(), now);
        }
        let lane = &self.lanes[key as usize];
        let (queue, partition, retired) = (lane.of, lane.origin.partition, lane.retired);
        if retired {
            return;
        }
        match call {
            Call::Single(Single::Copy { .. }) => self.refuse_all(key, &line, now),
            Call::Single(Single::Drop) => self.drop_failed(queue, &line, now),
            Call::Single(Single::Open(_)) => self.queues[queue as usize].opening = false,
            _ => {}
        }
        if partition == 0 {
            self.not_confirmed(queue, &line, now);
        }
    }

    fn refuse(&mut self, to: To, line: Bytes, now: Instant) {
        match to {
            To::Asker(asker) | To::ManyIds(asker) => {
                self.awaiting.remove(&asker);
                self.refused.remove(&asker);
                self.answer(asker, Reply::Error(line));
            }
            To::Pop(asker) => {
                if self.pops.remove(&asker).is_some() {
                    self.answer(asker, Reply::Error(line));
                }
            }
            To::Part(fan, _) => self.part_done(fan, Err(line)),
            To::Keeper => self.keeper_failed(now),
            To::Nobody => {}
        }
    }

    fn reply_to(&mut self, to: To, reply: Reply) {
        match to {
            To::Asker(asker) | To::ManyIds(asker) => {
                self.awaiting.remove(&asker);
                self.answer(asker, reply);
            }
            To::Part(fan, _) => self.part_done(fan, Ok(reply)),
            To::Pop(_) | To::Keeper | To::Nobody => {}
        }
    }

    fn settle_batch(
        &mut self,
        key: LaneKey,
        operations: Vec<Operation>,
        to: Askers,
        parked: bool,
        reply: BatchReply,
        now: Instant,
    ) {
        let standing = reply.standing;
        let mut missed = parked;
        let mut hungry = Vec::new();
        let mut kept = Vec::new();
        for ((operation, (to, since)), outcome) in operations.into_iter().zip(to).zip(reply.outcomes) {
            self.note_ends(key, &operation, &outcome);
            match (outcome, operation) {
                (Outcome::Popped(jobs), Operation::Pop(pop)) => {
                    missed |= pop.waits && jobs.is_empty();
                    self.tally.popped += jobs.len() as u64;
                    hungry.extend(self.popped(key, to, jobs, pop.noack, pop.count, now));
                }
                (Outcome::Full, Operation::Push(push)) => self.full(key, push, to, since),
                (outcome, Operation::Push(push)) => {
                    if let Outcome::Pushed(ids) | Outcome::Unconfirmed(ids, _) = &outcome {
                        kept.extend(KeptJob::of(push, ids));
                    }
                    self.settle(key, to, outcome);
                }
                (outcome, _) => self.settle(key, to, outcome),
            }
        }
        self.remember(key, kept, now);
        let lane = &mut self.lanes[key as usize];
        lane.registered = missed && standing.ready == 0 && !standing.more;
        self.stand(key, standing, now);
        for asker in hungry {
            self.still_hungry(key, asker, standing.more, now);
        }
        let lane = &mut self.lanes[key as usize];
        if standing.ready > 0 || standing.more {
            lane.hopeful = lane
                .hopeful
                .max(standing.ready.max(1).min(lane.parked.live() as u64) as usize);
        }
    }

    /// What a pop found. Gives back the asker if that was nothing.
    fn popped(&mut self, key: LaneKey, to: To, jobs: Vec<Job>, noack: bool, asked: u32, now: Instant) -> Option<Asker> {
        let lane = &self.lanes[key as usize];
        let mut popped = Popped {
            queue: lane.queue.clone(),
            origin: lane.origin,
            noack,
            many: false,
            with_meta: false,
            bound: false,
            jobs,
        };
        let To::Pop(asker) = to else {
            self.give_back_popped(popped, now);
            return None;
        };
        let Some(request) = self.pops.get_mut(&asker) else {
            self.give_back_popped(popped, now);
            return None;
        };
        if popped.jobs.is_empty() && request.got.is_empty() {
            return Some(asker);
        }
        let full = popped.jobs.len() as u32 == asked && !lane.retired;
        request.got.append(&mut popped.jobs);
        request.pop.count -= asked.min(request.pop.count);
        if full && request.pop.count > 0 {
            // A large COUNT takes several calls. What the first one gave is kept; what is still wanted does not wait.
            request.patience = Patience::None;
            request.lanes = SmallVec::from_elem(key, 1);
            request.at = 0;
            let since = request.since;
            self.lanes[key as usize].push_front(Entry::again(Work::Pop, to, since));
            return None;
        }
        if let Some(request) = self.pops.remove(&asker) {
            popped.many = request.many;
            popped.with_meta = request.with_meta;
            popped.bound = request.bound;
            popped.jobs = request.got;
            self.answer(asker, Reply::Jobs(popped));
        }
        None
    }

    fn give_back_popped(&mut self, popped: Popped, now: Instant) {
        if !popped.jobs.is_empty() {
            self.give_back(&popped.queue, popped.origin.partition, popped.returns(), now);
        }
    }

    /// It asked this queue in vain. One that was parked before has its turn again.
    fn still_hungry(&mut self, key: LaneKey, asker: Asker, more: bool, now: Instant) {
        let Some(request) = self.pops.get_mut(&asker) else {
            return;
        };
        if more && !request.may_park() {
            // More is due than one call brings back: this nothing is not to be believed yet.
            let since = request.since;
            self.lanes[key as usize].push_front(Entry::again(Work::Pop, To::Pop(asker), since));
            return;
        }
        self.found_nothing(asker, now);
    }

    /// A partition has as many jobs as it may: the next one that takes new jobs is asked, if these may go there.
    fn full(&mut self, key: LaneKey, push: Push, to: To, since: Instant) {
        let lane = &self.lanes[key as usize];
        let (queue, partition) = (lane.of, lane.origin.partition);
        let known = &self.queues[queue as usize];
        let active = known.settings.active().min(known.lanes.len() as u16);
        let bound = known.settings.spread.as_ref();
        let bound = bound.is_some_and(|spread| spread.partition_of(&push.options).is_some());
        if let (To::Asker(asker) | To::ManyIds(asker), false) = (to, bound || active <= 1) {
            let refused = self.refused.entry(asker).or_default();
            *refused += 1;
            if *refused < active {
                let next = known.lanes[usize::from((partition + 1) % active)];
                let work = Work::Operation(Operation::Push(push));
                return self.enter(next, Entry::again(work, to, since));
            }
        }
        let line = format!(
            "QFULL queue '{}' holds as many jobs as its max_len, {}, allows",
            known.name, known.settings.max_len
        );
        self.refuse(to, line.into(), since);
    }

    fn settle(&mut self, key: LaneKey, to: To, outcome: Outcome) {
        let origin = self.lanes[key as usize].origin;
        let reply = match outcome {
            Outcome::Pushed(ids) => {
                self.tally.pushed += ids.len() as u64;
                match (to, ids.first()) {
                    (To::Asker(_), Some(id)) => Reply::Id(origin, *id),
                    _ => Reply::Ids(origin, ids),
                }
            }
            Outcome::Unconfirmed(ids, shortage) => {
                self.tally.pushed += ids.len() as u64;
                Reply::NoReplicas(origin, ids, shortage)
            }
            Outcome::OutOfMemory => Reply::Error(Bytes::from_static(
                b"OOM command not allowed when used memory > 'maxmemory'.",
            )),
            Outcome::Paused => {
                let line = format!(
                    "QPAUSED pushing to queue '{}' is paused",
                    self.lanes[key as usize].queue
                );
                Reply::Error(line.into())
            }
            Outcome::Duplicate(id) => Reply::Id(origin, id),
            Outcome::Made => return,
            Outcome::Acked(count) => {
                self.tally.acked += u64::from(count);
                Reply::Integer(count.into())
            }
            Outcome::Nacked(count) => {
                self.tally.nacked += u64::from(count);
                Reply::Integer(count.into())
            }
            Outcome::Extended(count) => Reply::Integer(count.into()),
            Outcome::Returned | Outcome::Popped(_) | Outcome::Full => return,
        };
        if let (To::Asker(asker) | To::ManyIds(asker), false) = (to, self.refused.is_empty()) {
            self.refused.remove(&asker);
        }
        self.reply_to(to, reply);
    }

    /// A call that stands for itself has its reply: the answer, or the next call.
    fn settle_single(
        &mut self,
        key: LaneKey,
        single: Single,
        (to, since): (To, Instant),
        reply: Bytes,
        now: Instant,
    ) -> Result<(), CallError> {
        let lane = &mut self.lanes[key as usize];
        if let Single::Copy { .. } = single {
            lane.trust = Trust::Sure;
        }
        let (queue, partition) = (lane.of, lane.origin.partition);
        let gone = partition == 0 && matches!(single, Single::DropPart { .. });
        let several = self.queues[lane.of as usize].lanes.len() > 1 && lane.origin.partition == 0 && !lane.retired;
        let elsewhere = single
            .elsewhere(&lane.settings)
            .filter(|_| several && !matches!(to, To::Part(..)));
        let settings = &self.queues[lane.of as usize].settings;
        let is_table_changed = matches!(single, Single::Cron(CronCall::AddToTable(_)));
        let removes = single.clone();
        let (standing, step) = single.read(reply, &lane.queue, lane.origin, settings)?;
        if let (true, Some(crons)) = (is_table_changed, &mut self.crons) {
            crons.changed(now);
        }
        self.note_removal(key, &removes);
        let lane = &self.lanes[key as usize];
        let soonest = lane.due.filter(|due| *due > now);
        self.stand(key, standing, now);
        let lane = &mut self.lanes[key as usize];
        // What a batch knew of the limits, this call did not ask.
        lane.due = [soonest, lane.due].into_iter().flatten().min();
        lane.hopeful = lane.hopeful.max(lane.parked.live().min(standing.ready as usize));
        let again = |single| Entry::again(Work::Single(single), to, since);
        self.expect_due(key);
        if gone {
            self.adopt(queue, Changed::default(), now);
        }
        match (step, elsewhere) {
            (Step::Done(_), Some(Elsewhere::Window(state, window))) => {
                self.peek_everywhere(queue, to, state, window, since);
            }
            (Step::Done(reply), Some(Elsewhere::Too(part))) => self.ask_elsewhere(queue, to, reply, part, since),
            (Step::Done(reply), None) => self.reply_to(to, reply),
            (Step::Wait, _) => {
                if let To::Asker(asker) = to
                    && let Some(job) = self.awaiting.park(asker)
                {
                    self.look_for_result(asker, key, job, true, now);
                }
            }
            (Step::Again(single), _) => match self.revised(queue, single) {
                Ok(single) => self.lanes[key as usize].push_front(again(single)),
                Err(line) => self.refuse(to, line.into(), now),
            },
            (Step::Next(single), _) => match self.lane_of(queue, partition + 1) {
                Some(next) => self.enter(next, again(single)),
                None => self.reply_to(to, single.of_nothing(&self.lanes[key as usize].settings)),
            },
            (Step::In(queue, single), _) => self.push_single(&queue, single, to, since),
            (Step::Keeper(news), _) => self.keep(key, news, standing, now),
        }
        Ok(())
    }

    /// What is to be stored of a change of the settings follows from those that hold. `Err`: why it cannot be.
    fn revised(&self, queue: QueueKey, single: Single) -> Result<Single, String> {
        let Single::Configure { asked, stored: Some(_) } = single else {
            return Ok(single);
        };
        let known = &self.queues[queue as usize];
        let mut stored: Vec<Change> = Vec::new();
        for (name, value) in &asked {
            match (*name, value.parse()) {
                ("partitions", Ok(active)) => stored.extend(self.spread(known, active)),
                _ => stored.push((name, value.clone())),
            }
        }
        known.settings.with(&stored).check_bounds(&asked)?;
        let stored = Some(stored);
        Ok(Single::Configure { asked, stored })
    }

    /// What makes so many partitions active; 0: as many as by default. Nothing, if it is so.
    fn spread(&self, known: &Queue, active: u16) -> Option<Change> {
        let active = match active {
            0 => known.settings.partitions,
            active => active,
        };
        let current = known.settings.spread.as_ref();
        if current.map_or(1, Spread::active) == active && (current.is_some() || known.settings.partitions == 1) {
            return None;
        }
        let spread = Spread::resized(current, active, &known.name, &self.primaries);
        Some((SPREAD, spread.to_string()))
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
            To::Keeper | To::Nobody => false,
        }
}

fn of_no_job(unknown: Unknown) -> Reply {
    match unknown {
        Unknown::View => Reply::NoView,
        Unknown::Result => Reply::Nothing,
        Unknown::Explanation => Reply::Explanation(None, Pause::default()),
    }
}

fn by_partition(claims: Vec<Claim>) -> BTreeMap<u16, Vec<Claim>> {
    let mut parts: BTreeMap<u16, Vec<Claim>> = BTreeMap::new();
    for claim in claims {
        parts.entry(claim.partition).or_default().push(claim);
    }
    parts
}

/// When Redis's clock will say `at`, given that it said `redis_now` at `now`. A millisecond late: never too early.
fn at_redis_time(at: u64, redis_now: u64, now: Instant) -> Instant {
    now + Duration::from_millis(at.saturating_sub(redis_now) + 1)
}

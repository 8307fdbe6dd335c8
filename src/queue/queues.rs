//! All queues as one worker sees them: requests come in, calls go out, replies come back, answers go to their askers.
//!
//! A state machine without I/O, clock or threads: it is told the time, hands its calls to whoever sends them, and lays its
//! answers down for whoever writes them. One lane a queue; what a lane gathers and when it sends is in [`super::lane`],
//! who waits is in [`super::waiting`], what Redis does with a call is in `src/script`.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use slab::Slab;
use smallvec::SmallVec;

use super::awaiting::Awaiting;
use super::cron::Repeated;
use super::crons::{Crons, Wants};
use super::id::LocalId;
use super::lane::{Askers, Call, Entry, Flight, Lane, LaneKey, To, Work};
use super::operation::{Claim, Operation, QueueName, Return, Tick};
use super::parse::{Ask, Block, PopAsk, Unknown};
use super::reply::{Popped, Reply};
use super::settings::Pause;
use super::single::{CronCall, News, Single, Step};
use super::waiting::{Patience, PopRequest, Pops};
use crate::asker::Asker;
use crate::config::Config;
use crate::script::batch::{self, Batch, BatchReply};
use crate::script::wake::Wake;
use crate::script::{CallError, Changed, Job, Outcome, Partition, Scripts, Settings, Standing};

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
}

pub struct Queues {
    config: Arc<Config>,
    scripts: Arc<Scripts>,
    /// Names this worker's lanes in Redis.
    worker: String,
    lanes: Slab<Lane>,
    by_name: HashMap<QueueName, LaneKey, ahash::RandomState>,
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
    /// Redis's clock beside ours, at the last reply.
    clock: Option<(u64, Instant)>,
    polled: Option<Instant>,
    poll_next: usize,
    jitter: u64,
    pub tally: Tally,
}

impl Queues {
    pub fn new(config: Arc<Config>, scripts: Arc<Scripts>, worker: String, seed: u64) -> Self {
        Self {
            config,
            scripts,
            worker,
            lanes: Slab::new(),
            by_name: HashMap::default(),
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

    /// A client's request. `pipelined`: it has sent others before, which have no reply yet.
    pub fn ask(&mut self, asker: Asker, ask: Ask, pipelined: bool, now: Instant) {
        let (queue, work, to) = match ask {
            Ask::Pop(pop) => return self.ask_pop(asker, pop, pipelined, now),
            Ask::Push { queue, mut push, many } => {
                let lane = self.lane(&queue);
                let over = self.lanes[lane as usize].settings.compress_over;
                push.payloads.iter_mut().for_each(|payload| payload.pack(over));
                let to = if many { To::ManyIds(asker) } else { To::Asker(asker) };
                (queue, Work::Operation(Operation::Push(push)), to)
            }
            Ask::Settle { queue, operation } => {
                if claims_nothing(&operation) {
                    return self.answer(asker, Reply::Integer(0));
                }
                (queue, Work::Operation(operation), To::Asker(asker))
            }
            Ask::Result { queue, job, block } => return self.ask_result(asker, &queue, job, block, now),
            Ask::NoJob { unknown, .. } => {
                let reply = match unknown {
                    Unknown::View => Reply::NoView,
                    Unknown::Result => Reply::Nothing,
                    Unknown::Explanation => Reply::Explanation(None, Pause::default()),
                };
                return self.answer(asker, reply);
            }
            Ask::Single { single, .. } if single.names_nothing() => return self.answer(asker, Reply::Integer(0)),
            Ask::Single { queue, single } => (queue, Work::Single(single), To::Asker(asker)),
        };
        let lane = self.lane(&queue);
        self.lanes[lane as usize].push(Entry {
            work,
            to,
            since: now,
            pipelined,
        });
        self.list(lane);
    }

    fn ask_result(&mut self, asker: Asker, queue: &QueueName, job: LocalId, block: Option<Block>, now: Instant) {
        let lane = self.lane(queue);
        if let Some(block) = block {
            self.awaiting.insert(asker, lane, job, Patience::of(Some(block), now));
        }
        self.look_for_result(asker, lane, job, block.is_some(), now);
    }

    fn look_for_result(&mut self, asker: Asker, lane: LaneKey, job: LocalId, waits: bool, now: Instant) {
        self.lanes[lane as usize].push(Entry {
            work: Work::Single(Single::Result { job, waits }),
            to: To::Asker(asker),
            since: now,
            pipelined: false,
        });
        self.list(lane);
    }

    /// This job has ended, or its end may have been missed: those who wait for it ask again.
    fn ask_again(&mut self, lane: LaneKey, job: LocalId, now: Instant) {
        for asker in self.awaiting.told(lane, job) {
            self.look_for_result(asker, lane, job, true, now);
        }
    }

    fn ask_pop(&mut self, asker: Asker, ask: PopAsk, pipelined: bool, now: Instant) {
        let lanes: SmallVec<[LaneKey; 1]> = ask.queues.iter().map(|queue| self.lane(queue)).collect();
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

    /// Asks the queue whose turn it is, or parks without asking where others are parked and would have been served first.
    fn ask_lane(&mut self, asker: Asker, pipelined: bool, now: Instant) {
        let Some(request) = self.pops.get(&asker) else { return };
        let key = request.lanes[request.at];
        let lane = &mut self.lanes[key as usize];
        let behind_others =
            lane.registered && lane.parked.live() > 0 && lane.hopeful == 0 && lane.waiting.is_empty() && !pipelined;
        if behind_others && request.may_park() {
            return self.found_nothing(asker, now);
        }
        lane.push(Entry {
            work: Work::Pop,
            to: To::Pop(asker),
            since: now,
            pipelined,
        });
        self.list(key);
    }

    /// Nothing in the queue that was asked: the next one, or park, or say so.
    fn found_nothing(&mut self, asker: Asker, now: Instant) {
        let Some(request) = self.pops.get_mut(&asker) else {
            return;
        };
        if !request.is_at_last() {
            request.at += 1;
            return self.ask_lane(asker, false, now);
        }
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

    /// Jobs that were popped and did not reach their client's socket.
    pub fn give_back(&mut self, queue: &QueueName, returns: Vec<Return>, now: Instant) {
        self.for_nobody(queue, Operation::Return(returns), now);
    }

    /// Jobs that were bound to a connection which is closed.
    pub fn lapse(&mut self, queue: &QueueName, claims: Vec<Claim>, now: Instant) {
        self.for_nobody(queue, Operation::Lapse(claims), now);
    }

    fn for_nobody(&mut self, queue: &QueueName, operation: Operation, now: Instant) {
        let lane = self.lane(queue);
        self.lanes[lane as usize].push_front(Entry {
            work: Work::Operation(operation),
            to: To::Nobody,
            since: now,
            pipelined: false,
        });
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
    pub fn stall(&mut self, key: LaneKey) {
        let lane = &mut self.lanes[key as usize];
        if !lane.stalled {
            lane.stalled = true;
            self.stalled.push(key);
        }
    }

    /// Some of the lanes that were stalled may be able to call.
    pub fn resume(&mut self) {
        for key in std::mem::take(&mut self.stalled) {
            self.lanes[key as usize].stalled = false;
            self.list(key);
        }
    }

    /// The lane's next call, if it has one to make.
    pub fn call(&mut self, key: LaneKey, now: Instant) -> Option<Bytes> {
        let lane = &mut self.lanes[key as usize];
        let (call, to) = lane.next_call(&mut self.pops)?;
        for asker in std::mem::take(&mut lane.taken) {
            let lanes = self.pops.get(&asker).map(|request| request.lanes.clone());
            for other in lanes.into_iter().flatten().filter(|other| *other != key) {
                self.lanes[other as usize].parked.left(&self.pops);
            }
        }
        let lane = &mut self.lanes[key as usize];
        self.sequence += 1;
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        let jitter = (self.jitter >> 11) as f64 / (1u64 << 53) as f64;
        if let Call::Batch { operations, .. } = &call {
            self.tally.batches += 1;
            self.tally.batched += operations.len() as u64;
        }
        let bytes = encode(&self.scripts, lane, &call, self.sequence, jitter);
        lane.pace.sent();
        self.flights += 1;
        lane.flight = Some(Flight {
            sent: now,
            sequence: self.sequence,
            call,
            to,
            bytes: bytes.clone(),
        });
        self.count(key);
        Some(bytes)
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
    pub fn call_in_flight(&self, lane: LaneKey) -> Option<Bytes> {
        Some(self.lanes.get(lane as usize)?.flight.as_ref()?.bytes.clone())
    }

    /// Redis's reply to a lane's call.
    pub fn replied(&mut self, key: LaneKey, reply: Bytes, now: Instant) {
        let Some(lane) = self.lanes.get_mut(key as usize) else {
            return;
        };
        let Some(flight) = lane.flight.take() else { return };
        self.flights -= 1;
        let answered_before = self.answers.len();
        let took = now.saturating_duration_since(flight.sent);
        if let Some(changed) = Changed::read(&reply) {
            return match changed {
                Ok(changed) => self.start_over(key, flight.call, flight.to, changed),
                Err(error) => self.fail(&flight.to, &error.into(), now),
            };
        }
        let failed = match flight.call {
            Call::Batch { operations, parked } => match batch::decode(&operations, &lane.settings, reply) {
                Ok(reply) => {
                    self.settle_batch(key, &operations, flight.to, parked, reply, now);
                    None
                }
                Err(error) => Some((flight.to, error)),
            },
            Call::Single(single) => {
                let to = flight.to.first().copied().unwrap_or((To::Nobody, now));
                let settled = self.settle_single(key, single, to, reply, now);
                settled.err().map(|error| (flight.to, error))
            }
        };
        if let Some((to, error)) = failed {
            self.fail(&to, &error, now);
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
    }

    fn fail(&mut self, to: &[(To, Instant)], error: &CallError, now: Instant) {
        let line = match error {
            CallError::Refused(line) => line.clone(),
            CallError::BadReply(_) => Bytes::from(format!("ERR unexpected reply from Redis: {error}")),
        };
        for (to, _) in to {
            self.refuse(*to, line.clone(), now);
        }
    }

    fn refuse(&mut self, to: To, line: Bytes, now: Instant) {
        match to {
            To::Asker(asker) | To::ManyIds(asker) => {
                self.awaiting.remove(&asker);
                self.answer(asker, Reply::Error(line));
            }
            To::Pop(asker) => {
                if self.pops.remove(&asker).is_some() {
                    self.answer(asker, Reply::Error(line));
                }
            }
            To::Keeper => self.keeper_failed(now),
            To::Nobody => {}
        }
    }

    fn settle_batch(
        &mut self,
        key: LaneKey,
        operations: &[Operation],
        to: Vec<(To, Instant)>,
        parked: bool,
        reply: BatchReply,
        now: Instant,
    ) {
        let standing = reply.standing;
        let mut missed = parked;
        let mut hungry = Vec::new();
        for ((operation, (to, _)), outcome) in operations.iter().zip(to).zip(reply.outcomes) {
            match (outcome, operation) {
                (Outcome::Popped(jobs), Operation::Pop(pop)) => {
                    missed |= pop.waits && jobs.is_empty();
                    self.tally.popped += jobs.len() as u64;
                    hungry.extend(self.popped(key, to, jobs, pop.noack, pop.count, now));
                }
                (outcome, _) => self.settle(key, to, outcome),
            }
        }
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
            mark: lane.mark,
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
        let full = popped.jobs.len() as u32 == asked;
        request.got.append(&mut popped.jobs);
        request.pop.count -= asked.min(request.pop.count);
        if full && request.pop.count > 0 {
            // A large COUNT takes several calls. What the first one gave is kept; what is still wanted does not wait.
            request.patience = Patience::None;
            request.lanes = SmallVec::from_elem(key, 1);
            request.at = 0;
            let since = request.since;
            self.lanes[key as usize].push_front(Entry {
                work: Work::Pop,
                to,
                since,
                pipelined: false,
            });
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
            self.give_back(&popped.queue, popped.returns(), now);
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
            self.lanes[key as usize].push_front(Entry {
                work: Work::Pop,
                to: To::Pop(asker),
                since,
                pipelined: false,
            });
            return;
        }
        self.found_nothing(asker, now);
    }

    fn settle(&mut self, key: LaneKey, to: To, outcome: Outcome) {
        let mark = self.lanes[key as usize].mark;
        let reply = match outcome {
            Outcome::Pushed(ids) => {
                self.tally.pushed += ids.len() as u64;
                match (to, ids.first()) {
                    (To::Asker(_), Some(id)) => Reply::Id(mark, *id),
                    _ => Reply::Ids(mark, ids),
                }
            }
            Outcome::OutOfMemory => Reply::Error(Bytes::from_static(
                b"OOM command not allowed when used memory > 'maxmemory'.",
            )),
            Outcome::Full => {
                let lane = &self.lanes[key as usize];
                let line = format!(
                    "QFULL queue '{}' holds as many jobs as its max_len, {}, allows",
                    lane.queue, lane.settings.max_len
                );
                Reply::Error(line.into())
            }
            Outcome::Paused => {
                let line = format!(
                    "QPAUSED pushing to queue '{}' is paused",
                    self.lanes[key as usize].queue
                );
                Reply::Error(line.into())
            }
            Outcome::Duplicate(id) => Reply::Id(mark, id),
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
            Outcome::Returned | Outcome::Popped(_) => return,
        };
        if let To::Asker(asker) | To::ManyIds(asker) = to {
            self.answer(asker, reply);
        }
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
        let lane = &self.lanes[key as usize];
        let is_table_changed = matches!(single, Single::Cron(CronCall::AddToTable(_)));
        let (standing, step) = single.read(reply, &lane.queue, lane.mark, &lane.settings)?;
        if let (true, Some(crons)) = (is_table_changed, &mut self.crons) {
            crons.changed(now);
        }
        let soonest = lane.due.filter(|due| *due > now);
        self.stand(key, standing, now);
        let lane = &mut self.lanes[key as usize];
        // What a batch knew of the limits, this call did not ask.
        lane.due = [soonest, lane.due].into_iter().flatten().min();
        lane.hopeful = lane.hopeful.max(lane.parked.live().min(standing.ready as usize));
        self.expect_due(key);
        match step {
            Step::Done(reply) => {
                if let To::Asker(asker) = to {
                    self.awaiting.remove(&asker);
                    self.answer(asker, reply);
                }
            }
            Step::Wait => {
                if let To::Asker(asker) = to {
                    self.awaiting.park(asker);
                }
            }
            Step::Again(single) => self.lanes[key as usize].push_front(Entry {
                work: Work::Single(single),
                to,
                since,
                pipelined: false,
            }),
            Step::In(queue, single) => self.push_single(&queue, single, to, since),
            Step::Keeper(news) => self.keep(key, news, standing, now),
        }
        Ok(())
    }

    fn push_single(&mut self, queue: &QueueName, single: Single, to: To, since: Instant) {
        let lane = self.lane(queue);
        self.lanes[lane as usize].push(Entry {
            work: Work::Single(single),
            to,
            since,
            pipelined: false,
        });
        self.list(lane);
    }

    /// What the keeper of repeated jobs has asked is here.
    fn keep(&mut self, key: LaneKey, news: News, standing: Standing, now: Instant) {
        let Some(crons) = &mut self.crons else { return };
        let wants = match news {
            News::Table(rows) => {
                let rows = rows.into_iter();
                let named = rows.filter_map(|(name, version)| Some((QueueName::new(&name)?, version)));
                crons.read(named.collect())
            }
            News::Due(told) => {
                let mut soonest = told.soonest.into_iter().chain(told.more.then_some(standing.now)).min();
                let lane = &mut self.lanes[key as usize];
                for entry in told.entries {
                    let Some(job) = Repeated::from_words(&entry.words) else {
                        continue;
                    };
                    let next = job.schedule.following(entry.tick, standing.now);
                    soonest = soonest.into_iter().chain(next).min();
                    let mut push = job.push;
                    push.payloads
                        .iter_mut()
                        .for_each(|payload| payload.pack(lane.settings.compress_over));
                    let tick = Tick {
                        name: entry.name,
                        at: entry.tick,
                        next,
                        push,
                    };
                    lane.push(Entry {
                        work: Work::Operation(Operation::Tick(Box::new(tick))),
                        to: To::Keeper,
                        since: now,
                        pipelined: false,
                    });
                }
                let due = soonest.map(|due| at_redis_time(due, standing.now, now));
                let queue = lane.queue.clone();
                crons.expect(&queue, due).into_iter().collect()
            }
        };
        self.ask_for_keeper(wants, now);
    }

    fn ask_for_keeper(&mut self, wants: Vec<Wants>, now: Instant) {
        let crontab = QueueName::of_crontab();
        for wanted in wants {
            let (queue, call) = match wanted {
                Wants::Table => {
                    let (cursor, seen) = (Bytes::from_static(b"0"), Vec::new());
                    (crontab.clone(), CronCall::ReadTable { cursor, seen })
                }
                Wants::Due(queue) => (queue, CronCall::Due),
                Wants::Forget(queue, version) => (crontab.clone(), CronCall::Forget(queue, version)),
            };
            self.push_single(&queue, Single::Cron(call), To::Keeper, now);
        }
    }

    fn keeper_failed(&mut self, now: Instant) {
        if let Some(crons) = &mut self.crons {
            crons.failed(now);
        }
    }

    /// The settings of a queue are others than the call said, so it was not done: it is made again with these.
    fn start_over(&mut self, key: LaneKey, call: Call, to: Askers, changed: Changed) {
        let lane = &mut self.lanes[key as usize];
        let defaults = self.config.queue(lane.queue.as_bytes());
        lane.settings = Settings::with_overrides(defaults, changed.version, &changed.overrides);
        lane.again = Some((call, to));
        self.list(key);
    }

    /// How a queue stands after a call.
    fn stand(&mut self, key: LaneKey, standing: Standing, now: Instant) {
        self.clock = Some((standing.now, now));
        let lane = &mut self.lanes[key as usize];
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
            Some(Wake::Come(queue)) => {
                let key = self.lane(&queue);
                let lane = &mut self.lanes[key as usize];
                lane.registered = false;
                lane.woken = true;
                lane.hopeful = lane.parked.live();
                self.list(key);
            }
            Some(Wake::Due(queue, due)) => {
                let (Some(&key), Some((redis_now, at))) = (self.by_name.get(&queue), self.clock) else {
                    return;
                };
                let due = at_redis_time(due, redis_now, at).max(now);
                let lane = &mut self.lanes[key as usize];
                lane.due = Some(lane.due.map_or(due, |earlier| earlier.min(due)));
                self.expect_due(key);
            }
            Some(Wake::Ended(queue, job)) => {
                if let Some(&key) = self.by_name.get(&queue) {
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
            .map(|at| at + SAFETY_POLL);
        let cron = self.crons.as_ref().and_then(Crons::next);
        [due, self.held_until, self.pops.next_end(), poll, cron]
            .into_iter()
            .flatten()
            .min()
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
        if self.polled.is_none_or(|polled| polled + SAFETY_POLL <= now) {
            self.polled = Some(now);
            self.poll_one();
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
            let again = lane.again.iter().flat_map(|(_, to)| to);
            let flight = lane.flight.iter().flat_map(|flight| &flight.to);
            lane.waiting.iter().any(|entry| late(&entry.to, entry.since))
                || again.chain(flight).any(|(to, since)| late(to, *since))
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
        for (to, since) in lane.again.iter_mut().flat_map(|(_, to)| to) {
            if late(to, *since) {
                refused.push((std::mem::replace(to, To::Nobody), line));
            }
        }
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
        self.count(key);
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

    fn lane(&mut self, queue: &QueueName) -> LaneKey {
        if let Some(&key) = self.by_name.get(queue) {
            return key;
        }
        if self.lanes.len() >= IDLE_LANES && self.lanes.len().is_power_of_two() {
            self.forget_idle_lanes();
        }
        let partition = Partition::new(&self.config.prefix, queue, super::reply::PARTITION, &self.worker);
        let settings = Settings::from(self.config.queue(queue.as_bytes()));
        let key = self.lanes.insert(Lane::new(queue.clone(), partition, settings)) as LaneKey;
        self.by_name.insert(queue.clone(), key);
        key
    }

    fn forget_idle_lanes(&mut self) {
        let pops_ask = |key: usize| self.pops.asks(key as LaneKey) || self.awaiting.awaits(key as LaneKey);
        let idle: Vec<_> = self
            .lanes
            .iter()
            .filter(|(key, lane)| lane.is_idle() && !lane.listed && !lane.stalled && !lane.held && !pops_ask(*key))
            .map(|(key, _)| key)
            .collect();
        for key in idle {
            let lane = self.lanes.remove(key);
            self.by_name.remove(&lane.queue);
        }
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
            To::Asker(_) | To::ManyIds(_) => true,
            To::Keeper | To::Nobody => false,
        }
}

fn claims_nothing(operation: &Operation) -> bool {
    match operation {
        Operation::Ack(claims) | Operation::Extend { claims, .. } => claims.is_empty(),
        Operation::Finish(finish) => finish.claims.is_empty(),
        Operation::Nack(nack) => nack.claims.is_empty(),
        Operation::Push(_) | Operation::Tick(_) | Operation::Return(_) | Operation::Lapse(_) | Operation::Pop(_) => {
            false
        }
    }
}

/// When Redis's clock will say `at`, given that it said `redis_now` at `now`. A millisecond late: never too early.
fn at_redis_time(at: u64, redis_now: u64, now: Instant) -> Instant {
    now + Duration::from_millis(at.saturating_sub(redis_now) + 1)
}

//! Requests in: what a client asks of a queue is laid in the lane of the partition where it belongs, and a pop that finds nothing
//! there goes on to the next, or parks. What comes of it is in [`super::outcomes`].

use std::collections::BTreeMap;
use std::time::Instant;

use smallvec::SmallVec;

use super::Queues;
use super::errands::Errand;
use super::fans::Fan;
use crate::asker::Asker;
use crate::queue::id::LocalId;
use crate::queue::lane::{Entry, LaneKey, QueueKey, To, Work};
use crate::queue::operation::{Claim, Operation, Push, QueueName, Return};
use crate::queue::parse::{Ask, Block, PopAsk, Unknown};
use crate::queue::reply::Reply;
use crate::queue::settings::Pause;
use crate::queue::single::Single;
use crate::queue::waiting::{Patience, PopRequest};

impl Queues {
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
    pub(super) fn ask_known(&mut self, queue: QueueKey, asker: Asker, ask: Ask, pipelined: bool, now: Instant) {
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
    pub(super) fn enter_push(&mut self, queue: QueueKey, mut push: Push, to: To, pipelined: bool, since: Instant) {
        self.open(queue, since);
        let known = &self.queues[queue as usize];
        let over = known.settings.compress_over;
        push.payloads.iter_mut().for_each(|payload| payload.pack(over));
        if let Some(unique) = &mut push.options.unique {
            unique.loan = None;
        }
        if pipelined {
            match self.wait_behind(queue, push, to, since) {
                Some(alone) => push = alone,
                None => return,
            }
        }
        let known = &self.queues[queue as usize];
        let spread = known.settings.spread.as_ref();
        let partition = spread.and_then(|spread| spread.partition_of(&push.options));
        let lender = spread.and_then(|spread| spread.lender(&push.options));
        let entry = Entry {
            work: Work::Operation(Operation::Push(push)),
            to,
            since,
            pipelined,
        };
        let lane = match (lender, partition) {
            (Some(_), _) => return self.borrow(queue, entry),
            (None, Some(partition)) => known.lanes[usize::from(partition)],
            (None, None) => self.push_lane(queue),
        };
        self.enter(lane, entry);
    }

    pub(super) fn enter(&mut self, lane: LaneKey, entry: Entry) {
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

    pub(super) fn look_for_result(&mut self, asker: Asker, lane: LaneKey, job: LocalId, waits: bool, now: Instant) {
        let work = Work::Single(Single::Result { job, waits });
        self.enter(lane, Entry::again(work, To::Asker(asker), now));
    }

    /// This job has ended, or its end may have been missed: those who wait for it ask again.
    pub(super) fn ask_again(&mut self, lane: LaneKey, job: LocalId, now: Instant) {
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
                has_parked: false,
                turn: 0,
            },
        );
        self.ask_lane(asker, pipelined, now);
    }

    /// Asks the lane whose turn it is, or passes it over where others are parked and would have been served first.
    pub(super) fn ask_lane(&mut self, asker: Asker, pipelined: bool, now: Instant) {
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
    pub(super) fn found_nothing(&mut self, asker: Asker, now: Instant) {
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
    pub(super) fn park(&mut self, asker: Asker, now: Instant) {
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

    pub(super) fn lapse_known(&mut self, queue: QueueKey, claims: Vec<Claim>, now: Instant) {
        for (partition, claims) in by_partition(claims) {
            if let Some(lane) = self.lane_of(queue, partition) {
                self.for_nobody(lane, Operation::Lapse(claims), now);
            }
        }
    }

    pub(super) fn for_nobody(&mut self, lane: LaneKey, operation: Operation, now: Instant) {
        self.lanes[lane as usize].push_front(Entry::again(Work::Operation(operation), To::Nobody, now));
        self.list(lane);
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

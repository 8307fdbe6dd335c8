//! Which of a queue's partitions a push or a pop goes to.
//!
//! A call costs Redis about as much as thirty jobs in it (benches/scripts.md), so a crowd's requests are not dealt out one by
//! one: it is one partition's turn, and pushes and pops alike go there, in the same calls. After a few calls the next one has
//! its turn. So each gets the same share of the jobs over a time, and none is left idle.
//!
//! - A push goes elsewhere when the partition whose turn it is holds far more jobs than another, or more requests wait for it
//!   than its next calls take: so under load all are at work at once, each with calls that are worth it.
//! - A pop goes to the partition that is known to hold the highest priority. Among those that hold the same it goes to the one
//!   whose turn it is, unless that is known to be empty; then to the one that has most. It asks all others before it finds
//!   nothing.
//! - Neither goes, or stays, where no primary can be reached, as long as another one can.

use std::time::Instant;

use smallvec::SmallVec;

use super::Queues;
use crate::asker::Asker;
use crate::queue::gather::BATCH_JOBS;
use crate::queue::lane::{Entry, LaneKey, QueueKey, To, Work};
use crate::queue::operation::{Operation, Priority, Push};

/// A turn lasts for so many calls of a crowd to the partition that has it, for a fifth as many of a lone client's, or for four times
/// as many to the others. After each change these get the acknowledgements of jobs that came from them, in small calls, of which there
/// are the fewer the seldomer it changes.
const CALLS: u32 = 40;
const LONE: u32 = 5;
const OTHERS: u32 = 4;
/// Of a crowd this large one call leaves enough for the next, and so for a second partition. A smaller one would be split in two
/// that fill no call.
const CROWD: usize = 2 * BATCH_JOBS;

#[derive(Debug, Default)]
pub(super) struct Turn {
    /// Of all partitions.
    pop: u16,
    /// Of those that are active.
    push: u16,
    /// Those to others; one to the partition itself counts as several.
    calls: u32,
    /// The partition whose turn it is has replied since it began: what is known of it is fresh.
    heard: bool,
}

impl Queues {
    /// A batch goes to one of the queue's partitions.
    pub(super) fn turn_sent(&mut self, queue: QueueKey, partition: u16, requests: usize) {
        let known = &mut self.queues[queue as usize];
        if known.lanes.len() == 1 {
            return;
        }
        let turn = &mut known.turn;
        let is_its = [turn.pop, turn.push].contains(&partition);
        turn.calls += match (is_its, requests) {
            (true, 0 | 1) => LONE * OTHERS,
            (true, _) => OTHERS,
            (false, _) => 1,
        };
        if turn.calls >= CALLS * OTHERS {
            self.pass_turn(queue);
        }
    }

    pub(super) fn turn_replied(&mut self, queue: QueueKey, partition: u16) {
        let turn = &mut self.queues[queue as usize].turn;
        turn.heard |= turn.pop == partition;
    }

    fn pass_turn(&mut self, queue: QueueKey) {
        let random = self.random();
        let known = &self.queues[queue as usize];
        let (active, allocated) = (known.settings.active().max(1), known.lanes.len() as u16);
        let pop = (known.turn.pop + 1) % allocated;
        let next = if pop < active {
            pop
        } else {
            (known.turn.push + 1) % active
        };
        let other = (random % u64::from(active)) as u16;
        let depth = |partition: u16| {
            let lane = known.lanes.get(usize::from(partition));
            lane.map_or(0, |lane| self.lanes[*lane as usize].ready)
        };
        let push = match depth(next) > 2 * depth(other) + BATCH_JOBS as u64 {
            true => other,
            false => next,
        };
        self.queues[queue as usize].turn = Turn {
            pop,
            push,
            calls: 0,
            heard: false,
        };
    }

    /// Where the next push goes that may go anywhere.
    pub(super) fn push_lane(&mut self, queue: QueueKey) -> LaneKey {
        let known = &self.queues[queue as usize];
        if let [lane] = known.lanes[..] {
            return lane;
        }
        let active = usize::from(known.settings.active()).clamp(1, known.lanes.len());
        let next = |turn: &Turn| usize::from(turn.push) % active;
        let lane = &self.lanes[known.lanes[next(&known.turn)] as usize];
        if lane.waiting.len() >= CROWD || lane.stalled {
            self.pass_turn(queue);
        }
        let known = &self.queues[queue as usize];
        let first = next(&known.turn);
        let lanes = known.lanes[first..active].iter().chain(&known.lanes[..first]);
        let open = lanes.copied().find(|lane| !self.lanes[*lane as usize].stalled);
        open.unwrap_or(known.lanes[first])
    }

    /// The primary of a lane cannot be reached. What waits there, was not sent and may as well go to another partition does:
    /// pushes that belong nowhere, and pops, which come back to this lane when there is nothing in the others.
    pub(super) fn step_aside(&mut self, key: LaneKey, now: Instant) {
        let lane = &self.lanes[key as usize];
        let queue = lane.of;
        let known = &self.queues[queue as usize];
        let stalled = |lane: &LaneKey| self.lanes[*lane as usize].stalled;
        if known.lanes.len() == 1 || known.lanes.iter().all(stalled) || lane.settings.dropping {
            return;
        }
        let active = usize::from(known.settings.active()).min(known.lanes.len());
        let open = !known.lanes[..active].iter().all(stalled);
        let spread = known.settings.spread.clone();
        let belongs = |push: &Push| {
            spread
                .as_ref()
                .is_some_and(|spread| spread.partition_of(&push.options).is_some())
        };
        let leaves = |entry: &Entry| match &entry.work {
            Work::Operation(Operation::Push(push)) => open && !belongs(push),
            Work::Pop => true,
            _ => false,
        };
        if !lane.waiting.iter().any(leaves) {
            return;
        }
        for entry in self.lanes[key as usize].take_waiting(leaves) {
            match (&entry.work, entry.to) {
                (Work::Pop, To::Pop(asker)) => self.ask_others(key, asker, entry, now),
                _ => self.push_anew(queue, entry),
            }
        }
        self.count(key);
    }

    /// A pop asks the lanes that it has not asked yet before this one; if there is none, and it may wait, it does so.
    fn ask_others(&mut self, key: LaneKey, asker: Asker, entry: Entry, now: Instant) {
        let Some(request) = self.pops.get_mut(&asker) else {
            return;
        };
        let here = request.lanes.get(request.at) == Some(&key) && request.got.is_empty();
        let left = request.lanes.get(request.at + 1..).unwrap_or_default();
        if here && left.iter().any(|lane| !self.lanes[*lane as usize].stalled) {
            request.lanes.remove(request.at);
            request.lanes.push(key);
            self.ask_lane(asker, false, now);
        } else if here && left.is_empty() && request.may_park() {
            self.park(asker, now);
        } else {
            self.lanes[key as usize].push(entry);
        }
    }

    /// The queue's lanes in the order in which the next pop asks them.
    pub(super) fn pop_lanes(&self, queue: QueueKey, into: &mut SmallVec<[LaneKey; 4]>) {
        let known = &self.queues[queue as usize];
        if let [lane] = known.lanes[..] {
            return into.push(lane);
        }
        let turn = &known.turn;
        let merit = |(number, lane): &(usize, &LaneKey)| {
            let lane = &self.lanes[**lane as usize];
            let its_turn = *number == usize::from(turn.pop);
            let worth = match lane.ready > 0 {
                true => lane.top as u8,
                false if its_turn && !turn.heard => Priority::Normal as u8,
                false => u8::MAX,
            };
            (lane.stalled, worth, !its_turn, std::cmp::Reverse(lane.ready))
        };
        let best = known.lanes.iter().enumerate().min_by_key(merit);
        let first = best.map_or(0, |(number, _)| number);
        into.extend(known.lanes[first..].iter().chain(&known.lanes[..first]).copied());
    }
}

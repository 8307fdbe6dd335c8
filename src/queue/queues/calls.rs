//! Calls out: which lanes have one to make, which hold theirs for a crowd, which cannot make it now.

use std::time::Instant;

use bytes::Bytes;

use super::Queues;
use crate::asker::Asker;
use crate::queue::flight::{Askers, Call, Flight, Outgoing};
use crate::queue::lane::{Lane, LaneKey, QueueKey};
use crate::script::Scripts;
use crate::script::batch::{self, Batch};
use crate::script::loans;

impl Queues {
    /// It may have something to send.
    pub(super) fn list(&mut self, key: LaneKey) {
        self.count(key);
        let lane = &mut self.lanes[key as usize];
        if !lane.listed {
            lane.listed = true;
            self.listed.push(key);
        }
    }

    /// Some lane may have.
    pub fn has_calls(&self) -> bool {
        !self.listed.is_empty()
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

    fn hold(&mut self, key: LaneKey, end: Instant) {
        let lane = &mut self.lanes[key as usize];
        if !lane.held {
            lane.held = true;
            self.held_lanes.push(key);
        }
        self.held_until = Some(self.held_until.map_or(end, |sooner| sooner.min(end)));
    }

    /// The calls that were held are looked at again.
    pub(super) fn end_holds(&mut self) {
        self.held_until = None;
        for key in std::mem::take(&mut self.held_lanes) {
            self.lanes[key as usize].held = false;
            self.list(key);
        }
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
    pub(super) fn fly(&mut self, key: LaneKey, call: Call, to: Askers, sequence: u64, now: Instant) -> Outgoing {
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

    /// It is parked in this lane no longer, and so in no other.
    pub(super) fn left_others(&mut self, key: LaneKey, asker: Asker) {
        let lanes = self.pops.get(&asker).map(|request| request.lanes.clone());
        for other in lanes.into_iter().flatten().filter(|other| *other != key) {
            self.lanes[other as usize].parked.left(&self.pops);
        }
    }

    /// The call in flight, to be sent again: Redis had forgotten its script.
    pub fn call_in_flight(&self, lane: LaneKey) -> Option<Outgoing> {
        Some(self.lanes.get(lane as usize)?.flight.as_ref()?.outgoing())
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

    pub fn queue_of(&self, lane: LaneKey) -> QueueKey {
        self.lanes[lane as usize].of
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
                plain: lane.plain,
                ready: lane.ready,
                operations,
            };
            batch::encode(scripts, partition, settings, &batch)
        }
        Call::Lend(wanted) => loans::lend(scripts, partition, settings, wanted),
        Call::Single(single) => single.encode(scripts, partition, settings, sequence),
    }
}

//! Pops that look for a job: asked in one queue after another, then parked if they may wait.
//!
//! A parked pop costs a few words of memory here and nothing in Redis but one entry a worker and queue. This file only
//! keeps who waits, and for how long; when to ask Redis for them is the lane's to decide ([`super::lane`]).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::Instant;

use smallvec::SmallVec;

use super::lane::LaneKey;
use super::operation::Pop;
use crate::asker::Asker;
use crate::script::Job;

/// How long a pop waits when there is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    None,
    Until(Instant),
    Forever,
}

/// One `QPOP` or `QMPOP` that has no reply yet.
#[derive(Debug)]
pub struct PopRequest {
    /// The queues to ask, in this order.
    pub lanes: SmallVec<[LaneKey; 1]>,
    /// Which of them is being asked.
    pub at: usize,
    /// `count` is what is still wanted.
    pub pop: Pop,
    /// The reply is an array of jobs.
    pub many: bool,
    pub patience: Patience,
    pub since: Instant,
    /// What a pop of many jobs has got so far: a large `COUNT` takes several calls.
    pub got: Vec<Job>,
    pub parked: bool,
}

impl PopRequest {
    pub fn may_park(&self) -> bool {
        self.patience != Patience::None
    }

    /// Whether the queue being asked is the last: finding nothing there, it parks.
    pub fn is_at_last(&self) -> bool {
        self.at + 1 == self.lanes.len()
    }
}

/// All pops of a worker that have no reply yet.
#[derive(Default)]
pub struct Pops {
    requests: HashMap<Asker, PopRequest, ahash::RandomState>,
    /// When the patience of those that parked ends. An entry whose pop is gone by then means nothing.
    ends: BinaryHeap<Reverse<(Instant, u64, EndOf)>>,
    ends_pushed: u64,
}

/// An asker without an order of its own, so that it can stand in a heap behind what orders it.
#[derive(Debug, PartialEq, Eq)]
struct EndOf(Asker);

impl PartialOrd for EndOf {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for EndOf {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl Pops {
    pub fn insert(&mut self, asker: Asker, request: PopRequest) {
        self.requests.insert(asker, request);
    }

    pub fn get(&self, asker: &Asker) -> Option<&PopRequest> {
        self.requests.get(asker)
    }

    pub fn get_mut(&mut self, asker: &Asker) -> Option<&mut PopRequest> {
        self.requests.get_mut(asker)
    }

    /// It has its reply, or nobody to give it to.
    pub fn remove(&mut self, asker: &Asker) -> Option<PopRequest> {
        self.requests.remove(asker)
    }

    /// Whether any of them asks, or is parked in, that lane.
    pub fn asks(&self, lane: LaneKey) -> bool {
        self.requests.values().any(|request| request.lanes.contains(&lane))
    }

    /// Those that are parked.
    pub fn parked(&self) -> Vec<Asker> {
        let parked = self.requests.iter().filter(|(_, request)| request.parked);
        parked.map(|(asker, _)| *asker).collect()
    }

    pub fn len(&self) -> usize {
        self.requests.len()
    }

    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// From now on it waits; `None`: it is gone.
    pub fn park(&mut self, asker: Asker) -> Option<&PopRequest> {
        let request = self.requests.get_mut(&asker)?;
        request.parked = true;
        if let Patience::Until(end) = request.patience {
            self.ends_pushed += 1;
            self.ends.push(Reverse((end, self.ends_pushed, EndOf(asker))));
        }
        Some(request)
    }

    /// When the next patience ends.
    pub fn next_end(&self) -> Option<Instant> {
        self.ends.peek().map(|Reverse((end, ..))| *end)
    }

    /// A parked pop whose patience has ended by `now`.
    pub fn take_ended(&mut self, now: Instant) -> Option<Asker> {
        while self.next_end().is_some_and(|end| end <= now) {
            let Some(Reverse((end, _, EndOf(asker)))) = self.ends.pop() else {
                break;
            };
            let request = self.requests.get(&asker);
            if request.is_some_and(|request| request.parked && request.patience == Patience::Until(end)) {
                return Some(asker);
            }
        }
        self.forget_the_gone();
        None
    }

    /// Pops that were served long before their patience ended leave their ends behind.
    fn forget_the_gone(&mut self) {
        if self.ends.len() > 64 + 4 * self.requests.len() {
            let requests = &self.requests;
            self.ends
                .retain(|Reverse((_, _, EndOf(asker)))| requests.contains_key(asker));
        }
    }
}

/// The pops parked at one lane, oldest first.
//
// A pop that parked at several lanes is served by one of them; in the others its place stays until it is come across.
#[derive(Debug, Default)]
pub struct Parked {
    order: VecDeque<Asker>,
    live: usize,
}

impl Parked {
    pub fn live(&self) -> usize {
        self.live
    }

    pub fn push_back(&mut self, asker: Asker) {
        self.order.push_back(asker);
        self.live += 1;
    }

    /// Back to its place: it has waited longest.
    pub fn push_front(&mut self, asker: Asker) {
        self.order.push_front(asker);
        self.live += 1;
    }

    /// The one that has waited longest, of those that still wait.
    pub fn pop_oldest(&mut self, pops: &Pops) -> Option<Asker> {
        while let Some(asker) = self.order.pop_front() {
            if pops.get(&asker).is_some_and(|request| request.parked) {
                self.live -= 1;
                return Some(asker);
            }
        }
        None
    }

    /// One of those parked here waits no longer; its place is passed over when its turn comes.
    pub fn left(&mut self, pops: &Pops) {
        self.live -= 1;
        if self.order.len() > 16 + 2 * self.live {
            self.order
                .retain(|asker| pops.get(asker).is_some_and(|request| request.parked));
        }
    }
}

//! Pops that look for a job: asked in one queue after another, then parked if they may wait.
//!
//! A parked pop costs a few words of memory here and nothing in Redis but one entry a worker and queue. This file only
//! keeps who waits, and for how long; when to ask Redis for them is the lane's to decide ([`super::lane`]).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::lane::LaneKey;
use super::operation::Pop;
use super::parse::Block;
use crate::asker::Asker;
use crate::script::Job;

/// How long a pop waits when there is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    None,
    Until(Instant),
    Forever,
}

impl Patience {
    /// `block`: what was asked for at `now`.
    pub fn of(block: Option<Block>, now: Instant) -> Self {
        match block {
            None => Self::None,
            Some(Block::Forever) => Self::Forever,
            Some(Block::Ms(ms)) => Self::Until(now + Duration::from_millis(ms)),
        }
    }
}

/// One `QPOP` or `QMPOP` that has no reply yet.
#[derive(Debug)]
pub struct PopRequest {
    /// The lanes to ask, in this order: those of each queue's partitions, queue after queue.
    pub lanes: SmallVec<[LaneKey; 4]>,
    /// Which of them is being asked.
    pub at: usize,
    /// `count` is what is still wanted.
    pub pop: Pop,
    /// The reply is an array of jobs.
    pub many: bool,
    /// Each job comes with its META.
    pub with_meta: bool,
    /// The jobs are bound to the connection.
    pub bound: bool,
    pub patience: Patience,
    pub since: Instant,
    /// What a pop of many jobs has got so far: a large `COUNT` takes several calls.
    pub got: Vec<Job>,
    pub parked: bool,
    /// It was parked before, and so has asked all its lanes.
    pub has_parked: bool,
    /// The how-manieth it is of all that ever asked, by [`Pops::insert`]: its place among the parked of every lane. Whoever came
    /// after it may be parked sooner, having fewer lanes to ask, but is not served sooner.
    pub turn: u64,
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
    turns: u64,
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
        self.turns += 1;
        let turn = self.turns;
        self.requests.insert(asker, PopRequest { turn, ..request });
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

    /// Those that ask in that lane, or are parked there, and have got nothing yet; the place of those that are parked.
    pub fn those_in(&mut self, lane: LaneKey) -> Vec<(Option<Place>, &mut PopRequest)> {
        let asks = |(_, request): &(&Asker, &mut PopRequest)| request.lanes.contains(&lane) && request.got.is_empty();
        let place = |asker, request: &PopRequest| {
            let turn = request.turn;
            request.parked.then_some(Place { asker, turn })
        };
        let those = self.requests.iter_mut().filter(asks);
        those
            .map(|(asker, request)| (place(*asker, request), request))
            .collect()
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
    pub fn park(&mut self, asker: Asker) -> Option<(&PopRequest, Place)> {
        let request = self.requests.get_mut(&asker)?;
        request.parked = true;
        let turn = request.turn;
        let is_first = !std::mem::replace(&mut request.has_parked, true);
        if let (true, Patience::Until(end)) = (is_first, request.patience) {
            self.ends.push(Reverse((end, turn, EndOf(asker))));
        }
        let place = Place { asker, turn };
        Some((request, place))
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

/// Where a pop stands in a lane's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    asker: Asker,
    turn: u64,
}

impl Place {
    fn is_taken(&self, pops: &Pops) -> bool {
        pops.get(&self.asker)
            .is_some_and(|request| request.parked && request.turn == self.turn)
    }
}

/// The pops parked at one lane, by their turns.
//
// A pop that parked at several lanes is taken from one of them; the others are told that it `left`, and pass over its old
// place when they come to it. If it comes back it has its turn again in all of them, as it has waited longer than those behind.
#[derive(Debug, Default)]
pub struct Parked {
    order: VecDeque<Place>,
    live: usize,
}

impl Parked {
    pub fn live(&self) -> usize {
        self.live
    }

    pub fn park(&mut self, place: Place) {
        let at = self.order.partition_point(|other| other.turn < place.turn);
        // Its old place may be there still.
        if self.order.get(at) != Some(&place) {
            self.order.insert(at, place);
        }
        self.live += 1;
    }

    /// Takes the one that has waited longest. It is parked no longer, here or elsewhere.
    pub fn take_oldest(&mut self, pops: &mut Pops) -> Option<Asker> {
        while let Some(place) = self.order.pop_front() {
            if place.is_taken(pops)
                && let Some(request) = pops.get_mut(&place.asker)
            {
                request.parked = false;
                self.live -= 1;
                return Some(place.asker);
            }
        }
        None
    }

    /// One of those parked here waits no longer.
    pub fn left(&mut self, pops: &Pops) {
        self.live = self.live.saturating_sub(1);
        if self.order.len() > 16 + 2 * self.live {
            self.order.retain(|place| place.is_taken(pops));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asker::asker;

    fn asks(pops: &mut Pops, index: u32, lanes: &[LaneKey], patience: Patience) {
        let pop = Pop {
            count: 1,
            lease: None,
            noack: false,
            waits: true,
        };
        let request = PopRequest {
            lanes: SmallVec::from_slice(lanes),
            at: 0,
            pop,
            many: false,
            with_meta: false,
            bound: false,
            patience,
            since: Instant::now(),
            got: Vec::new(),
            parked: false,
            has_parked: false,
            turn: 0,
        };
        pops.insert(asker(index), request);
    }

    fn parked(pops: &mut Pops, index: u32, lanes: &[LaneKey], patience: Patience) -> Place {
        asks(pops, index, lanes, patience);
        pops.park(asker(index)).unwrap().1
    }

    #[test]
    fn who_has_waited_longest_is_served_first_and_keeps_its_place() {
        let (mut pops, mut lane) = (Pops::default(), Parked::default());
        for index in 0..3 {
            let place = parked(&mut pops, index, &[0], Patience::Forever);
            lane.park(place);
        }
        assert_eq!(lane.take_oldest(&mut pops), Some(asker(0)));
        let place = pops.park(asker(0)).unwrap().1;
        lane.park(place);
        assert_eq!(lane.take_oldest(&mut pops), Some(asker(0)), "it came back in vain");
        assert_eq!(lane.take_oldest(&mut pops), Some(asker(1)));
        assert_eq!(lane.live(), 1);
    }

    #[test]
    fn who_asked_first_is_served_first_though_it_parked_later() {
        let (mut pops, mut lane) = (Pops::default(), Parked::default());
        asks(&mut pops, 1, &[0, 1], Patience::Forever); // still asked for in lane 0 when the other one parks
        lane.park(parked(&mut pops, 2, &[1], Patience::Forever));
        lane.park(pops.park(asker(1)).unwrap().1);
        let served: Vec<_> = std::iter::from_fn(|| lane.take_oldest(&mut pops)).collect();
        assert_eq!(served, [1, 2].map(asker));
    }

    #[test]
    fn a_pop_parked_in_two_lanes_is_taken_once() {
        let mut pops = Pops::default();
        let (mut one, mut other) = (Parked::default(), Parked::default());
        let place = parked(&mut pops, 7, &[0, 1], Patience::Forever);
        one.park(place);
        other.park(place);
        assert_eq!(one.take_oldest(&mut pops), Some(asker(7)));
        other.left(&pops);
        assert_eq!((other.live(), other.take_oldest(&mut pops)), (0, None));
    }

    #[test]
    fn a_pop_that_comes_back_stands_behind_those_who_have_waited_longer_in_every_lane() {
        let (mut pops, mut one, mut other) = (Pops::default(), Parked::default(), Parked::default());
        for (index, lanes) in [(0, &[1][..]), (1, &[0, 1]), (2, &[1]), (3, &[0, 1])] {
            let place = parked(&mut pops, index, lanes, Patience::Forever);
            other.park(place);
            if lanes.len() > 1 {
                one.park(place);
            }
        }
        for index in [1, 3] {
            assert_eq!(one.take_oldest(&mut pops), Some(asker(index)));
            other.left(&pops);
        }
        for index in [3, 1] {
            let place = pops.park(asker(index)).unwrap().1;
            one.park(place);
            other.park(place);
        }
        assert_eq!((one.live(), other.live()), (2, 4));
        let served: Vec<_> = std::iter::from_fn(|| other.take_oldest(&mut pops)).collect();
        assert_eq!(served, [0, 1, 2, 3].map(asker));
    }

    #[test]
    fn patience_ends_once_and_only_for_those_who_still_wait() {
        let mut pops = Pops::default();
        let now = Instant::now();
        parked(&mut pops, 1, &[0], Patience::Until(now));
        parked(&mut pops, 2, &[0], Patience::Until(now));
        pops.remove(&asker(1));
        assert_eq!(pops.take_ended(now), Some(asker(2)));
        pops.remove(&asker(2));
        assert_eq!((pops.take_ended(now), pops.next_end()), (None, None));
    }
}

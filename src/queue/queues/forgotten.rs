//! What partition 0 has forgotten, and its other partitions remember.
//!
//! Replication is asynchronous: a failover may take from partition 0 the last that it was told, that the queue was opened, has
//! grown, or goes by other settings. The others lie on other primaries, and have their copies of that and their jobs. So
//!
//! 1. a copy that is later than what partition 0 has was partition 0's once, and is given back to it as it is;
//! 2. a copy that is earlier, but names partitions of which partition 0 does not know, is joined to what it has, as somebody has
//!    changed other settings since.
//!
//! Copies are seen where a call meets one that it does not go by. Where no call would go, it is asked for:
//!
//! - A partition that partition 0 does not know any more is asked once more before it is left alone ([`Queues::ask_witness`]).
//!   QDROP is no loss: it removes the copies first, and then there is nothing to be seen.
//! - A queue that is not spread, though it would be by its next push, is looked for where that would put its partitions
//!   ([`Queues::search`]): once, and once more after each new connection, as a failover comes with one.
//! - On each new connection partition 0 of each queue that is spread is called, so that nobody has to ask first.
//!
//! What this does not find is a queue that was opened anew at other places before anybody came who knew of it: its slots
//! would have had to move in the same moment.

use std::time::Instant;

use super::Queues;
use crate::queue::lane::{Entry, LaneKey, QueueKey, To, Work};
use crate::queue::settings::SPREAD;
use crate::queue::single::Single;
use crate::queue::spread::{Place, Spread};
use crate::script::Changed;

impl Queues {
    /// What a partition has as its copy of the settings. True: partition 0 lacks some of it, and gets it.
    pub(super) fn put_right(&mut self, queue: QueueKey, copy: &Changed, now: Instant) -> bool {
        let known = &self.queues[queue as usize];
        let spread = copy.overrides.iter().find(|(name, _)| name == SPREAD);
        let found = spread.and_then(|(_, text)| Spread::parse(text));
        let Some(found) = found.filter(|_| !known.settings.dropping) else {
            return false;
        };
        let single = match number(&copy.version) > number(&known.settings.version) {
            true => Some(Single::Restore {
                seen: known.settings.version.clone(),
                copy: copy.clone(),
            }),
            false => Spread::joined(known.settings.spread.as_ref(), &found).map(Single::Open),
        };
        let Some(single) = single else { return false };
        if !known.opening {
            self.tell_partition_0(queue, single, now);
        }
        true
    }

    /// It was a partition of the queue, and partition 0 does not know of it.
    pub(super) fn ask_witness(&mut self, lane: LaneKey, now: Instant) {
        let entry = Entry::again(Work::Single(Single::Witness), To::Nobody, now);
        self.lanes[lane as usize].push_front(entry);
        self.list(lane);
    }

    /// Partition 0 says that the queue has no others.
    pub(super) fn search(&mut self, queue: QueueKey, now: Instant) {
        let known = &self.queues[queue as usize];
        let settings = &known.settings;
        let is_one = settings.spread.is_none() && settings.partitions > 1 && !settings.dropping;
        if !is_one || known.opening || known.searched {
            return;
        }
        let (name, settings) = (known.name.clone(), settings.clone());
        let would_be = Spread::resized(None, self.opened(queue), &name, &self.primaries);
        self.queues[queue as usize].searched = true;
        for place in would_be.places().skip(1).collect::<Vec<Place>>() {
            let lane = self.new_lane(queue, &name, place, settings.clone());
            self.lanes[lane as usize].retired = true;
            self.ask_witness(lane, now);
        }
    }

    /// There is a new connection, perhaps after a failover.
    pub(super) fn ask_what_is_forgotten(&mut self) {
        let queues: Vec<_> = self.queues.iter().map(|(key, _)| key as QueueKey).collect();
        for key in queues {
            let queue = &mut self.queues[key as usize];
            queue.searched = false;
            if queue.settings.spread.is_some() {
                self.ask_partition_0(key);
            }
        }
    }
}

/// A version is a time; that of settings that nobody changed is before all others.
fn number(version: &[u8]) -> u64 {
    let text = std::str::from_utf8(version).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

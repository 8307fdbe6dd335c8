//! What waits in lanes goes where it belongs when a queue's partitions have become others.

use std::time::Instant;

use super::Queues;
use crate::queue::lane::{Entry, LaneKey, QueueKey, To, Work};
use crate::queue::operation::{Operation, Push};
use crate::queue::reply::Reply;
use crate::script::Settings;

impl Queues {
    /// Pops that ask in a queue ask in its new partitions too, and no longer in those that are gone. `stay`: so many of its
    /// lanes it had before.
    pub(super) fn move_pops(&mut self, lanes: &[LaneKey], gone: &[LaneKey], stay: usize) {
        let (first, new) = (lanes[0], &lanes[stay..]);
        for lane in gone {
            self.lanes[*lane as usize].parked = Default::default();
        }
        for (place, request) in self.pops.those_in(first) {
            request.lanes.retain(|lane| !gone.contains(lane));
            // Behind those of the same queue: the ones of another, which was named later, come after all of these.
            let known = |lane: &LaneKey| lanes[..stay].contains(lane);
            let end = request.lanes.iter().rposition(known).map_or(0, |last| last + 1);
            request.lanes.insert_many(end, new.iter().copied());
            let last = request.lanes.len().saturating_sub(1);
            request.at = match request.has_parked {
                true => last, // it has asked them all once, and waits
                false if request.at >= end => last.min(request.at + new.len()),
                false => last.min(request.at),
            };
            for lane in new.iter().filter(|_| place.is_some()) {
                place
                    .into_iter()
                    .for_each(|place| self.lanes[*lane as usize].parked.park(place));
            }
        }
    }

    /// Jobs of groups, and with unique keys, wait in the lanes where they belong. If one of a lane's has to go, all of them do, so
    /// that none goes before it.
    pub(super) fn move_pushes(&mut self, lanes: &[LaneKey], settings: &Settings) {
        let Some(spread) = &settings.spread else { return };
        // Where it belongs, and whether it has to borrow its key first.
        let belongs = |entry: &Entry| match &entry.work {
            Work::Operation(Operation::Push(Push { options, .. })) => {
                let borrows = spread.lender(options).is_some();
                spread.partition_of(options).map(|partition| (partition, borrows))
            }
            _ => None,
        };
        for (number, &lane) in (0..).zip(lanes) {
            let has_to_go = |entry| belongs(entry).is_some_and(|place| place != (number, false));
            if !self.lanes[lane as usize].waiting.iter().any(has_to_go) {
                continue;
            }
            for entry in self.lanes[lane as usize].take_waiting(|entry| belongs(entry).is_some()) {
                self.push_anew(self.lanes[lane as usize].of, entry);
            }
        }
    }

    pub(super) fn push_anew(&mut self, queue: QueueKey, entry: Entry) {
        if let Work::Operation(Operation::Push(push)) = entry.work {
            self.enter_push(queue, push, entry.to, entry.pipelined, entry.since);
        }
    }

    /// A partition is no more: what waits for it goes elsewhere, or is told that there is nothing.
    pub(super) fn scatter(&mut self, key: LaneKey, now: Instant) {
        let lane = &mut self.lanes[key as usize];
        lane.woken = false;
        let of = lane.of;
        let settings = lane.settings.clone();
        for entry in lane.take_waiting(|entry| !entry.is_witness()) {
            match entry.work {
                Work::Operation(Operation::Push(_)) => self.push_anew(of, entry),
                Work::Operation(_) => self.reply_to(entry.to, Reply::Integer(0)),
                Work::Key(_) => self.reply_to(entry.to, Reply::Nothing),
                Work::Single(single) => self.reply_to(entry.to, single.of_nothing(&settings)),
                Work::Pop => self.ask_anew(key, entry.to, now),
            }
        }
        for asker in self.awaiting.take_those_in(key) {
            self.answer(asker, Reply::Nothing);
        }
        self.count(key);
    }

    /// A pop that was to look into a partition that is no more.
    fn ask_anew(&mut self, key: LaneKey, to: To, now: Instant) {
        let To::Pop(asker) = to else { return };
        let Some(request) = self.pops.get_mut(&asker) else {
            return;
        };
        if request.got.is_empty() && !request.lanes.is_empty() {
            request.at = 0;
            return self.ask_lane(asker, false, now);
        }
        // The rest of a large COUNT is not to be had.
        let (noack, asked) = (request.pop.noack, request.pop.count);
        if self.popped(key, to, Vec::new(), noack, asked, now).is_some() {
            self.found_nothing(asker, now);
        }
    }
}

//! What Redis has lost of what it had acknowledged is pushed again: see [`crate::queue::recent`].

use std::ops::AddAssign;
use std::time::{Duration, Instant};

use super::Queues;
use crate::queue::flight::{Flight, Outgoing};
use crate::queue::lane::{Entry, LaneKey, To, Work};
use crate::queue::operation::{Operation, Return};
use crate::queue::recent::{KEPT_BYTES, KeptJob};
use crate::queue::single::Single;
use crate::script::Outcome;

/// Lanes find out one after another, in the same moment.
pub(super) const TELLING: Duration = Duration::from_secs(1);
/// Jobs that one call pushes again, at most.
const AGAIN: usize = 100;

/// Acknowledged pushes that Redis has lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    pub resent: u64,
    pub lost: u64,
}

impl AddAssign for Losses {
    fn add_assign(&mut self, more: Self) {
        self.resent += more.resent;
        self.lost += more.lost;
    }
}

impl Queues {
    /// There is a new connection: perhaps to another Redis, which may lack what the last one had. Each lane that keeps pushes
    /// calls, and hears.
    pub fn connected(&mut self) {
        self.epoch += 1;
        self.ask_what_is_forgotten();
        let keeping = self.lanes.iter().filter(|(_, lane)| !lane.recent.is_empty());
        for key in keeping.map(|(key, _)| key as LaneKey).collect::<Vec<_>>() {
            self.lanes[key as usize].woken = true;
            self.list(key);
        }
    }

    /// What was lost, once for all lanes that found out together.
    pub fn losses_to_tell(&mut self, now: Instant) -> Option<Losses> {
        let (losses, _) = self.losses.take_if(|(_, since)| *since + TELLING <= now)?;
        Some(losses)
    }

    /// What a call has pushed is kept, and older calls go to make room.
    pub(super) fn remember(&mut self, key: LaneKey, jobs: Vec<KeptJob>, now: Instant) {
        if jobs.is_empty() {
            return;
        }
        let epoch = self.epoch;
        let lane = &mut self.lanes[key as usize];
        let before = lane.recent.bytes();
        lane.recent.keep(lane.answered, epoch, jobs, now);
        self.recent = self.recent + lane.recent.bytes() - before;
        while self.recent > KEPT_BYTES {
            let keeping = self
                .lanes
                .iter_mut()
                .filter_map(|(_, lane)| Some((lane.recent.oldest()?, lane)));
            let Some((_, lane)) = keeping.min_by_key(|(since, _)| *since) else {
                return;
            };
            let before = lane.recent.bytes();
            lane.recent.make_room();
            self.recent = self.recent + lane.recent.bytes() - before;
        }
    }

    /// Jobs that have ended, or were handed out.
    pub(super) fn note_ends(&mut self, key: LaneKey, operation: &Operation, outcome: &Outcome) {
        let recent = &mut self.lanes[key as usize].recent;
        if recent.is_empty() {
            return;
        }
        let before = recent.bytes();
        match (operation, outcome) {
            // Of several of which some did not count it is not known which.
            (Operation::Ack(claims), Outcome::Acked(acked)) if *acked as usize == claims.len() => {
                claims.iter().for_each(|claim| recent.ended(claim.job));
            }
            (Operation::Finish(finish), Outcome::Acked(acked)) if *acked as usize == finish.claims.len() => {
                finish.claims.iter().for_each(|claim| recent.ended(claim.job));
            }
            (Operation::Pop(pop), Outcome::Popped(jobs)) if pop.noack => {
                jobs.iter().for_each(|job| recent.ended(job.id));
            }
            (Operation::Pop(_), Outcome::Popped(jobs)) => {
                jobs.iter().for_each(|job| recent.delivered(job.id, job.delivery));
            }
            _ => {}
        }
        self.recent = self.recent + recent.bytes() - before;
    }

    /// Jobs that somebody removed.
    pub(super) fn note_removal(&mut self, key: LaneKey, single: &Single) {
        let recent = &mut self.lanes[key as usize].recent;
        let before = recent.bytes();
        match single {
            Single::Delete { jobs, .. } => jobs.iter().for_each(|job| recent.ended(*job)),
            Single::Purge { .. } | Single::Drop { noted: false } | Single::DropPart { .. } => recent.clear(),
            _ => return,
        }
        self.recent = self.recent + recent.bytes() - before;
    }

    /// Redis has not applied what the lane knows to have been applied. Nothing of this call was done; it is made again, first
    /// of all, under the number that it had: the Redis before, which may have done it, might be the primary once more.
    pub(super) fn push_again(&mut self, key: LaneKey, flight: Flight, applied: u64, now: Instant) -> Outgoing {
        let lane = &mut self.lanes[key as usize];
        let before = lane.recent.bytes();
        let retries = lane.settings.retries;
        let lost = lane
            .recent
            .lost(applied, self.epoch, |options| options.retries.unwrap_or(retries) - 1);
        self.recent = self.recent + lane.recent.bytes() - before;
        let losses = Losses {
            resent: lost.again.len() as u64,
            lost: lost.gone,
        };
        let mut jobs = lost.again.into_iter().peekable();
        while jobs.peek().is_some() {
            let some: Vec<Return> = jobs.by_ref().take(AGAIN).collect();
            lane.push_front(Entry::again(Work::Operation(Operation::Return(some)), To::Nobody, now));
        }
        self.tally.resent += losses.resent;
        self.tally.lost += losses.lost;
        if losses != Losses::default() {
            self.losses.get_or_insert((Losses::default(), now)).0 += losses;
        }
        let Flight { call, to, sequence, .. } = flight;
        self.fly(key, call, to, sequence, now)
    }
}

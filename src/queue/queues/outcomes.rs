//! Replies in: what a call came to is dealt out to those who asked, and what it says of the queue is noted.

use std::time::Instant;

use bytes::Bytes;
use smallvec::SmallVec;

use super::Queues;
use crate::asker::Asker;
use crate::queue::flight::{Askers, Call, Flight, Outgoing};
use crate::queue::lane::{Entry, LaneKey, To, Work};
use crate::queue::operation::{Operation, Push};
use crate::queue::recent::KeptJob;
use crate::queue::reply::{Popped, Reply};
use crate::queue::single::Single;
use crate::queue::waiting::Patience;
use crate::script::batch::{self, BatchReply, Shortage};
use crate::script::loans;
use crate::script::{CallError, Changed, Job, Outcome, last_applied};

impl Queues {
    /// Redis's reply to a lane's call, and how many replicas have what it pushed, if it waited for any.
    /// Gives back a call that is to be sent at once, if this one has to be made again.
    #[must_use]
    pub fn replied(&mut self, key: LaneKey, reply: Bytes, confirmed: Option<u32>, now: Instant) -> Option<Outgoing> {
        let flight = self.lanes.get_mut(key as usize)?.flight.take()?;
        self.flights -= 1;
        if let Some(applied) = last_applied(&reply) {
            return Some(self.push_again(key, flight, applied, now));
        }
        if batch::is_not_plain(&reply) {
            self.lanes[key as usize].plain = false;
            let Flight { call, to, sequence, .. } = flight;
            return Some(self.fly(key, call, to, sequence, now));
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
            Call::Lend(keys) => match loans::lent(reply) {
                Ok((standing, places)) => {
                    self.stand(key, standing, now);
                    for ((to, _), at) in to.into_iter().zip(places) {
                        self.found_key(key, to, at, now);
                    }
                    None
                }
                Err(error) => Some((Call::Lend(keys), to, error)),
            },
            Call::Single(single) => {
                let asker = to.first().copied().unwrap_or((To::Nobody, now));
                let settled = self.settle_single(key, &single, asker, reply, now);
                settled.err().map(|error| (Call::Single(single), to, error))
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
            Call::Single(Single::Drop { .. }) => self.drop_failed(queue, &line, now),
            Call::Single(Single::Open(_) | Single::Restore { .. }) => self.queues[queue as usize].opening = false,
            _ => {}
        }
        if partition == 0 {
            self.not_confirmed(queue, &line, now);
        }
    }

    pub(super) fn refuse(&mut self, to: To, line: Bytes, now: Instant) {
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
            To::Borrower(key, _) => self.refuse_borrower(key, &line, now),
            To::Keeper(queue) => self.keeper_failed(queue, now),
            To::Nobody => {}
        }
    }

    pub(super) fn reply_to(&mut self, to: To, reply: Reply) {
        match to {
            To::Asker(asker) | To::ManyIds(asker) => {
                self.awaiting.remove(&asker);
                self.answer(asker, reply);
            }
            To::Part(fan, _) => self.part_done(fan, Ok(reply)),
            // There is no such partition any more.
            To::Borrower(key, _) => self.push_borrower_anew(key),
            To::Pop(_) | To::Keeper(_) | To::Nobody => {}
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
        self.lanes[key as usize].scale.learn(&operations, reply.spent);
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
                (Outcome::KeyNotHere(why), operation) => {
                    self.key_is_not_here(key, Entry::again(Work::Operation(operation), to, since), why);
                }
                (outcome, Operation::Push(push)) => {
                    if let Outcome::Pushed(ids) | Outcome::Unconfirmed(ids, _) = &outcome {
                        kept.extend(KeptJob::of(push, ids));
                    }
                    self.settle(key, to, outcome);
                }
                (outcome, Operation::Tick(mut tick)) => {
                    let push = tick.push.take().filter(|_| self.is_noted_elsewhere(key));
                    if let (Outcome::Pushed(ids), Some(push)) = (&outcome, push) {
                        kept.extend(KeptJob::of(push, ids));
                    }
                    self.ticked(key, *tick, &outcome, now);
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
    pub(super) fn popped(
        &mut self,
        key: LaneKey,
        to: To,
        jobs: Vec<Job>,
        noack: bool,
        asked: u32,
        now: Instant,
    ) -> Option<Asker> {
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

    pub(super) fn settle(&mut self, key: LaneKey, to: To, outcome: Outcome) {
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
            Outcome::Returned | Outcome::Popped(_) | Outcome::Full | Outcome::KeyNotHere(_) => return,
        };
        if let (To::Asker(asker) | To::ManyIds(asker), false) = (to, self.refused.is_empty()) {
            self.refused.remove(&asker);
        }
        self.reply_to(to, reply);
    }
}

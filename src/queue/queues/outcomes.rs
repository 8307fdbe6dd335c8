//! Replies in: what a call came to is dealt out to those who asked, and what it says of the queue is noted.

use std::time::Instant;

use bytes::Bytes;
use smallvec::SmallVec;

use super::Queues;
use super::partitions::Queue;
use crate::asker::Asker;
use crate::queue::flight::{Askers, Call, Flight, Outgoing};
use crate::queue::lane::{Entry, LaneKey, QueueKey, To, Trust, Work};
use crate::queue::operation::{Operation, Push};
use crate::queue::recent::KeptJob;
use crate::queue::reply::{Popped, Reply};
use crate::queue::settings::{Change, SPREAD};
use crate::queue::single::{CronCall, Elsewhere, Single, Step};
use crate::queue::spread::Spread;
use crate::queue::waiting::Patience;
use crate::script::batch::{self, BatchReply, Shortage};
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
        self.land(key, flight, reply, confirmed, now);
        None
    }

    pub(super) fn land(&mut self, key: LaneKey, flight: Flight, reply: Bytes, confirmed: Option<u32>, now: Instant) {
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
    pub(super) fn settle_call(
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
            Call::Single(single) => {
                let asked = single.clone();
                let asker = to.first().copied().unwrap_or((To::Nobody, now));
                let settled = self.settle_single(key, single, asker, reply, now);
                settled.err().map(|error| (Call::Single(asked), to, error))
            }
        }
    }

    pub(super) fn fail(&mut self, key: LaneKey, call: &Call, to: &[(To, Instant)], error: &CallError, now: Instant) {
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
            To::Pop(_) | To::Keeper(_) | To::Nobody => {}
        }
    }

    pub(super) fn settle_batch(
        &mut self,
        key: LaneKey,
        operations: Vec<Operation>,
        to: Askers,
        parked: bool,
        reply: BatchReply,
        now: Instant,
    ) {
        let standing = reply.standing;
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

    pub(super) fn give_back_popped(&mut self, popped: Popped, now: Instant) {
        if !popped.jobs.is_empty() {
            self.give_back(&popped.queue, popped.origin.partition, popped.returns(), now);
        }
    }

    /// It asked this queue in vain. One that was parked before has its turn again.
    pub(super) fn still_hungry(&mut self, key: LaneKey, asker: Asker, more: bool, now: Instant) {
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
    pub(super) fn full(&mut self, key: LaneKey, push: Push, to: To, since: Instant) {
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
            Outcome::Returned | Outcome::Popped(_) | Outcome::Full => return,
        };
        if let (To::Asker(asker) | To::ManyIds(asker), false) = (to, self.refused.is_empty()) {
            self.refused.remove(&asker);
        }
        self.reply_to(to, reply);
    }

    /// A call that stands for itself has its reply: the answer, or the next call.
    pub(super) fn settle_single(
        &mut self,
        key: LaneKey,
        single: Single,
        (to, since): (To, Instant),
        reply: Bytes,
        now: Instant,
    ) -> Result<(), CallError> {
        let lane = &mut self.lanes[key as usize];
        if let Single::Copy { .. } = single {
            lane.trust = Trust::Sure;
        }
        let (queue, partition) = (lane.of, lane.origin.partition);
        let gone = partition == 0 && matches!(single, Single::DropPart { .. });
        let several = self.queues[lane.of as usize].lanes.len() > 1 && lane.origin.partition == 0 && !lane.retired;
        let elsewhere = single
            .elsewhere(&lane.settings)
            .filter(|_| several && !matches!(to, To::Part(..)));
        let settings = &self.queues[lane.of as usize].settings;
        let is_table_changed = matches!(single, Single::Cron(CronCall::AddToTable(_)));
        let restored = match &single {
            Single::Restore { copy, .. } => Some(copy.clone()),
            _ => gone.then(Changed::default),
        };
        let removes = single.clone();
        let (standing, step) = single.read(reply, &lane.queue, lane.origin, settings)?;
        if let (true, Some(crons)) = (is_table_changed, &mut self.crons) {
            crons.changed(now);
        }
        if let (0, Single::Cron(CronCall::Delete(name))) = (partition, &removes) {
            self.forget_ticks(queue, name, now);
        }
        self.note_removal(key, &removes);
        let lane = &self.lanes[key as usize];
        let soonest = lane.due.filter(|due| *due > now);
        self.stand(key, standing, now);
        let lane = &mut self.lanes[key as usize];
        // What a batch knew of the limits, this call did not ask.
        lane.due = [soonest, lane.due].into_iter().flatten().min();
        lane.hopeful = lane.hopeful.max(lane.parked.live().min(standing.ready as usize));
        let again = |single| Entry::again(Work::Single(single), to, since);
        self.expect_due(key);
        if let Some(changed) = restored {
            self.adopt(queue, changed, now);
        }
        match (step, elsewhere) {
            (Step::Done(_), Some(Elsewhere::Window(state, window))) => {
                self.peek_everywhere(queue, to, state, window, since);
            }
            (Step::Done(reply), Some(Elsewhere::Too(part))) => self.ask_elsewhere(queue, to, reply, part, since),
            (Step::Done(reply), None) => self.reply_to(to, reply),
            (Step::Wait, _) => {
                if let To::Asker(asker) = to
                    && let Some(job) = self.awaiting.park(asker)
                {
                    self.look_for_result(asker, key, job, true, now);
                }
            }
            (Step::Again(single), _) => match self.revised(queue, single) {
                Ok(single) => self.lanes[key as usize].push_front(again(single)),
                Err(line) => self.refuse(to, line.into(), now),
            },
            (Step::Next(single), _) => match self.lane_of(queue, partition + 1) {
                Some(next) => self.enter(next, again(single)),
                None => self.reply_to(to, single.of_nothing(&self.lanes[key as usize].settings)),
            },
            (Step::In(queue, single), _) => self.push_single(&queue, single, to, since),
            (Step::Keeper(news), _) => self.keep(key, news, standing, now),
        }
        Ok(())
    }

    /// What is to be stored of a change of the settings, or may be of a repeated job, follows from those that hold. `Err`: why it
    /// cannot be.
    pub(super) fn revised(&self, queue: QueueKey, single: Single) -> Result<Single, String> {
        if let Single::Cron(CronCall::Add { job, .. }) = &single {
            self.queues[queue as usize].admits(&job.push)?;
        }
        let Single::Configure { asked, stored: Some(_) } = single else {
            return Ok(single);
        };
        let known = &self.queues[queue as usize];
        let mut stored: Vec<Change> = Vec::new();
        for (name, value) in &asked {
            match (*name, value.parse()) {
                ("partitions", Ok(active)) => {
                    stored.extend(self.spread(known, active));
                    // That it was said; 0 leaves it to the cluster.
                    let said = if active == 0 { String::new() } else { value.clone() };
                    stored.push((name, said));
                }
                _ => stored.push((name, value.clone())),
            }
        }
        known.settings.with(&stored).check_bounds(&asked)?;
        let stored = Some(stored);
        Ok(Single::Configure { asked, stored })
    }

    /// What makes so many partitions active; 0: as many as by default. Nothing, if it is so.
    pub(super) fn spread(&self, known: &Queue, active: u16) -> Option<Change> {
        let active = match active {
            0 => known.settings.partitions,
            active => active,
        };
        let current = known.settings.spread.as_ref();
        if current.map_or(1, Spread::active) == active && (current.is_some() || known.settings.partitions == 1) {
            return None;
        }
        let spread = Spread::resized(current, active, &known.name, &self.primaries);
        Some((SPREAD, spread.to_string()))
    }
}

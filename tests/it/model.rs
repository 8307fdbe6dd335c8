//! A queue in memory, as plain as it can be written: what the contract says happens to jobs, without Redis.
//! `walk` holds the scripts against it. It knows nothing of keys, batches' encoding, bounds or tombstones; only the ids are
//! taken from the real queue, which makes them, after a check that they are new and in order.

mod soundness;
mod walk;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use millrace::queue::id::LocalId;
use millrace::queue::operation::{Claim, JobOptions, Nack, Operation, Pop, Priority, Push, Return, Start, State};
use millrace::script::look::{Ending, JobView, Stats};
use millrace::script::{Job, Outcome, Record, Settings};

/// Where a job is. A ready one also stands in `Queue::ready`.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Ready,
    Delayed { due: u64 },
    Leased { until: u64 },
    Dead { since: u64 },
}

impl Place {
    fn state(self) -> State {
        match self {
            Place::Ready => State::Ready,
            Place::Delayed { .. } => State::Delayed,
            Place::Leased { .. } => State::Leased,
            Place::Dead { .. } => State::Dead,
        }
    }

    fn at(self) -> Option<u64> {
        match self {
            Place::Ready => None,
            Place::Delayed { due: at } | Place::Leased { until: at } | Place::Dead { since: at } => Some(at),
        }
    }
}

struct Held {
    payload: Bytes,
    record: Record,
    place: Place,
}

pub struct Queue {
    pub settings: Settings,
    jobs: BTreeMap<LocalId, Held>,
    /// Those in line: not the ones that wait behind their group.
    ready: [VecDeque<LocalId>; 4],
    /// Each group's job in line.
    turns: BTreeMap<Bytes, LocalId>,
    /// Those that go before all others when their call is done with its like.
    fronts: Vec<LocalId>,
    last: Option<LocalId>,
    counted: Stats,
    /// What the rate's bucket held, and when.
    bucket: Option<(f64, u64)>,
    /// By group: when the bucket of its rate is full again; and those that their rate holds back, until when.
    buckets: BTreeMap<Bytes, f64>,
    throttled: BTreeMap<Bytes, u64>,
    /// Repeated jobs: when each ticks next.
    pub ticks: BTreeMap<Bytes, u64>,
    now: u64,
    /// Unique keys: who holds each, and until when FOR does.
    keys: BTreeMap<Bytes, (LocalId, u64)>,
    /// And until when they are kept.
    results: BTreeMap<LocalId, (Bytes, u64)>,
}

impl Queue {
    pub fn new(settings: Settings) -> Self {
        let ready = std::array::from_fn(|_| VecDeque::new());
        Self {
            settings,
            jobs: BTreeMap::new(),
            ready,
            turns: BTreeMap::new(),
            fronts: Vec::new(),
            last: None,
            counted: Stats::default(),
            bucket: None,
            buckets: BTreeMap::new(),
            throttled: BTreeMap::new(),
            ticks: BTreeMap::new(),
            now: 0,
            keys: BTreeMap::new(),
            results: BTreeMap::new(),
        }
    }

    /// A batch: workers' words, upkeep, pushes, pops. `real`: what the real queue answered, for the ids of what was pushed.
    pub fn batch(&mut self, now: u64, jitter: f64, operations: &[Operation], real: &[Outcome]) -> Vec<Outcome> {
        self.now = now;
        let mut outcomes = vec![Outcome::Returned; operations.len()];
        let mut place = 0;
        for (operation, outcome) in operations.iter().zip(&mut outcomes) {
            let mut each = |claims: &[Claim], act: &mut dyn FnMut(&mut Self, LocalId, u64)| {
                let mut counted = 0;
                for claim in claims {
                    place += 1;
                    if self.holds(*claim) {
                        act(self, claim.job, place);
                        counted += 1;
                    }
                }
                counted
            };
            match operation {
                Operation::Finish(finish) => {
                    let act = &mut |queue: &mut Self, id, _| {
                        let ttl = finish.ttl.unwrap_or(queue.settings.result_ttl.as_millis() as u64);
                        queue.ack(id);
                        queue.results.insert(id, (finish.result.clone(), now + ttl));
                    };
                    *outcome = Outcome::Acked(each(&finish.claims, act));
                }
                Operation::Ack(claims) => *outcome = Outcome::Acked(each(claims, &mut |queue, id, _| queue.ack(id))),
                Operation::Nack(nack) => {
                    let act = &mut |queue: &mut Self, id, place| queue.nack(id, nack, now, jitter, place);
                    *outcome = Outcome::Nacked(each(&nack.claims, act));
                }
                Operation::Extend { claims, lease } => {
                    let place = Place::Leased { until: now + lease };
                    *outcome = Outcome::Extended(each(claims, &mut |queue, id, _| queue.job(id).place = place));
                }
                Operation::Lapse(claims) => {
                    for claim in claims.iter().filter(|claim| claim.delivery.is_some()) {
                        if self.holds(*claim) && self.lapse(claim.job, now) {
                            self.line_up(claim.job, now);
                        }
                    }
                }
                Operation::Return(jobs) => {
                    for back in jobs {
                        if self.take_back(back, now) {
                            self.line_up(back.job, now);
                        }
                    }
                }
                Operation::Tick(tick) if self.ticks.get(&tick.name) != Some(&tick.at) => *outcome = Outcome::Made,
                Operation::Tick(tick) => {
                    self.ticks.remove(&tick.name);
                    self.ticks.extend(tick.next.map(|next| (tick.name.clone(), next)));
                }
                Operation::Push(_) | Operation::Pop(_) => {}
            }
        }
        self.put_in_front();
        self.upkeep(now);
        for (at, push) in in_served_order(operations) {
            if outcomes[at] == Outcome::Made && !self.settings.pause.push {
                continue;
            }
            let waiting = self.in_state(State::Ready).len() + self.in_state(State::Delayed).len();
            let bound = self.settings.max_len as usize;
            outcomes[at] = match self.holder(push, now) {
                _ if self.settings.pause.push => Outcome::Paused,
                Some(id) => {
                    self.counted.deduplicated += 1;
                    Outcome::Duplicate(id)
                }
                None if bound > 0 && waiting + push.payloads.len() > bound => Outcome::Full,
                None => Outcome::Pushed(self.push(push, now, &real[at])),
            };
        }
        let mut ids: Vec<_> = outcomes.iter().flat_map(pushed).copied().collect();
        assert!(
            ids.is_empty() || self.last < ids.first().copied(),
            "later than all before"
        );
        assert!(ids.is_sorted(), "ids in push order");
        self.last = ids.pop().or(self.last);
        let mut room = self.room(now).0;
        for (at, operation) in operations.iter().enumerate() {
            if let Operation::Pop(pop) = operation {
                let jobs: Vec<_> = (0..pop.count.min(room)).map_while(|_| self.pop(pop, now)).collect();
                room -= jobs.len() as u32;
                self.take_tokens(jobs.len(), now);
                outcomes[at] = Outcome::Popped(jobs);
            }
        }
        outcomes
    }

    fn holder(&self, push: &Push, now: u64) -> Option<LocalId> {
        let (id, until) = self.keys.get(&push.options.unique.as_ref()?.key)?;
        (!self.has_ended(*id) || *until > now).then_some(*id)
    }

    fn has_ended(&self, id: LocalId) -> bool {
        let held = self.jobs.get(&id);
        held.is_none_or(|held| held.place.state() == State::Dead)
    }

    /// How many jobs the limits let be popped, and when the rate allows the next if it allows none.
    fn room(&self, now: u64) -> (u32, Option<u64>) {
        if self.settings.pause.pop {
            return (0, None);
        }
        let mut room = u32::MAX;
        if self.settings.concurrency > 0 {
            room = (self.settings.concurrency as u32).saturating_sub(self.in_state(State::Leased).len() as u32);
        }
        let Some((jobs, per)) = self.rate() else {
            return (room, None);
        };
        let tokens = self.tokens(now);
        let again = (tokens < 1.0).then(|| now + ((1.0 - tokens) * per / jobs).ceil() as u64);
        (room.min(tokens as u32), again)
    }

    /// Jobs per so many ms.
    fn rate(&self) -> Option<(f64, f64)> {
        let (jobs, per) = self.settings.rate.0?;
        Some((jobs as f64, per.as_millis() as f64))
    }

    fn tokens(&self, now: u64) -> f64 {
        let Some((jobs, per)) = self.rate() else {
            return f64::MAX;
        };
        let full = (jobs * 1000.0 / per).max(1.0);
        let (held, at) = self.bucket.unwrap_or((full, now));
        (held + (now - at) as f64 * jobs / per).min(full)
    }

    fn take_tokens(&mut self, taken: usize, now: u64) {
        if taken > 0 && self.rate().is_some() {
            let left = self.tokens(now) - taken as f64;
            self.bucket = Some(((left * 1e6).round() / 1e6, now));
        }
    }

    /// Why it does not run: its state, a reason, and a number if the reason has one.
    pub fn explain(&mut self, id: LocalId, now: u64) -> Option<(State, &'static str, Option<u64>)> {
        self.upkeep(now);
        let held = self.jobs.get(&id)?;
        let (reason, number) = match held.place {
            Place::Leased { until } => ("leased", Some(until)),
            Place::Delayed { due } => ("delayed", Some(due)),
            Place::Dead { .. } => ("dead", None),
            Place::Ready if self.settings.pause.pop => ("paused", None),
            Place::Ready => self.explain_ready(id, held.record.group.as_ref(), now),
        };
        Some((held.place.state(), reason, number))
    }

    fn explain_ready(&self, id: LocalId, group: Option<&Bytes>, now: u64) -> (&'static str, Option<u64>) {
        if let Some(group) = group.filter(|group| self.turns.get(*group) != Some(&id)) {
            let earlier = |(other, held): (&LocalId, &Held)| {
                held.record.group.as_ref() == Some(group) && *other < id && held.place == Place::Ready
            };
            let is_first = !self.jobs.iter().any(earlier);
            return match self.throttled.get(group) {
                Some(until) if is_first && !self.is_full(group) => ("rate", Some(*until)),
                _ => ("group", None),
            };
        }
        let mut in_line = self.ready.iter().flatten();
        if in_line.next() != Some(&id) {
            return ("behind", None);
        }
        let concurrency = self.settings.concurrency;
        match self.room(now) {
            (1.., _) => ("ready", None),
            _ if concurrency > 0 && self.in_state(State::Leased).len() as u64 >= concurrency => {
                ("concurrency", Some(concurrency))
            }
            (_, again) => ("rate", again),
        }
    }

    /// Ready jobs as far as the limits let them be popped, and what is due next for those who wait.
    pub fn standing(&self, now: u64) -> (u64, Option<u64>) {
        let ready = self.ready.iter().flatten().count() as u64; // nobody can pop what waits behind its group
        let (room, again) = self.room(now);
        let again = again.filter(|_| ready > 0);
        (
            ready.min(room.into()),
            [self.next_due(), again, self.throttled.values().min().copied()]
                .into_iter()
                .flatten()
                .min(),
        )
    }

    /// Those of `ids` that are in that state become ready, at the back.
    pub fn revive(&mut self, from: State, ids: &[LocalId], now: u64) -> u64 {
        self.upkeep(now);
        let mut revived = 0;
        for id in ids {
            let Some(held) = self.jobs.get_mut(id).filter(|held| held.place.state() == from) else {
                continue;
            };
            revived += 1;
            held.record.ready_from = Some(now);
            if from == State::Dead {
                (held.record.nacks, held.record.lapses) = (0, 0);
                self.counted.redriven += 1;
            }
            let held = self.job(*id);
            if held.record.expires.is_some_and(|expires| expires <= now) {
                self.expire(*id);
            } else {
                held.place = Place::Ready;
                let key = held.record.unique.clone();
                self.hold_again(*id, key, now);
                self.stand_at_the_back(*id);
            }
        }
        revived
    }

    /// A job that had ended goes on: it has its key again unless another has it.
    fn hold_again(&mut self, id: LocalId, key: Option<Bytes>, now: u64) {
        let Some(key) = key else { return };
        let free = self
            .keys
            .get(&key)
            .is_none_or(|(other, until)| *other != id && self.has_ended(*other) && *until <= now);
        if free {
            self.keys.insert(key, (id, 0));
        }
    }

    /// `defaults`: what it goes by without settings of its own.
    pub fn drop_queue(&mut self, defaults: &Settings) -> bool {
        let existed = self.last.is_some() || !self.ticks.is_empty() || self.settings != *defaults;
        *self = Self::new(defaults.clone());
        existed
    }

    pub fn delete(&mut self, ids: &[LocalId], now: u64) -> u64 {
        self.upkeep(now);
        ids.iter().filter(|id| self.remove(**id).is_some()).count() as u64
    }

    pub fn purge(&mut self, state: Option<State>, now: u64) -> u64 {
        self.upkeep(now);
        let ids: Vec<_> = match state {
            Some(state) => self.in_state(state),
            None => self.jobs.keys().copied().collect(),
        };
        ids.iter().filter_map(|id| self.remove(*id)).count() as u64
    }

    pub fn stats(&mut self, now: u64) -> Stats {
        self.upkeep(now);
        let ready = |priority| self.ready[priority as usize].len() as u64 + self.behind(priority).count() as u64;
        let [urgent, high, normal, low] = Priority::ALL.map(ready);
        let behind = Priority::ALL
            .into_iter()
            .filter_map(|priority| self.behind(priority).next());
        let oldest = self
            .ready
            .iter()
            .filter_map(|list| list.front().copied())
            .chain(behind)
            .map(|id| {
                let since = self.jobs[&id].record.ready_from;
                since.unwrap_or(id.pushed_ms())
            });
        Stats {
            exists: self.last.is_some(),
            urgent,
            high,
            normal,
            low,
            delayed: self.in_state(State::Delayed).len() as u64,
            leased: self.in_state(State::Leased).len() as u64,
            dead: self.in_state(State::Dead).len() as u64,
            oldest_ready_ms: now - oldest.min().unwrap_or(now).min(now),
            ..self.counted
        }
    }

    /// The earliest time at which something becomes ready by itself.
    pub fn next_due(&self) -> Option<u64> {
        let comes_back = |held: &&Held| matches!(held.place, Place::Delayed { .. } | Place::Leased { .. });
        self.jobs
            .values()
            .filter(comes_back)
            .filter_map(|held| held.place.at())
            .min()
    }

    pub fn peek(&mut self, state: State, now: u64) -> Vec<JobView> {
        self.upkeep(now);
        self.in_state(state)
            .into_iter()
            .filter_map(|id| self.view(id))
            .collect()
    }

    pub fn view(&self, id: LocalId) -> Option<JobView> {
        let Held { payload, record, place } = self.jobs.get(&id)?;
        let (payload, record) = (payload.clone(), record.clone());
        Some(JobView {
            id,
            state: place.state(),
            at: place.at(),
            payload,
            record,
        })
    }

    pub fn ending(&self, id: LocalId, now: u64) -> Ending {
        match self.results.get(&id).filter(|(_, until)| *until > now) {
            Some((result, _)) => Ending::Result(result.clone()),
            None if self.has_ended(id) => Ending::Nothing,
            None => Ending::Open,
        }
    }

    /// Next to be served, due, ended or removed first.
    pub fn in_state(&self, state: State) -> Vec<LocalId> {
        if state == State::Ready {
            let in_line = |priority| self.ready[priority as usize].iter().copied();
            return Priority::ALL
                .into_iter()
                .flat_map(|priority| in_line(priority).chain(self.behind(priority)))
                .collect();
        }
        let in_state = self.jobs.iter().filter(|(_, held)| held.place.state() == state);
        let mut ids: Vec<_> = in_state.map(|(id, held)| (held.place.at(), *id)).collect();
        ids.sort();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    fn job(&mut self, id: LocalId) -> &mut Held {
        self.jobs.get_mut(&id).expect("a job of the model")
    }

    /// The claim names the delivery that somebody has now.
    fn holds(&self, claim: Claim) -> bool {
        self.jobs.get(&claim.job).is_some_and(|held| {
            let current = held.record.delivery();
            matches!(held.place, Place::Leased { .. }) && claim.delivery.is_none_or(|delivery| delivery == current)
        })
    }

    fn remove(&mut self, id: LocalId) -> Option<Held> {
        self.list(id).retain(|other| *other != id);
        let held = self.jobs.remove(&id);
        self.arrange(held.as_ref().and_then(|held| held.record.group.clone()), false);
        held
    }

    fn list(&mut self, id: LocalId) -> &mut VecDeque<LocalId> {
        &mut self.ready[id.priority() as usize]
    }

    fn ack(&mut self, id: LocalId) {
        self.remove(id);
        self.counted.acked += 1;
    }

    fn expire(&mut self, id: LocalId) {
        self.remove(id);
        self.counted.expired += 1;
    }

    fn nack(&mut self, id: LocalId, nack: &Nack, now: u64, jitter: f64, place: u64) {
        self.counted.nacked += 1;
        let settings = self.settings.clone();
        let held = self.job(id);
        let record = &mut held.record;
        if record.expires.is_some_and(|expires| expires <= now) {
            return self.expire(id);
        }
        let attempt = record.delivery();
        let base = record
            .backoff
            .map_or(settings.backoff.as_secs_f64() * 1000.0, |ms| ms as f64);
        let longest = record
            .max_backoff
            .map_or(settings.max_backoff.as_secs_f64() * 1000.0, |ms| ms as f64);
        let spread = 0.8 + 0.4 * ((jitter + place as f64 * 0.618_034) % 1.0);
        let backoff = (base * 2f64.powi(attempt as i32 - 1)).min(longest) * spread;
        record.nacks += 1;
        if nack.error.as_ref().is_some_and(|error| !error.is_empty()) {
            record.error = nack.error.clone();
        }
        let group = record.group.clone();
        if nack.dead || attempt >= record.retries.unwrap_or(settings.retries) {
            held.place = Place::Dead { since: now };
            return self.arrange(group, false);
        }
        let due = now + nack.delay.unwrap_or(backoff.floor() as u64);
        record.ready_from = Some(due);
        held.place = Place::Delayed { due };
        self.arrange(group, false);
    }

    /// Whether there was something to take back.
    fn take_back(&mut self, back: &Return, now: u64) -> bool {
        if let Some((payload, record)) = &back.taken {
            let record = Record::decode_or_default(record.as_ref()).expect("a record");
            let held = Held {
                payload: payload.clone(),
                record,
                place: Place::Ready,
            };
            self.counted.acked -= 1;
            let key = held.record.unique.clone();
            let is_back = self.jobs.insert(back.job, held).is_none();
            self.hold_again(back.job, key, now);
            return is_back;
        }
        self.holds(Claim {
            partition: 0,
            job: back.job,
            delivery: Some(back.delivery),
        }) && {
            self.job(back.job).place = Place::Ready;
            true
        }
    }

    /// Ready again, in front, or at its place in its group; gone if its TTL is over.
    fn line_up(&mut self, id: LocalId, now: u64) {
        let held = self.job(id);
        held.place = Place::Ready;
        let group = held.record.group.clone();
        if held.record.expires.is_some_and(|expires| expires <= now) {
            self.expire(id);
        } else if group.is_some() {
            self.arrange(group, true);
        } else {
            self.fronts.push(id);
        }
    }

    /// In push order, before all others of their priority.
    fn put_in_front(&mut self) {
        let mut ids = std::mem::take(&mut self.fronts);
        ids.sort();
        for id in ids.into_iter().rev() {
            self.list(id).push_front(id);
        }
    }

    fn stand_at_the_back(&mut self, id: LocalId) {
        match self.job(id).record.group.clone() {
            None => self.list(id).push_back(id),
            group => self.arrange(group, false),
        }
    }

    /// Ready jobs that are not in line, in push order.
    fn behind(&self, priority: Priority) -> impl Iterator<Item = LocalId> {
        let waits = move |(id, held): &(&LocalId, &Held)| {
            let turn = held.record.group.as_ref().map(|group| self.turns.get(group));
            held.place == Place::Ready && id.priority() == priority && turn.is_some_and(|turn| turn != Some(id))
        };
        self.jobs.iter().filter(waits).map(|(id, _)| *id)
    }

    /// Something happened to a job of that group: whose turn is it now?
    fn arrange(&mut self, group: Option<Bytes>, in_front: bool) {
        let Some(group) = group else { return };
        let members = || {
            self.jobs
                .iter()
                .filter(|(_, held)| held.record.group.as_ref() == Some(&group))
        };
        let first = members().find(|(_, held)| held.place == Place::Ready);
        let backs_off = members().find(|(_, held)| held.place.state() == State::Delayed && held.record.nacks > 0);
        let free = !self.is_full(&group);
        let mut next = first
            .map(|(id, _)| *id)
            .filter(|id| free && backs_off.is_none_or(|(other, _)| other > id));
        let turn = self.turns.get(&group).copied();
        if self.throttles(&group, next.filter(|next| Some(*next) != turn)) {
            next = None;
        }
        if next == turn {
            return;
        }
        if let Some(turn) = turn {
            self.list(turn).retain(|id| *id != turn);
            self.fronts.retain(|id| *id != turn);
            self.turns.remove(&group);
        }
        if let Some(next) = next {
            self.turns.insert(group, next);
            match in_front {
                true => self.fronts.push(next),
                false => self.list(next).push_back(next),
            }
        }
    }

    /// As many of the group's jobs are leased as may be.
    fn is_full(&self, group: &Bytes) -> bool {
        let leased = |held: &&Held| held.record.group.as_ref() == Some(group) && held.place.state() == State::Leased;
        self.jobs.values().filter(leased).count() >= self.settings.group_concurrency as usize
    }

    /// Whether its rate holds this job of the group back.
    fn throttles(&mut self, group: &Bytes, next: Option<LocalId>) -> bool {
        self.throttled.remove(group);
        let (Some((spacing, filling)), Some(_)) = (self.group_rate(), next) else {
            return false;
        };
        let full_at = self.buckets.get(group).copied().unwrap_or(0.0);
        let full_at = full_at.min(self.now as f64 + filling);
        let allowed = full_at - filling + spacing;
        let throttles = allowed > self.now as f64 + spacing / 1000.0;
        if throttles {
            self.buckets.insert(group.clone(), full_at);
            self.throttled.insert(group.clone(), allowed.ceil() as u64);
        }
        throttles
    }

    /// Milliseconds for one more job, and for all that a bucket holds.
    fn group_rate(&self) -> Option<(f64, f64)> {
        let (jobs, per) = self.settings.group_rate.0?;
        let spacing = per.as_millis() as f64 / jobs as f64;
        Some((spacing, spacing.max(1000.0)))
    }

    fn end_throttling(&mut self, now: u64) {
        let never = now + self.group_rate().map_or(0.0, |(spacing, _)| spacing.ceil()) as u64;
        let over = |at: u64| at <= now || at > never;
        let ended = self.throttled.iter().filter(|(_, at)| over(**at));
        let mut ended: Vec<_> = ended.map(|(group, at)| (*at, group.len(), group.clone())).collect();
        ended.sort();
        for (_, _, group) in ended {
            self.throttled.remove(&group);
            self.arrange(Some(group), false);
        }
    }

    fn upkeep(&mut self, now: u64) {
        self.now = now;
        self.end_leases(now);
        let over = |held: &Held| {
            matches!(held.place, Place::Ready | Place::Delayed { .. })
                && held.record.expires.is_some_and(|expires| expires <= now)
        };
        let expired = self.jobs.iter().filter(|(_, held)| over(held));
        let expired: BTreeSet<_> = expired.map(|(id, held)| (held.record.expires, *id)).collect();
        expired.into_iter().for_each(|(_, id)| self.expire(id));
        for id in self.in_state(State::Delayed) {
            if self.job(id).place.at() <= Some(now) {
                self.job(id).place = Place::Ready;
                self.stand_at_the_back(id);
            }
        }
        self.end_throttling(now);
        let dead = self.in_state(State::Dead);
        let surplus = dead.len().saturating_sub(self.settings.dead_max_len as usize);
        let age = self.settings.dead_ttl.as_millis() as u64;
        for (at, id) in dead.into_iter().enumerate() {
            if at < surplus || self.job(id).place.at() <= Some(now - age) {
                self.remove(id);
            }
        }
    }

    fn end_leases(&mut self, now: u64) {
        for id in self.in_state(State::Leased) {
            let Place::Leased { until } = self.job(id).place else {
                continue;
            };
            if until <= now && self.lapse(id, until) {
                self.line_up(id, now);
            }
        }
        self.put_in_front();
    }

    /// A delivery was lost with its worker at that time. True: the job is to be served again.
    fn lapse(&mut self, id: LocalId, at: u64) -> bool {
        let Settings {
            retries, max_lapses, ..
        } = self.settings;
        let held = self.job(id);
        let used_up = held.record.delivery() >= held.record.retries.unwrap_or(retries);
        held.record.lapses += 1;
        if held.record.expires.is_some_and(|expires| expires <= at) {
            self.expire(id);
        } else if used_up || (max_lapses > 0 && held.record.lapses >= max_lapses) {
            held.place = Place::Dead { since: at };
            let group = held.record.group.clone();
            self.arrange(group, false);
        } else {
            held.record.ready_again = Some(at);
            held.place = Place::Ready;
            return true;
        }
        false
    }

    fn push(&mut self, push: &Push, now: u64, real: &Outcome) -> Vec<LocalId> {
        let Outcome::Pushed(ids) = real else {
            panic!("not pushed: {real:?}")
        };
        assert_eq!(ids.len(), push.payloads.len());
        let JobOptions {
            priority,
            start,
            ttl,
            retries,
            backoff,
            max_backoff,
            lease,
            ref meta,
            ref unique,
            ref group,
        } = push.options;
        let due = match start {
            Start::Now => now,
            Start::After(ms) => now + ms,
            Start::At(ms) => ms,
        };
        for (id, payload) in ids.iter().zip(&push.payloads) {
            assert!(id.priority() == priority && id.pushed_ms() == now && !self.jobs.contains_key(id));
            assert_eq!(id.is_packed(), payload.is_packed());
            let mut record = Record {
                retries,
                backoff,
                max_backoff,
                lease,
                meta: meta.clone(),
                unique: unique.as_ref().map(|unique| unique.key.clone()),
                group: group.clone(),
                ..Record::default()
            };
            let default = self.settings.ttl.as_millis() as u64;
            record.expires = ttl.or((default > 0).then_some(default)).map(|ttl| now + ttl);
            record.ready_from = (due > now).then_some(due);
            if let Some(unique) = unique {
                let until = unique.hold.map_or(0, |hold| now + hold);
                self.keys.insert(unique.key.clone(), (*id, until));
            }
            let place = if due > now {
                Place::Delayed { due }
            } else {
                Place::Ready
            };
            let payload = payload.stored().clone();
            self.jobs.insert(*id, Held { payload, record, place });
            if place == Place::Ready {
                self.stand_at_the_back(*id);
            }
        }
        self.counted.pushed += ids.len() as u64;
        ids.clone()
    }

    fn pop(&mut self, pop: &Pop, now: u64) -> Option<Job> {
        let longest = self.settings.max_wait.as_millis() as u64;
        let heads = self.ready.iter().filter_map(VecDeque::front).filter(|_| longest > 0);
        let since = |id: &LocalId| {
            let record = &self.jobs[id].record;
            let ready_from = record.ready_from.unwrap_or(id.pushed_ms());
            ready_from.max(record.ready_again.unwrap_or(0))
        };
        let overdue = heads.filter(|id| since(id) + longest <= now).min_by_key(|id| since(id));
        let id = match overdue.copied() {
            Some(id) => id,
            None => *self.ready.iter().find_map(VecDeque::front)?,
        };
        self.list(id).pop_front();
        let held = &self.jobs[&id];
        let lease = pop
            .lease
            .or(held.record.lease)
            .unwrap_or(self.settings.lease.as_millis() as u64);
        let (payload, delivery) = (held.payload.clone(), held.record.delivery());
        let group = held.record.group.clone();
        if let (Some((spacing, _)), Some(group)) = (self.group_rate(), &group) {
            let full_at = self.buckets.entry(group.clone()).or_insert(0.0);
            *full_at = full_at.max(now as f64) + spacing;
        }
        if pop.noack {
            self.ack(id);
        } else {
            self.job(id).place = Place::Leased { until: now + lease };
            self.arrange(group, false);
        }
        Some(Job {
            id,
            delivery,
            payload,
            record: None,
        })
    }
}

/// Pushes in the order in which the script takes them: by priority, as they came within each.
fn in_served_order(operations: &[Operation]) -> Vec<(usize, &Push)> {
    let pushes = operations
        .iter()
        .enumerate()
        .filter_map(|(at, operation)| Some((at, operation.push()?)));
    let mut pushes: Vec<_> = pushes.collect();
    pushes.sort_by_key(|(_, push)| push.options.priority);
    pushes
}

fn pushed(outcome: &Outcome) -> &[LocalId] {
    match outcome {
        Outcome::Pushed(ids) => ids,
        _ => &[],
    }
}

/// Of all priorities the model knows only their order.
const _: () = assert!(Priority::Urgent as usize == 0 && Priority::Low as usize == 3);

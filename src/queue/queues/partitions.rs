//! The partitions of a queue: which there are, and what to do when they are others than this worker knew.
//!
//! What a queue goes by, its spread among it, stands in partition 0, the authority, and in each other partition as a copy.
//! All have the version of partition 0's, and each call says which version it goes by. A call that meets another one is not
//! done, and brings back what there is:
//!
//! 1. From partition 0: that is what holds. It is taken over, lanes are made for partitions that are new, and pops that wait
//!    wait there too.
//! 2. From another partition: one of the two is behind. The lane does nothing more until a later call to partition 0 has said
//!    what holds.
//! 3. If the partition was behind, it gets the settings (`copy.lua`) before anything else is done there. So a partition is
//!    opened by whoever first comes to it; and what a failed QCONFIG SET left half done is mended the same way.
//! 4. If the queue has no such partition any more, what waits in its lane goes elsewhere, or found nothing.
//!
//! What a failover has made partition 0 forget, the others remember: [`super::forgotten`].
//!
//! So growing a queue is one step, at partition 0, which also calls all who wait there, and who waits for a queue waits in
//! each of its partitions: nobody sleeps beside a job in a partition that he does not know.
//!
//! QDROP first notes in partition 0 that the queue is being dropped, then removes the others, then partition 0. Whoever meets
//! the note finishes that before doing anything else, so that nothing is left of a queue though its partitions are removed one
//! after another.

use std::collections::HashSet;
use std::time::Instant;

use bytes::Bytes;

use super::Queues;
use crate::asker::Asker;
use crate::config::Config;
use crate::queue::flight::{Askers, Call};
use crate::queue::id::Origin;
use crate::queue::lane::{Entry, Lane, LaneKey, QueueKey, To, Trust, Work};
use crate::queue::operation::{Claim, Operation, Push, QueueName, Return};
use crate::queue::parse::Ask;
use crate::queue::reply::Reply;
use crate::queue::single::Single;
use crate::queue::spread::{MOST, Place, Primaries, Spread};
use crate::script::{Changed, Partition, Settings};

use super::turn::Turn;

/// One queue as this worker knows it.
pub(super) struct Queue {
    pub name: QueueName,
    /// As partition 0 has them.
    pub settings: Settings,
    /// Of its partitions, in their order; always that of partition 0.
    pub lanes: Vec<LaneKey>,
    pub turn: Turn,
    /// Its partitions become more, by a call to partition 0 that waits or is on its way.
    pub opening: bool,
    /// Since the last connection was made it was looked whether it has partitions of which partition 0 does not know.
    pub searched: bool,
    /// What is for partitions that this worker does not know.
    put_off: Vec<PutOff>,
}

/// It waits until partition 0 was asked which partitions there are, by a call later than `since`.
struct PutOff {
    errand: Errand,
    at: Instant,
    since: u64,
}

pub(super) enum Errand {
    Ask {
        asker: Asker,
        ask: Box<Ask>,
        pipelined: bool,
    },
    GiveBack {
        partition: u16,
        returns: Vec<Return>,
    },
    Lapse(Vec<Claim>),
    /// This worker was called there.
    Come(u16),
}

impl PutOff {
    /// Who has waited for it since before `deadline`.
    fn asker_since(&self, deadline: Instant) -> Option<Asker> {
        match self.errand {
            Errand::Ask { asker, .. } if self.at <= deadline => Some(asker),
            _ => None,
        }
    }
}

impl Queue {
    /// `Err`: why it does not.
    pub fn admits(&self, push: &Push) -> Result<(), String> {
        match &self.settings.spread {
            Some(spread) if spread.refuses(&push.options) => Err(format!(
                "ERR UNIQUE and GROUP exclude each other in queue '{}', which has several partitions: the key is judged in one, \
                 and the group in another",
                self.name
            )),
            _ => Ok(()),
        }
    }

    pub fn has_put_off(&self) -> bool {
        !self.put_off.is_empty()
    }

    pub fn has_put_off_since(&self, deadline: Instant) -> bool {
        self.put_off
            .iter()
            .any(|put_off| put_off.asker_since(deadline).is_some())
    }
}

impl Queues {
    /// The queue of that name, which is made known if it is not yet.
    pub(super) fn queue(&mut self, name: &QueueName) -> QueueKey {
        if let Some(&key) = self.by_name.get(name) {
            return key;
        }
        if self.lanes.len() >= super::IDLE_LANES && self.lanes.len().is_power_of_two() {
            self.forget_idle_lanes();
        }
        let settings = self.with_overrides(name, Bytes::new(), &[]);
        let key = self.queues.vacant_key() as QueueKey;
        let lane = self.new_lane(key, name, Place::default(), settings.share_of(0));
        self.queues.insert(Queue {
            name: name.clone(),
            settings,
            lanes: vec![lane],
            turn: Turn::default(),
            opening: false,
            searched: false,
            put_off: Vec::new(),
        });
        self.by_name.insert(name.clone(), key);
        key
    }

    fn with_overrides(&self, name: &QueueName, version: Bytes, overrides: &[(Bytes, Bytes)]) -> Settings {
        let defaults = self.config.queue(name.as_bytes());
        let mut settings = Settings::with_overrides(defaults, version, overrides);
        settings.partitions = default_partitions(&self.config, &self.primaries, name);
        settings
    }

    pub(super) fn new_lane(&mut self, of: QueueKey, name: &QueueName, place: Place, settings: Settings) -> LaneKey {
        let partition = Partition::new(&self.config.prefix, name, place, &self.worker, self.ears.channels());
        let origin = Origin::of(name, place.number);
        let lane = Lane::new(name.clone(), of, origin, partition, settings);
        self.lanes.insert(lane) as LaneKey
    }

    pub(super) fn lane_of(&self, queue: QueueKey, partition: u16) -> Option<LaneKey> {
        self.queues[queue as usize].lanes.get(usize::from(partition)).copied()
    }

    /// What is for a partition that this worker does not know: partition 0 is asked first.
    pub(super) fn put_off(&mut self, queue: QueueKey, errand: Errand, now: Instant) {
        let since = self.sequence;
        let known = &mut self.queues[queue as usize];
        known.put_off.push(PutOff { errand, at: now, since });
        self.ask_partition_0(queue);
    }

    pub(super) fn ask_partition_0(&mut self, queue: QueueKey) {
        let lane = self.queues[queue as usize].lanes[0];
        self.lanes[lane as usize].woken = true;
        self.list(lane);
    }

    /// A call was not done, as the settings that it went by are not those of its partition.
    pub(super) fn start_over(&mut self, key: LaneKey, call: Call, to: Askers, changed: Changed, now: Instant) {
        let since = self.sequence;
        let lane = &mut self.lanes[key as usize];
        let (of, partition) = (lane.of, lane.origin.partition);
        if let Call::Single(Single::Witness) = call {
            self.put_right(of, &changed, now);
            return self.list(key);
        }
        lane.take_back(call, to);
        self.ask_for_ticks_again(&[key], now);
        let lane = &mut self.lanes[key as usize];
        if lane.retired {
            return self.scatter(key, now);
        }
        self.park_again(key, now);
        let lane = &mut self.lanes[key as usize];
        if partition == 0 {
            self.adopt(of, changed, now);
        } else if changed.version == lane.settings.version {
            lane.trust = Trust::Sure;
        } else {
            lane.trust = Trust::Doubtful { seen: changed, since };
            self.ask_partition_0(of);
        }
        self.list(key);
    }

    /// Pops that were parked and taken for a call that was not done have their places again, in all lanes.
    fn park_again(&mut self, key: LaneKey, now: Instant) {
        let pops = &self.pops;
        let has_waited = |entry: &Entry| match entry.to {
            To::Pop(asker) => pops.get(&asker).is_some_and(|request| request.turn.is_some()),
            _ => false,
        };
        let lane = &mut self.lanes[key as usize];
        for entry in lane.take_waiting(has_waited) {
            if let To::Pop(asker) = entry.to {
                self.park(asker, now);
            }
        }
        let lane = &mut self.lanes[key as usize];
        lane.hopeful = lane.parked.live();
    }

    /// Partition 0 has other settings than this worker knew.
    pub(super) fn adopt(&mut self, queue: QueueKey, changed: Changed, now: Instant) {
        self.ask_for_ticks_again(&self.queues[queue as usize].lanes.clone(), now);
        let name = self.queues[queue as usize].name.clone();
        let settings = self.with_overrides(&name, changed.version, &changed.overrides);
        let old = std::mem::replace(&mut self.queues[queue as usize].settings, settings.clone());
        let known = &mut self.queues[queue as usize];
        (known.opening, known.turn) = (false, Turn::default());
        let (before, after) = (places(&old), places(&settings));
        let stay = before.iter().zip(&after).take_while(|(old, new)| old == new).count();
        let gone = self.queues[queue as usize].lanes.split_off(stay);
        for place in &after[stay..] {
            let lane = self.new_lane(queue, &name, *place, settings.share_of(place.number));
            self.queues[queue as usize].lanes.push(lane);
        }
        let lanes = self.queues[queue as usize].lanes.clone();
        for (number, &lane) in (0..).zip(&lanes) {
            self.lanes[lane as usize].settings = settings.share_of(number);
            self.list(lane);
        }
        for &lane in &gone {
            self.lanes[lane as usize].retired = true;
        }
        if !gone.is_empty() || after.len() > stay {
            self.move_pops(&lanes, &gone, stay);
        }
        for lane in gone {
            self.scatter(lane, now);
            self.ask_witness(lane, now);
        }
        if old.spread != settings.spread {
            self.move_pushes(&lanes, &settings);
        }
        if settings.dropping {
            self.finish_drop(queue, now);
        }
    }

    /// Pops that ask in a queue ask in its new partitions too, and no longer in those that are gone. `stay`: so many of its
    /// lanes it had before.
    fn move_pops(&mut self, lanes: &[LaneKey], gone: &[LaneKey], stay: usize) {
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
            request.at = match request.turn {
                Some(_) => last, // it has asked them all once, and waits
                None if request.at >= end => last.min(request.at + new.len()),
                None => last.min(request.at),
            };
            for lane in new.iter().filter(|_| place.is_some()) {
                place
                    .into_iter()
                    .for_each(|place| self.lanes[*lane as usize].parked.park(place));
            }
        }
    }

    /// Jobs of groups, and with unique keys, wait in the lanes where they belong.
    fn move_pushes(&mut self, lanes: &[LaneKey], settings: &Settings) {
        let Some(spread) = &settings.spread else { return };
        for (number, &lane) in (0..).zip(lanes) {
            let belongs_elsewhere = |entry: &Entry| match &entry.work {
                Work::Operation(Operation::Push(push)) => {
                    let partition = spread.partition_of(&push.options);
                    partition.is_some_and(|partition| partition != number) || spread.refuses(&push.options)
                }
                _ => false,
            };
            if !self.lanes[lane as usize].waiting.iter().any(belongs_elsewhere) {
                continue;
            }
            for entry in self.lanes[lane as usize].take_waiting(belongs_elsewhere) {
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

    /// Partition 0 has confirmed what this worker knows, by the call of that number.
    pub(super) fn confirmed(&mut self, queue: QueueKey, sequence: u64, now: Instant) {
        self.search(queue, now);
        let known = &self.queues[queue as usize];
        if known.lanes.len() == 1 && known.put_off.is_empty() {
            return;
        }
        for key in known.lanes.clone() {
            let Trust::Doubtful { seen, since } = &self.lanes[key as usize].trust else {
                continue;
            };
            if *since >= sequence {
                continue;
            }
            let seen = seen.clone();
            let trust = match seen.version == self.queues[queue as usize].settings.version {
                true => Trust::Sure,
                false if self.put_right(queue, &seen, now) => continue,
                false => Trust::Behind { seen: seen.version },
            };
            self.lanes[key as usize].trust = trust;
            self.list(key);
        }
        for errand in self.take_put_off(queue, |put_off| put_off.since < sequence) {
            self.run_errand(queue, errand.errand, now);
        }
    }

    fn take_put_off(&mut self, queue: QueueKey, leaves: impl Fn(&PutOff) -> bool) -> Vec<PutOff> {
        let put_off = &mut self.queues[queue as usize].put_off;
        let (taken, left) = std::mem::take(put_off).into_iter().partition(leaves);
        *put_off = left;
        taken
    }

    fn run_errand(&mut self, queue: QueueKey, errand: Errand, now: Instant) {
        match errand {
            Errand::Ask { asker, ask, pipelined } => self.ask_known(queue, asker, *ask, pipelined, now),
            Errand::GiveBack { partition, returns } => {
                if let Some(lane) = self.lane_of(queue, partition) {
                    self.for_nobody(lane, Operation::Return(returns), now);
                }
            }
            Errand::Lapse(claims) => self.lapse_known(queue, claims, now),
            Errand::Come(partition) => {
                if let Some(lane) = self.lane_of(queue, partition) {
                    self.come(lane);
                }
            }
        }
    }

    /// Partition 0 could not be asked: who waits for that is told why.
    pub(super) fn not_confirmed(&mut self, queue: QueueKey, line: &Bytes, now: Instant) {
        for lane in self.queues[queue as usize].lanes.clone() {
            if self.lanes[lane as usize].trust != Trust::Sure {
                self.refuse_all(lane, line, now);
            }
        }
        for put_off in self.take_put_off(queue, |_| true) {
            if let Errand::Ask { asker, .. } = put_off.errand {
                self.refuse(To::Asker(asker), line.clone(), now);
            }
        }
    }

    /// Whoever waits in this lane is told that, and its next call tries once more. One of the parked is told too, so that a
    /// lane in trouble is not asked without end.
    pub(super) fn refuse_all(&mut self, key: LaneKey, line: &Bytes, now: Instant) {
        let lane = &mut self.lanes[key as usize];
        lane.trust = Trust::Sure;
        let waiting = lane.take_waiting(|_| true);
        if let Some(asker) = waiting.is_empty().then(|| self.take_oldest(key)).flatten() {
            self.refuse(To::Pop(asker), line.clone(), now);
        }
        for entry in waiting {
            self.refuse(entry.to, line.clone(), now);
        }
        self.list(key);
    }

    fn take_oldest(&mut self, key: LaneKey) -> Option<Asker> {
        let asker = self.lanes[key as usize].parked.take_oldest(&mut self.pops)?;
        self.left_others(key, asker);
        Some(asker)
    }

    /// Those put off for too long.
    pub(super) fn give_up_put_off(&mut self, queue: QueueKey, deadline: Instant) -> Vec<To> {
        let late = self.take_put_off(queue, |put_off| put_off.asker_since(deadline).is_some());
        let askers = late.iter().filter_map(|put_off| put_off.asker_since(deadline));
        askers.map(To::Asker).collect()
    }

    /// The first push to a queue that is to have several partitions spreads it over them; a later one over more, when there
    /// are more primaries and nobody has said how many partitions the queue has.
    pub(super) fn open(&mut self, queue: QueueKey, now: Instant) {
        let known = &self.queues[queue as usize];
        let spread = known.settings.spread.as_ref();
        let has = spread.map_or(1, Spread::active);
        if known.opening || known.settings.partitions <= has || spread.is_some() && known.settings.is_fixed {
            return;
        }
        let active = self.opened(queue);
        if active > has {
            let spread = Spread::resized(spread, active, &known.name, &self.primaries);
            self.tell_partition_0(queue, Single::Open(spread), now);
        }
    }

    /// Over how many partitions it is spread: no more than its bounds allow, of which each partition has a share.
    pub(super) fn opened(&self, queue: QueueKey) -> u16 {
        let settings = &self.queues[queue as usize].settings;
        let bounds = [settings.concurrency, settings.max_len];
        let bound = bounds.into_iter().filter(|bound| *bound > 0).min();
        u64::from(settings.partitions).min(bound.unwrap_or(u64::MAX)) as u16
    }

    /// The queue gets more partitions by this.
    pub(super) fn tell_partition_0(&mut self, queue: QueueKey, single: Single, now: Instant) {
        let known = &mut self.queues[queue as usize];
        known.opening = true;
        let lane = known.lanes[0];
        let entry = Entry::again(Work::Single(single), To::Nobody, now);
        self.lanes[lane as usize].push_front(entry);
        self.list(lane);
    }

    /// Somebody has begun to drop this queue. That is finished here, if it is not being done.
    pub(super) fn finish_drop(&mut self, queue: QueueKey, now: Instant) {
        let lane = self.queues[queue as usize].lanes[0];
        let lane_0 = &mut self.lanes[lane as usize];
        let in_flight = lane_0.flight.as_ref().is_some_and(|flight| flight.call.drops());
        if in_flight || lane_0.waiting.iter().any(Entry::drops) || self.fans.is_dropping(queue) {
            return;
        }
        lane_0.push_front(Entry::again(
            Work::Single(Single::Drop { noted: true }),
            To::Nobody,
            now,
        ));
        self.list(lane);
    }

    /// Queues of whose lanes nobody uses any, and lanes of partitions that are no more.
    pub(super) fn forget_idle_lanes(&mut self) {
        let is_idle = |key: usize, lane: &Lane| {
            let asked = || self.pops.asks(key as LaneKey) || self.awaiting.awaits(key as LaneKey);
            lane.is_idle() && !lane.listed && !lane.stalled && !lane.held && !asked()
        };
        let idle: HashSet<usize> = self
            .lanes
            .iter()
            .filter(|(key, lane)| is_idle(*key, lane))
            .map(|(key, _)| key)
            .collect();
        let busy = self.lanes.iter().filter(|(key, _)| !idle.contains(key));
        let busy: HashSet<_> = busy.map(|(_, lane)| lane.of).collect();
        let queues = &mut self.queues;
        let by_name = &mut self.by_name;
        queues.retain(|key, queue| {
            let stays = busy.contains(&(key as QueueKey)) || queue.has_put_off();
            if !stays {
                by_name.remove(&queue.name);
            }
            stays
        });
        let before = self.lanes.len();
        self.lanes
            .retain(|key, lane| !idle.contains(&key) || !lane.retired && queues.contains(lane.of as usize));
        self.ears.leave(before - self.lanes.len());
        self.recent = self.lanes.iter().map(|(_, lane)| lane.recent.bytes()).sum();
    }
}

/// Over how many partitions a queue spreads unless it is told.
pub(super) fn default_partitions(config: &Config, primaries: &Primaries, queue: &QueueName) -> u16 {
    match config.queue(queue.as_bytes()).partitions {
        0 => primaries.count().min(MOST),
        partitions => partitions,
    }
}

fn places(settings: &Settings) -> Vec<Place> {
    match &settings.spread {
        Some(spread) => spread.places().collect(),
        None => vec![Place::default()],
    }
}

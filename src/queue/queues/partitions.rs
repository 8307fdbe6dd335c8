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
//! 4. If the queue has no such partition any more, what waits in its lane goes elsewhere, or found nothing ([`super::moving`]).
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
use super::errands::PutOff;
use super::turn::Turn;
use crate::asker::Asker;
use crate::config::Config;
use crate::queue::flight::{Askers, Call};
use crate::queue::id::Origin;
use crate::queue::lane::{Entry, Lane, LaneKey, QueueKey, To, Trust, Work};
use crate::queue::operation::QueueName;
use crate::queue::single::Single;
use crate::queue::spread::{MOST, Place, Primaries, Spread};
use crate::script::{Changed, Partition, Settings};

/// Lanes that nobody uses are looked for when there are more than so many.
const IDLE_LANES: usize = 1024;

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
    pub put_off: Vec<PutOff>,
}

impl Queues {
    /// The queue of that name, which is made known if it is not yet.
    pub(super) fn queue(&mut self, name: &QueueName) -> QueueKey {
        if let Some(&key) = self.by_name.get(name) {
            return key;
        }
        if self.lanes.len() >= IDLE_LANES && self.lanes.len().is_power_of_two() {
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
            To::Pop(asker) => pops.get(&asker).is_some_and(|request| request.has_parked),
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
        self.run_errands(queue, sequence, now);
    }

    /// Partition 0 could not be asked: who waits for that is told why.
    pub(super) fn not_confirmed(&mut self, queue: QueueKey, line: &Bytes, now: Instant) {
        for lane in self.queues[queue as usize].lanes.clone() {
            if self.lanes[lane as usize].trust != Trust::Sure {
                self.refuse_all(lane, line, now);
            }
        }
        self.refuse_errands(queue, line, now);
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
    fn forget_idle_lanes(&mut self) {
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

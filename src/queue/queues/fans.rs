//! Requests whose parts go to several partitions at once: their replies are put together, and the client gets one.

use std::time::Instant;

use bytes::Bytes;
use slab::Slab;

use super::Queues;
use crate::queue::id::Origin;
use crate::queue::lane::{Entry, FanKey, QueueKey, To, Work};
use crate::queue::operation::State;
use crate::queue::reply::Reply;
use crate::queue::single::{Single, Window};
use crate::script::look::{JobView, Stats};

/// Jobs before those that a look at several partitions shows, at most: each partition gives as many.
const MOST_OFFSET: u64 = 10_000;

#[derive(Default)]
pub(super) struct Fans(Slab<Fan>);

pub(super) struct Fan {
    pub to: To,
    pub queue: QueueKey,
    since: Instant,
    /// Parts without a reply.
    pub missing: usize,
    pub merged: Option<Reply>,
    /// Which of the jobs that the parts show are shown.
    pub window: Option<Window>,
    /// What remains to be done at partition 0 when all parts are.
    pub last: Option<Single>,
    /// What the first part that failed was told.
    failed: Option<Bytes>,
}

impl Fan {
    pub fn new(to: To, queue: QueueKey, missing: usize, since: Instant) -> Self {
        Self {
            to,
            queue,
            since,
            missing,
            merged: None,
            window: None,
            last: None,
            failed: None,
        }
    }
}

impl Fans {
    pub fn insert(&mut self, fan: Fan) -> FanKey {
        self.0.insert(fan) as FanKey
    }

    pub fn is_dropping(&self, queue: QueueKey) -> bool {
        self.0.iter().any(|(_, fan)| fan.queue == queue && fan.last.is_some())
    }
}

impl Queues {
    /// Asks the same of several partitions; who asked gets one reply.
    pub(super) fn fan_out(&mut self, fan: Fan, parts: Vec<(u16, Entry)>) {
        let queue = fan.queue;
        let to = self.fan_of(fan);
        for (partition, entry) in parts {
            if let Some(lane) = self.lane_of(queue, partition) {
                self.enter(lane, Entry { to, ..entry });
            }
        }
    }

    /// To whom each of its parts goes.
    pub(super) fn fan_of(&mut self, fan: Fan) -> To {
        let client = fan.to.client();
        To::Part(self.fans.insert(fan), client)
    }

    /// What partition 0 has done the others do too.
    pub(super) fn ask_elsewhere(&mut self, queue: QueueKey, to: To, reply: Reply, part: Single, since: Instant) {
        let partitions = 1..self.queues[queue as usize].lanes.len() as u16;
        let mut fan = Fan::new(to, queue, partitions.len(), since);
        fan.merged = Some(reply);
        if let Single::DropPart { .. } = part {
            fan.last = Some(part.clone());
        }
        let entry = |single| Entry::again(Work::Single(single), to, since);
        let parts = partitions.map(|partition| (partition, entry(part.clone())));
        self.fan_out(fan, parts.collect());
    }

    /// Jobs in the order of all partitions are found only from the first of each on.
    pub(super) fn peek_everywhere(&mut self, queue: QueueKey, to: To, state: State, window: Window, since: Instant) {
        if window.offset > MOST_OFFSET {
            let line = format!(
                "ERR OFFSET is '{}', in a queue of several partitions it must be an integer from 0 to {MOST_OFFSET}",
                window.offset
            );
            return self.refuse(to, line.into(), since);
        }
        let partitions = 0..self.queues[queue as usize].lanes.len() as u16;
        let peek = Single::Peek {
            state,
            count: window.offset + window.count,
            offset: 0,
            seen: Vec::new(),
        };
        let mut fan = Fan::new(to, queue, partitions.len(), since);
        fan.window = Some(window);
        let entry = |single| Entry::again(Work::Single(single), to, since);
        let parts = partitions.map(|partition| (partition, entry(peek.clone())));
        self.fan_out(fan, parts.collect());
    }

    /// One part has its reply, or the line of an error.
    pub(super) fn part_done(&mut self, key: FanKey, reply: Result<Reply, Bytes>) {
        let Some(fan) = self.fans.0.get_mut(key as usize) else {
            return;
        };
        match reply {
            Ok(reply) => {
                fan.merged = Some(match fan.merged.take() {
                    Some(merged) => join(merged, reply),
                    None => reply,
                });
            }
            Err(line) => {
                fan.failed.get_or_insert(line);
            }
        }
        fan.missing -= 1;
        if fan.missing > 0 {
            return;
        }
        let fan = self.fans.0.remove(key as usize);
        match (fan.failed, fan.last, fan.merged) {
            (Some(line), last, _) => {
                if last.is_some() {
                    self.drop_failed(fan.queue, &line, fan.since);
                }
                self.refuse(fan.to, line, fan.since);
            }
            (None, Some(last), _) => {
                let lane = self.queues[fan.queue as usize].lanes[0];
                self.enter(lane, Entry::again(Work::Single(last), fan.to, fan.since));
            }
            (None, None, Some(reply)) => self.reply_to(fan.to, through(fan.window, reply)),
            (None, None, None) => {}
        }
    }

    /// Nothing goes on in this queue before it is dropped, and that failed: who waits is told so. The next one tries again.
    pub(super) fn drop_failed(&mut self, queue: QueueKey, line: &Bytes, now: Instant) {
        for lane in self.queues[queue as usize].lanes.clone() {
            self.refuse_all(lane, line, now);
        }
    }
}

/// What two partitions replied to the same question.
fn join(one: Reply, other: Reply) -> Reply {
    match (one, other) {
        (Reply::Integer(one), Reply::Integer(other)) => Reply::Integer(one + other),
        (Reply::Stats(one, pause, partitions), Reply::Stats(other, ..)) => {
            Reply::Stats(Box::new(sum(&one, &other)), pause, partitions)
        }
        (Reply::Views(settings, one), Reply::Views(_, other)) => Reply::Views(settings, merge(one, other)),
        (one, _) => one,
    }
}

fn sum(one: &Stats, other: &Stats) -> Stats {
    Stats {
        exists: one.exists || other.exists,
        urgent: one.urgent + other.urgent,
        high: one.high + other.high,
        normal: one.normal + other.normal,
        low: one.low + other.low,
        delayed: one.delayed + other.delayed,
        leased: one.leased + other.leased,
        dead: one.dead + other.dead,
        oldest_ready_ms: one.oldest_ready_ms.max(other.oldest_ready_ms),
        pushed: one.pushed + other.pushed,
        acked: one.acked + other.acked,
        nacked: one.nacked + other.nacked,
        expired: one.expired + other.expired,
        deduplicated: one.deduplicated + other.deduplicated,
        redriven: one.redriven + other.redriven,
    }
}

/// Each in its own order, and the first of both by priority and age, or by when they are due, end or died.
fn merge(one: Vec<(Origin, JobView)>, other: Vec<(Origin, JobView)>) -> Vec<(Origin, JobView)> {
    let rank = |(_, view): &(Origin, JobView)| match view.state {
        State::Ready => {
            let since = view.record.ready_from.unwrap_or_else(|| view.id.pushed_ms());
            (view.id.priority() as u64, since)
        }
        _ => (0, view.at.unwrap_or(0)),
    };
    let mut merged = Vec::with_capacity(one.len() + other.len());
    let (mut one, mut other) = (one.into_iter().peekable(), other.into_iter().peekable());
    loop {
        let first = match (one.peek(), other.peek()) {
            (Some(a), Some(b)) if rank(b) < rank(a) => &mut other,
            (Some(_), _) => &mut one,
            (None, _) => &mut other,
        };
        match first.next() {
            Some(view) => merged.push(view),
            None => return merged,
        }
    }
}

fn through(window: Option<Window>, reply: Reply) -> Reply {
    match (window, reply) {
        (Some(window), Reply::Views(settings, views)) => {
            let shown = views
                .into_iter()
                .skip(window.offset as usize)
                .take(window.count as usize);
            Reply::Views(settings, shown.collect())
        }
        (_, reply) => reply,
    }
}

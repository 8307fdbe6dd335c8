//! One worker's line to one partition: what waits to be sent, what is on its way, who waits for a job.
//!
//! ```text
//!  requests ─▶ waiting ─▶ one script call ─▶ in flight ─▶ outcomes ─▶ replies
//!                 ▲       (all that can go)   (one)                      │
//!                 └───────── parked pops, when there may be a job ◀──────┘
//! ```
//! With nothing in flight a lane sends at once; else it gathers until the reply is here, and if it serves a crowd, a moment
//! longer ([`super::pace`]).
//! Each call carries the worker's next sequence number, so that Redis applies it once however often it is sent.
//! Decides only: no I/O, no clock. Which of a queue's partitions something goes to is decided before, by
//! [`super::queues`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::flight::{Askers, Call, Flight, Wait};
use super::gather::{BATCH_KEYS, Conditions, Gathered, Gathering};
use super::id::Origin;
use super::operation::{Operation, Priority, Push, QueueName};
use super::pace::Pace;
use super::recent::Recent;
use super::scale::Scale;
use super::single::Single;
use super::waiting::{Parked, Pops};
use crate::asker::{Asker, ClientKey};
use crate::script::loans::KeyWanted;
use crate::script::{Changed, Partition, Settings};

/// A lane's place among its worker's lanes.
pub type LaneKey = u32;
/// A queue's place among those that its worker knows.
pub type QueueKey = u32;
/// Of a request whose parts go to several lanes.
pub type FanKey = u32;
/// Of a push whose unique key is in another partition.
pub type BorrowerKey = u32;

/// What waits in a lane.
#[derive(Debug)]
pub enum Work {
    Operation(Operation),
    /// Whatever the asker's [`super::waiting::PopRequest`] still wants.
    Pop,
    /// A unique key that belongs to this partition.
    Key(KeyWanted),
    Single(Single),
}

#[derive(Debug)]
pub struct Entry {
    pub work: Work,
    pub to: To,
    pub since: Instant,
    /// The client has sent this before it had the reply to its last request, so their order matters.
    pub pipelined: bool,
}

impl From<Operation> for Work {
    fn from(operation: Operation) -> Self {
        match operation {
            Operation::Pop(_) => Self::Pop,
            operation => Self::Operation(operation),
        }
    }
}

impl Entry {
    /// It removes the queue, or a part of it.
    pub fn drops(&self) -> bool {
        matches!(self.work, Work::Single(Single::Drop { .. } | Single::DropPart { .. }))
    }

    pub fn is_witness(&self) -> bool {
        matches!(self.work, Work::Single(Single::Witness))
    }

    /// It has waited before, and comes before all others.
    pub fn again(work: Work, to: To, since: Instant) -> Self {
        Self {
            work,
            to,
            since,
            pipelined: false,
        }
    }

    /// Of its payloads.
    pub fn bytes(&self) -> usize {
        match &self.work {
            Work::Operation(Operation::Finish(finish)) => finish.result.len(),
            Work::Operation(operation) => operation.push().map_or(0, Push::bytes),
            _ => 0,
        }
    }
}

/// Who waits for an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    Asker(Asker),
    /// `QMPUSH`: an array of ids.
    ManyIds(Asker),
    /// A pop: what it found decides what happens next.
    Pop(Asker),
    /// What watches over repeated jobs ([`super::crons`]), about those of that queue.
    Keeper(QueueKey),
    /// One part of a client's request, the others of which are in other lanes.
    Part(FanKey, Option<ClientKey>),
    /// A push that needs its unique key first.
    Borrower(BorrowerKey, Option<ClientKey>),
    /// Nobody: jobs that go back.
    Nobody,
}

impl To {
    pub fn client(self) -> Option<ClientKey> {
        match self {
            Self::Asker(asker) | Self::ManyIds(asker) | Self::Pop(asker) => Some(asker.client),
            Self::Part(_, client) | Self::Borrower(_, client) => client,
            Self::Keeper(_) | Self::Nobody => None,
        }
    }
}

/// Whether a partition other than 0 goes by the settings that partition 0 has, as far as this lane knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    Sure,
    /// Its settings are of another version, `seen`, than those known. Partition 0 is asked by a call later than `since` which
    /// they are; until then nothing is sent.
    Doubtful {
        seen: Changed,
        since: u64,
    },
    /// Its settings are of an old version, or it was never opened. It gets those of partition 0 first of all.
    Behind {
        seen: Bytes,
    },
}

/// A lane's own channel, where it has one, and the connection over which it is listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ear {
    /// Nobody has waited here.
    None,
    Wanted,
    Asked(usize),
    Hears(usize),
    /// The server will not have it.
    Refused,
}

#[derive(Debug)]
pub struct Lane {
    pub queue: QueueName,
    /// Its queue among those of this worker.
    pub of: QueueKey,
    pub origin: Origin,
    pub partition: Partition,
    /// Its share of the queue's.
    pub settings: Settings,
    pub trust: Trust,
    /// The queue has no such partition, by the word of partition 0. It may be asked whether it is one, and nothing else.
    pub retired: bool,
    pub waiting: VecDeque<Entry>,
    pub flight: Option<Flight>,
    pub parked: Parked,
    /// How many parked pops may find a job now.
    pub hopeful: usize,
    /// Redis knows that this worker waits here, since a call that found nothing; whoever pushes will wake it.
    pub registered: bool,
    /// Redis woke this worker. If it has nobody to serve any more, the next one must be woken: so a call goes out anyway.
    pub woken: bool,
    /// Another worker was called to a job here. When it must have come, or else this one looks again.
    pub called: Option<Instant>,
    /// When the next job here is due, as far as the last reply knew.
    pub due: Option<Instant>,
    /// Ready jobs, and the highest priority among them, as far as the last reply knew.
    pub ready: u64,
    pub top: Priority,
    /// What it holds costs more than plain jobs.
    pub dear: bool,
    /// It held nothing but plain jobs when it answered last.
    pub plain: bool,
    /// How large its calls of plain jobs are.
    pub scale: Scale,
    /// It stands in its worker's list of lanes that may have something to send.
    pub listed: bool,
    /// Whether it hears wake-ups on a channel of its own.
    pub ear: Ear,
    /// It stands among those that wait for their primary.
    pub stalled: bool,
    pub pace: Pace,
    /// It stands in its worker's list of lanes that hold their call.
    pub held: bool,
    pub recent: Recent,
    /// The number of the call that was answered last.
    pub answered: u64,
    /// Parked pops that the last batch took out; other lanes where they were parked are to be told.
    pub taken: Vec<Asker>,
    /// What [`Self::buffered`] was when the worker's sum was last made.
    pub counted: usize,
    /// Pipelined requests in `waiting`.
    pipelined: usize,
    /// Bytes of payloads in `waiting`.
    waiting_bytes: usize,
}

impl Lane {
    pub fn new(queue: QueueName, of: QueueKey, origin: Origin, partition: Partition, settings: Settings) -> Self {
        Self {
            queue,
            of,
            origin,
            partition,
            settings,
            trust: Trust::Sure,
            retired: false,
            waiting: VecDeque::new(),
            flight: None,
            parked: Parked::default(),
            hopeful: 0,
            registered: false,
            woken: false,
            called: None,
            due: None,
            ready: 0,
            top: Priority::Normal,
            dear: false,
            plain: false,
            scale: Scale::default(),
            listed: false,
            ear: Ear::None,
            stalled: false,
            pace: Pace::default(),
            held: false,
            recent: Recent::default(),
            answered: 0,
            taken: Vec::new(),
            counted: 0,
            waiting_bytes: 0,
            pipelined: 0,
        }
    }

    pub fn push(&mut self, entry: Entry) {
        self.pipelined += usize::from(entry.pipelined);
        self.waiting_bytes += entry.bytes();
        self.waiting.push_back(entry);
    }

    /// To the front: it has waited already.
    pub fn push_front(&mut self, entry: Entry) {
        self.pipelined += usize::from(entry.pipelined);
        self.waiting_bytes += entry.bytes();
        self.waiting.push_front(entry);
    }

    /// What this call waits for, for no longer than `most`.
    pub fn wait(&self, call: &Call, most: Duration) -> Option<Wait> {
        (self.settings.replicas > 0 && call.pushes()).then(|| Wait {
            replicas: self.settings.replicas,
            timeout: self.settings.replica_timeout.min(most),
        })
    }

    /// Bytes of the payloads that wait here, and of the call in flight.
    pub fn buffered(&self) -> usize {
        self.waiting_bytes + self.flight.as_ref().map_or(0, |flight| flight.bytes.len())
    }

    /// Nothing to do, nobody waits: it can be forgotten.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty()
            && self.flight.is_none()
            && self.trust == Trust::Sure
            && self.parked.live() == 0
            && (self.retired || !self.woken && self.called.is_none())
    }

    /// Takes out of `waiting` what `leaves` says of.
    pub fn take_waiting(&mut self, leaves: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        let mut gone = Vec::new();
        let mut stay = VecDeque::new();
        for entry in self.waiting.drain(..) {
            match leaves(&entry) {
                true => gone.push(entry),
                false => stay.push_back(entry),
            }
        }
        self.replace_waiting(stay);
        gone
    }

    /// Until when the next call is held for those who are about to ask; `None`: it is not.
    pub fn holds(&self, now: Instant) -> Option<Instant> {
        let gathered = self.waiting.len() + self.hopeful;
        match self.flight.is_none() && gathered > 0 {
            true => self.pace.holds(gathered, now),
            false => None,
        }
    }

    /// A reply came, `took` after its call was sent, and so many clients were answered by it.
    pub fn replied(&mut self, answered: usize, took: Duration, now: Instant) {
        // A client's pipeline is no crowd.
        let waiting = self.waiting.len() - self.pipelined;
        self.pace.lane_replied(answered + waiting, self.scale.jobs(), took, now);
    }

    /// The next call, if there is something to send and nothing in flight, and who waits for its outcomes.
    pub fn next_call(&mut self, pops: &mut Pops) -> Option<(Call, Askers)> {
        if self.flight.is_some() {
            return None;
        }
        if self.retired {
            let at = self.waiting.iter().position(Entry::is_witness)?;
            return self.take_single(at);
        }
        if self.settings.dropping {
            return self.next_of_drop();
        }
        match &self.trust {
            Trust::Sure => {}
            Trust::Doubtful { .. } => return None,
            Trust::Behind { seen } => return Some((Call::Single(Single::Copy { seen: seen.clone() }), Vec::new())),
        }
        // A parked pop of which Redis knows nothing would sleep beside a ready job.
        if self.parked.live() > 0 && !self.registered {
            self.hopeful = self.hopeful.max(1);
        }
        self.hopeful = self.hopeful.min(self.parked.live());
        if self.waiting.is_empty() && self.hopeful == 0 && !self.woken {
            return None;
        }
        match self.waiting.front().map(|entry| &entry.work) {
            Some(Work::Single(_)) => return self.take_single(0),
            Some(Work::Key(_)) => return Some(self.take_keys()),
            _ => {}
        }
        self.woken = false;
        let Gathered { operations, to } = self.gather(pops);
        let parked = self.parked.live() > 0;
        Some((Call::Batch { operations, parked }, to))
    }

    /// While the queue is being dropped nothing else is done: it would be lost with it, though it came later.
    fn next_of_drop(&mut self) -> Option<(Call, Askers)> {
        let at = self.waiting.iter().position(Entry::drops)?;
        self.take_single(at)
    }

    fn take_single(&mut self, at: usize) -> Option<(Call, Askers)> {
        let entry = self.waiting.remove(at)?;
        self.pipelined -= usize::from(entry.pipelined);
        self.waiting_bytes -= entry.bytes();
        match entry.work {
            Work::Single(single) => Some((Call::Single(single), vec![(entry.to, entry.since)])),
            Work::Operation(_) | Work::Pop | Work::Key(_) => None,
        }
    }

    /// All keys that are wanted, at most [`BATCH_KEYS`], but for those that would overtake what their client has sent before.
    fn take_keys(&mut self) -> (Call, Askers) {
        let (mut keys, mut to, mut stay) = (Vec::new(), Askers::new(), VecDeque::new());
        for entry in std::mem::take(&mut self.waiting) {
            let goes = keys.len() < BATCH_KEYS && (stay.is_empty() || !entry.pipelined);
            match entry.work {
                Work::Key(key) if goes => {
                    keys.push(key);
                    to.push((entry.to, entry.since));
                }
                work => stay.push_back(Entry { work, ..entry }),
            }
        }
        self.replace_waiting(stay);
        (Call::Lend(keys), to)
    }

    /// What a call carried that was not done waits again, before all others and in its order.
    pub fn take_back(&mut self, call: Call, to: Askers) {
        // It may have been made for no other reason than that this worker was called.
        self.woken |= matches!(call, Call::Batch { .. });
        let works: Vec<_> = match call {
            Call::Batch { operations, .. } => operations.into_iter().map(Work::from).collect(),
            Call::Lend(keys) => keys.into_iter().map(Work::Key).collect(),
            Call::Single(single) => single.anew().into_iter().map(Work::Single).collect(),
        };
        for (work, (to, since)) in works.into_iter().zip(to).rev() {
            // As if they were of pipelines, as some may be.
            self.push_front(Entry {
                work,
                to,
                since,
                pipelined: true,
            });
        }
    }

    /// All that can go in one call. As many parked pops are in it as there may be jobs for.
    fn gather(&mut self, pops: &mut Pops) -> Gathered {
        let mut waiting = std::mem::take(&mut self.waiting);
        let parked = self.parked.live() > 0;
        let conditions = Conditions {
            dear: self.dear,
            scale: if self.plain && !parked {
                self.scale
            } else {
                Scale::default()
            },
            pipelined: self.pipelined > 0,
            parked,
        };
        let mut gathering = Gathering::new(&mut waiting, pops, conditions);
        self.replace_waiting(waiting);

        let hopeful = std::mem::take(&mut self.hopeful) + gathering.readied;
        for _ in 0..hopeful.min(self.parked.live()) {
            if !gathering.has_room_for_pops() {
                break;
            }
            let Some(asker) = self.parked.take_oldest(pops) else {
                break;
            };
            self.taken.push(asker);
            gathering.add_pop(To::Pop(asker), pops);
        }
        gathering.finish(pops)
    }

    fn replace_waiting(&mut self, waiting: VecDeque<Entry>) {
        self.pipelined = waiting.iter().filter(|entry| entry.pipelined).count();
        self.waiting_bytes = waiting.iter().map(Entry::bytes).sum();
        self.waiting = waiting;
    }
}

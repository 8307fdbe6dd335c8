//! What a client asks of a queue, parsed and within its limits: the words between the parser, the lanes and the scripts.
//! Plain data; nothing here decides or does anything.

use std::fmt;

use bytes::Bytes;

use super::id::LocalId;
use super::payload::Payload;

/// 1 to 128 bytes of `A-Z a-z 0-9 . _ : -`, checked when it is made.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueName(Bytes);

impl QueueName {
    pub const MAX_LEN: usize = 128;

    pub fn new(name: &[u8]) -> Option<Self> {
        Self::is_valid(name).then(|| Self(Bytes::copy_from_slice(name)))
    }

    /// Under which the table of queues with repeated jobs is kept, as if it were one: a name that no queue can have.
    pub fn of_crontab() -> Self {
        Self(Bytes::from_static(b"*cron*"))
    }

    pub fn is_valid(name: &[u8]) -> bool {
        (1..=Self::MAX_LEN).contains(&name.len())
            && name
                .iter()
                .all(|&byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-'))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn as_str(&self) -> &str {
        // Never empty-handed: `new` let ASCII through only.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl std::borrow::Borrow<[u8]> for QueueName {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Served in this order; first in, first out within each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Priority {
    Urgent,
    High,
    #[default]
    Normal,
    Low,
}

impl Priority {
    pub const ALL: [Self; 4] = [Self::Urgent, Self::High, Self::Normal, Self::Low];

    pub fn name(self) -> &'static str {
        match self {
            Self::Urgent => "urgent",
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }

    /// The last letter of a job's id, so that a job says its priority wherever its id stands.
    pub fn letter(self) -> u8 {
        self.name().as_bytes()[0]
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Ready,
    Delayed,
    Leased,
    Dead,
}

impl State {
    pub const ALL: [Self; 4] = [Self::Ready, Self::Delayed, Self::Leased, Self::Dead];

    pub fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Delayed => "delayed",
            Self::Leased => "leased",
            Self::Dead => "dead",
        }
    }
}

/// When a pushed job is first ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    #[default]
    Now,
    /// `DELAY`: so many milliseconds after its push, by Redis's clock.
    After(u64),
    /// `AT`: at that Unix time in milliseconds.
    At(u64),
}

/// What a push says of its jobs. `None`: what the queue's settings say when it matters, not when the job was pushed.
/// All times are milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobOptions {
    pub priority: Priority,
    pub start: Start,
    pub ttl: Option<u64>,
    pub retries: Option<u32>,
    pub backoff: Option<u64>,
    pub max_backoff: Option<u64>,
    pub lease: Option<u64>,
    /// `META`: fields and values, in the order given.
    pub meta: Vec<(Bytes, Bytes)>,
    pub unique: Option<Unique>,
    /// `GROUP`: its jobs go one after another.
    pub group: Option<Bytes>,
}

/// `UNIQUE`: nothing is pushed while an unfinished job holds the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unique {
    pub key: Bytes,
    /// `FOR`: milliseconds from the push for which it is held at least, whatever becomes of the job.
    pub hold: Option<u64>,
    /// Where the partition has the key from another one, the number of the [`Loan`].
    pub loan: Option<u64>,
}

/// By which a unique key is in another partition than its own, because the job that wants it is of a group there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loan {
    /// That has the key.
    pub partition: u16,
    /// Later ones have higher numbers.
    pub number: u64,
}

/// `QPUSH` (one payload) and `QMPUSH` (many, all or nothing).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    pub payloads: Vec<Payload>,
    pub options: JobOptions,
}

/// A repeated job is due: it is pushed, unless another proxy has done so. In partition 0 that goes with noting which tick is the
/// next; another one pushes only, and then partition 0 is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tick {
    /// Whose.
    pub name: Bytes,
    /// Unix ms of this tick, and of the next; `None`: there is none.
    pub at: u64,
    pub next: Option<u64>,
    /// The partition that the next one goes to.
    pub then: u16,
    /// `None`: that was done.
    pub push: Option<Push>,
    /// Or a job of another partition has its key, so that nothing is pushed.
    pub is_duplicate: bool,
}

/// One queue's part of a `QPOP` or `QMPOP`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pop {
    /// At least 1.
    pub count: u32,
    /// Milliseconds; `None`: the job's, else the queue's.
    pub lease: Option<u64>,
    pub noack: bool,
    /// Its client blocks when there is nothing for it.
    pub waits: bool,
}

/// A job as named by a client: by its id alone, or by a receipt, which names one delivery of it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    pub partition: u16,
    pub job: LocalId,
    pub delivery: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nack {
    pub claims: Vec<Claim>,
    /// Milliseconds until it is ready again; `None`: its backoff.
    pub delay: Option<u64>,
    /// What the worker said of the failure.
    pub error: Option<Bytes>,
    /// No more deliveries.
    pub dead: bool,
}

/// `QACK` with a result, which each of the jobs gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finish {
    pub claims: Vec<Claim>,
    pub result: Bytes,
    /// For how many milliseconds it is kept; `None`: the queue's `result_ttl`.
    pub ttl: Option<u64>,
}

/// A job that was popped and never reached its client's socket: it goes back to the front, and the delivery does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Return {
    pub job: LocalId,
    pub delivery: u32,
    /// What the pop gave out of a `NOACK` job, which Redis holds no longer: its payload and its meta record.
    pub taken: Option<(Bytes, Option<Bytes>)>,
    /// It was not popped: Redis has lost it, and it is pushed again as it was, with its id.
    pub lost: bool,
}

/// One request of a batch, in the order of its arrival.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    Push(Push),
    /// A tick of `QCRON`.
    Tick(Box<Tick>),
    Ack(Vec<Claim>),
    /// `QACK … RESULT`.
    Finish(Finish),
    Nack(Nack),
    Extend {
        claims: Vec<Claim>,
        lease: u64,
    },
    Return(Vec<Return>),
    /// The connection that these were bound to is closed: their leases end now.
    Lapse(Vec<Claim>),
    Pop(Pop),
}

impl Push {
    /// Of its payloads.
    pub fn bytes(&self) -> usize {
        self.payloads.iter().map(|payload| payload.stored().len()).sum()
    }
}

impl Operation {
    /// What it pushes.
    pub fn push(&self) -> Option<&Push> {
        match self {
            Self::Push(push) => Some(push),
            Self::Tick(tick) => tick.push.as_ref(),
            _ => None,
        }
    }

    /// Of a job without options, or of its first delivery: what `plain.lua` can do.
    pub fn is_plain(&self) -> bool {
        match self {
            Self::Ack(claims) => claims.iter().all(|claim| claim.delivery == Some(1)),
            Self::Push(push) => push.options == JobOptions::default(),
            Self::Pop(pop) => !pop.noack,
            _ => false,
        }
    }

    /// The jobs that a client names.
    pub fn claims(&self) -> &[Claim] {
        match self {
            Self::Ack(claims) | Self::Extend { claims, .. } | Self::Lapse(claims) => claims,
            Self::Finish(finish) => &finish.claims,
            Self::Nack(nack) => &nack.claims,
            Self::Push(_) | Self::Tick(_) | Self::Return(_) | Self::Pop(_) => &[],
        }
    }

    /// The same of these jobs alone.
    pub fn of(&self, claims: Vec<Claim>) -> Self {
        match self {
            Self::Ack(_) => Self::Ack(claims),
            Self::Lapse(_) => Self::Lapse(claims),
            Self::Extend { lease, .. } => Self::Extend { claims, lease: *lease },
            Self::Finish(Finish { result, ttl, .. }) => Self::Finish(Finish {
                claims,
                result: result.clone(),
                ttl: *ttl,
            }),
            Self::Nack(Nack { delay, error, dead, .. }) => Self::Nack(Nack {
                claims,
                delay: *delay,
                error: error.clone(),
                dead: *dead,
            }),
            Self::Push(_) | Self::Tick(_) | Self::Return(_) | Self::Pop(_) => self.clone(),
        }
    }
}

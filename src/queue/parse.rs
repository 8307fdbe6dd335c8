//! Queue commands as they were sent → what they ask. Pure.
//!
//! Parsing is strict: an unknown option, an option given twice, one without its value or out of range is an error that
//! names it, and nothing has happened yet when it is found. The commands are where the documentation has them ([`producing`], [`consuming`],
//! [`mending`]); how arguments are read is in [`words`].

mod consuming;
mod mending;
mod producing;
mod words;

use smallvec::SmallVec;

use super::id::LocalId;
use super::operation::{Claim, Operation, Pop, Push, QueueName};
use super::reply::Reply;
use super::settings::{Pause, Settings};
use super::single::Single;
use crate::command::Verb;
use crate::resp::Request;
use crate::script::mend::Revive;

use consuming::{ack, extend, nack, pop, pop_any, result};
use mending::{about, check, config, job, pause, peek, purge, redrive};
pub use producing::repeated;
use producing::{cron, push, push_many};
pub(super) use words::{Seen, Words};

/// The longest time that a command takes, in milliseconds: a hundred years. Dates stay exact in a sorted set's score.
pub const MAX_MS: u64 = 100 * 365 * 24 * 3600 * 1000;
/// `RETRIES` at most.
pub const MAX_RETRIES: u64 = 1_000_000;
/// Jobs of one pop, and jobs shown by one look, at most.
pub const MAX_COUNT: u64 = 1_000_000;

/// An error line without its `-`: a code, then a sentence.
pub type Refusal = String;

/// What one command asks of the queues.
#[derive(Clone, Debug)]
pub enum Ask {
    /// `many`: the reply is an array (`QMPUSH`).
    Push {
        queue: QueueName,
        push: Push,
        many: bool,
    },
    Pop(PopAsk),
    /// `QACK`, `QNACK`, `QEXTEND`: the reply is how many.
    Settle {
        queue: QueueName,
        operation: Operation,
    },
    /// A name that stands for no job of this queue.
    NoJob {
        queue: QueueName,
        unknown: Unknown,
    },
    /// `QRESULT`.
    Result {
        queue: QueueName,
        partition: u16,
        job: LocalId,
        block: Option<Block>,
    },
    /// What is asked of jobs by their names, each once: of exactly one, if the reply is not how many.
    About {
        queue: QueueName,
        jobs: Vec<Claim>,
        what: About,
    },
    /// What is asked of a queue as a whole.
    Single {
        queue: QueueName,
        single: Single,
    },
}

impl Ask {
    /// `QCRON`: for the worker that keeps them.
    pub fn is_about_crons(&self) -> bool {
        matches!(
            self,
            Self::Single {
                single: Single::Cron(_),
                ..
            }
        )
    }

    /// The queue that is asked, or is asked first.
    pub fn queue(&self) -> &QueueName {
        match self {
            Self::Pop(pop) => &pop.queues[0],
            Self::Push { queue, .. }
            | Self::Settle { queue, .. }
            | Self::NoJob { queue, .. }
            | Self::Result { queue, .. }
            | Self::About { queue, .. }
            | Self::Single { queue, .. } => queue,
        }
    }

    /// The last of the partitions that it names. `None`: it names none.
    pub fn last_partition(&self) -> Option<u16> {
        let last = |claims: &[Claim]| claims.iter().map(|claim| claim.partition).max();
        match self {
            Self::Settle { operation, .. } => last(operation.claims()),
            Self::About { jobs, .. } => last(jobs),
            Self::Result { partition, .. } => Some(*partition),
            Self::Single { single, .. } => Some(single.partition()),
            Self::Push { .. } | Self::Pop(_) | Self::NoJob { .. } => None,
        }
    }
}

/// What is asked of jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    View,
    Explanation,
    Delete,
    Redrive,
    Promote,
}

impl About {
    /// Asked of none.
    pub fn nothing(self) -> Reply {
        match self {
            Self::View => Reply::NoView,
            Self::Explanation => Reply::Explanation(None, Pause::default()),
            Self::Delete | Self::Redrive | Self::Promote => Reply::Integer(0),
        }
    }

    /// Asked of these, at least one and all of one partition.
    pub fn single(self, claims: &[Claim]) -> Single {
        let revive = |whom| Single::Revive { whom, revived: 0 };
        let jobs = || claims.iter().map(|claim| claim.job).collect();
        match self {
            Self::View => Single::Job(claims[0].job),
            Self::Explanation => Single::Explain(claims[0].job),
            Self::Delete => Single::Delete {
                jobs: jobs(),
                removed: 0,
            },
            Self::Redrive => revive(Revive::DeadIds(jobs())),
            Self::Promote => revive(Revive::DelayedIds(jobs())),
        }
    }
}

/// What was asked of a job that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    View,
    Result,
    Explanation,
}

/// `QPOP` and `QMPOP`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PopAsk {
    /// At least one. The first one that has work is served.
    pub queues: SmallVec<[QueueName; 1]>,
    pub pop: Pop,
    /// `COUNT` was given: the reply is an array of jobs.
    pub many: bool,
    /// `WITHMETA`.
    pub with_meta: bool,
    /// `BOUND`: the jobs go back when the connection closes.
    pub bound: bool,
    pub block: Option<Block>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    Forever,
    Ms(u64),
}

/// What `request`, whose arity has been checked, asks. `max_payload`: bytes.
pub fn parse(verb: Verb, request: Request<'_>, max_payload: usize) -> Result<Ask, Refusal> {
    let mut words = Words::new(request);
    match verb {
        Verb::Push => push(&mut words, max_payload),
        Verb::PushMany => push_many(&mut words, max_payload),
        Verb::Pop => pop(&mut words),
        Verb::PopAny => pop_any(&mut words),
        Verb::Ack => ack(&mut words, max_payload),
        Verb::Nack => nack(&mut words),
        Verb::Extend => extend(&mut words),
        Verb::Len => alone(&mut words, Single::Len),
        Verb::Stats => alone(&mut words, Single::Stats),
        Verb::Peek => peek(&mut words),
        Verb::Job => job(&mut words, About::View, Unknown::View),
        Verb::Explain => job(&mut words, About::Explanation, Unknown::Explanation),
        Verb::Delete => about(&mut words, About::Delete),
        Verb::Purge => purge(&mut words),
        Verb::Config => config(&mut words),
        Verb::Pause => pause(&mut words),
        Verb::Resume => alone(&mut words, Single::configure(Settings::resuming())),
        Verb::Redrive => redrive(&mut words),
        Verb::Promote => about(&mut words, About::Promote),
        Verb::Result => result(&mut words),
        Verb::Drop => alone(&mut words, Single::Drop { noted: false }),
        Verb::Check => check(&mut words),
        Verb::Cron => cron(&mut words, max_payload),
    }
}

/// A command that has no argument but its queue.
fn alone(words: &mut Words, single: Single) -> Result<Ask, Refusal> {
    let queue = words.queue()?;
    words.nothing_more()?;
    Ok(Ask::Single { queue, single })
}

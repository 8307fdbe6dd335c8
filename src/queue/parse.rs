//! Queue commands as they were sent → what they ask. Pure.
//!
//! Parsing is strict: an unknown option, an option given twice, one without its value or out of range is an error that
//! names it, and nothing has happened yet when it is found.

use bytes::Bytes;
use smallvec::SmallVec;

use super::cron::{Repeated, Schedule};
use super::id::{LocalId, QueueMark};
use super::operation::{
    Claim, Finish, JobOptions, Nack, Operation, Pop, Priority, Push, QueueName, Start, State, Unique,
};
use super::payload::Payload;
use super::reply::Reply;
use super::settings::{Pause, Settings};
use super::single::{CronCall, Single};
use crate::command::Verb;
use crate::resp::Request;
use crate::resp::scanner::parse_integer;
use crate::script::batch::MAX_ERROR;
use crate::script::check::Place;
use crate::script::mend::Revive;

/// The longest time that a command takes, in milliseconds: a hundred years. Dates stay exact in a sorted set's score.
pub const MAX_MS: u64 = 100 * 365 * 24 * 3600 * 1000;
/// `RETRIES` at most.
pub const MAX_RETRIES: u64 = 1_000_000;
/// Jobs of one pop, and jobs shown by one look, at most.
pub const MAX_COUNT: u64 = 1_000_000;
/// Bytes of a job's META, fields and values: they are headers, and travel with each look at the job.
const MAX_META: usize = 64 * 1024;
/// Bytes of a group's name; the scripts write the number as one byte.
const MAX_GROUP: usize = 128;
/// Bytes of a unique key.
const MAX_KEY: usize = 512;
/// Bytes of a repeated job's name.
const MAX_CRON_NAME: usize = 128;
/// What `QPEEK` shows unless told.
const PEEK_COUNT: u64 = 10;

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

fn push(words: &mut Words, max_payload: usize) -> Result<Ask, Refusal> {
    let queue = words.queue()?;
    let payload = words.payload(max_payload)?;
    let options = job_options(words)?;
    let push = Push {
        payloads: vec![payload.into()],
        options,
    };
    Ok(Ask::Push {
        queue,
        push,
        many: false,
    })
}

fn push_many(words: &mut Words, max_payload: usize) -> Result<Ask, Refusal> {
    let queue = words.queue()?;
    let count = words.number("numjobs", 1, MAX_COUNT)?;
    if count > words.left() as u64 {
        return Err(format!("ERR numjobs is {count}, but {} payloads follow", words.left()));
    }
    let payloads = (0..count)
        .map(|_| words.payload(max_payload).map(Payload::from))
        .collect::<Result<Vec<_>, _>>()?;
    let options = job_options(words)?;
    if options.unique.is_some() {
        return Err("ERR QMPUSH takes no UNIQUE: a key is one job's".into());
    }
    let push = Push { payloads, options };
    Ok(Ask::Push {
        queue,
        push,
        many: true,
    })
}

fn job_options(words: &mut Words) -> Result<JobOptions, Refusal> {
    job_options_and_zone(words, &mut None)
}

/// `zone`: `TZ`, for a command that has it.
fn job_options_and_zone<'a>(words: &mut Words<'a>, zone: &mut Option<&'a [u8]>) -> Result<JobOptions, Refusal> {
    let mut options = JobOptions::default();
    let mut seen = Seen::default();
    let mut meta_bytes = 0;
    let (mut unique, mut hold) = (None, None);
    while let Some(option) = words.option() {
        match option.as_str() {
            "PRIORITY" => {
                seen.once(&option)?;
                let name = words.value(&option)?;
                options.priority = Priority::ALL
                    .into_iter()
                    .find(|priority| name.eq_ignore_ascii_case(priority.name().as_bytes()))
                    .ok_or_else(|| {
                        let name = shown(name);
                        format!("ERR PRIORITY is '{name}', it must be urgent, high, normal or low")
                    })?;
            }
            "DELAY" | "AT" => {
                seen.once("DELAY or AT")?;
                let ms = words.number(&option, 0, MAX_MS)?;
                options.start = match (option.as_str(), ms) {
                    (_, 0) => Start::Now,
                    ("DELAY", ms) => Start::After(ms),
                    (_, ms) => Start::At(ms),
                };
            }
            "TTL" => options.ttl = Some(seen.ms(words, &option, 1)?),
            "RETRIES" => {
                seen.once(&option)?;
                options.retries = Some(words.number(&option, 1, MAX_RETRIES)? as u32);
            }
            "BACKOFF" => options.backoff = Some(seen.ms(words, &option, 0)?),
            "MAXBACKOFF" => options.max_backoff = Some(seen.ms(words, &option, 0)?),
            "LEASE" => options.lease = Some(seen.ms(words, &option, 1)?),
            "META" => {
                let field = words.value(&option)?;
                let value = words.value(&option)?;
                meta_bytes += field.len() + value.len();
                if meta_bytes > MAX_META {
                    return Err(format!("ERR META of more than {MAX_META} bytes in all"));
                }
                let pair = (Bytes::copy_from_slice(field), Bytes::copy_from_slice(value));
                options.meta.push(pair);
            }
            "UNIQUE" => {
                seen.once(&option)?;
                let key = words.value(&option)?;
                if !(1..=MAX_KEY).contains(&key.len()) {
                    return Err(format!(
                        "ERR UNIQUE key of {} bytes, it must have 1 to {MAX_KEY}",
                        key.len()
                    ));
                }
                unique = Some(Bytes::copy_from_slice(key));
            }
            "TZ" if zone.is_some() => {
                seen.once(&option)?;
                *zone = Some(words.value(&option)?);
            }
            "FOR" => hold = Some(seen.ms(words, &option, 1)?),
            "GROUP" => {
                seen.once(&option)?;
                let name = words.value(&option)?;
                if !(1..=MAX_GROUP).contains(&name.len()) {
                    return Err(format!(
                        "ERR GROUP name of {} bytes, it must have 1 to {MAX_GROUP}",
                        name.len()
                    ));
                }
                options.group = Some(Bytes::copy_from_slice(name));
            }
            _ => return Err(words.unknown(&option)),
        }
    }
    if options.max_backoff.is_some() && options.backoff.is_none() {
        return Err("ERR MAXBACKOFF needs BACKOFF".into());
    }
    if hold.is_some() && unique.is_none() {
        return Err("ERR FOR needs UNIQUE".into());
    }
    options.unique = unique.map(|key| Unique { key, hold });
    Ok(options)
}

fn pop(words: &mut Words) -> Result<Ask, Refusal> {
    let queue = words.queue()?;
    pop_options(words, SmallVec::from_elem(queue, 1))
}

fn pop_any(words: &mut Words) -> Result<Ask, Refusal> {
    let count = words.number("numqueues", 1, MAX_COUNT)?;
    if count > words.left() as u64 {
        return Err(format!("ERR numqueues is {count}, but {} names follow", words.left()));
    }
    let mut queues = SmallVec::new();
    for _ in 0..count {
        let queue = words.queue()?;
        // Named twice is asked once: its first place in the order decides.
        if !queues.contains(&queue) {
            queues.push(queue);
        }
    }
    pop_options(words, queues)
}

fn pop_options(words: &mut Words, queues: SmallVec<[QueueName; 1]>) -> Result<Ask, Refusal> {
    let (mut count, mut block, mut lease, mut noack) = (None, None, None, false);
    let (mut with_meta, mut bound) = (false, false);
    let mut seen = Seen::default();
    while let Some(option) = words.option() {
        match option.as_str() {
            "COUNT" => {
                seen.once(&option)?;
                count = Some(words.number(&option, 1, MAX_COUNT)? as u32);
            }
            "BLOCK" => {
                block = Some(words.block(&mut seen)?);
            }
            "LEASE" => lease = Some(seen.ms(words, &option, 1)?),
            "NOACK" => {
                seen.once(&option)?;
                noack = true;
            }
            "WITHMETA" => {
                seen.once(&option)?;
                with_meta = true;
            }
            "BOUND" => {
                seen.once(&option)?;
                bound = true;
            }
            _ => return Err(words.unknown(&option)),
        }
    }
    if noack && lease.is_some() {
        return Err("ERR NOACK and LEASE exclude each other: a job popped with NOACK has no lease".into());
    }
    if noack && bound {
        return Err("ERR NOACK and BOUND exclude each other: a job popped with NOACK is nobody's to give back".into());
    }
    Ok(Ask::Pop(PopAsk {
        queues,
        pop: Pop {
            count: count.unwrap_or(1),
            lease,
            noack,
            waits: block.is_some(),
        },
        many: count.is_some(),
        with_meta,
        bound,
        block,
    }))
}

fn ack(words: &mut Words, max_payload: usize) -> Result<Ask, Refusal> {
    let queue = words.queue()?;
    let claims = words.claims(&queue, &["RESULT", "TTL"])?;
    let (mut result, mut ttl) = (None, None);
    let mut seen = Seen::default();
    while let Some(option) = words.option() {
        match option.as_str() {
            "RESULT" => {
                seen.once(&option)?;
                let bytes = words.value(&option)?;
                if bytes.len() > max_payload {
                    return Err(format!(
                        "ERR RESULT of {} bytes is larger than max_payload, {max_payload} bytes",
                        bytes.len()
                    ));
                }
                result = Some(Bytes::copy_from_slice(bytes));
            }
            "TTL" => ttl = Some(seen.ms(words, &option, 1)?),
            _ => return Err(words.unknown(&option)),
        }
    }
    let operation = match (result, ttl) {
        (Some(result), ttl) => Operation::Finish(Finish { claims, result, ttl }),
        (None, None) => Operation::Ack(claims),
        (None, Some(_)) => return Err("ERR TTL needs RESULT".into()),
    };
    Ok(Ask::Settle { queue, operation })
}

fn result(words: &mut Words) -> Result<Ask, Refusal> {
    let queue = words.queue()?;
    let name = words.required()?;
    let mut block = None;
    let mut seen = Seen::default();
    while let Some(option) = words.option() {
        match option.as_str() {
            "BLOCK" => block = Some(words.block(&mut seen)?),
            _ => return Err(words.unknown(&option)),
        }
    }
    Ok(match QueueMark::of(&queue).parse(name) {
        Some(Claim { partition, job, .. }) => Ask::Result {
            queue,
            partition,
            job,
            block,
        },
        None => Ask::NoJob {
            queue,
            unknown: Unknown::Result,
        },
    })
}

fn nack(words: &mut Words) -> Result<Ask, Refusal> {
    let queue = words.queue()?;
    let claims = words.claims(&queue, &["DELAY", "ERROR", "DEAD"])?;
    let mut nack = Nack {
        claims,
        delay: None,
        error: None,
        dead: false,
    };
    let mut seen = Seen::default();
    while let Some(option) = words.option() {
        match option.as_str() {
            "DELAY" => nack.delay = Some(seen.ms(words, &option, 0)?),
            "ERROR" => {
                seen.once(&option)?;
                let text = words.value(&option)?;
                nack.error = Some(Bytes::copy_from_slice(&text[..text.len().min(MAX_ERROR)]));
            }
            "DEAD" => {
                seen.once(&option)?;
                nack.dead = true;
            }
            _ => return Err(words.unknown(&option)),
        }
    }
    let operation = Operation::Nack(nack);
    Ok(Ask::Settle { queue, operation })
}

fn extend(words: &mut Words) -> Result<Ask, Refusal> {
    let queue = words.queue()?;
    let lease = words.number("ms", 1, MAX_MS)?;
    let claims = words.claims(&queue, &[])?;
    let operation = Operation::Extend { claims, lease };
    Ok(Ask::Settle { queue, operation })
}

fn peek(words: &mut Words) -> Result<Ask, Refusal> {
    let queue = words.queue()?;
    let (mut state, mut count, mut offset) = (State::Ready, PEEK_COUNT, 0);
    let mut seen = Seen::default();
    while let Some(option) = words.option() {
        seen.once(&option)?;
        match option.as_str() {
            "STATE" => state = words.state()?,
            "COUNT" => count = words.number(&option, 1, MAX_COUNT)?,
            "OFFSET" => offset = words.number(&option, 0, u32::MAX.into())?,
            _ => return Err(words.unknown(&option)),
        }
    }
    let seen = Vec::new();
    let single = Single::Peek {
        state,
        count,
        offset,
        seen,
    };
    Ok(Ask::Single { queue, single })
}

fn job(words: &mut Words, what: About, unknown: Unknown) -> Result<Ask, Refusal> {
    let queue = words.queue()?;
    let name = words.required()?;
    words.nothing_more()?;
    Ok(match QueueMark::of(&queue).parse(name) {
        Some(claim) => Ask::About {
            queue,
            jobs: vec![claim],
            what,
        },
        None => Ask::NoJob { queue, unknown },
    })
}

fn about(words: &mut Words, what: About) -> Result<Ask, Refusal> {
    let queue = words.queue()?;
    let jobs = words.jobs(&queue)?;
    Ok(Ask::About { queue, jobs, what })
}

fn purge(words: &mut Words) -> Result<Ask, Refusal> {
    let queue = words.queue()?;
    let mut state = None;
    let mut seen = Seen::default();
    while let Some(option) = words.option() {
        seen.once(&option)?;
        match option.as_str() {
            "STATE" => state = Some(words.state()?),
            _ => return Err(words.unknown(&option)),
        }
    }
    let single = Single::Purge { state, removed: 0 };
    Ok(Ask::Single { queue, single })
}

fn config(words: &mut Words) -> Result<Ask, Refusal> {
    let what = words.required()?;
    let set = match what.to_ascii_uppercase().as_slice() {
        b"GET" => false,
        b"SET" => true,
        _ => {
            return Err(format!(
                "ERR unknown subcommand '{}' of qconfig, it must be GET or SET",
                shown(what)
            ));
        }
    };
    if !set {
        return alone(words, Single::Settings);
    }
    let queue = words.queue()?;
    let mut changes = Vec::new();
    let mut seen = Seen::default();
    // The first pair must be there.
    while changes.is_empty() || words.left() > 0 {
        let field = words.required()?;
        seen.once(&shown(&field.to_ascii_lowercase()))?;
        let value = words.value(&shown(field))?;
        changes.push(Settings::change(field, value).map_err(|wrong| format!("ERR {wrong}"))?);
    }
    let single = Single::configure(changes);
    Ok(Ask::Single { queue, single })
}

fn pause(words: &mut Words) -> Result<Ask, Refusal> {
    let queue = words.queue()?;
    let pause = match words.option().as_deref() {
        None | Some("POP") => Pause { push: false, pop: true },
        Some("PUSH") => Pause { push: true, pop: false },
        Some("ALL") => Pause::ALL,
        Some(option) => return Err(words.unknown(option)),
    };
    words.nothing_more()?;
    let single = Single::configure(Settings::pausing(pause));
    Ok(Ask::Single { queue, single })
}

fn redrive(words: &mut Words) -> Result<Ask, Refusal> {
    let queue = words.queue()?;
    let counted = words.left() > 0 && words.request.arg(words.next).eq_ignore_ascii_case(b"COUNT");
    let whom = match (words.left(), counted) {
        (0, _) => Revive::Dead(u64::MAX),
        (_, true) => {
            words.next();
            let count = words.number("COUNT", 1, MAX_COUNT)?;
            words.nothing_more()?;
            Revive::Dead(count)
        }
        _ => {
            let jobs = words.jobs(&queue)?;
            let what = About::Redrive;
            return Ok(Ask::About { queue, jobs, what });
        }
    };
    let single = Single::Revive { whom, revived: 0 };
    Ok(Ask::Single { queue, single })
}

fn check(words: &mut Words) -> Result<Ask, Refusal> {
    let queue = words.queue()?;
    let (mut place, mut repair) = (Place::first_of(0), false);
    let mut seen = Seen::default();
    while let Some(option) = words.option() {
        seen.once(&option)?;
        match option.as_str() {
            "CURSOR" => {
                let cursor = words.value(&option)?;
                if cursor != b"0" {
                    place = Place::parse(cursor)
                        .ok_or_else(|| format!("ERR CURSOR is '{}', no reply had that one", shown(cursor)))?;
                }
            }
            "REPAIR" => repair = true,
            _ => return Err(words.unknown(&option)),
        }
    }
    let single = Single::Check { place, repair };
    Ok(Ask::Single { queue, single })
}

fn cron(words: &mut Words, max_payload: usize) -> Result<Ask, Refusal> {
    let what = words.required()?;
    let (queue, call) = match what.to_ascii_uppercase().as_slice() {
        b"ADD" => {
            let (queue, job) = repeated_of(words, max_payload)?;
            let job = Box::new(job);
            (queue, CronCall::Add { job, tick: None })
        }
        b"DEL" => (words.queue()?, CronCall::Delete(words.cron_name()?)),
        b"LIST" => (words.queue()?, CronCall::List { seen: Vec::new() }),
        _ => {
            return Err(format!(
                "ERR unknown subcommand '{}' of qcron, it must be ADD, DEL or LIST",
                shown(what)
            ));
        }
    };
    words.nothing_more()?;
    let single = Single::Cron(call);
    Ok(Ask::Single { queue, single })
}

/// A `QCRON ADD` that was checked before.
pub fn repeated(request: Request<'_>) -> Result<Repeated, Refusal> {
    let mut words = Words::new(request);
    words.required()?;
    Ok(repeated_of(&mut words, usize::MAX)?.1)
}

fn repeated_of(words: &mut Words, max_payload: usize) -> Result<(QueueName, Repeated), Refusal> {
    let queue = words.queue()?;
    let name = words.cron_name()?;
    let schedule = words.required()?;
    let payload = words.payload(max_payload)?;
    let mut zone = Some(&b"UTC"[..]);
    let options = job_options_and_zone(words, &mut zone)?;
    let zone = zone.unwrap_or_default();
    let job = Repeated {
        name,
        schedule: Schedule::parse(schedule, zone)?,
        schedule_text: Bytes::copy_from_slice(schedule),
        zone_text: Bytes::copy_from_slice(zone),
        push: Push {
            payloads: vec![payload.into()],
            options,
        },
        words: Bytes::copy_from_slice(words.request.raw()),
    };
    Ok((queue, job))
}

/// The arguments, read from left to right.
pub(super) struct Words<'a> {
    request: Request<'a>,
    next: usize,
}

impl<'a> Words<'a> {
    pub(super) fn new(request: Request<'a>) -> Self {
        Self { request, next: 1 }
    }

    fn left(&self) -> usize {
        self.request.len() - self.next
    }

    fn next(&mut self) -> Option<&'a [u8]> {
        let word = (self.left() > 0).then(|| self.request.arg(self.next))?;
        self.next += 1;
        Some(word)
    }

    /// The next positional argument. Arity lets too few through only where options stand in their places.
    pub(super) fn required(&mut self) -> Result<&'a [u8], Refusal> {
        let name = self.request.name().to_ascii_lowercase();
        self.next()
            .ok_or_else(|| format!("ERR wrong number of arguments for '{}' command", shown(&name)))
    }

    fn queue(&mut self) -> Result<QueueName, Refusal> {
        let name = self.required()?;
        QueueName::new(name).ok_or_else(|| match name.len() > QueueName::MAX_LEN {
            true => format!(
                "ERR queue name of {} bytes, it must have 1 to {}",
                name.len(),
                QueueName::MAX_LEN
            ),
            false => format!(
                "ERR queue name '{}' must be 1 to {} of A-Z a-z 0-9 . _ : -",
                shown(name),
                QueueName::MAX_LEN
            ),
        })
    }

    /// Of a repeated job.
    fn cron_name(&mut self) -> Result<Bytes, Refusal> {
        let name = self.required()?;
        match (1..=MAX_CRON_NAME).contains(&name.len()) {
            true => Ok(Bytes::copy_from_slice(name)),
            false => Err(format!(
                "ERR name of {} bytes, it must have 1 to {MAX_CRON_NAME}",
                name.len()
            )),
        }
    }

    fn nothing_more(&mut self) -> Result<(), Refusal> {
        match self.option() {
            None => Ok(()),
            Some(option) => Err(self.unknown(&option)),
        }
    }

    fn payload(&mut self, max: usize) -> Result<Bytes, Refusal> {
        let payload = self.required()?;
        match payload.len() > max {
            true => Err(format!(
                "ERR payload of {} bytes is larger than max_payload, {max} bytes",
                payload.len()
            )),
            false => Ok(Bytes::copy_from_slice(payload)),
        }
    }

    /// All words up to one of `options`, as names of jobs: at least one. What names no job of this queue is left out:
    /// it cannot be counted.
    fn claims(&mut self, queue: &QueueName, options: &[&str]) -> Result<Vec<Claim>, Refusal> {
        let mut claims = Vec::with_capacity(1);
        let mark = QueueMark::of(queue);
        claims.extend(mark.parse(self.required()?));
        while self.left() > 0 {
            let word = self.request.arg(self.next);
            if options
                .iter()
                .any(|option| word.eq_ignore_ascii_case(option.as_bytes()))
            {
                break;
            }
            self.next += 1;
            claims.extend(mark.parse(word));
        }
        Ok(claims)
    }

    /// All words that are left, as jobs, each once.
    fn jobs(&mut self, queue: &QueueName) -> Result<Vec<Claim>, Refusal> {
        let mut jobs = self.claims(queue, &[])?;
        jobs.sort_unstable_by_key(|claim| (claim.partition, claim.job));
        jobs.dedup_by_key(|claim| (claim.partition, claim.job));
        Ok(jobs)
    }

    /// The next word as an option's name, in upper case.
    pub(super) fn option(&mut self) -> Option<String> {
        self.next().map(|word| shown(&word.to_ascii_uppercase()))
    }

    pub(super) fn value(&mut self, option: &str) -> Result<&'a [u8], Refusal> {
        self.next().ok_or_else(|| format!("ERR {option} needs a value"))
    }

    pub(super) fn number(&mut self, what: &str, min: u64, max: u64) -> Result<u64, Refusal> {
        let word = self.value(what)?;
        parse_integer(word)
            .and_then(|number| u64::try_from(number).ok())
            .filter(|number| (min..=max).contains(number))
            .ok_or_else(|| {
                format!(
                    "ERR {what} is '{}', it must be an integer from {min} to {max}",
                    shown(word)
                )
            })
    }

    fn block(&mut self, seen: &mut Seen) -> Result<Block, Refusal> {
        Ok(match seen.ms(self, "BLOCK", 0)? {
            0 => Block::Forever,
            ms => Block::Ms(ms),
        })
    }

    fn state(&mut self) -> Result<State, Refusal> {
        let name = self.value("STATE")?;
        State::ALL
            .into_iter()
            .find(|state| name.eq_ignore_ascii_case(state.name().as_bytes()))
            .ok_or_else(|| {
                format!(
                    "ERR STATE is '{}', it must be ready, delayed, leased or dead",
                    shown(name)
                )
            })
    }

    pub(super) fn unknown(&self, option: &str) -> Refusal {
        let command = shown(&self.request.name().to_ascii_lowercase());
        format!("ERR unknown option '{option}' for '{command}'")
    }
}

/// Which options a command has had.
#[derive(Default)]
pub(super) struct Seen(SmallVec<[String; 4]>);

impl Seen {
    pub(super) fn once(&mut self, option: &str) -> Result<(), Refusal> {
        if self.0.iter().any(|seen| seen == option) {
            return Err(format!("ERR {option} was given twice"));
        }
        self.0.push(option.to_owned());
        Ok(())
    }

    fn ms(&mut self, words: &mut Words, option: &str, min: u64) -> Result<u64, Refusal> {
        self.once(option)?;
        words.number(option, min, MAX_MS)
    }
}

/// A client's bytes in an error line: text, and no more of it than names the fault.
fn shown(bytes: &[u8]) -> String {
    const MAX: usize = 128;
    String::from_utf8_lossy(&bytes[..bytes.len().min(MAX)]).into_owned()
}

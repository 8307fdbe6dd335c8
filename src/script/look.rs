//! Calls of the scripts that look at a queue: QLEN, QSTATS, QPEEK, QJOB. A look-up has no sequence: it changes nothing
//! but brings back what is due, and is repeated freely, also while its standing says that more was due.

use bytes::Bytes;

use super::call::Call;
use super::{CallError, Partition, Record, Scripts, Settings, Standing, batch, open, unsigned};
use crate::queue::id::LocalId;
use crate::queue::operation::State;
use crate::resp::reader::{BadReply, Element, Reader};

/// Jobs that one call of `peek` may ask for, so that no call holds Redis for long.
pub const PEEKED: u64 = 250;

/// What QSTATS tells of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Something was pushed to it once.
    pub exists: bool,
    pub urgent: u64,
    pub high: u64,
    pub normal: u64,
    pub low: u64,
    pub delayed: u64,
    pub leased: u64,
    pub dead: u64,
    /// For how long the job that is ready longest has been so.
    pub oldest_ready_ms: u64,
    pub pushed: u64,
    pub acked: u64,
    pub nacked: u64,
    pub expired: u64,
    pub deduplicated: u64,
    pub redriven: u64,
}

impl Stats {
    pub fn ready(&self) -> u64 {
        self.urgent + self.high + self.normal + self.low
    }
}

pub fn stats(scripts: &Scripts, partition: &Partition, settings: &Settings) -> Bytes {
    Call::new(&scripts.stats, partition, settings, 0).finish()
}

/// What the partition has as settings, which comes as the reply of a call that went by others.
pub fn settings(scripts: &Scripts, partition: &Partition, settings: &Settings) -> Bytes {
    Call::of_no_settings(&scripts.stats, partition, settings).finish()
}

pub fn stats_reply(reply: Bytes) -> Result<(Standing, Stats), CallError> {
    let (standing, mut reader, _) = open(reply)?;
    let exists = reader.integer()? == 1;
    let mut next = || reader.integer().and_then(unsigned);
    let stats = Stats {
        exists,
        urgent: next()?,
        high: next()?,
        normal: next()?,
        low: next()?,
        delayed: next()?,
        leased: next()?,
        dead: next()?,
        oldest_ready_ms: next()?,
        pushed: next()?,
        acked: next()?,
        nacked: next()?,
        expired: next()?,
        deduplicated: next()?,
        redriven: next()?,
    };
    Ok((standing, stats))
}

/// A job as QJOB and QPEEK show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobView {
    pub id: LocalId,
    pub state: State,
    /// Unix ms: when a delayed job is due, a leased one's lease ends, a dead one died.
    pub at: Option<u64>,
    /// As Redis keeps it.
    pub payload: Bytes,
    pub record: Record,
}

impl JobView {
    /// Deliveries so far, the running one included.
    pub fn attempt(&self) -> u32 {
        match self.state {
            State::Leased => self.record.delivery(),
            State::Ready | State::Delayed | State::Dead => self.record.failures(),
        }
    }
}

pub fn job(scripts: &Scripts, partition: &Partition, settings: &Settings, id: LocalId) -> Bytes {
    let mut call = Call::new(&scripts.job, partition, settings, 0);
    call.word(id.as_bytes());
    call.finish()
}

pub fn job_reply(reply: Bytes) -> Result<(Standing, Option<JobView>), CallError> {
    let (standing, mut reader, left) = open(reply)?;
    if left == 0 {
        return Ok((standing, None));
    }
    let id = local_id(&mut reader)?;
    let name = reader.bulk()?;
    let state = State::ALL.into_iter().find(|state| state.name().as_bytes() == name);
    let view = view(&mut reader, id, state.ok_or(BadReply("an unknown state"))?)?;
    Ok((standing, Some(view)))
}

/// Why a job does not run now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    pub state: Bytes,
    pub reason: Bytes,
    pub detail: Detail,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detail {
    None,
    /// A date in Unix ms, or a count: the reason says which.
    Number(u64),
    Text(Bytes),
    /// That its group is busy with.
    Job(LocalId),
}

pub fn explain(scripts: &Scripts, partition: &Partition, settings: &Settings, id: LocalId) -> Bytes {
    let mut call = Call::new(&scripts.explain, partition, settings, 0);
    call.word(id.as_bytes());
    call.word(batch::limits(settings).as_bytes());
    call.finish()
}

/// `None`: there is no such job.
pub fn explain_reply(reply: Bytes) -> Result<(Standing, Option<Explanation>), CallError> {
    let (standing, mut reader, left) = open(reply)?;
    if left == 0 {
        return Ok((standing, None));
    }
    let (state, reason) = (reader.bulk()?, reader.bulk()?);
    let detail = match reader.element()? {
        Element::Integer(number) => Detail::Number(unsigned(number)?),
        Element::Bulk(id) if reason == b"group"[..] => {
            Detail::Job(LocalId::parse(&id).ok_or(BadReply("a job's id was due"))?)
        }
        Element::Bulk(text) => Detail::Text(text),
        Element::Null => Detail::None,
        _ => return Err(BadReply("a detail was due").into()),
    };
    let explanation = Explanation { state, reason, detail };
    Ok((standing, Some(explanation)))
}

/// What became of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    Result(Bytes),
    /// It has ended, or never was, and there is no result.
    Nothing,
    /// It has not ended.
    Open,
}

/// `waits`: this worker is to be told when the job ends.
pub fn result(scripts: &Scripts, partition: &Partition, settings: &Settings, id: LocalId, waits: bool) -> Bytes {
    let mut call = Call::new(&scripts.result, partition, settings, 0);
    call.word(id.as_bytes());
    call.number(waits.into());
    call.finish()
}

pub fn result_reply(reply: Bytes) -> Result<(Standing, Ending), CallError> {
    let (standing, mut reader, _) = open(reply)?;
    let ending = match (reader.bulk_or_null()?, reader.integer()?) {
        (Some(result), _) => Ending::Result(result),
        (None, 1) => Ending::Open,
        (None, _) => Ending::Nothing,
    };
    Ok((standing, ending))
}

/// `count` is at most [`PEEKED`].
pub fn peek(
    scripts: &Scripts,
    partition: &Partition,
    settings: &Settings,
    state: State,
    count: u64,
    offset: u64,
) -> Bytes {
    let mut call = Call::new(&scripts.peek, partition, settings, 0);
    call.word(state.name().as_bytes());
    call.number(count.min(PEEKED));
    call.number(offset);
    call.finish()
}

/// `state`: that which was asked for.
pub fn peek_reply(reply: Bytes, state: State) -> Result<(Standing, Vec<JobView>), CallError> {
    let (standing, mut reader, left) = open(reply)?;
    let mut views = Vec::with_capacity(left / 4);
    for _ in 0..left / 4 {
        let id = local_id(&mut reader)?;
        views.push(view(&mut reader, id, state)?);
    }
    Ok((standing, views))
}

fn view(reader: &mut Reader, id: LocalId, state: State) -> Result<JobView, CallError> {
    let at = reader.integer_or_null()?.map(unsigned).transpose()?;
    let payload = reader.bulk()?;
    let record = Record::decode_or_default(reader.bulk_or_null()?.as_ref())?;
    Ok(JobView {
        id,
        state,
        at,
        payload,
        record,
    })
}

fn local_id(reader: &mut Reader) -> Result<LocalId, BadReply> {
    LocalId::parse(&reader.bulk()?).ok_or(BadReply("a job's id was due"))
}

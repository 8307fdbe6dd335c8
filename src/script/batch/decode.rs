//! What `batch.lua`, or `plain.lua`, returns, dealt out to the operations that the call carried.

use std::time::Duration;

use bytes::Bytes;

use super::encode::{push_runs, pushed_jobs, suffix, suffix_width};
use super::{BatchReply, Job, Outcome};
use crate::queue::id::LocalId;
use crate::queue::operation::{Operation, Push};
use crate::queue::payload::Payload;
use crate::resp::reader::{BadReply, Reader};
use crate::resp::scanner::parse_integer;
use crate::script::loans::NotHere;
use crate::script::{CallError, Record, Settings, open, unsigned};

/// `operations` are those that the call carried, `settings` those that it was made with.
pub fn decode(operations: &[Operation], settings: &Settings, reply: Bytes) -> Result<BatchReply, CallError> {
    let (standing, mut reader, len) = open(reply)?;
    let pushed = reader.bulk()?;
    let mut parts = pushed.splitn(2, |byte| *byte == b':');
    let stamp = pushed.slice_ref(parts.next().unwrap_or_default());
    let missed = places(&mut reader)?;
    let popped = popped(&mut reader)?;
    let spent = match len {
        6.. => Some(Duration::from_micros(unsigned(reader.integer()?)?)),
        _ => None,
    };
    let mut answer = Answer {
        stamp,
        paused: settings.pause.push,
        apart: match parts.next() {
            Some(runs) => set_apart(runs, settings, operations),
            None => Vec::new(),
        },
        width: suffix_width(pushed_jobs(operations)),
        pushed: 0,
        missed,
        place: 0,
        popped: popped.into_iter(),
    };
    let outcomes = operations.iter().map(|operation| answer.outcome(operation));
    let outcomes = outcomes.collect::<Result<_, _>>()?;
    Ok(BatchReply {
        standing,
        spent,
        outcomes,
    })
}

/// The pushes that were not stored, by the numbers of their first jobs, and why. `runs`: of each its number, from 1, and if
/// another job holds its key, `=` and that one; if the key is not to be had there, `@` and why; if it was the push of a tick that
/// was made, `!`.
fn set_apart(runs: &[u8], settings: &Settings, operations: &[Operation]) -> Vec<(usize, Outcome)> {
    let known = push_runs(settings, operations);
    let read = |run: &[u8]| {
        let digits = run.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (number, why) = run.split_at(digits);
        let number = usize::try_from(parse_integer(number)?).ok()?;
        let first = known.get(number.checked_sub(1)?)?.pushes.first()?.0;
        let outcome = match why {
            [] => Outcome::Full,
            [b'=', holder @ ..] => Outcome::Duplicate(LocalId::parse(holder)?),
            [b'@', why @ ..] => Outcome::KeyNotHere(NotHere::parse(why)?),
            _ => Outcome::Made,
        };
        Some((first, outcome))
    };
    runs.split(|byte| *byte == b',').filter_map(read).collect()
}

/// A reply being dealt out to the operations.
struct Answer {
    stamp: Bytes,
    /// No push was even tried.
    paused: bool,
    apart: Vec<(usize, Outcome)>,
    width: usize,
    pushed: usize,
    /// In ascending order.
    missed: std::iter::Peekable<std::vec::IntoIter<u64>>,
    place: u64,
    popped: std::vec::IntoIter<Job>,
}

impl Answer {
    fn outcome(&mut self, operation: &Operation) -> Result<Outcome, BadReply> {
        Ok(match operation {
            Operation::Push(_) | Operation::Tick(_) if self.paused => Outcome::Paused,
            Operation::Push(_) | Operation::Tick(_) if self.stamp.as_ref() == b"OOM" => Outcome::OutOfMemory,
            Operation::Push(push) => self.of_push(push)?,
            Operation::Tick(tick) => tick
                .push
                .as_ref()
                .map_or(Ok(Outcome::Made), |push| self.of_push(push))?,
            Operation::Ack(claims) => Outcome::Acked(self.counted(claims.len())),
            Operation::Finish(finish) => Outcome::Acked(self.counted(finish.claims.len())),
            Operation::Nack(nack) => Outcome::Nacked(self.counted(nack.claims.len())),
            Operation::Extend { claims, .. } => Outcome::Extended(self.counted(claims.len())),
            Operation::Return(_) | Operation::Lapse(_) => Outcome::Returned,
            Operation::Pop(pop) => Outcome::Popped(self.popped.by_ref().take(pop.count as usize).collect()),
        })
    }

    fn of_push(&mut self, push: &Push) -> Result<Outcome, BadReply> {
        Ok(match self.apart.iter().find(|(first, _)| *first == self.pushed) {
            Some((_, outcome)) => {
                self.pushed += push.payloads.len();
                outcome.clone()
            }
            None => Outcome::Pushed(self.ids(push)?),
        })
    }

    fn ids(&mut self, push: &Push) -> Result<Vec<LocalId>, BadReply> {
        let first = self.pushed;
        self.pushed += push.payloads.len();
        let id = |(number, payload): (usize, &Payload)| {
            let suffix = suffix(number, self.width, payload.is_packed(), push.options.priority);
            LocalId::parse(&[self.stamp.as_ref(), &suffix].concat()).ok_or(BadReply("a stamp was due"))
        };
        (first..).zip(&push.payloads).map(id).collect()
    }

    fn counted(&mut self, claims: usize) -> u32 {
        self.place += claims as u64;
        let mut counted = claims as u32;
        while self.missed.next_if(|&place| place <= self.place).is_some() {
            counted -= 1;
        }
        counted
    }
}

fn places(reader: &mut Reader) -> Result<std::iter::Peekable<std::vec::IntoIter<u64>>, BadReply> {
    let len = reader.array()?;
    let places = (0..len).map(|_| reader.integer().and_then(unsigned));
    Ok(places.collect::<Result<Vec<_>, _>>()?.into_iter().peekable())
}

fn popped(reader: &mut Reader) -> Result<Vec<Job>, BadReply> {
    let ids = strings(reader)?;
    let payloads = strings(reader)?;
    let records = strings(reader)?;
    let mut jobs = Vec::with_capacity(ids.len());
    for (i, (id, payload)) in ids.into_iter().zip(payloads).enumerate() {
        let id = id
            .as_deref()
            .and_then(LocalId::parse)
            .ok_or(BadReply("a job's id was due"))?;
        let payload = payload.ok_or(BadReply("a payload was due"))?;
        let record = records.get(i).cloned().flatten();
        let delivery = Record::decode_or_default(record.as_ref())?.delivery();
        jobs.push(Job {
            id,
            delivery,
            payload,
            record,
        });
    }
    Ok(jobs)
}

fn strings(reader: &mut Reader) -> Result<Vec<Option<Bytes>>, BadReply> {
    let len = reader.array()?;
    (0..len).map(|_| reader.bulk_or_null()).collect()
}

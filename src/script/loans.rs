//! Calls about unique keys that are lent to other partitions than their own: see `ending.lua`. They have no sequence: a repeat
//! comes to the same.

use std::fmt;

use bytes::Bytes;

use super::call::Call;
use super::{CallError, Partition, Scripts, Settings, Standing, open};
use crate::queue::id::LocalId;
use crate::queue::operation::Loan;
use crate::resp::reader::{BadReply, Reader};
use crate::resp::scanner::parse_integer;

impl Loan {
    /// As the scripts write it.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (partition, number) = std::str::from_utf8(text).ok()?.split_once(' ')?;
        Some(Self {
            partition: partition.parse().ok()?,
            number: number.parse().ok()?,
        })
    }
}

impl fmt::Display for Loan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.partition, self.number)
    }
}

/// Why a key that nobody holds in a partition is not to be had there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotHere {
    /// It is its home, and has lent it.
    Lent(Loan),
    /// The loan was given back; the next one must exceed this number.
    Returned(u64),
}

impl NotHere {
    pub fn parse(text: &[u8]) -> Option<Self> {
        match Loan::parse(text) {
            Some(loan) => Some(Self::Lent(loan)),
            None => Some(Self::Returned(parse_integer(text)?.try_into().ok()?)),
        }
    }
}

/// What a key's own partition is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyWanted {
    pub key: Bytes,
    /// The partition that wants it; `None`: its own.
    pub by: Option<u16>,
    /// The loan that was given back.
    pub returned: Option<Loan>,
    /// A new loan must exceed this number.
    pub past: u64,
    /// By a push, which is counted if a job holds it.
    pub for_push: bool,
}

/// What is to be had of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyAt {
    /// It is in its own partition.
    Home,
    /// It is lent to that partition, perhaps by this very call.
    Lent(Loan),
    /// This job holds it, in the partition that was asked.
    Held(LocalId),
}

pub fn lend(scripts: &Scripts, partition: &Partition, settings: &Settings, wanted: &[KeyWanted]) -> Bytes {
    let mut call = Call::new(&scripts.lend, partition, settings, 0);
    for KeyWanted {
        key,
        by,
        returned,
        past,
        for_push,
    } in wanted
    {
        call.word(key);
        call.number_or_empty(by.map(u64::from));
        call.word(returned.map(|loan| loan.to_string()).unwrap_or_default().as_bytes());
        call.number(*past);
        call.number((*for_push).into());
    }
    call.finish()
}

/// One for each that was wanted.
pub fn lent(reply: Bytes) -> Result<(Standing, Vec<KeyAt>), CallError> {
    let (standing, mut reader, _) = open(reply)?;
    let answers = each(&mut reader, |answer| match answer {
        [] => Some(KeyAt::Home),
        [b'=', id @ ..] => LocalId::parse(id).map(KeyAt::Held),
        loan => Loan::parse(loan).map(KeyAt::Lent),
    })?;
    Ok((standing, answers))
}

/// Keys and the numbers of their loans. `for_push`: one wants them.
pub fn recall(
    scripts: &Scripts,
    partition: &Partition,
    settings: &Settings,
    for_push: bool,
    loans: &[(Bytes, u64)],
) -> Bytes {
    let mut call = Call::new(&scripts.recall, partition, settings, 0);
    call.number(for_push.into());
    for (key, number) in loans {
        call.word(key);
        call.number(*number);
    }
    call.finish()
}

/// Of each the job that holds it; `None`: it was given back.
pub fn recalled(reply: Bytes) -> Result<(Standing, Vec<Option<LocalId>>), CallError> {
    let (standing, mut reader, _) = open(reply)?;
    let answers = each(&mut reader, |answer| match answer {
        [] => Some(None),
        id => LocalId::parse(id).map(Some),
    })?;
    Ok((standing, answers))
}

/// `loan`: by which the key is in the job's partition; `None`: it is at home there.
pub fn retake(
    scripts: &Scripts,
    partition: &Partition,
    settings: &Settings,
    job: LocalId,
    key: &[u8],
    loan: Option<u64>,
) -> Bytes {
    let mut call = Call::new(&scripts.retake, partition, settings, 0);
    call.word(job.as_bytes());
    call.word(key);
    call.number_or_empty(loan);
    call.finish()
}

/// `None`: the job has the key, or no right to it any more.
pub fn retaken(reply: Bytes) -> Result<(Standing, Option<NotHere>), CallError> {
    let (standing, mut reader, _) = open(reply)?;
    let why = reader.bulk()?;
    let not_here = match why.is_empty() {
        true => None,
        false => Some(NotHere::parse(&why).ok_or(BadReply("a loan was due"))?),
    };
    Ok((standing, not_here))
}

pub fn overdue(scripts: &Scripts, partition: &Partition, settings: &Settings) -> Bytes {
    Call::new(&scripts.overdue, partition, settings, 0).finish()
}

/// Keys and where they are.
pub fn found(reply: Bytes) -> Result<(Standing, Vec<(Bytes, Loan)>), CallError> {
    let (standing, mut reader, _) = open(reply)?;
    let len = reader.array()?;
    let mut pair = || {
        let (key, loan) = (reader.bulk()?, reader.bulk()?);
        Loan::parse(&loan)
            .map(|loan| (key, loan))
            .ok_or(BadReply("a loan was due"))
    };
    let found = (0..len / 2).map(|_| pair()).collect::<Result<_, _>>()?;
    Ok((standing, found))
}

fn each<T>(reader: &mut Reader, read: impl Fn(&[u8]) -> Option<T>) -> Result<Vec<T>, BadReply> {
    let len = reader.array()?;
    let mut next = || read(&reader.bulk()?).ok_or(BadReply("what is known of a key was due"));
    (0..len).map(|_| next()).collect()
}

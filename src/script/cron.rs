//! Calls of `cron.lua`, about the repeated jobs of a queue, and of `crontab.lua`, about the queues that have some.

use bytes::Bytes;

use super::call::Call;
use super::{CallError, Partition, Scripts, Settings, Standing, open, unsigned};
use crate::resp::reader::{BadReply, Reader};

/// Repeated jobs of one queue, at most; `cron.lua` knows it too.
pub const MAX_ENTRIES: u64 = 1000;

/// A repeated job as Redis keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: Bytes,
    /// Unix ms: its next tick, and its last one.
    pub tick: u64,
    pub last: Option<u64>,
    /// The partition that its next tick goes to, unless its options say which.
    pub place: u16,
    /// The `QCRON ADD`, as it was sent.
    pub words: Bytes,
}

/// Some entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub entries: Vec<Entry>,
    /// There are more of them.
    pub more: bool,
    /// The first tick that is not due, in Unix ms.
    pub soonest: Option<u64>,
}

/// What is asked of a queue's entries.
#[derive(Clone, Copy, Debug)]
pub enum Asked<'a> {
    /// An entry and its first tick.
    Add {
        name: &'a [u8],
        words: &'a [u8],
        tick: u64,
    },
    Delete(&'a [u8]),
    /// From there on.
    List(u64),
    /// Those whose tick is due.
    Due,
}

pub fn cron(scripts: &Scripts, partition: &Partition, settings: &Settings, sequence: u64, asked: Asked) -> Bytes {
    let sequence = match asked {
        Asked::Add { .. } | Asked::Delete(_) => sequence,
        Asked::List(_) | Asked::Due => 0,
    };
    let mut call = Call::with_cron(&scripts.cron, partition, settings, sequence);
    match asked {
        Asked::Add { name, words, tick } => {
            [&b"add"[..], name, words].iter().for_each(|word| call.word(word));
            call.number(tick);
        }
        Asked::Delete(name) => [&b"del"[..], name].iter().for_each(|word| call.word(word)),
        Asked::List(from) => {
            call.word(b"list");
            call.number(from);
        }
        Asked::Due => call.word(b"due"),
    }
    call.finish()
}

/// What came of `Add` (1, or 0: there are as many as may be) and `Delete` (how many).
pub fn counted(reply: Bytes) -> Result<(Standing, u64), CallError> {
    let (standing, mut reader, _) = open(reply)?;
    Ok((standing, unsigned(reader.integer()?)?))
}

/// What came of `List` and `Due`.
pub fn told(reply: Bytes) -> Result<(Standing, Told), CallError> {
    let (standing, mut reader, left) = open(reply)?;
    let mut told = Told {
        soonest: reader.integer_or_null()?.map(unsigned).transpose()?,
        more: reader.integer()? == 1,
        entries: Vec::new(),
    };
    for _ in 0..left.saturating_sub(2) / 5 {
        told.entries.push(entry(&mut reader)?);
    }
    Ok((standing, told))
}

fn entry(reader: &mut Reader) -> Result<Entry, CallError> {
    let (name, tick) = (reader.bulk()?, unsigned(reader.integer()?)?);
    let (place, words) = (reader.integer()?, reader.bulk()?);
    let last = reader.bulk_or_null()?;
    let last = last.and_then(|last| std::str::from_utf8(&last).ok()?.parse().ok());
    Ok(Entry {
        name,
        tick,
        last,
        place: u16::try_from(place).map_err(|_| BadReply("a partition was due"))?,
        words,
    })
}

/// What is asked of the table of queues.
#[derive(Clone, Copy, Debug)]
pub enum TableAsked<'a> {
    Add(&'a [u8]),
    /// Unless it was added since that version.
    Forget(&'a [u8], &'a [u8]),
    /// From that cursor on.
    Read(&'a [u8]),
}

pub fn table(scripts: &Scripts, partition: &Partition, settings: &Settings, asked: TableAsked) -> Bytes {
    let mut call = Call::with_cron(&scripts.crontab, partition, settings, 0);
    let words: &[&[u8]] = match asked {
        TableAsked::Add(queue) => &[b"add", queue],
        TableAsked::Forget(queue, version) => &[b"forget", queue, version],
        TableAsked::Read(cursor) => &[b"read", cursor],
    };
    words.iter().for_each(|word| call.word(word));
    call.finish()
}

/// A part of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Names and versions.
    pub queues: Vec<(Bytes, Bytes)>,
    /// `None`: that was the last.
    pub next: Option<Bytes>,
}

pub fn page(reply: Bytes) -> Result<(Standing, Page), CallError> {
    let (standing, mut reader, left) = open(reply)?;
    let next = reader.bulk_or_null()?.filter(|cursor| cursor != "0");
    let pairs = (0..left.saturating_sub(1) / 2).map(|_| Ok((reader.bulk()?, reader.bulk()?)));
    let queues = pairs.collect::<Result<_, CallError>>()?;
    Ok((standing, Page { queues, next }))
}

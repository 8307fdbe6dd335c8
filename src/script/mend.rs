//! Calls of the scripts that change a queue as a whole, or jobs outside their usual life: QCONFIG SET, QPAUSE, QRESUME,
//! QREDRIVE, QPROMOTE, QDROP. Applied once, as batches are.

use bytes::Bytes;

use super::call::Call;
use super::{CallError, Partition, Scripts, Settings, Standing, open, unsigned};
use crate::queue::id::LocalId;
use crate::queue::settings::Change;
use crate::resp::reader::BadReply;

/// Jobs that one call of `revive` makes ready, so that no call holds Redis for long.
pub const REVIVED: usize = 50;

/// Whom `revive` makes ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revive {
    /// The first so many dead jobs, those that died first.
    Dead(u64),
    DeadIds(Vec<LocalId>),
    DelayedIds(Vec<LocalId>),
}

pub fn configure(
    scripts: &Scripts,
    partition: &Partition,
    settings: &Settings,
    sequence: u64,
    changes: &[Change],
) -> Bytes {
    let mut call = Call::new(&scripts.configure, partition, settings, sequence);
    for (name, value) in changes {
        call.word(name.as_bytes());
        call.word(value.as_bytes());
    }
    call.finish()
}

/// At most [`REVIVED`] of them.
pub fn revive(scripts: &Scripts, partition: &Partition, settings: &Settings, sequence: u64, revive: &Revive) -> Bytes {
    let mut call = Call::new(&scripts.revive, partition, settings, sequence);
    let (from, most, ids): (&[u8], u64, &[LocalId]) = match revive {
        Revive::Dead(most) => (b"dead", (*most).min(REVIVED as u64), &[]),
        Revive::DeadIds(ids) => (b"dead", 0, ids),
        Revive::DelayedIds(ids) => (b"delayed", 0, ids),
    };
    call.word(from);
    call.number(most);
    for id in &ids[..ids.len().min(REVIVED)] {
        call.word(id.as_bytes());
    }
    call.finish()
}

/// `seen`: the version that the partition had; `version` and `overrides`: what it gets.
pub fn copy(
    scripts: &Scripts,
    partition: &Partition,
    settings: &Settings,
    seen: &[u8],
    version: &[u8],
    overrides: &[(Bytes, Bytes)],
) -> Bytes {
    let mut call = Call::whatever_the_settings(&scripts.copy, partition, settings, 0);
    call.word(seen);
    call.word(version);
    for (name, value) in overrides {
        call.word(name);
        call.word(value);
    }
    call.finish()
}

/// A queue that has one partition.
pub fn drop(scripts: &Scripts, partition: &Partition, settings: &Settings, sequence: u64) -> Bytes {
    let mut call = Call::with_cron(&scripts.drop, partition, settings, sequence);
    call.word(&settings.version);
    call.finish()
}

/// One of several partitions, unless it belongs to a queue that was made after that version of the settings.
pub fn drop_as_of(
    scripts: &Scripts,
    partition: &Partition,
    settings: &Settings,
    sequence: u64,
    version: &[u8],
) -> Bytes {
    let mut call = Call::whatever_the_settings(&scripts.drop, partition, settings, sequence);
    call.word(version);
    call.finish()
}

/// What `configure` or `copy` came to.
pub fn configured(reply: Bytes) -> Result<Standing, CallError> {
    Ok(open(reply)?.0)
}

/// What `revive` came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revived {
    pub count: u64,
    /// Those of them whose unique key is in another partition by now, each with its key.
    pub keyless: Vec<(LocalId, Bytes)>,
}

pub fn revived(reply: Bytes) -> Result<(Standing, Revived), CallError> {
    let (standing, mut reader, _) = open(reply)?;
    let count = unsigned(reader.integer()?)?;
    let len = reader.array()?;
    let mut pair = || {
        let id = LocalId::parse(&reader.bulk()?).ok_or(BadReply("a job's id was due"))?;
        Ok((id, reader.bulk()?))
    };
    let keyless = (0..len / 2).map(|_| pair()).collect::<Result<_, BadReply>>()?;
    Ok((standing, Revived { count, keyless }))
}

/// Whether `drop` found anything.
pub fn counted(reply: Bytes) -> Result<(Standing, u64), CallError> {
    let (standing, mut reader, _) = open(reply)?;
    Ok((standing, unsigned(reader.integer()?)?))
}

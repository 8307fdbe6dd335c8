//! Calls of the scripts that remove jobs: QDEL and QPURGE. Applied once, as batches are.

use bytes::Bytes;

use super::call::Call;
use super::{CallError, Partition, Scripts, Settings, Standing, open, unsigned};
use crate::queue::id::LocalId;
use crate::queue::operation::State;

/// Jobs that one call of `delete` may name, so that no call holds Redis for long: 5 to 25 µs each.
pub const DELETED: usize = 50;

pub fn delete(scripts: &Scripts, partition: &Partition, settings: &Settings, sequence: u64, ids: &[LocalId]) -> Bytes {
    let mut call = Call::new(&scripts.delete, partition, settings, sequence);
    for id in ids {
        call.word(id.as_bytes());
    }
    call.finish()
}

/// How many were removed.
pub fn deleted(reply: Bytes) -> Result<(Standing, u64), CallError> {
    let (standing, mut reader, _) = open(reply)?;
    Ok((standing, unsigned(reader.integer()?)?))
}

/// `state`: `None` for all.
pub fn purge(
    scripts: &Scripts,
    partition: &Partition,
    settings: &Settings,
    sequence: u64,
    state: Option<State>,
) -> Bytes {
    let mut call = Call::new(&scripts.purge, partition, settings, sequence);
    call.word(state.map_or("all", State::name).as_bytes());
    call.finish()
}

/// What one call of `purge` came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purged {
    pub removed: u64,
    /// Call again, with the next sequence.
    pub more: bool,
}

pub fn purged(reply: Bytes) -> Result<(Standing, Purged), CallError> {
    let (standing, mut reader, _) = open(reply)?;
    let removed = unsigned(reader.integer()?)?;
    Ok((
        standing,
        Purged {
            removed,
            more: reader.integer()? == 1,
        },
    ))
}

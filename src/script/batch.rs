//! Calls of `batch.lua`, and of `plain.lua`: everything that a lane gathered goes in, one outcome for each operation comes out.
//! The operations go as what workers say of their jobs, then pushes, then pops; a lane gathers only what may be put in
//! that order. Runs of like operations are written as one, because the script serves them with one Redis command.

mod decode;
mod encode;
mod plain;

use std::time::Duration;

use bytes::Bytes;

use super::{Record, Standing};
use crate::queue::id::LocalId;
use crate::queue::operation::Operation;
use crate::script::loans::NotHere;

pub use decode::decode;
pub use encode::encode;
pub(super) use encode::limits;
pub use plain::is_refused as is_not_plain;

/// What of a QNACK's text is kept.
pub const MAX_ERROR: usize = 1024;

/// What one call carries.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// From 1, one more than the lane's last call.
    pub sequence: u64,
    /// 0 to 1, at random: for the backoff of the jobs given back in this call.
    pub jitter: f64,
    /// Clients of this worker wait on this queue besides those whose pops are in the batch. If nothing is ready when the
    /// batch is done, the worker is among the waiting; otherwise it is not.
    pub parked: bool,
    /// The queue holds nothing but plain jobs, as far as is known: `plain.lua` does it, or says that they are not.
    pub plain: bool,
    /// So many jobs of it are ready, as far as is known.
    pub ready: u64,
    pub operations: &'a [Operation],
}

/// A job as popped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    pub id: LocalId,
    pub delivery: u32,
    /// As Redis keeps it.
    pub payload: Bytes,
    /// Its record as Redis has it, to be given back with a `NOACK` job that could not be delivered.
    pub record: Option<Bytes>,
}

impl Job {
    /// Its META, empty if it has none.
    pub fn meta(&self) -> Vec<(Bytes, Bytes)> {
        // It was decoded before, for the delivery.
        Record::decode_or_default(self.record.as_ref()).unwrap_or_default().meta
    }
}

/// What an operation came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Pushed(Vec<LocalId>),
    /// Stored, but on fewer replicas than the queue asks for. The script does not know: WAIT says so.
    Unconfirmed(Vec<LocalId>, Shortage),
    /// Redis is out of memory; nothing was stored.
    OutOfMemory,
    /// The queue holds as many jobs as it may; nothing was stored.
    Full,
    /// Pushing is paused; nothing was stored.
    Paused,
    /// This job holds the unique key; nothing was stored.
    Duplicate(LocalId),
    /// The unique key is in another partition; nothing was stored.
    KeyNotHere(NotHere),
    /// This tick was made, by another proxy or in another partition.
    Made,
    Acked(u32),
    Nacked(u32),
    Extended(u32),
    Returned,
    /// As many as were ready, at most as many as asked for.
    Popped(Vec<Job>),
}

/// Replicas that confirmed, of how many, within which time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    pub confirmed: u32,
    pub asked: u32,
    pub within: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchReply {
    pub standing: Standing,
    /// How long Redis was in the script, if that was measured.
    pub spent: Option<Duration>,
    /// One for each operation, in their order.
    pub outcomes: Vec<Outcome>,
}

impl BatchReply {
    /// What was pushed is on too few replicas.
    pub fn fall_short(&mut self, shortage: Shortage) {
        for outcome in &mut self.outcomes {
            if let Outcome::Pushed(ids) = outcome {
                *outcome = Outcome::Unconfirmed(std::mem::take(ids), shortage);
            }
        }
    }
}

//! A call of a lane, from when it is made until its reply is here.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::lane::To;
use super::operation::Operation;
use super::single::Single;
use crate::resp::OwnedRequest;
use crate::script::batch::Shortage;
use crate::script::loans::KeyWanted;

/// Who waits for a call's outcomes, in their order, and since when.
pub type Askers = Vec<(To, Instant)>;

/// The call that has been sent, and who waits for which of its outcomes.
#[derive(Debug)]
pub struct Flight {
    pub sequence: u64,
    pub sent: Instant,
    pub call: Call,
    /// Those that waited too long have been answered and are `Nobody` since.
    pub to: Askers,
    /// As it was sent, should Redis have forgotten the script.
    pub bytes: Bytes,
    pub wait: Option<Wait>,
}

impl Flight {
    pub fn outgoing(&self) -> Outgoing {
        Outgoing {
            bytes: self.bytes.clone(),
            waits: self.wait.is_some(),
        }
    }
}

/// A call as it is sent.
#[derive(Debug)]
pub struct Outgoing {
    pub bytes: Bytes,
    /// WAIT is the last of it.
    pub waits: bool,
}

/// What WAIT is asked for behind a call that pushes.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    pub replicas: u32,
    pub timeout: Duration,
}

impl Wait {
    /// Behind the call itself, in the same bytes.
    pub fn behind(self, call: &Bytes) -> Bytes {
        let (replicas, timeout) = (self.replicas.to_string(), self.timeout.as_millis().max(1).to_string());
        let wait = OwnedRequest::from_words(&["WAIT", &replicas, &timeout]);
        [call, wait.as_request().raw()].concat().into()
    }

    /// `None`: as many as were asked for have it.
    pub fn shortage(self, confirmed: u32) -> Option<Shortage> {
        (confirmed < self.replicas).then_some(Shortage {
            confirmed,
            asked: self.replicas,
            within: self.timeout,
        })
    }
}

/// What a lane sends.
#[derive(Debug)]
pub enum Call {
    Batch {
        operations: Vec<Operation>,
        /// Pops are parked here besides those in the batch.
        parked: bool,
    },
    /// Unique keys that belong to this partition.
    Lend(Vec<KeyWanted>),
    Single(Single),
}

impl Call {
    /// It removes the queue.
    pub fn drops(&self) -> bool {
        matches!(self, Self::Single(Single::Drop { .. } | Single::DropPart { .. }))
    }

    /// It stores what replicas are to have before its client is answered.
    pub fn pushes(&self) -> bool {
        let is_push = |operation: &Operation| matches!(operation, Operation::Push(_));
        match self {
            Self::Batch { operations, .. } => operations.iter().any(is_push),
            Self::Lend(_) => true,
            Self::Single(_) => false,
        }
    }
}

//! What is for partitions that this worker does not know: put off until partition 0 has said which there are.

use std::time::Instant;

use bytes::Bytes;

use super::Queues;
use super::partitions::Queue;
use crate::asker::Asker;
use crate::queue::lane::{QueueKey, To};
use crate::queue::operation::{Claim, Operation, Return};
use crate::queue::parse::Ask;

/// It waits until partition 0 was asked which partitions there are, by a call later than `since`.
pub(super) struct PutOff {
    errand: Errand,
    at: Instant,
    since: u64,
}

pub(super) enum Errand {
    Ask {
        asker: Asker,
        ask: Box<Ask>,
        pipelined: bool,
    },
    GiveBack {
        partition: u16,
        returns: Vec<Return>,
    },
    Lapse(Vec<Claim>),
    /// This worker was called there.
    Come(u16),
}

impl PutOff {
    /// Who has waited for it since before `deadline`.
    fn asker_since(&self, deadline: Instant) -> Option<Asker> {
        match self.errand {
            Errand::Ask { asker, .. } if self.at <= deadline => Some(asker),
            _ => None,
        }
    }
}

impl Queue {
    pub fn has_put_off(&self) -> bool {
        !self.put_off.is_empty()
    }

    pub fn has_put_off_since(&self, deadline: Instant) -> bool {
        self.put_off
            .iter()
            .any(|put_off| put_off.asker_since(deadline).is_some())
    }
}

impl Queues {
    /// What is for a partition that this worker does not know: partition 0 is asked first.
    pub(super) fn put_off(&mut self, queue: QueueKey, errand: Errand, now: Instant) {
        let since = self.sequence;
        let known = &mut self.queues[queue as usize];
        known.put_off.push(PutOff { errand, at: now, since });
        self.ask_partition_0(queue);
    }

    /// Partition 0 has said which partitions there are, by the call of that number.
    pub(super) fn run_errands(&mut self, queue: QueueKey, sequence: u64, now: Instant) {
        for put_off in self.take_put_off(queue, |put_off| put_off.since < sequence) {
            self.run_errand(queue, put_off.errand, now);
        }
    }

    fn run_errand(&mut self, queue: QueueKey, errand: Errand, now: Instant) {
        match errand {
            Errand::Ask { asker, ask, pipelined } => self.ask_known(queue, asker, *ask, pipelined, now),
            Errand::GiveBack { partition, returns } => {
                if let Some(lane) = self.lane_of(queue, partition) {
                    self.for_nobody(lane, Operation::Return(returns), now);
                }
            }
            Errand::Lapse(claims) => self.lapse_known(queue, claims, now),
            Errand::Come(partition) => {
                if let Some(lane) = self.lane_of(queue, partition) {
                    self.come(lane);
                }
            }
        }
    }

    /// Partition 0 could not be asked: who waits for that is told why.
    pub(super) fn refuse_errands(&mut self, queue: QueueKey, line: &Bytes, now: Instant) {
        for put_off in self.take_put_off(queue, |_| true) {
            if let Errand::Ask { asker, .. } = put_off.errand {
                self.refuse(To::Asker(asker), line.clone(), now);
            }
        }
    }

    /// Those put off for too long.
    pub(super) fn give_up_put_off(&mut self, queue: QueueKey, deadline: Instant) -> Vec<To> {
        let late = self.take_put_off(queue, |put_off| put_off.asker_since(deadline).is_some());
        let askers = late.iter().filter_map(|put_off| put_off.asker_since(deadline));
        askers.map(To::Asker).collect()
    }

    fn take_put_off(&mut self, queue: QueueKey, leaves: impl Fn(&PutOff) -> bool) -> Vec<PutOff> {
        let put_off = &mut self.queues[queue as usize].put_off;
        let (taken, left) = std::mem::take(put_off).into_iter().partition(leaves);
        *put_off = left;
        taken
    }
}

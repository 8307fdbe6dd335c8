//! The jobs that a connection has popped with `BOUND` and not finished: they go back when it closes.

use std::collections::{HashMap, VecDeque};

use crate::queue::id::LocalId;
use crate::queue::operation::{Claim, QueueName};

/// Jobs that are remembered of one connection. Who finishes them over another connection leaves them here; beyond so many
/// the oldest are forgotten, and only their leases guard them.
const MOST: usize = 10_000;

#[derive(Debug, Default)]
pub struct Bound {
    deliveries: HashMap<Key, u32, ahash::RandomState>,
    /// As they were popped; some are finished.
    order: VecDeque<Key>,
}

/// Queue, partition and job.
type Key = (QueueName, u16, LocalId);

impl Bound {
    pub fn add(&mut self, queue: &QueueName, partition: u16, job: LocalId, delivery: u32) {
        let key = (queue.clone(), partition, job);
        if self.deliveries.insert(key.clone(), delivery).is_none() {
            self.order.push_back(key);
        }
        while self.deliveries.len() > MOST {
            let Some(oldest) = self.order.pop_front() else { return };
            self.deliveries.remove(&oldest);
        }
        if self.order.len() > 16 + 2 * self.deliveries.len() {
            self.order.retain(|key| self.deliveries.contains_key(key));
        }
    }

    /// It is finished, or was never delivered.
    pub fn remove(&mut self, queue: &QueueName, partition: u16, job: LocalId) {
        self.deliveries.remove(&(queue.clone(), partition, job));
    }

    /// What is left, queue by queue.
    pub fn take(&mut self) -> HashMap<QueueName, Vec<Claim>> {
        self.order.clear();
        let mut claims: HashMap<QueueName, Vec<Claim>> = HashMap::new();
        for ((queue, partition, job), delivery) in self.deliveries.drain() {
            claims.entry(queue).or_default().push(Claim {
                partition,
                job,
                delivery: Some(delivery),
            });
        }
        claims
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(n: usize) -> LocalId {
        LocalId::parse(format!("hbx1wjzk2{n:05}n").as_bytes()).unwrap()
    }

    #[test]
    fn what_is_finished_is_forgotten_and_the_rest_is_bounded() {
        let queue = QueueName::new(b"q").unwrap();
        let mut bound = Bound::default();
        for n in 0..MOST + 2 {
            bound.add(&queue, 0, job(n), 1);
        }
        bound.remove(&queue, 1, job(6));
        bound.remove(&queue, 0, job(5));
        let left = bound.take().remove(&queue).unwrap();
        assert_eq!(left.len(), MOST - 1);
        assert!(!left.iter().any(|claim| [0, 1, 5].map(job).contains(&claim.job)));
        assert!(bound.take().is_empty());
    }
}

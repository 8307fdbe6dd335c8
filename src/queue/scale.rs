//! How large the calls of plain jobs are: such jobs cost Redis so little that as many go in one call as it can do in a short time.

use std::time::Duration;

use super::gather::{BATCH_JOBS, BATCH_POPS, weight};
use super::operation::Operation;

/// A call of plain jobs may take Redis about so long.
const PLAIN_TAKES: Duration = Duration::from_micros(800);
/// And hold so many times as much as others, at most.
const LARGEST: f64 = 4.0;

/// How many times as much as others a call of plain jobs may hold, by how long the last of them took: 1 to [`LARGEST`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale(f64);

impl Default for Scale {
    fn default() -> Self {
        Self(1.0)
    }
}

impl Scale {
    #[cfg(test)]
    pub fn of(times: f64) -> Self {
        Self(times)
    }

    /// These took so long; `None`: they were not plain. It grows and shrinks by a quarter of the way, as Redis may have been
    /// interrupted, and a small call, which costs little but what every call costs, teaches nothing.
    pub fn learn(&mut self, operations: &[Operation], spent: Option<Duration>) {
        let Some(spent) = spent else {
            *self = Self::default();
            return;
        };
        let (mut jobs, mut pops) = (0, 0);
        for operation in operations {
            match operation {
                Operation::Pop(pop) => pops += pop.count,
                _ => jobs += weight(operation).0,
            }
        }
        let size = (jobs as f64 / BATCH_JOBS as f64).max(f64::from(pops) / f64::from(BATCH_POPS));
        if size < 0.75 || spent.is_zero() {
            return;
        }
        let fits = (size * PLAIN_TAKES.div_duration_f64(spent)).clamp(1.0, LARGEST);
        self.0 += (fits - self.0) / 4.0;
    }

    pub fn jobs(self) -> usize {
        (BATCH_JOBS as f64 * self.0) as usize
    }

    pub fn pops(self) -> u32 {
        (f64::from(BATCH_POPS) * self.0) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::id::LocalId;
    use crate::queue::operation::Claim;

    fn acks(jobs: usize) -> Vec<Operation> {
        let claim = Claim {
            partition: 0,
            job: LocalId::parse(b"abcdefghij00n").unwrap(),
            delivery: Some(1),
        };
        vec![Operation::Ack(vec![claim; jobs])]
    }

    #[test]
    fn plain_calls_grow_until_they_take_long_and_shrink_when_they_do() {
        let mut scale = Scale::default();
        scale.learn(&acks(BATCH_JOBS), Some(PLAIN_TAKES / 3));
        assert!((1.4..1.6).contains(&scale.0), "{scale:?}: half of the way to 3");
        for _ in 0..50 {
            scale.learn(&acks(scale.jobs()), Some(PLAIN_TAKES.mul_f64(scale.0 / 3.0)));
        }
        assert!((2.9..3.0).contains(&scale.0), "{scale:?}");
        scale.learn(&acks(BATCH_JOBS / 2), Some(PLAIN_TAKES / 100));
        assert!((2.9..3.0).contains(&scale.0), "a small call teaches nothing");
        scale.learn(&acks(scale.jobs()), Some(PLAIN_TAKES * 2));
        assert!(
            (2.6..2.7).contains(&scale.0),
            "{scale:?}: not by a half, as one call proves nothing"
        );
        for _ in 0..50 {
            scale.learn(&acks(scale.jobs()), Some(PLAIN_TAKES.mul_f64(scale.0 / 1.5)));
        }
        assert!((1.5..1.6).contains(&scale.0), "{scale:?}");
        scale.learn(&acks(BATCH_JOBS), Some(Duration::from_micros(1)));
        scale.learn(&acks(1), None);
        assert_eq!(scale, Scale::default(), "they are not plain any more");
        for _ in 0..50 {
            scale.learn(&acks(scale.jobs()), Some(Duration::from_micros(1)));
        }
        assert!(scale.0 <= LARGEST);
    }
}

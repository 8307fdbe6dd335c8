//! Who works.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::{Party, QUEUE, Shared, Told, What};
use crate::support::Reply;

const GIVEN_BACK: usize = 7; // each seventh job, on its first attempt

#[derive(Clone, Copy)]
pub struct Consumer {
    /// Several of them by QMPOP.
    pub queues: &'static [&'static str],
    /// 1: without COUNT.
    pub count: usize,
    /// In ms.
    pub block: usize,
    /// Pops `BOUND`, and of so many jobs goes away with one, for good; 0: does not.
    pub leaves_each: usize,
}

struct Job {
    queue: &'static str,
    receipt: String,
    given_back: bool,
}

impl Consumer {
    pub const PLAIN: Consumer = Consumer {
        queues: &[QUEUE],
        count: 1,
        block: 200,
        leaves_each: 0,
    };

    pub(super) fn run(&self, shared: &Shared, number: usize) {
        // The producers' shift by one: a queue served by two proxies is pushed through one and popped through the other.
        let mut party = Party::of(shared, number + 1);
        let mut seen = number;
        while !shared.drained.load(Relaxed) {
            party.go_home();
            let goes_on = match self.pop(&mut party, &mut seen) {
                None => party.reconnect(),
                Some(jobs) if jobs.is_empty() => true,
                Some(jobs) if self.leaves_each > 0 && seen.is_multiple_of(self.leaves_each) => leave(&mut party, jobs),
                Some(jobs) => settle(&mut party, jobs),
            };
            if !goes_on {
                return;
            }
        }
    }

    /// What was popped; `None`: the connection is lost.
    fn pop(&self, party: &mut Party, seen: &mut usize) -> Option<Vec<Job>> {
        let (block, count) = (self.block.to_string(), self.count.to_string());
        let lease = party.shared.mix.lease.as_millis().to_string();
        let how_many = self.queues.len().to_string();
        let mut words = match self.queues {
            [queue] => vec!["QPOP", queue],
            queues => [&["QMPOP", how_many.as_str()], queues].concat(),
        };
        words.extend(["BLOCK", &block, "LEASE", &lease]);
        words.extend((self.count > 1).then_some(["COUNT", &count]).into_iter().flatten());
        words.extend((self.leaves_each > 0).then_some("BOUND"));
        let asked = Instant::now();
        let jobs = match party.call(self.queues[0], &words) {
            Told::Reply(reply) if reply.is_null() => {
                for queue in self.queues {
                    party.history().note(asked, queue, What::Waited);
                }
                return Some(Vec::new());
            }
            Told::Reply(Reply::Array(jobs)) if self.count > 1 => jobs,
            Told::Reply(job) => vec![job],
            Told::Refused(_) => return Some(Vec::new()),
            Told::Closed => return None,
        };
        Some(jobs.iter().map(|job| self.note(party, asked, job, seen)).collect())
    }

    fn note(&self, party: &mut Party, asked: Instant, job: &Reply, seen: &mut usize) -> Job {
        let [queue, receipt, payload, attempt] = job.items() else {
            panic!("no job: {job}");
        };
        let (queue, receipt, attempt) = (queue.text(), receipt.text(), attempt.integer());
        let queue = self.queues.iter().find(|asked| **asked == queue);
        let queue = *queue.unwrap_or_else(|| panic!("of another queue: {job}"));
        let delivered = What::Delivered {
            payload: payload.text(),
            receipt: receipt.clone(),
            attempt,
        };
        party.history().note(asked, queue, delivered);
        *seen += 1;
        Job {
            queue,
            receipt,
            given_back: attempt == 1 && seen.is_multiple_of(GIVEN_BACK),
        }
    }
}

/// Goes away with its jobs, which are given back with its connection, and comes again. False: it cannot.
fn leave(party: &mut Party, jobs: Vec<Job>) -> bool {
    let asked = Instant::now();
    let came_back = party.connect_anew();
    for Job { queue, receipt, .. } in jobs {
        let what = What::GivenBack { receipt, counted: 1 };
        party.history().note(asked, queue, what);
    }
    came_back
}

/// Says what became of each job, until that is heard of all. False: the connection was lost, for good.
fn settle(party: &mut Party, mut jobs: Vec<Job>) -> bool {
    while let Some(first) = jobs.first() {
        let queue = first.queue;
        let calls: Vec<Vec<&str>> = jobs
            .iter()
            .map(|job| match job.given_back {
                true => vec!["QNACK", job.queue, &job.receipt, "DELAY", "0"],
                false => vec!["QACK", job.queue, &job.receipt],
            })
            .collect();
        let asked = Instant::now();
        let mut told = party.call_all(queue, &calls).into_iter();
        let mut lost = false;
        jobs.retain(|job| {
            let told = told.next().unwrap_or(Told::Closed);
            lost |= matches!(told, Told::Closed);
            !is_settled(party, asked, job, told)
        });
        if lost && !party.reconnect() {
            return false;
        }
    }
    true
}

fn is_settled(party: &Party, asked: Instant, job: &Job, told: Told) -> bool {
    let receipt = job.receipt.clone();
    let (what, settled) = match told {
        Told::Reply(reply) if job.given_back => (
            What::GivenBack {
                receipt,
                counted: reply.integer(),
            },
            true,
        ),
        Told::Reply(reply) => (
            What::Acked {
                receipt,
                counted: reply.integer(),
            },
            true,
        ),
        Told::Refused(error) if !error.starts_with("UNCERTAIN") => return false,
        Told::Refused(_) | Told::Closed => (What::Doubted { receipt }, false),
    };
    if matches!(what, What::Acked { .. }) {
        party.shared.tally(job.queue).close();
    }
    party.history().note(asked, job.queue, what);
    settled
}

//! QCHECK: each way in which a queue can be unsound is made by writing to Redis behind the queue's back, found, named, and
//! mended, after which the queue serves all its jobs; and a sound one is never called anything else.

use bytes::Bytes;
use millrace::queue::operation::{Finish, JobOptions, Operation, Priority, Push, Start, Unique};
use millrace::script::check::{Found, KINDS, Place};

use crate::lane::{Bench, Lane, by_receipt};
use crate::support::{Client, Reply};

struct Queue {
    lane: Lane,
    client: Client,
}

impl Queue {
    fn new() -> Self {
        let bench = Bench::start();
        Self {
            lane: Lane::new(&bench, "orders", "w1"),
            client: bench.connect(),
        }
    }

    fn redis(&mut self, command: &str) -> Reply {
        let key = |word: &str| match word.strip_prefix("T:") {
            Some(key) => format!("q:{{orders/0}}:{key}"),
            None => word.replace('_', " "),
        };
        let tagged: Vec<_> = command.split(' ').map(key).collect();
        self.client.call(&tagged.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// What it finds, by name; mends it; then there is nothing left to find.
    fn finds(&mut self, expected: &[(&str, u64)]) {
        assert_eq!(named(&self.lane.check(false)), expected, "found");
        assert_eq!(named(&self.lane.check(false)), expected, "looking changes nothing");
        self.lane.check(true);
        let rest = self.lane.check(true);
        assert_eq!(named(&rest), [], "left after the repair");
        assert_eq!(named(&self.lane.check(false)), [], "left after the repair");
    }
}

fn named(found: &Found) -> Vec<(&'static str, u64)> {
    let all = KINDS.into_iter().zip(found.kinds);
    all.filter(|(_, count)| *count > 0).collect()
}

fn many(count: usize) -> Operation {
    let payloads = (0..count)
        .map(|number| Bytes::from(number.to_string()).into())
        .collect();
    Operation::Push(Push {
        payloads,
        options: JobOptions::default(),
    })
}

fn grouped() -> JobOptions {
    JobOptions {
        group: Some("g".into()),
        ..JobOptions::default()
    }
}

#[test]
fn a_sound_queue_with_a_bit_of_everything_is_called_sound() {
    let mut queue = Queue::new();
    let lane = &mut queue.lane;
    lane.one(many(700));
    for priority in Priority::ALL {
        lane.push_with(
            "p",
            JobOptions {
                priority,
                ..JobOptions::default()
            },
        );
    }
    for start in [Start::After(1000), Start::Now] {
        let unique = Some(Unique {
            key: format!("{start:?}").into(),
            hold: Some(10_000),
            loan: None,
        });
        lane.push_with(
            "u",
            JobOptions {
                start,
                unique,
                ttl: Some(5000),
                ..grouped()
            },
        );
    }
    let jobs = lane.pop(20);
    for job in &jobs[..10] {
        lane.nack(by_receipt(job), None);
    }
    lane.one(Operation::Finish(Finish {
        claims: jobs[10..15].iter().map(by_receipt).collect(),
        result: "done".into(),
        ttl: None,
    }));
    lane.delete(&[jobs[16].id]);
    let found = lane.check(false);
    assert_eq!((named(&found), found.jobs), (vec![], 700));
    lane.bench.advance(60_000);
    assert_eq!(named(&lane.check(true)), []);
}

#[test]
fn a_body_in_no_index_goes_to_the_back_of_its_priority() {
    let mut queue = Queue::new();
    let lost = queue.lane.push("lost");
    queue.lane.push("other");
    queue.redis(&format!("LREM T:ready:normal 1 {lost:?}"));
    queue.finds(&[("bodies_in_no_index", 1)]);
    assert_eq!(queue.lane.pop_payloads(9), ["other", "lost"]);
}

#[test]
fn a_delayed_job_that_lost_its_date_is_delayed_again() {
    let mut queue = Queue::new();
    let start = Start::After(1000);
    let lost = queue.lane.push_with(
        "lost",
        JobOptions {
            start,
            ..JobOptions::default()
        },
    );
    queue.redis(&format!("ZREM T:delayed {lost:?}"));
    queue.finds(&[("bodies_in_no_index", 1)]);
    assert_eq!(queue.lane.stats().delayed, 1);
}

#[test]
fn entries_without_a_body_go() {
    let mut queue = Queue::new();
    for payload in ["ready", "leased", "delayed", "dead"] {
        let start = match payload {
            "delayed" => Start::After(1000),
            _ => Start::Now,
        };
        queue.lane.push_with(
            payload,
            JobOptions {
                start,
                ..JobOptions::default()
            },
        );
    }
    let (ready, leased) = (queue.lane.pop(1), queue.lane.pop(1));
    queue.redis(&format!("HDEL T:jobs {:?}", leased[0].id));
    queue.redis("ZADD T:dead 9999999999999 nobody0000n");
    queue.finds(&[("entries_without_body", 2)]);
    queue.lane.ack(by_receipt(&ready[0]));
    let last = queue.lane.push("last");
    queue.redis(&format!("HDEL T:jobs {last:?}"));
    queue.finds(&[("entries_without_body", 1)]);
    assert_eq!(
        queue.lane.stats().normal,
        1,
        "an entry that stands for nothing is no ready job"
    );
    assert_eq!(queue.lane.pop_payloads(9), ["dead"]);
}

#[test]
fn a_job_in_two_states_keeps_one() {
    let mut queue = Queue::new();
    queue.lane.one(many(3));
    let leased = queue.lane.pop(1).remove(0);
    queue.redis(&format!("ZADD T:delayed 9999999999999 {:?}", leased.id));
    queue.finds(&[("jobs_in_two_states", 1)]);
    queue.redis(&format!("RPUSH T:ready:normal {:?}", leased.id));
    queue.finds(&[("jobs_in_two_states", 1)]);
    let twice = queue.lane.pop(1).remove(0);
    queue.lane.nack(by_receipt(&twice), Some(0));
    queue.lane.stats();
    queue.redis(&format!("RPUSH T:ready:normal {:?}", twice.id));
    queue.finds(&[("jobs_in_two_states", 1)]);
    assert_eq!(queue.lane.pop_payloads(9), ["2", "1"]);
    assert_eq!(queue.lane.ack(by_receipt(&leased)), 1, "who has it keeps it");
}

#[test]
fn what_is_kept_for_nobody_goes() {
    let mut queue = Queue::new();
    let ttl = Some(100_000);
    let job = queue.lane.push_with(
        "a",
        JobOptions {
            ttl,
            ..JobOptions::default()
        },
    );
    queue.redis("HSET T:meta nobody0000n x");
    queue.finds(&[("records_without_body", 1)]);
    queue.redis("HSET T:unique key nobody0000n");
    queue.redis("ZADD T:holds 9999999999999 other");
    queue.finds(&[("keys_for_nobody", 2)]);
    queue.redis("ZADD T:expiry 9999999999999 nobody0000n");
    queue.redis(&format!("ZREM T:expiry {job:?}"));
    queue.finds(&[("ttls_astray", 2)]);
    assert_eq!(queue.redis(&format!("ZSCORE T:expiry {job:?}")).text(), "1700000100000");
    queue.redis("HSET T:results nobody0000n x");
    queue.redis("ZADD T:result_ends 9999999999999 nobody0000n");
    queue.redis("ZADD T:result_ends 9999999999999 somebody000n");
    queue.finds(&[("results_astray", 1)]);
    queue.redis("ZADD T:awaited 0 nobody0000n_w1");
    queue.redis("HSET T:stats h 3");
    queue.finds(&[("waits_for_nobody", 1), ("tombstones_miscounted", 3)]);
}

#[test]
fn a_group_that_could_not_go_on_goes_on() {
    let mut queue = Queue::new();
    let [a, b] = ["a", "b"].map(|payload| queue.lane.push_with(payload, grouped()));
    queue.redis("DEL T:groups");
    assert_eq!(queue.lane.pop_payloads(9), [""; 0]);
    queue.lane.check(true);
    queue.lane.check(true);
    assert_eq!(named(&queue.lane.check(false)), []);
    assert_eq!(queue.lane.pop_payloads(9), ["a"]);
    queue.lane.delete(&[a]);
    queue.redis(&format!("ZREM T:groups {}t{b:?}.2", "\u{1}g"));
    queue.lane.check(true);
    queue.lane.check(true);
    assert_eq!(named(&queue.lane.check(false)), []);
    assert_eq!(queue.lane.pop_payloads(9), ["b"]);
}

/// Longer than what is looked at in one call: the lists are taken apart while the queue is used.
#[test]
fn a_long_queue_is_mended_while_it_is_used_and_keeps_its_order() {
    let mut queue = Queue::new();
    queue.lane.one(many(3000));
    let first = queue.lane.pop(1).remove(0);
    for at in [100, 2000] {
        let id = queue.redis(&format!("LINDEX T:ready:normal {at}")).text();
        queue.redis(&format!("LREM T:ready:normal 1 {id}"));
    }
    let bodiless = queue.redis("LINDEX T:ready:normal 1000").text();
    queue.redis(&format!("HDEL T:jobs {bodiless}"));
    assert_eq!(
        named(&queue.lane.check(false)),
        [("bodies_in_no_index", 1)],
        "what the sum shows"
    );

    let (mut next, mut calls, mut popped) = (Some(Place::first_of(0)), 0, Vec::new());
    while let Some(place) = next {
        next = queue.lane.check_from(place, true).next;
        calls += 1;
        if calls == 15 {
            popped = queue.lane.pop(2);
            queue.lane.one(many(1));
            queue.lane.one(Operation::Return(vec![back(&first)]));
        }
    }
    assert!(calls > 20, "{calls} calls");
    assert_eq!(named(&queue.lane.check(false)), []);
    let mut payloads: Vec<usize> = queue
        .lane
        .pop_payloads(5000)
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    assert_eq!(payloads.len() + popped.len(), 3000);
    assert_eq!(payloads.remove(0), 0, "what came back is first");
    let mut lost = payloads.split_off(payloads.len() - 2);
    lost.sort();
    assert_eq!(lost, [101, 2002], "at the back");
    let pushed_meanwhile = payloads.pop();
    assert_eq!(pushed_meanwhile, Some(0));
    assert!(payloads.is_sorted(), "in the order of the pushes");
    assert_eq!(queue.redis("EXISTS T:sift T:sifted").integer(), 0);
}

fn back(job: &millrace::script::Job) -> millrace::queue::operation::Return {
    millrace::queue::operation::Return {
        job: job.id,
        delivery: job.delivery,
        taken: None,
        lost: false,
    }
}

/// No call looks at more than its part.
#[test]
fn a_call_looks_at_a_bounded_part() {
    let mut queue = Queue::new();
    queue.lane.one(many(20_000));
    let (mut next, mut jobs) = (Some(Place::first_of(0)), 0);
    while let Some(place) = next {
        let found = queue.lane.check_from(place, false);
        assert!(found.jobs <= 1000, "{} jobs", found.jobs);
        assert_eq!(named(&found), []);
        jobs += found.jobs;
        next = found.next;
    }
    assert!(jobs >= 20_000);
}

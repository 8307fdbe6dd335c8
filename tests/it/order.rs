//! Which job goes first, under a hundred clients of two proxies, judged from what they noted and from nothing else.
//!
//! A client knows when it asked and when it was told, and what happened in Redis happened in between. So one job should have
//! gone before another if it surely was there first, or surely was there and of a higher rank, when the other was popped; and
//! it did not if its own pop was asked only after the other one's reply had come. In a queue of several partitions that holds within
//! each of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use crate::support::{Client, PATIENCE, Proxy, RedisServer, Reply, wait_until};

const PRODUCERS: usize = 20;
const CONSUMERS: usize = 80;
const EACH: usize = 30;

/// Between asking and being told.
#[derive(Clone, Copy)]
struct Span {
    asked: Instant,
    told: Instant,
}

impl Span {
    fn is_before(self, other: Span) -> bool {
        self.told < other.asked
    }
}

/// A job's push and its pop.
struct Life {
    payload: String,
    /// 0 goes before all others.
    rank: usize,
    partition: String,
    pushed: Span,
    popped: Span,
}

impl Life {
    fn should_go_before(&self, other: &Life) -> bool {
        self.partition == other.partition
            && (self.rank < other.rank && self.pushed.is_before(other.popped)
                || self.rank == other.rank && self.pushed.is_before(other.pushed))
    }
}

fn call(client: &mut Client, words: &[&str]) -> (Reply, Span) {
    let asked = Instant::now();
    let reply = client.call(words);
    let told = Instant::now();
    (reply, Span { asked, told })
}

/// `push`: the words of a push of this rank; `pop`: those of a pop. It begins when there are so many jobs.
fn run(partitions: &str, push: impl Fn(usize) -> Vec<&'static str> + Sync, pop: &[&str], backlog: usize) -> Vec<Life> {
    let redis = RedisServer::start();
    let proxies = [0, 1].map(|_| {
        let plan = Proxy::before(&redis).set("queues.\"*\".partitions", partitions);
        plan.start()
    });
    let (pushed, popped) = (Mutex::new(HashMap::new()), Mutex::new(Vec::new()));
    let left = AtomicUsize::new(PRODUCERS * EACH);
    thread::scope(|scope| {
        for producer in 0..PRODUCERS {
            let mut client = proxies[producer % 2].client();
            let (push, pushed) = (&push, &pushed);
            scope.spawn(move || {
                for number in 0..EACH {
                    let (payload, rank) = (format!("{producer}.{number}"), number % 3);
                    let mut words = push(rank);
                    words.insert(2, &payload);
                    let (id, span) = call(&mut client, &words);
                    let known = pushed.lock().unwrap().insert(payload, (rank, span, id.text()));
                    assert!(known.is_none());
                }
            });
        }
        for consumer in 0..CONSUMERS {
            let mut client = proxies[consumer % 2].client();
            let (left, popped) = (&left, &popped);
            let pushed = &pushed;
            scope.spawn(move || {
                wait_until(PATIENCE, "the backlog", || pushed.lock().unwrap().len() >= backlog);
                while left.load(Ordering::Relaxed) > 0 {
                    let (job, span) = call(&mut client, pop);
                    if !job.is_null() {
                        left.fetch_sub(1, Ordering::Relaxed);
                        popped.lock().unwrap().push((job.items()[2].text(), span));
                    }
                }
            });
        }
    });
    let (mut pushed, popped) = (pushed.into_inner().unwrap(), popped.into_inner().unwrap());
    let ids: BTreeSet<_> = pushed.values().map(|(.., id)| id.clone()).collect();
    assert_eq!(ids.len(), PRODUCERS * EACH, "an id was given twice");
    let life = |(payload, popped)| {
        let (rank, pushed, id) = pushed
            .remove(&payload)
            .unwrap_or_else(|| panic!("{payload} came twice"));
        Life {
            payload,
            rank,
            partition: id.split('-').nth(1).unwrap().to_owned(),
            pushed,
            popped,
        }
    };
    popped.into_iter().map(life).collect()
}

#[track_caller]
fn none_was_overtaken(lives: &[Life]) {
    let mut compared = 0;
    for one in lives {
        for other in lives.iter().filter(|other| one.should_go_before(other)) {
            compared += 1;
            assert!(
                !other.popped.is_before(one.popped),
                "{} of rank {} came after {} of rank {}",
                one.payload,
                one.rank,
                other.payload,
                other.rank
            );
        }
    }
    assert!(compared > lives.len(), "only {compared} pairs have an order");
}

#[test]
fn jobs_are_served_by_priority_and_within_one_in_the_order_of_their_pushes() {
    const PRIORITIES: [&str; 3] = ["urgent", "normal", "low"];
    for partitions in ["1", "3"] {
        let lives = run(
            partitions,
            |rank| vec!["QPUSH", "q", "PRIORITY", PRIORITIES[rank]],
            &["QPOP", "q", "NOACK"],
            PRODUCERS * EACH / 2,
        );
        none_was_overtaken(&lives);
    }
}

#[test]
fn queues_are_served_in_the_order_in_which_they_are_named() {
    const QUEUES: [&str; 3] = ["first", "second", "third"];
    let lives = run(
        "1",
        |rank| vec!["QPUSH", QUEUES[rank]],
        &["QMPOP", "3", "first", "second", "third", "NOACK"],
        PRODUCERS * EACH / 2,
    );
    none_was_overtaken(&lives);
}

#[test]
fn those_who_wait_are_served_in_the_order_of_the_pushes_too() {
    for partitions in ["1", "3"] {
        let pop = ["QPOP", "q", "BLOCK", "50", "NOACK"];
        let lives = run(partitions, |_| vec!["QPUSH", "q"], &pop, 0);
        // Whatever the rank was, it was said to nobody.
        let lives: Vec<_> = lives.into_iter().map(|life| Life { rank: 0, ..life }).collect();
        none_was_overtaken(&lives);
    }
}

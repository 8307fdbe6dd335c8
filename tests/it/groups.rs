//! A hundred clients through two proxies: order within groups, jobs of a group at once, rates, and the queue's own limits,
//! judged from what the clients noted and from nothing else.
//!
//! A client surely has a job from the moment it was told of it until it asks to acknowledge it, and it got it after it had asked.
//! So whatever these times show as too many at once, as too many in a time, or as out of order, was so.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use crate::support::{Client, Proxy, RedisServer};

const GROUPS: usize = 10;
const EACH: usize = 40;
const CONSUMERS: usize = 90;
/// Of the queue, from its first job on.
const PARTITIONS: [&str; 2] = ["1", "3"];

/// One delivery.
struct Held {
    group: usize,
    number: usize,
    asked: Instant,
    told: Instant,
    acked: Instant,
}

fn produce(client: &mut Client, group: usize) {
    for number in 0..EACH {
        let payload = format!("{group} {number}");
        let id = client.call(&["QPUSH", "q", &payload, "GROUP", &group.to_string()]);
        assert!(!id.text().is_empty());
    }
}

fn consume(client: &mut Client, acked: &AtomicUsize, notes: &Mutex<Vec<Held>>) {
    while acked.load(Ordering::Relaxed) < GROUPS * EACH {
        let asked = Instant::now();
        let job = client.call(&["QPOP", "q", "BLOCK", "100"]);
        if job.is_null() {
            continue;
        }
        let told = Instant::now();
        let (receipt, payload) = (job.items()[1].text(), job.items()[2].text());
        let (group, number) = payload.split_once(' ').unwrap();
        client.call(&["PING"]); // the work
        let held = Held {
            group: group.parse().unwrap(),
            number: number.parse().unwrap(),
            asked,
            told,
            acked: Instant::now(),
        };
        assert_eq!(client.call(&["QACK", "q", &receipt]).integer(), 1);
        acked.fetch_add(1, Ordering::Relaxed);
        notes.lock().unwrap().push(held);
    }
}

/// How many were held together, at most.
fn most_at_once<'a>(notes: impl Iterator<Item = &'a Held> + Clone) -> usize {
    let together = |at: Instant| notes.clone().filter(|held| held.told <= at && at < held.acked).count();
    notes.clone().map(|held| together(held.told)).max().unwrap_or(0)
}

/// Whether so many a second, and a second's worth at once, allow all of these, in whatever stretch of time one looks.
#[track_caller]
fn are_within_rate<'a>(notes: impl Iterator<Item = &'a Held>, a_second: usize) {
    let mut notes: Vec<_> = notes.collect();
    notes.sort_by_key(|held| held.told);
    for start in notes.iter().map(|held| held.asked) {
        let within = notes.iter().filter(|held| held.asked >= start);
        for (before, held) in within.enumerate() {
            let allowed = a_second as f64 * (1.0 + (held.told - start).as_secs_f64());
            assert!(
                before as f64 <= allowed,
                "{before} deliveries where the rate allows {allowed}"
            );
        }
    }
}

/// All deliveries under these settings, in the order in which the clients were told, by their groups.
fn run(settings: &str, partitions: &str) -> BTreeMap<usize, Vec<Held>> {
    let redis = RedisServer::start();
    let proxies = [0, 1].map(|_| {
        let plan = Proxy::before(&redis).set("queues.\"*\".partitions", partitions);
        plan.start()
    });
    assert_eq!(
        proxies[0].client().run(&format!("QCONFIG SET q {settings}")).text(),
        "OK"
    );
    let (acked, notes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for group in 0..GROUPS {
            let mut client = proxies[group % 2].client();
            scope.spawn(move || produce(&mut client, group));
        }
        for consumer in 0..CONSUMERS {
            let mut client = proxies[consumer % 2].client();
            let (acked, notes) = (&acked, &notes);
            scope.spawn(move || consume(&mut client, acked, notes));
        }
    });
    let mut notes: Vec<Held> = notes.into_inner().unwrap();
    notes.sort_by_key(|held| held.told);
    let mut groups: BTreeMap<usize, Vec<Held>> = BTreeMap::new();
    for held in notes {
        groups.entry(held.group).or_default().push(held);
    }
    assert_eq!(groups.len(), GROUPS);
    for (group, notes) in &groups {
        let mut numbers: Vec<_> = notes.iter().map(|held| held.number).collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..EACH), "not each job of group {group} once");
    }
    groups
}

#[test]
fn groups_keep_their_order_and_the_queue_its_limits() {
    for partitions in PARTITIONS {
        let groups = run("concurrency 6 rate 200/s", partitions);
        for (group, notes) in &groups {
            assert!(
                notes.is_sorted_by_key(|held| held.number),
                "group {group} is out of order"
            );
            assert_eq!(most_at_once(notes.iter()), 1, "of group {group} at once");
        }
        let all = || groups.values().flatten();
        are_within_rate(all(), 200);
        let at_once = most_at_once(all());
        assert!(at_once <= 6, "{at_once} of the queue at once");
    }
}

#[test]
fn a_group_has_no_more_jobs_at_once_than_it_may() {
    for partitions in PARTITIONS {
        for (group, notes) in run("group_concurrency 3", partitions) {
            let at_once = most_at_once(notes.iter());
            assert!(at_once <= 3, "{at_once} of group {group} at once");
        }
    }
}

#[test]
fn each_group_keeps_to_its_rate() {
    for partitions in PARTITIONS {
        for notes in run("group_rate 25/s", partitions).values() {
            are_within_rate(notes.iter(), 25);
        }
    }
}

//! A hundred clients through two proxies: order within groups, jobs of a group at once, and the queue's own limits, judged
//! from what the clients noted and from nothing else.
//!
//! A client surely has a job from the moment it was told of it until it asks to acknowledge it. So whatever these times show
//! as too many at once, or as out of order, was so.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use crate::support::{Client, Proxy, RedisServer};

const GROUPS: usize = 10;
const EACH: usize = 40;
const CONSUMERS: usize = 90;
const GROUP_CONCURRENCY: usize = 1;
const CONCURRENCY: usize = 6;
const RATE: usize = 200; // a second, which the bucket holds at once

/// One delivery.
struct Held {
    group: usize,
    number: usize,
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

#[test]
fn groups_and_limits_hold_for_a_hundred_clients_of_two_proxies() {
    let redis = RedisServer::start();
    let proxies = [0, 1].map(|_| Proxy::before(&redis).start());
    let (concurrency, rate) = (CONCURRENCY.to_string(), format!("{RATE}/s"));
    let limits = ["QCONFIG", "SET", "q", "concurrency", &concurrency, "rate", &rate];
    assert_eq!(proxies[0].client().call(&limits).text(), "OK");

    let (acked, notes, start) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Instant::now());
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

    let mut notes = notes.into_inner().unwrap();
    notes.sort_by_key(|held| held.told);
    let mut seen: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (at, held) in notes.iter().enumerate() {
        seen.entry(held.group).or_default().push(held.number);
        let allowed = RATE as f64 * (1.0 + (held.told - start).as_secs_f64());
        assert!(at as f64 <= allowed, "{at} deliveries where the rate allows {allowed}");
    }
    for (group, numbers) in &seen {
        assert!(numbers.iter().copied().eq(0..EACH), "group {group}: {numbers:?}");
        let at_once = most_at_once(notes.iter().filter(|held| held.group == *group));
        assert!(at_once <= GROUP_CONCURRENCY, "{at_once} of group {group} at once");
    }
    assert_eq!(seen.len(), GROUPS);
    let at_once = most_at_once(notes.iter());
    assert!(at_once <= CONCURRENCY, "{at_once} of the queue at once");
}

//! Unique keys, under a hundred clients of two proxies that all want the same few, judged from what they noted.
//!
//! A job surely holds its key from the first reply that names it until a worker asks to acknowledge it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Client, PATIENCE, Proxy, RedisServer, wait_until};

const PUSHERS: usize = 60;
const WORKERS: usize = 40;
const KEYS: usize = 4;
const JOBS: usize = 5; // of each key, before the pushers are content
/// Of the queue, from its first job on.
const PARTITIONS: [&str; 2] = ["1", "3"];
const HOLD: Duration = Duration::from_millis(100);

/// One job, as the clients saw it.
struct Job {
    key: String,
    /// When it was asked for by the first push that was answered with its id, and when that was answered.
    asked: Instant,
    told: Instant,
    acked: Option<Instant>,
}

#[derive(Default)]
struct Notes(Mutex<BTreeMap<String, Job>>);

impl Notes {
    fn are_enough(&self) -> bool {
        let jobs = self.0.lock().unwrap();
        let had = |key: usize| jobs.values().filter(|job| job.key == format!("key-{key}")).count();
        (0..KEYS).all(|key| had(key) >= JOBS)
    }

    fn pushed(&self, id: String, key: &str, asked: Instant) {
        let (told, key) = (Instant::now(), key.to_owned());
        let mut jobs = self.0.lock().unwrap();
        let job = jobs.entry(id).or_insert(Job {
            key: key.clone(),
            asked,
            told,
            acked: None,
        });
        assert_eq!(job.key, key);
        (job.asked, job.told) = (job.asked.min(asked), job.told.min(told));
    }
}

fn push(client: &mut Client, number: usize, hold: &[&str], notes: &Notes) {
    let hold_ms = HOLD.as_millis().to_string();
    let started = Instant::now();
    for round in 0.. {
        if notes.are_enough() {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "a key was not free often enough");
        let key = format!("key-{}", (number + round) % KEYS);
        let group = format!("group-{}", (number * 7 + round) % 5);
        let mut words = vec!["QPUSH", "q", &key, "UNIQUE", &key];
        if group != "group-0" {
            words.extend(["GROUP", &group]);
        }
        words.extend(hold);
        words.extend((!hold.is_empty()).then_some(hold_ms.as_str()));
        let asked = Instant::now();
        let id = client.call(&words).text();
        notes.pushed(id, &key, asked);
    }
}

fn work(client: &mut Client, is_over: &AtomicBool) -> Vec<(String, Instant)> {
    let mut acked = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let job = client.call(&["QPOP", "q", "BLOCK", "20"]);
        if job.is_null() {
            continue;
        }
        let receipt = job.items()[1].text();
        let id = receipt.split(':').next().unwrap().to_owned();
        acked.push((id, Instant::now()));
        assert_eq!(client.call(&["QACK", "q", &receipt]).integer(), 1);
    }
    acked
}

/// All jobs that there were, by their keys.
fn run(hold: &[&str], partitions: &str) -> BTreeMap<String, Vec<Job>> {
    let redis = RedisServer::start();
    let proxies = [0, 1].map(|_| {
        let plan = Proxy::before(&redis).set("queues.\"*\".partitions", partitions);
        plan.start()
    });
    let (notes, is_over) = (Notes::default(), AtomicBool::new(false));
    let mut delivered = Vec::new();
    thread::scope(|scope| {
        let workers = (0..WORKERS).map(|number| {
            let mut client = proxies[number % 2].client();
            let is_over = &is_over;
            scope.spawn(move || work(&mut client, is_over))
        });
        let workers: Vec<_> = workers.collect();
        let pushers = (0..PUSHERS).map(|number| {
            let mut client = proxies[number % 2].client();
            let notes = &notes;
            scope.spawn(move || push(&mut client, number, hold, notes))
        });
        pushers
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|pusher| pusher.join().unwrap());
        let mut client = proxies[0].client();
        wait_until(PATIENCE, "all jobs are done", || {
            let stats = client.run("QSTATS q");
            stats.field("acked") == stats.field("pushed")
        });
        is_over.store(true, Ordering::Relaxed);
        delivered = workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect();
    });
    let mut jobs = notes.0.into_inner().unwrap();
    for (id, at) in &delivered {
        let job = jobs
            .get_mut(id)
            .unwrap_or_else(|| panic!("{id} was delivered, and no push was told of it"));
        assert!(job.acked.replace(*at).is_none(), "{id} was delivered twice");
    }
    let ids: BTreeSet<_> = delivered.into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), jobs.len(), "a job was never delivered");
    let mut by_key: BTreeMap<String, Vec<Job>> = BTreeMap::new();
    for job in jobs.into_values() {
        by_key.entry(job.key.clone()).or_default().push(job);
    }
    for jobs in by_key.values_mut() {
        jobs.sort_by_key(|job| job.told);
    }
    by_key
}

#[test]
fn a_key_is_held_by_one_job_at_a_time() {
    for partitions in PARTITIONS {
        let by_key = run(&[], partitions);
        assert_eq!(by_key.len(), KEYS);
        for (key, jobs) in by_key {
            for pair in jobs.windows(2) {
                let acked = pair[0].acked.unwrap();
                assert!(acked < pair[1].told, "two jobs held {key}");
            }
        }
    }
}

#[test]
fn a_key_is_held_for_as_long_as_the_push_said() {
    for partitions in PARTITIONS {
        let by_key = run(&["FOR"], partitions);
        assert_eq!(by_key.len(), KEYS);
        for (key, jobs) in by_key {
            for pair in jobs.windows(2) {
                let apart = pair[1].told - pair[0].asked;
                assert!(apart >= HOLD, "{key} was held for {apart:?} only");
            }
        }
    }
}

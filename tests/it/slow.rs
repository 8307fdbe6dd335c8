//! How long a call holds Redis beside a million jobs, by Redis's own slow log: what benches/scripts.md says of it. It takes a
//! minute and a quiet machine, as the slow log counts whatever else the machine does meanwhile; so it runs when it is asked for:
//! `cargo test --test it -- slow --ignored --nocapture`.

use std::time::Duration;

use bytes::Bytes;
use millrace::queue::operation::{JobOptions, Nack, Operation, Pop, Priority, Push, Unique};
use millrace::queue::scale::Scale;
use millrace::script::Outcome;
use millrace::script::mend::{REVIVED, Revive};
use millrace::script::remove::DELETED;

use crate::lane::{Bench, Lane, by_receipt};
use crate::support::Client;

const JOBS: usize = 1_000_000;
const CALLS: usize = 1000;

/// What the jobs of a row have besides their payload.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Plain,
    /// Each a key of its own.
    Unique,
    /// Each a group of its own.
    Groups,
    /// One of ten groups.
    TenGroups,
}

/// Of a kind each job is pushed by a request of its own, and goes before those beside it.
fn pushes(kind: Kind, count: usize, pushed: &mut usize) -> Vec<Operation> {
    let one = |number: usize| {
        let name = |name: &str, number: usize| Bytes::from(format!("{name}-{number}"));
        let (unique, group) = match kind {
            Kind::Plain => (None, None),
            Kind::Unique => (Some(name("key", number)), None),
            Kind::Groups => (None, Some(name("group", number))),
            Kind::TenGroups => (None, Some(name("group", number % 10))),
        };
        let options = JobOptions {
            priority: Priority::Urgent,
            unique: unique.map(|key| Unique {
                key,
                hold: None,
                loan: None,
            }),
            group,
            ..JobOptions::default()
        };
        let payloads = vec![Bytes::from(vec![b'x'; 200]).into()];
        Operation::Push(Push { payloads, options })
    };
    *pushed += count;
    match kind {
        Kind::Plain => vec![push(count)],
        _ => (*pushed - count..*pushed).map(one).collect(),
    }
}

fn push(count: usize) -> Operation {
    let payload = Bytes::from(vec![b'x'; 200]);
    Operation::Push(Push {
        payloads: (0..count).map(|_| payload.clone().into()).collect(),
        options: JobOptions::default(),
    })
}

fn pop(count: usize) -> Operation {
    Operation::Pop(Pop {
        count: count as u32,
        lease: None,
        noack: false,
        waits: false,
    })
}

/// Seconds of CPU that Redis has spent.
fn cpu(client: &mut Client) -> f64 {
    let info = client.run("INFO cpu").text();
    number(&info, "used_cpu_user:", "") + number(&info, "used_cpu_sys:", "")
}

/// What stands behind `field` in the line that begins with `line`.
fn number(info: &str, line: &str, field: &str) -> f64 {
    let line = info.lines().find_map(|each| each.strip_prefix(line)).unwrap();
    let value = line.split_once(field).unwrap().1;
    value.split(',').next().unwrap().parse().unwrap()
}

/// How many calls the slow log has, and the longest, µs.
fn slow_calls(client: &mut Client) -> (usize, String) {
    let slow = client.run("SLOWLOG GET -1");
    let longest = slow.items().iter().map(|entry| entry.items()[2].integer()).max();
    let longest = longest.map_or("-".to_owned(), |longest| longest.to_string());
    (slow.items().len(), longest)
}

#[test]
#[ignore = "a measurement"]
fn a_call_within_the_bounds_of_a_batch_beside_a_million_jobs() {
    let bench = Bench::start();
    let mut lane = Lane::new(&bench, "orders", "w1");
    for _ in 0..JOBS / 5000 {
        lane.one(push(5000));
    }
    let mut client = bench.connect();
    client.run("CONFIG SET slowlog-log-slower-than 2000");
    client.run("CONFIG SET slowlog-max-len 10000");
    println!(
        "jobs | acks, pushes, pops | µs a call | CPU, system calls too | of {CALLS} calls over 2 ms | the longest of these, µs"
    );
    let plain = [
        (67, 67, 67),
        (200, 0, 75),
        (0, 100, 75),
        (0, 100, 0),
        (0, 0, 75),
        (150, 150, 150),
        (250, 250, 250),
    ];
    let mut rows: Vec<_> = plain.map(|row| (Kind::Plain, row)).to_vec();
    for kind in [Kind::Unique, Kind::Groups, Kind::TenGroups] {
        rows.extend([
            (kind, (22, 22, 22)),
            (kind, (0, 33, 0)),
            (kind, (67, 67, 67)),
            (kind, (0, 100, 0)),
        ]);
    }
    let mut total = 0;
    for (kind, (settled, pushed, popped)) in rows {
        if !matches!(kind, Kind::Plain) {
            lane.purge(None);
            (0..JOBS / 50_000).for_each(|_| drop(lane.one(push(5000))));
            lane.batch(&pushes(kind, settled, &mut total));
        }
        let mut leased = lane.pop(settled as u32);
        client.run("SLOWLOG RESET");
        client.run("CONFIG RESETSTAT");
        let before = cpu(&mut client);
        for _ in 0..CALLS {
            let acks = Operation::Ack(leased.iter().map(by_receipt).collect());
            let mut operations = Vec::new();
            operations.extend((settled > 0).then_some(acks));
            operations.extend(
                (pushed > 0)
                    .then(|| pushes(kind, pushed, &mut total))
                    .into_iter()
                    .flatten(),
            );
            operations.extend((popped > 0).then(|| pop(popped)));
            let outcomes = lane.batch(&operations).outcomes;
            if let (Some(Outcome::Popped(jobs)), true) = (outcomes.into_iter().next_back(), settled > 0) {
                leased = jobs;
            }
        }
        let spent = (cpu(&mut client) - before) * 1e6 / CALLS as f64;
        let each = number(
            &client.run("INFO commandstats").text(),
            "cmdstat_evalsha:",
            "usec_per_call=",
        );
        let (slow, longest) = slow_calls(&mut client);
        println!(
            "{kind:?} | {settled}, {pushed}, {popped} | {each:.0} | {spent:.0} | {} | {}",
            slow, longest
        );
    }
}

/// Calls of plain jobs, as large as a lane makes them by what the last ones took.
#[test]
#[ignore = "a measurement"]
fn plain_calls_as_large_as_they_may_be_beside_a_million_jobs() {
    let bench = Bench::start();
    let mut lane = Lane::new(&bench, "orders", "w1");
    let mut client = bench.connect();
    client.run("CONFIG SET slowlog-log-slower-than 2000");
    client.run("CONFIG SET slowlog-max-len 10000");
    println!("waiting | jobs a call, each phase | µs a call | of {CALLS} calls over 2 ms | the longest of these, µs");
    for waiting in [10_000, 200_000, JOBS, JOBS] {
        while lane.stats().ready() < waiting as u64 {
            lane.one(push(5000));
        }
        let (mut scale, mut leased, mut jobs) = (Scale::default(), lane.pop(10), 0);
        let mut all = 0.0;
        client.run("SLOWLOG RESET");
        for _ in 0..CALLS {
            let count = scale.jobs() / 3;
            let acks = Operation::Ack(leased.iter().map(by_receipt).collect());
            let operations = [acks, push(count), pop(count)];
            client.run("CONFIG RESETSTAT");
            let reply = lane.try_plain(&operations).expect("they are plain");
            // The script itself goes by the clock of the tests, which stands still.
            let info = client.run("INFO commandstats").text();
            let spent = number(&info, "cmdstat_evalsha:", "usec=") / 1e6;
            scale.learn(&operations, Some(Duration::from_secs_f64(spent)));
            (jobs, all) = (jobs + count, all + spent);
            if let Some(Outcome::Popped(jobs)) = reply.outcomes.into_iter().next_back() {
                leased = jobs;
            }
        }
        let each = all * 1e6 / CALLS as f64;
        let (slow, longest) = slow_calls(&mut client);
        println!("{waiting} | {} | {each:.0} | {} | {}", jobs / CALLS, slow, longest);
        lane.one(Operation::Ack(leased.iter().map(by_receipt).collect()));
    }
}

/// Upkeep and mending, of jobs of every kind: the calls that bring back, remove and revive as many as one call may.
#[test]
#[ignore = "a measurement"]
fn a_call_that_brings_back_mends_or_removes() {
    const MANY: usize = 2000;
    let bench = Bench::start();
    let mut client = bench.connect();
    client.run("CONFIG SET slowlog-log-slower-than 0");
    client.run("CONFIG SET slowlog-max-len 100000");
    println!("jobs | what | calls | median µs | the longest, µs");
    for kind in [Kind::Plain, Kind::Unique, Kind::Groups, Kind::TenGroups] {
        let mut total = 0;
        bench.restart_time();
        let mut lane = Lane::new(&bench, "orders", "w1");
        for _ in 0..MANY / 50 {
            lane.batch(&pushes(kind, 50, &mut total));
        }
        let mut look = |what: &str| {
            let slow = client.run("SLOWLOG GET -1");
            client.run("SLOWLOG RESET");
            let calls = slow
                .items()
                .iter()
                .filter(|entry| entry.items()[3].items()[0].text() == "EVALSHA");
            let mut took: Vec<i64> = calls.map(|entry| entry.items()[2].integer()).collect();
            took.sort();
            let (median, longest) = (took[took.len() / 2], took[took.len() - 1]);
            println!("{kind:?} | {what} | {} | {median} | {longest}", took.len());
        };
        let pop_all = |lane: &mut Lane| -> Vec<_> {
            let pops = std::iter::from_fn(|| Some(lane.pop(37)).filter(|jobs| !jobs.is_empty()));
            pops.flatten().collect()
        };
        look("push");
        let leased = pop_all(&mut lane);
        look("pop");
        bench.advance(600_000);
        lane.stats();
        look("lapse");
        for jobs in pop_all(&mut lane).chunks(100) {
            let claims = jobs.iter().map(by_receipt).collect();
            lane.one(Operation::Nack(Nack {
                claims,
                delay: Some(1000),
                error: None,
                dead: false,
            }));
        }
        look("pop, nack");
        bench.advance(2000);
        lane.stats();
        look("fall due");
        for jobs in pop_all(&mut lane).chunks(100) {
            let claims = jobs.iter().map(by_receipt).collect();
            lane.one(Operation::Nack(Nack {
                claims,
                delay: None,
                error: None,
                dead: true,
            }));
        }
        look("pop, dead");
        while lane.revive(Revive::Dead(REVIVED as u64)) > 0 {}
        look("revive");
        let ids: Vec<_> = leased.iter().map(|job| job.id).collect();
        for ids in ids.chunks(DELETED) {
            lane.delete(ids);
        }
        look("delete");
        for _ in 0..MANY / 50 {
            lane.batch(&pushes(kind, 50, &mut total));
        }
        look("push again");
        lane.purge(None);
        look("purge");
    }
}

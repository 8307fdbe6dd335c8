//! How long a call holds Redis beside a million jobs, by Redis's own slow log: what benches/scripts.md says of it. It takes a
//! minute and a quiet machine, as the slow log counts whatever else the machine does meanwhile; so it runs when it is asked for:
//! `cargo test --test it -- slow --ignored --nocapture`.

use bytes::Bytes;
use millrace::queue::operation::{JobOptions, Operation, Pop, Push};
use millrace::script::Outcome;

use crate::lane::{Bench, Lane, by_receipt};
use crate::support::Client;

const JOBS: usize = 1_000_000;
const CALLS: usize = 1000;

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
        "acks, pushes, pops | µs a call | CPU, system calls too | of {CALLS} calls over 2 ms | the longest of these, µs"
    );
    let rows = [
        (67, 67, 67),
        (200, 0, 75),
        (0, 100, 75),
        (0, 100, 0),
        (0, 0, 75),
        (150, 150, 150),
        (250, 250, 250),
    ];
    for (settled, pushed, popped) in rows {
        let mut leased = lane.pop(settled as u32);
        client.run("SLOWLOG RESET");
        client.run("CONFIG RESETSTAT");
        let before = cpu(&mut client);
        for _ in 0..CALLS {
            let acks = Operation::Ack(leased.iter().map(by_receipt).collect());
            let mut operations: Vec<_> = [(settled, acks), (pushed, push(pushed))]
                .into_iter()
                .filter_map(|(count, operation)| (count > 0).then_some(operation))
                .collect();
            if popped > 0 {
                operations.push(pop(popped));
            }
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
        let slow = client.run("SLOWLOG GET -1");
        let longest = slow.items().iter().map(|entry| entry.items()[2].integer()).max();
        println!(
            "{settled}, {pushed}, {popped} | {each:.0} | {spent:.0} | {} | {}",
            slow.items().len(),
            longest.map_or("-".to_owned(), |longest| longest.to_string())
        );
    }
}

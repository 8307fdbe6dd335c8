//! How long a call holds Redis beside a million jobs, by Redis's own slow log: what benches/scripts.md says of it. It takes a
//! minute and a quiet machine, as the slow log counts whatever else the machine does meanwhile; so it runs when it is asked for:
//! `cargo test --test it -- slow --ignored --nocapture`.

use bytes::Bytes;
use millrace::queue::operation::{JobOptions, Operation, Pop, Push};
use millrace::script::Outcome;

use crate::lane::{Bench, Lane, by_receipt};

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
    println!("acks, pushes, pops | µs a call | of {CALLS} calls over 2 ms | the longest of these, µs");
    let rows = [
        (250, 250, 250),
        (0, 250, 250),
        (133, 133, 133),
        (83, 83, 83),
        (0, 250, 0),
        (0, 0, 250),
        (75, 75, 150),
        (0, 150, 150),
        (0, 0, 150),
    ];
    for (settled, pushed, popped) in rows {
        let mut leased = lane.pop(settled as u32);
        client.run("SLOWLOG RESET");
        client.run("CONFIG RESETSTAT");
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
        let usage = client.run("INFO commandstats").text();
        let usage = usage
            .lines()
            .find(|line| line.starts_with("cmdstat_evalsha"))
            .unwrap()
            .to_owned();
        let each = usage
            .split("usec_per_call=")
            .nth(1)
            .unwrap()
            .split(',')
            .next()
            .unwrap()
            .to_owned();
        let slow = client.run("SLOWLOG GET -1");
        let longest = slow.items().iter().map(|entry| entry.items()[2].integer()).max();
        println!(
            "{settled}, {pushed}, {popped} | {each} | {} | {}",
            slow.items().len(),
            longest.map_or("-".to_owned(), |longest| longest.to_string())
        );
    }
}

//! What the scripts cost Redis: its CPU time for each whole job (push, pop with lease, ack; 200-byte payloads), by the size
//! of a batch, on an empty queue and on one with a million waiting jobs; and what a waiting job weighs.
//! The calls go one after another over a unix socket, as a lane sends them. Figures: benches/scripts.md.
#![allow(clippy::unwrap_used)]

#[path = "../tests/support/mod.rs"]
#[allow(dead_code, unused_imports)]
mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use bytes::Bytes;
use millrace::queue::operation::{Claim, JobOptions, Operation, Pop, Push, QueueName};
use millrace::queue::spread::Place;
use millrace::resp::frame::FrameScanner;
use millrace::script::{Batch, Channels, Job, Outcome, Partition, Scripts, Settings, batch, call};

use support::{Client, RedisServer};

const PAYLOAD: usize = 200;
const WAITING: usize = 1_000_000;
const LOADED: usize = 1000; // jobs a call while the queue is filled
const JOBS: usize = 100_000; // measured for each row
const CALLS: usize = 50; // of one kind in a row, where the kinds are measured apart

fn main() {
    let mut lane = Lane::start();
    println!("Redis CPU in µs. One call carries n acks, n pushes and n pops; apart: a call of one kind alone.");
    println!("waiting      n   one call    a job      push       pop       ack   calls over 2 ms");
    for waiting in [0, WAITING] {
        if waiting > 0 {
            let weight = lane.load(waiting) - PAYLOAD as f64;
            println!("a waiting job: {weight:.0} bytes beyond its payload");
        }
        for n in [1, 10, 50, 250] {
            lane.measure(waiting, n);
        }
    }
}

struct Lane {
    info: Client,
    stream: UnixStream,
    scripts: Scripts,
    partition: Partition,
    settings: Settings,
    sequence: u64,
    _redis: RedisServer,
}

impl Lane {
    fn start() -> Self {
        let redis = RedisServer::start();
        let mut info = Client::connect_unix(&redis.socket()).unwrap();
        let scripts = Scripts::new();
        for script in scripts.hot() {
            info.send_bytes(&call::load(script));
            info.receive();
        }
        info.run("CONFIG SET slowlog-log-slower-than 2000");
        Self {
            info,
            stream: UnixStream::connect(redis.socket()).unwrap(),
            scripts,
            partition: Partition::new(
                "q",
                &QueueName::new(b"bench").unwrap(),
                Place::default(),
                "w1",
                Channels::One,
            ),
            settings: Settings::default(),
            sequence: 0,
            _redis: redis,
        }
    }

    /// The bytes that a job takes.
    fn load(&mut self, jobs: usize) -> f64 {
        let before = self.field("memory", "used_memory");
        for _ in 0..jobs / LOADED {
            self.batch(&pushes(LOADED));
        }
        (self.field("memory", "used_memory") - before) / jobs as f64
    }

    fn measure(&mut self, waiting: usize, n: usize) {
        let rounds = (JOBS / n).min(10_000);
        self.combined(n, rounds / 10); // warm
        self.info.run("SLOWLOG RESET");
        let combined = self.combined(n, rounds);
        let [push, pop, ack] = self.apart(n, (rounds / CALLS).max(1));
        let slow = self.info.run("SLOWLOG LEN").integer();
        let job = combined / n as f64;
        println!("{waiting:>7} {n:>6} {combined:>10.1} {job:>8.2} {push:>9.1} {pop:>9.1} {ack:>9.1} {slow:>6}");
    }

    fn combined(&mut self, n: usize, rounds: usize) -> f64 {
        let mut jobs = Vec::new();
        let start = self.cpu();
        for _ in 0..rounds {
            let operations = [acks(&jobs), pushes(n), pops(n)].concat();
            jobs = self.batch(&operations);
        }
        let spent = self.cpu() - start;
        self.batch(&acks(&jobs));
        spent / rounds as f64
    }

    fn apart(&mut self, n: usize, rounds: usize) -> [f64; 3] {
        let mut spent = [0.0; 3];
        for _ in 0..rounds {
            let start = self.cpu();
            (0..CALLS).for_each(|_| drop(self.batch(&pushes(n))));
            let pushed = self.cpu();
            let popped: Vec<_> = (0..CALLS).map(|_| self.batch(&pops(n))).collect();
            let taken = self.cpu();
            popped.iter().for_each(|jobs| drop(self.batch(&acks(jobs))));
            let acked = self.cpu();
            for (sum, part) in spent.iter_mut().zip([pushed - start, taken - pushed, acked - taken]) {
                *sum += part;
            }
        }
        spent.map(|sum| sum / (rounds * CALLS) as f64)
    }

    fn batch(&mut self, operations: &[Operation]) -> Vec<Job> {
        self.sequence += 1;
        let batch = Batch {
            sequence: self.sequence,
            jitter: 0.5,
            parked: false,
            plain: true,
            ready: u64::MAX >> 1,
            operations,
        };
        let call = batch::encode(&self.scripts, &self.partition, &self.settings, &batch);
        self.stream.write_all(&call).unwrap();
        let reply = self.reply();
        let reply = batch::decode(operations, &self.settings, reply).unwrap();
        let popped = reply.outcomes.into_iter().filter_map(|outcome| match outcome {
            Outcome::Popped(jobs) => Some(jobs),
            _ => None,
        });
        popped.flatten().collect()
    }

    fn reply(&mut self) -> Bytes {
        let (mut input, mut scanner, mut chunk) = (Vec::new(), FrameScanner::default(), [0; 64 * 1024]);
        loop {
            let read = self.stream.read(&mut chunk).unwrap();
            assert!(read > 0, "Redis closed the connection");
            input.extend_from_slice(&chunk[..read]);
            if scanner.scan(&input).unwrap().is_some() {
                return input.into();
            }
        }
    }

    /// µs since Redis started.
    fn cpu(&mut self) -> f64 {
        1e6 * (self.field("cpu", "used_cpu_user") + self.field("cpu", "used_cpu_sys"))
    }

    fn field(&mut self, section: &str, name: &str) -> f64 {
        let info = self.info.run(&format!("INFO {section}")).text();
        let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap().parse().unwrap()
    }
}

fn pushes(n: usize) -> Vec<Operation> {
    let payload = Bytes::from(vec![b'x'; PAYLOAD]);
    let push = || {
        Operation::Push(Push {
            payloads: vec![payload.clone().into()],
            options: JobOptions::default(),
        })
    };
    (0..n).map(|_| push()).collect()
}

fn pops(n: usize) -> Vec<Operation> {
    vec![
        Operation::Pop(Pop {
            count: 1,
            lease: None,
            noack: false,
            waits: true
        });
        n
    ]
}

fn acks(jobs: &[Job]) -> Vec<Operation> {
    let claim = |job: &Job| Claim {
        partition: 0,
        job: job.id,
        delivery: Some(job.delivery),
    };
    jobs.iter().map(|job| Operation::Ack(vec![claim(job)])).collect()
}

//! Producers and consumers on threads of their own, each with one connection that it keeps: the load under which the
//! servers are broken. What they are told goes into a [`History`]; they judge nothing.
//!
//! A producer pushes one unique payload after another. A consumer pops with a lease, blocking, and acknowledges, but gives
//! back each job of a certain number on its first attempt. After `finish` the producers stop, and the consumers go on until
//! nothing is left in the queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::history::{History, What};
use crate::support::{Client, Reply, wait_until};

/// Of every pop. So long that no lease ends in a test that does not wait for it.
pub const LEASE: Duration = Duration::from_secs(60);
pub const QUEUE: &str = "orders";

const PRODUCERS: usize = 8;
const CONSUMERS: usize = 8;
const GIVEN_BACK: usize = 7; // each seventh job, on its first attempt
/// What a restarted Redis, a frozen one and a loaded machine may take together.
const WITHIN: Duration = Duration::from_secs(20);

pub struct Load {
    shared: Arc<Shared>,
    producers: Vec<JoinHandle<()>>,
    consumers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    history: History,
    acked: AtomicUsize,
    pushed: AtomicUsize,
    no_more_pushes: AtomicBool,
    drained: AtomicBool,
    /// A client's connection was, which never may be.
    closed: AtomicBool,
}

impl Load {
    /// The clients are dealt out over the addresses in turn.
    pub fn start(addresses: &[String]) -> Load {
        let shared = Arc::new(Shared::default());
        let address = |number: usize| addresses[number % addresses.len()].clone();
        let producer = |number: usize| {
            let (shared, address) = (shared.clone(), address(number));
            std::thread::spawn(move || shared.produce(&address, number))
        };
        let consumer = |number: usize| {
            // The producers' shift by one: a queue served by two proxies is pushed through one and popped through the other.
            let (shared, address) = (shared.clone(), address(number + 1));
            std::thread::spawn(move || shared.consume(&address, number))
        };
        let producers = (0..PRODUCERS).map(producer).collect();
        let consumers = (0..CONSUMERS).map(consumer).collect();
        Load {
            shared,
            producers,
            consumers,
        }
    }

    /// Until so many more jobs have gone all their way.
    #[track_caller]
    pub fn wait_for_more(&self, jobs: usize) {
        let goal = self.shared.acked.load(Relaxed) + jobs;
        wait_until(WITHIN, "the load goes on", || {
            assert!(
                !self.shared.closed.load(Relaxed),
                "{:?}",
                self.shared.history.failures().last()
            );
            self.shared.acked.load(Relaxed) >= goal
        });
    }

    /// Until some client was told an error that begins so.
    #[track_caller]
    pub fn wait_for_error(&self, prefix: &str) {
        let told = |failure: &String| {
            failure
                .split_once(": ")
                .is_some_and(|(_, error)| error.starts_with(prefix))
        };
        wait_until(WITHIN, prefix, || self.shared.history.failures().iter().any(told));
    }

    /// The end, the queue as it is. Panics if any client was told an error.
    #[track_caller]
    pub fn stop(self) {
        self.shared.no_more_pushes.store(true, Relaxed);
        self.shared.drained.store(true, Relaxed);
        let clients = self.producers.into_iter().chain(self.consumers);
        clients.for_each(|thread| thread.join().unwrap());
        let failures = self.shared.history.failures();
        assert!(failures.is_empty(), "{failures:?}");
    }

    /// No pushes from here on; when the queue is empty its history is checked. How many jobs it saw.
    #[track_caller]
    pub fn finish(self, left: impl Fn() -> i64, allowed: &[&str]) -> usize {
        self.shared.no_more_pushes.store(true, Relaxed);
        self.producers.into_iter().for_each(|thread| thread.join().unwrap());
        let stopped = Instant::now();
        wait_until(WITHIN, "the end", || left() == 0 || stopped.elapsed() > WITHIN / 2);
        self.shared.drained.store(true, Relaxed);
        self.consumers.into_iter().for_each(|thread| thread.join().unwrap());
        self.shared.history.check(LEASE, allowed);
        assert_eq!(left(), 0, "jobs are left of which the clients know that they are done");
        self.shared.pushed.load(Relaxed)
    }
}

impl Shared {
    fn produce(&self, address: &str, number: usize) {
        let mut client = Client::connect(address).unwrap();
        let mut round = 0;
        while !self.no_more_pushes.load(Relaxed) {
            round += 1;
            let payload = format!("{number}.{round}");
            let asked = Instant::now();
            match self.call(&mut client, &["QPUSH", QUEUE, &payload]) {
                Told::Reply(reply) => {
                    self.pushed.fetch_add(1, Relaxed);
                    let id = reply.text();
                    self.history.note(asked, What::Pushed { payload, id });
                }
                Told::Refused(_) => {}
                Told::Closed => return,
            }
        }
    }

    fn consume(&self, address: &str, number: usize) {
        let mut client = Client::connect(address).unwrap();
        let lease = LEASE.as_millis().to_string();
        let mut seen = number;
        while !self.drained.load(Relaxed) {
            let asked = Instant::now();
            let job = match self.call(&mut client, &["QPOP", QUEUE, "BLOCK", "200", "LEASE", &lease]) {
                Told::Reply(reply) if reply.is_null() => continue,
                Told::Reply(job) => job,
                Told::Refused(_) => continue,
                Told::Closed => return,
            };
            let [_, receipt, payload, attempt] = job.items() else {
                panic!("no job: {job}");
            };
            let (receipt, payload, attempt) = (receipt.text(), payload.text(), attempt.integer());
            let delivered = What::Delivered {
                payload,
                receipt: receipt.clone(),
                attempt,
            };
            self.history.note(asked, delivered);
            seen += 1;
            let gives_back = attempt == 1 && seen.is_multiple_of(GIVEN_BACK);
            if !self.settle(&mut client, receipt, gives_back) {
                return;
            }
        }
    }

    /// Says what became of a job, until that is heard. False: the connection was closed.
    fn settle(&self, client: &mut Client, receipt: String, gives_back: bool) -> bool {
        loop {
            let asked = Instant::now();
            let told = match gives_back {
                true => self.call(client, &["QNACK", QUEUE, &receipt, "DELAY", "0"]),
                false => self.call(client, &["QACK", QUEUE, &receipt]),
            };
            let counted = match told {
                Told::Reply(reply) => reply.integer(),
                Told::Refused(error) => {
                    if error.starts_with("UNCERTAIN") {
                        let receipt = receipt.clone();
                        self.history.note(asked, What::Doubted { receipt });
                    }
                    continue;
                }
                Told::Closed => return false,
            };
            let what = match gives_back {
                true => What::GivenBack { receipt, counted },
                false => What::Acked { receipt, counted },
            };
            self.history.note(asked, what);
            self.acked.fetch_add(usize::from(!gives_back), Relaxed);
            return true;
        }
    }

    fn call(&self, client: &mut Client, words: &[&str]) -> Told {
        let asked = Instant::now();
        let (told, error) = match client.try_call(words) {
            Ok(Reply::Error(error)) => (Told::Refused(error.clone()), error),
            Ok(reply) => return Told::Reply(reply),
            Err(error) => (Told::Closed, error.to_string()),
        };
        if matches!(told, Told::Closed) {
            self.closed.store(true, Relaxed);
        }
        let call = words[0].to_owned();
        self.history.note(asked, What::Failed { call, error });
        told
    }
}

enum Told {
    Reply(Reply),
    /// An error, which is noted.
    Refused(String),
    /// No reply: the connection was closed, or nothing came for long. Noted, and the end of this client.
    Closed,
}

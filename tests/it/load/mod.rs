//! Producers and consumers on threads of their own, each with one connection that it keeps: the load under which the
//! servers are broken. What they are told goes into a [`History`]; they judge nothing.
//!
//! A producer pushes one unique payload after another. A consumer pops with a lease, blocking, and acknowledges, but gives
//! back each job of a certain number on its first attempt. After `finish` the producers stop, and the consumers go on until
//! nothing is left in the queues.

mod consumer;
mod producer;
mod tally;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use consumer::Consumer;
pub use producer::Producer;

use tally::Tally;

use super::history::{History, Rules, Verdict, What};
use crate::support::client::encode;
use crate::support::{Client, Reply, wait_until};

/// Of every pop. So long that no lease ends in a test that does not wait for it.
pub const LEASE: Duration = Duration::from_secs(60);
pub const QUEUE: &str = "orders";

/// What a restarted Redis, a frozen one, an election and a loaded machine may take together.
const WITHIN: Duration = Duration::from_secs(20);

/// How an error begins that is no server's: the connection was closed, or no reply came.
pub const LOST: &str = "LOST ";

/// Who works, and how.
#[derive(Clone, Copy)]
pub struct Mix {
    pub producers: &'static [Producer],
    pub consumers: &'static [Consumer],
    pub lease: Duration,
    /// Whoever loses its connection makes another one. Else no connection may be lost.
    pub reconnects: bool,
}

impl Mix {
    /// One queue, one job after another, in every hand.
    pub const PLAIN: Mix = Mix {
        producers: &[Producer::PLAIN; 8],
        consumers: &[Consumer::PLAIN; 8],
        lease: LEASE,
        reconnects: false,
    };

    /// A bit of everything: groups, delays, pipelines, COUNT, BOUND, several queues, a queue that is mostly empty.
    pub const VARIED: Mix = Mix {
        producers: &[
            Producer::PLAIN,
            Producer::PLAIN,
            Producer {
                groups: 3,
                ..Producer::PLAIN
            },
            Producer {
                queue: "grouped",
                groups: 5,
                burst: 4,
                ..Producer::PLAIN
            },
            Producer {
                queue: "grouped",
                groups: 5,
                ..Producer::PLAIN
            },
            Producer {
                queue: "burst",
                burst: 16,
                ..Producer::PLAIN
            },
            Producer {
                queue: "late",
                delay: 40,
                burst: 4,
                ..Producer::PLAIN
            },
            Producer {
                queue: "sparse",
                backlog: 1,
                ..Producer::PLAIN
            },
        ],
        consumers: &[
            Consumer::PLAIN,
            Consumer::PLAIN,
            Consumer {
                queues: &["grouped"],
                ..Consumer::PLAIN
            },
            Consumer {
                queues: &["grouped"],
                count: 5,
                ..Consumer::PLAIN
            },
            Consumer {
                queues: &["burst"],
                count: 10,
                ..Consumer::PLAIN
            },
            Consumer {
                queues: &["late", "burst"],
                count: 4,
                ..Consumer::PLAIN
            },
            Consumer {
                queues: &["late"],
                leaves_each: 25,
                ..Consumer::PLAIN
            },
            Consumer {
                queues: &["sparse"],
                block: 5000,
                ..Consumer::PLAIN
            },
            Consumer {
                queues: &["sparse"],
                block: 5000,
                ..Consumer::PLAIN
            },
        ],
        lease: LEASE,
        reconnects: false,
    };

    /// All queues that jobs are pushed to.
    pub fn queues(&self) -> Vec<&'static str> {
        let mut queues: Vec<_> = self.producers.iter().map(|producer| producer.queue).collect();
        queues.sort_unstable();
        queues.dedup();
        queues
    }
}

pub struct Load {
    shared: Arc<Shared>,
    producers: Vec<JoinHandle<()>>,
    consumers: Vec<JoinHandle<()>>,
}

/// What all clients of a load share.
struct Shared {
    mix: Mix,
    addresses: Vec<String>,
    history: History,
    /// A queue each.
    tallies: Vec<Tally>,
    pushed: AtomicUsize,
    no_more_pushes: AtomicBool,
    drained: AtomicBool,
    /// A client's connection was, which never may be.
    closed: AtomicBool,
    /// How often all clients were sent to their own addresses.
    sent_home: AtomicUsize,
}

impl Load {
    /// The clients are dealt out over the addresses in turn.
    pub fn start(addresses: &[String]) -> Load {
        Self::of(Mix::PLAIN, addresses)
    }

    pub fn of(mix: Mix, addresses: &[String]) -> Load {
        let shared = Arc::new(Shared {
            mix,
            addresses: addresses.to_vec(),
            history: History::new(),
            tallies: mix.queues().into_iter().map(Tally::of).collect(),
            pushed: AtomicUsize::new(0),
            no_more_pushes: AtomicBool::new(false),
            drained: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            sent_home: AtomicUsize::new(0),
        });
        let producer = |(number, producer): (usize, &Producer)| {
            let (shared, producer) = (shared.clone(), *producer);
            std::thread::spawn(move || producer.run(&shared, number))
        };
        let consumer = |(number, consumer): (usize, &Consumer)| {
            let (shared, consumer) = (shared.clone(), *consumer);
            std::thread::spawn(move || consumer.run(&shared, number))
        };
        let producers = mix.producers.iter().enumerate().map(producer).collect();
        let consumers = mix.consumers.iter().enumerate().map(consumer).collect();
        Load {
            shared,
            producers,
            consumers,
        }
    }

    pub fn queues(&self) -> Vec<&'static str> {
        self.shared.mix.queues()
    }

    pub fn history(&self) -> &History {
        &self.shared.history
    }

    /// Until so many more jobs have gone all their way.
    #[track_caller]
    pub fn wait_for_more(&self, jobs: usize) {
        let done = || self.shared.tallies.iter().map(Tally::done).sum::<usize>();
        let goal = done() + jobs;
        self.wait_until("the load goes on", || done() >= goal);
    }

    /// Until so many more jobs of each queue have.
    #[track_caller]
    pub fn wait_for_more_of_each(&self, jobs: usize) {
        for tally in &self.shared.tallies {
            let goal = tally.done() + jobs;
            self.wait_until(&format!("{} goes on", tally.queue), || tally.done() >= goal);
        }
    }

    #[track_caller]
    fn wait_until(&self, what: &str, condition: impl Fn() -> bool) {
        wait_until(WITHIN, what, || {
            let failures = || self.shared.history.failures();
            assert!(!self.shared.closed.load(Relaxed), "{:?}", failures().last());
            condition()
        });
    }

    /// All addresses are served again: whoever went to another than its own goes back, before its next call.
    pub fn send_home(&self) {
        self.shared.sent_home.fetch_add(1, Relaxed);
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

    /// The end, the queues as they are. Panics if any client was told an error.
    #[track_caller]
    pub fn stop(self) {
        self.shared.stop_pushing();
        self.shared.drained.store(true, Relaxed);
        let clients = self.producers.into_iter().chain(self.consumers);
        clients.for_each(|thread| thread.join().unwrap());
        let failures = self.shared.history.failures();
        assert!(failures.is_empty(), "{failures:?}");
    }

    /// No pushes from here on; when the queue is empty its history is checked. How many jobs it saw.
    #[track_caller]
    pub fn finish(self, left: impl Fn() -> i64, allowed: &[&str]) -> usize {
        let rules = Rules::strict(self.shared.mix.lease).allow(allowed);
        let shared = self.shared.clone();
        self.finish_by(&rules, left);
        shared.pushed.load(Relaxed)
    }

    /// The same by other rules, and what the history came to.
    #[track_caller]
    pub fn finish_by(self, rules: &Rules, left: impl Fn() -> i64) -> Verdict {
        self.shared.stop_pushing();
        self.producers.into_iter().for_each(|thread| thread.join().unwrap());
        let stopped = Instant::now();
        wait_until(WITHIN, "the end", || left() == 0 || stopped.elapsed() > WITHIN / 2);
        self.shared.drained.store(true, Relaxed);
        self.consumers.into_iter().for_each(|thread| thread.join().unwrap());
        let verdict = self.shared.history.check(rules);
        assert_eq!(left(), 0, "jobs are left of which the clients know that they are done");
        verdict
    }
}

/// What a call came to.
enum Told {
    Reply(Reply),
    /// An error, which is noted.
    Refused(String),
    /// No reply: the connection was closed, or nothing came for long. Noted.
    Closed,
}

/// One client of a load: its connection, and which address is its own.
struct Party<'a> {
    shared: &'a Shared,
    client: Client,
    number: usize,
    is_away: bool,
    sent_home: usize,
}

impl<'a> Party<'a> {
    fn of(shared: &'a Shared, number: usize) -> Party<'a> {
        let address = &shared.addresses[number % shared.addresses.len()];
        Party {
            shared,
            client: Client::connect(address).unwrap(),
            number,
            is_away: false,
            sent_home: 0,
        }
    }

    fn history(&self) -> &'a History {
        &self.shared.history
    }

    /// One call; it is about `queue`.
    fn call(&mut self, queue: &'static str, words: &[&str]) -> Told {
        match self.call_all(queue, &[words.to_vec()]).pop() {
            Some(told) => told,
            None => Told::Closed,
        }
    }

    /// All in one write; their replies in their order, and fewer of them if the connection is lost.
    fn call_all(&mut self, queue: &'static str, calls: &[Vec<&str>]) -> Vec<Told> {
        let asked = Instant::now();
        let bytes: Vec<u8> = calls.iter().flat_map(|words| encode(words)).collect();
        let sent = self.client.try_send_bytes(&bytes);
        let mut told = Vec::new();
        for words in calls {
            let reply = match &sent {
                Ok(()) => self.client.try_receive().map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            let error = match reply {
                Ok(Reply::Error(error)) => error,
                Ok(reply) => {
                    told.push(Told::Reply(reply));
                    continue;
                }
                Err(error) => format!("{LOST}{error}"),
            };
            let closed = error.starts_with(LOST);
            told.push(if closed {
                Told::Closed
            } else {
                Told::Refused(error.clone())
            });
            let call = words[0].to_owned();
            self.history().note(asked, queue, What::Failed { call, error });
            if closed {
                break;
            }
        }
        told
    }

    /// After a lost connection. False: that is the end of this client.
    fn reconnect(&mut self) -> bool {
        let comes_back = self.shared.mix.reconnects && self.connect_anew();
        self.shared.closed.fetch_or(!comes_back, Relaxed);
        comes_back
    }

    fn own_address(&self) -> &'a String {
        &self.shared.addresses[self.number % self.shared.addresses.len()]
    }

    /// If it was told to, and is elsewhere. Of one that holds no job and has no call on its way.
    fn go_home(&mut self) {
        let sent_home = self.shared.sent_home.load(Relaxed);
        if std::mem::replace(&mut self.sent_home, sent_home) != sent_home && self.is_away {
            self.connect_anew();
        }
    }

    /// To its own address, or the next that answers.
    fn connect_anew(&mut self) -> bool {
        let started = Instant::now();
        for number in self.number.. {
            let address = &self.shared.addresses[number % self.shared.addresses.len()];
            // Being accepted is no answer: there may be nobody behind what accepts.
            let answers = Client::connect(address).and_then(|mut client| client.try_call(&["PING"]).map(|_| client));
            if let Ok(client) = answers {
                self.client = client;
                self.is_away = address != self.own_address();
                return true;
            }
            if started.elapsed() > WITHIN {
                break;
            }
            std::thread::sleep(Duration::from_millis(5)); // whoever is refused does not ask in a frenzy
        }
        false
    }
}

impl Shared {
    fn tally(&self, queue: &str) -> &Tally {
        let found = self.tallies.iter().find(|tally| tally.queue == queue);
        found.unwrap_or_else(|| panic!("nobody pushes to {queue}"))
    }

    fn stop_pushing(&self) {
        self.no_more_pushes.store(true, Relaxed);
        self.tallies.iter().for_each(Tally::wake);
    }
}

//! Redis is killed, frozen and made to forget its scripts while clients push, pop and acknowledge; a history of all
//! they saw shows that nothing was lost, nothing was done twice, and no client was told about it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::support::{PATIENCE, Proxy, RedisServer, Reply, wait_until};

const PRODUCERS: usize = 4;
const CONSUMERS: usize = 4;
const JOBS_BETWEEN_FAULTS: usize = 300; // so that each fault falls among working clients

/// What the clients saw. A job is known by its payload, which no two pushes share.
#[derive(Default)]
struct History {
    /// Payload → id, once the push was answered.
    pushed: HashMap<String, String>,
    /// Payload → the ids it was delivered under: more than one means that one push became two jobs.
    delivered: HashMap<String, HashSet<String>>,
    /// Ids whose acknowledgement was answered with 1.
    finished: HashSet<String>,
    /// What must never be seen.
    violations: Vec<String>,
}

#[derive(Default)]
struct Load {
    history: Mutex<History>,
    producers_stop: AtomicBool,
    consumers_stop: AtomicBool,
}

impl Load {
    fn history<T>(&self, look: impl FnOnce(&mut History) -> T) -> T {
        look(&mut self.history.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn violated(&self, what: String) {
        self.history(|history| history.violations.push(what));
    }

    fn produce(&self, proxy: &Proxy, number: usize) {
        let mut client = proxy.client();
        for n in 0.. {
            if self.producers_stop.load(Ordering::Relaxed) {
                return;
            }
            let payload = format!("{number}-{n}");
            match client.try_call(&["QPUSH", "faulty", &payload]) {
                Ok(Reply::Bulk(id)) => {
                    let id = String::from_utf8_lossy(&id).into_owned();
                    self.history(|history| history.pushed.insert(payload, id));
                }
                other => return self.violated(format!("the push of {payload} got {other:?}")),
            }
        }
    }

    fn consume(&self, proxy: &Proxy) {
        let mut client = proxy.client();
        while !self.consumers_stop.load(Ordering::Relaxed) {
            let job = match client.try_call(&["QPOP", "faulty", "BLOCK", "200", "LEASE", "60000"]) {
                Ok(Reply::Array(job)) => job,
                Ok(nothing) if nothing.is_null() => continue,
                other => return self.violated(format!("a pop got {other:?}")),
            };
            let (receipt, payload) = (job[1].text(), job[2].text());
            let id = receipt.split(':').next().unwrap_or_default().to_owned();
            self.history(|history| {
                if history.finished.contains(&id) {
                    history
                        .violations
                        .push(format!("{payload} was delivered after its acknowledgement"));
                }
                history.delivered.entry(payload.clone()).or_default().insert(id.clone());
            });
            match client.try_call(&["QACK", "faulty", &receipt]) {
                Ok(Reply::Integer(1)) => {
                    self.history(|history| history.finished.insert(id));
                }
                other => return self.violated(format!("the acknowledgement of {payload} got {other:?}")),
            }
        }
    }

    /// Runs producers and consumers while `faults` does its worst, drains the queue, and judges the history.
    fn run_through(proxy: &Proxy, faults: impl FnOnce(&Load)) {
        let load = Load::default();
        std::thread::scope(|scope| {
            // However the faults end, the clients are told to: a scope waits for its threads, even in a panic.
            let _stop = StopOnDrop(&load);
            for number in 0..PRODUCERS {
                let load = &load;
                scope.spawn(move || load.produce(proxy, number));
            }
            for _ in 0..CONSUMERS {
                scope.spawn(|| load.consume(proxy));
            }
            load.wait_for_progress();
            faults(&load);
            load.wait_for_progress();
            load.producers_stop.store(true, Ordering::Relaxed);
            wait_until(PATIENCE, "every job that was pushed is finished", || {
                load.violations() > 0 || load.history(|h| h.pushed.values().all(|id| h.finished.contains(id)))
            });
        });
        load.judge(proxy);
    }

    fn violations(&self) -> usize {
        self.history(|history| history.violations.len())
    }

    /// Until some hundred more jobs were finished: work goes on, whatever was done to Redis.
    fn wait_for_progress(&self) {
        let finished = || self.history(|history| history.finished.len());
        let before = finished();
        wait_until(2 * PATIENCE, "jobs go on being finished", || {
            self.violations() > 0 || finished() >= before + JOBS_BETWEEN_FAULTS
        });
    }

    fn judge(&self, proxy: &Proxy) {
        self.history(|history| {
            assert!(history.violations.is_empty(), "{:#?}", history.violations);
            for (payload, ids) in &history.delivered {
                assert!(ids.len() == 1, "{payload} was pushed once and became the jobs {ids:?}");
            }
            for (payload, id) in &history.pushed {
                assert!(
                    history.finished.contains(id),
                    "{payload} ({id}) was acknowledged to its producer and lost"
                );
            }
        });
        let stats = proxy.client().run("QSTATS faulty");
        for empty in ["ready", "leased", "delayed", "dead"] {
            assert_eq!(stats.field(empty), Reply::Integer(0), "jobs are left {empty}: {stats}");
        }
    }
}

struct StopOnDrop<'a>(&'a Load);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.producers_stop.store(true, Ordering::Relaxed);
        self.0.consumers_stop.store(true, Ordering::Relaxed);
    }
}

fn durable_redis() -> RedisServer {
    RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"])
}

#[test]
fn nothing_is_lost_or_doubled_when_redis_is_killed() {
    let mut redis = durable_redis();
    let proxy = Proxy::before(&redis).allow_log("redis").start();
    Load::run_through(&proxy, |load| {
        for _ in 0..3 {
            redis.kill();
            redis.restart();
            load.wait_for_progress();
        }
    });
}

#[test]
fn nothing_is_lost_or_doubled_when_redis_freezes() {
    let redis = durable_redis();
    let proxy = Proxy::before(&redis)
        .set("upstream.response_timeout", "\"300ms\"")
        .allow_log("redis")
        .start();
    Load::run_through(&proxy, |load| {
        for _ in 0..2 {
            redis.freeze();
            // Longer than the response time-out, so that the proxy gives the connection up; the client is told nothing.
            let mut reader = proxy.client();
            reader.send(&["GET", "key"]);
            assert!(
                reader.hears_nothing_for(Duration::from_millis(900)),
                "a request waits for a frozen Redis"
            );
            redis.thaw();
            assert!(reader.receive().is_null(), "and is answered when Redis is back");
            load.wait_for_progress();
        }
    });
}

#[test]
fn nothing_is_noticed_when_redis_forgets_its_scripts() {
    let redis = durable_redis();
    let proxy = Proxy::before(&redis).start();
    Load::run_through(&proxy, |load| {
        for _ in 0..5 {
            redis.client().run("SCRIPT FLUSH SYNC");
            load.wait_for_progress();
        }
    });
}

#[test]
fn a_request_that_waited_in_vain_is_told_why_and_its_client_stays() {
    let mut redis = RedisServer::start();
    let proxy = Proxy::before(&redis)
        .set("upstream.failover_timeout", "\"300ms\"")
        .allow_log("redis")
        .start();
    let mut client = proxy.client();
    client.run("QPUSH q a");
    redis.kill();
    for command in ["GET key", "QPUSH q b", "QPOP q", "QLEN q"] {
        let reply = client.run(command);
        assert!(
            matches!(reply, Reply::Error(_)),
            "{command} got {reply} from a Redis that is dead"
        );
    }
    assert_eq!(client.run("PING"), Reply::Simple("PONG".into()));
    redis.restart();
    wait_until(PATIENCE, "the same client is served again", || {
        !matches!(client.run("GET key"), Reply::Error(_))
    });
}

//! A real Redis, and a real proxy in front of it, broken on purpose while clients work: what they are told meanwhile, and
//! that nothing they were told turns out untrue. The load is in [`super::load`], what it may see in [`super::history`].
//!
//! Redis writes each change to its disk before it replies here (`appendfsync always`), so that what it loses when it is
//! killed is nothing; what it would lose otherwise no proxy can keep.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use super::load::{Load, QUEUE};
use crate::support::proxy::ProxyPlan;
use crate::support::{AT_ONCE, Client, PATIENCE, Proxy, RedisServer, Reply, wait_until};

/// Jobs that go all their way between one fault and the next.
const SOME: usize = 200;

fn durable_redis() -> RedisServer {
    RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"])
}

/// In front of `redis`, and so set that faults show soon. That the connection goes and comes is part of each of these tests.
fn proxy_before(redis: &RedisServer) -> ProxyPlan {
    Proxy::before(redis)
        .workers(2)
        .set("upstream.response_timeout", "\"500ms\"")
        .set("upstream.failover_timeout", "\"9s\"")
        .allow_log("connection to redis lost")
        .allow_log("redis cannot be used")
}

/// Jobs that are in the queue, in whatever state but dead.
fn left(proxy: &Proxy) -> i64 {
    let stats = proxy.client().call(&["QSTATS", QUEUE]);
    ["ready", "delayed", "leased"]
        .iter()
        .map(|state| stats.field(state).integer())
        .sum()
}

#[test]
fn nothing_is_lost_or_repeated_when_redis_is_killed_under_load() {
    let mut redis = durable_redis();
    let proxy = proxy_before(&redis).start();
    let load = Load::start(&[proxy.address()]);
    for _ in 0..3 {
        load.wait_for_more(SOME);
        redis.restart();
    }
    load.wait_for_more(SOME);
    load.finish(|| left(&proxy), &[]);
}

#[test]
fn nothing_is_lost_or_repeated_when_redis_is_killed_behind_its_unix_socket() {
    let mut redis = durable_redis();
    let socket = format!("{:?}", format!("unix:{}", redis.socket().display()));
    let proxy = proxy_before(&redis).set("upstream.address", &socket).start();
    let load = Load::start(&[proxy.address()]);
    load.wait_for_more(SOME);
    redis.restart();
    load.wait_for_more(SOME);
    load.finish(|| left(&proxy), &[]);
}

#[test]
fn nothing_is_lost_or_repeated_when_redis_hangs_for_longer_than_it_may() {
    let redis = durable_redis();
    let proxy = proxy_before(&redis).start();
    let load = Load::start(&[proxy.address()]);
    for _ in 0..2 {
        load.wait_for_more(SOME);
        let losses = count_in_log(&proxy, "Redis did not answer within");
        redis.freeze();
        let mut reader = proxy.client();
        reader.send(&["GET", "nothing"]);
        wait_until(PATIENCE, "the proxy gives the connection up", || {
            count_in_log(&proxy, "Redis did not answer within") > losses
        });
        redis.thaw();
        assert!(reader.receive().is_null(), "what changes nothing is simply asked again");
    }
    load.wait_for_more(SOME);
    load.finish(|| left(&proxy), &[]);
}

fn count_in_log(proxy: &Proxy, text: &str) -> usize {
    proxy.log().matches(text).count()
}

/// What the clients that increment one counter were told.
#[derive(Default)]
struct Increments {
    applied: AtomicU64,
    doubtful: AtomicU64,
    stop: AtomicBool,
}

impl Increments {
    /// One client: its calls are answered one by one, by a number that grows, or by a doubt.
    fn count(&self, mut client: Client) {
        let mut last = 0;
        while !self.stop.load(Relaxed) {
            match client.call(&["INCR", "counter"]) {
                Reply::Integer(value) => {
                    assert!(value > last, "the counter went from {last} to {value}");
                    last = value;
                    self.applied.fetch_add(1, Relaxed);
                }
                doubt if doubt.is_error("UNCERTAIN ") => {
                    self.doubtful.fetch_add(1, Relaxed);
                }
                other => panic!("INCR came to {other}"),
            }
        }
    }
}

#[test]
fn a_plain_write_in_doubt_is_said_to_be_so_and_never_repeated() {
    let redis = durable_redis();
    let proxy = proxy_before(&redis).start();
    let increments = Arc::new(Increments::default());
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (increments, client) = (increments.clone(), proxy.client());
            thread::spawn(move || increments.count(client))
        })
        .collect();
    let applied = |more: u64| {
        let goal = increments.applied.load(Relaxed) + more;
        wait_until(PATIENCE, "increments", || increments.applied.load(Relaxed) >= goal);
    };
    for _ in 0..2 {
        applied(500);
        let doubtful = increments.doubtful.load(Relaxed);
        redis.freeze();
        wait_until(PATIENCE, "doubts", || increments.doubtful.load(Relaxed) > doubtful);
        redis.thaw();
    }
    applied(500);
    increments.stop.store(true, Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());

    let (applied, doubtful) = (increments.applied.load(Relaxed), increments.doubtful.load(Relaxed));
    let counter: u64 = proxy.client().call(&["GET", "counter"]).text().parse().unwrap();
    assert!(
        (applied..=applied + doubtful).contains(&counter),
        "{applied} applied and {doubtful} in doubt make {counter}"
    );
    // One request a client can be on its way when Redis is frozen, and none is told twice.
    assert!((1..=16).contains(&doubtful), "{doubtful} doubts");
}

#[test]
fn forgotten_scripts_are_loaded_again_and_nobody_notices() {
    let redis = durable_redis();
    let proxy = proxy_before(&redis).start();
    let load = Load::start(&[proxy.address()]);
    let mut client = redis.client();
    for _ in 0..20 {
        load.wait_for_more(SOME / 10);
        client.run("SCRIPT FLUSH");
    }
    load.wait_for_more(SOME);
    load.finish(|| left(&proxy), &[]);
    assert_eq!(count_in_log(&proxy, "connection to redis lost"), 0);
}

#[test]
fn killed_connections_are_made_again_and_nobody_notices() {
    let redis = durable_redis();
    let proxy = proxy_before(&redis).start();
    let load = Load::start(&[proxy.address()]);
    let mut client = redis.client();
    for kind in ["normal", "pubsub", "normal", "pubsub"] {
        load.wait_for_more(SOME);
        client.call(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]);
    }
    load.wait_for_more(SOME);
    load.finish(|| left(&proxy), &[]);
}

#[test]
fn an_outage_that_lasts_is_named_and_ends_without_a_lost_connection() {
    let mut redis = durable_redis();
    let proxy = proxy_before(&redis)
        .set("upstream.failover_timeout", "\"300ms\"")
        .start();
    let load = Load::start(&[proxy.address()]);
    let mut plain = proxy.client();
    load.wait_for_more(SOME);
    redis.kill();
    load.wait_for_error("UNAVAILABLE no connection to Redis: Connection refused");
    for command in [
        "SET key value",
        "GET key",
        "QPUSH other job",
        "QPOP other",
        "QLEN other",
    ] {
        let refused = plain.run(command);
        assert!(
            refused.is_error("UNAVAILABLE no connection to Redis"),
            "{command}: {refused}"
        );
    }
    assert_eq!(plain.run("PING").to_string(), "+PONG");
    redis.restart();
    wait_until(PATIENCE, "plain commands work again", || {
        plain.call(&["SET", "key", "value"]).to_string() == "+OK"
    });
    load.wait_for_more(SOME);
    load.finish(|| left(&proxy), &["UNAVAILABLE ", "UNCERTAIN "]);
}

#[test]
fn a_redis_that_loads_its_data_is_waited_for() {
    let redis = durable_redis();
    let proxy = proxy_before(&redis).start();
    let mut filler = redis.client();
    for number in 0..2000 {
        filler.call(&["SET", &format!("filler:{number}"), "filler"]);
    }
    // So that loading takes half a second, in which Redis answers LOADING to all others.
    filler.run("CONFIG SET key-load-delay 250 loading-process-events-interval-bytes 1024");
    let load = Load::start(&[proxy.address()]);
    load.wait_for_more(SOME);
    filler.send(&["DEBUG", "RELOAD"]);
    let mut plain = redis.client();
    wait_until(PATIENCE, "LOADING", || {
        plain.call(&["GET", "filler:1"]).is_error("LOADING")
    });
    assert_eq!(filler.receive().to_string(), "+OK");
    load.wait_for_more(SOME);
    load.finish(|| left(&proxy), &[]);
}

#[test]
fn a_redis_demoted_to_a_replica_is_waited_for_until_it_is_a_primary() {
    let redis = durable_redis();
    let proxy = proxy_before(&redis).start();
    let load = Load::start(&[proxy.address()]);
    let mut client = redis.client();
    for _ in 0..2 {
        load.wait_for_more(SOME);
        let losses = count_in_log(&proxy, "replica");
        client.run("REPLICAOF 127.0.0.1 1");
        wait_until(PATIENCE, "the proxy sees a replica", || {
            count_in_log(&proxy, "replica") > losses
        });
        client.run("REPLICAOF NO ONE");
    }
    load.wait_for_more(SOME);
    load.finish(|| left(&proxy), &[]);
}

#[test]
fn a_full_redis_refuses_pushes_and_still_hands_out_and_settles_what_it_has() {
    let redis = durable_redis();
    let proxy = proxy_before(&redis).start();
    let load = Load::start(&[proxy.address()]);
    load.wait_for_more(SOME);
    let mut direct = redis.client();
    let mut client = proxy.client();
    client.run("QPUSH other one");
    client.run("QPUSH other two");
    direct.run("CONFIG SET maxmemory 1");
    load.wait_for_error("OOM ");
    assert!(client.run("QPUSH other three").is_error("OOM "));
    let job = client.run("QPOP other");
    assert_eq!(job.items()[2].text(), "one");
    assert_eq!(
        client.call(&["QACK", "other", &job.items()[1].text()]),
        Reply::Integer(1)
    );
    let job = client.run("QPOP other");
    assert_eq!(
        client.call(&["QNACK", "other", &job.items()[1].text(), "DELAY", "0"]),
        Reply::Integer(1)
    );
    direct.run("CONFIG SET maxmemory 0");
    load.wait_for_more(SOME);
    load.finish(|| left(&proxy), &["OOM "]);
    assert_eq!(client.run("QLEN other"), Reply::Integer(1));
}

#[test]
fn jobs_of_a_killed_proxy_come_back_when_their_leases_end() {
    let redis = durable_redis();
    let mut proxy = proxy_before(&redis).start();
    let mut worker = proxy.client();
    worker.run("QMPUSH orders 3 a b c");
    // A loaded machine may take seconds to start the proxy again.
    let leased = worker.run("QPOP orders COUNT 2 LEASE 5000");
    assert_eq!(leased.items().len(), 2);
    let began = Instant::now();
    proxy.kill();
    proxy.restart();

    let mut worker = proxy.client();
    assert_eq!(
        worker.run("QPOP orders").items()[2].text(),
        "c",
        "the others are leased"
    );
    for payload in ["a", "b"] {
        let job = worker.run("QPOP orders BLOCK 9000");
        assert_eq!((job.items()[2].text().as_str(), job.items()[3].integer()), (payload, 2));
        assert!(began.elapsed() >= Duration::from_millis(4500), "before its lease ended");
        let stale = leased
            .items()
            .iter()
            .find(|old| old.items()[2].text() == payload)
            .unwrap();
        assert_eq!(
            worker.call(&["QACK", "orders", &stale.items()[1].text()]),
            Reply::Integer(0)
        );
        assert_eq!(
            worker.call(&["QACK", "orders", &job.items()[1].text()]),
            Reply::Integer(1)
        );
    }
}

#[test]
fn clients_that_vanish_while_they_wait_take_nothing_along() {
    let redis = durable_redis();
    let proxy = proxy_before(&redis).start();
    let mut producer = proxy.client();
    for round in 0..50 {
        let mut vanishing: Vec<_> = (0..4).map(|_| proxy.client()).collect();
        for client in &mut vanishing {
            client.send(&["QPOP", QUEUE, "BLOCK", "0"]);
        }
        // Every other round they are known to wait; else they may be anywhere on their way.
        if round % 2 == 0 {
            wait_until(PATIENCE, "they wait", || blocked(&proxy) == 4);
        }
        drop(vanishing);
        let payload = round.to_string();
        producer.call(&["QPUSH", QUEUE, &payload]);
        let asked = Instant::now();
        let job = producer.call(&["QPOP", QUEUE, "BLOCK", "5000", "LEASE", "60000"]);
        assert!(!job.is_null(), "round {round}: no job");
        assert_eq!(
            (job.items()[2].text(), job.items()[3].integer()),
            (payload, 1),
            "round {round}"
        );
        assert!(asked.elapsed() < AT_ONCE, "round {round}: not at once");
        assert_eq!(
            producer.call(&["QACK", QUEUE, &job.items()[1].text()]),
            Reply::Integer(1)
        );
    }
    assert_eq!(left(&proxy), 0);
}

/// Clients that wait for a job, over all workers of the proxy.
fn blocked(proxy: &Proxy) -> usize {
    let info = proxy.client().call(&["INFO", "queues"]).text();
    let field = info.lines().find_map(|line| line.strip_prefix("queue_blocked_pops:"));
    field
        .unwrap_or_else(|| panic!("no queue_blocked_pops in {info}"))
        .trim()
        .parse()
        .unwrap()
}

#[test]
fn a_push_through_one_proxy_wakes_a_pop_that_waits_at_another() {
    let redis = durable_redis();
    let (one, other) = (proxy_before(&redis).start(), proxy_before(&redis).start());
    let mut producer = one.client();
    let mut worker = other.client();
    for round in 0..20 {
        worker.send(&["QPOP", QUEUE, "BLOCK", "0"]);
        wait_until(PATIENCE, "the pop waits", || redis_knows_who_waits(&redis));
        let pushed = Instant::now();
        producer.call(&["QPUSH", QUEUE, "job"]);
        let job = worker.receive();
        assert_eq!(job.items()[3].integer(), 1);
        assert!(pushed.elapsed() < AT_ONCE, "round {round}: not at once");
        worker.call(&["QACK", QUEUE, &job.items()[1].text()]);
    }
}

fn redis_knows_who_waits(redis: &RedisServer) -> bool {
    redis.client().call(&["EXISTS", &format!("q:{{{QUEUE}/0}}:waiting")]) == Reply::Integer(1)
}

#[test]
fn two_proxies_serve_one_queue_and_agree_on_it_while_redis_is_killed() {
    let mut redis = durable_redis();
    let (one, other) = (proxy_before(&redis).start(), proxy_before(&redis).start());
    let load = Load::start(&[one.address(), other.address()]);
    load.wait_for_more(SOME);
    redis.restart();
    load.wait_for_more(SOME);
    load.finish(|| left(&one), &[]);
}

#[test]
fn every_worker_of_a_proxy_wakes_those_that_wait_at_the_others() {
    let redis = durable_redis();
    let proxy = proxy_before(&redis).workers(3).start();
    let mut producer = proxy.client();
    let mut workers: Vec<_> = (0..12).map(|_| proxy.client()).collect();
    for worker in &mut workers {
        worker.send(&["QPOP", QUEUE, "BLOCK", "0"]);
    }
    wait_until(PATIENCE, "all wait", || blocked(&proxy) == 12);
    let pushed = Instant::now();
    for number in 0..12 {
        producer.call(&["QPUSH", QUEUE, &number.to_string()]);
    }
    let mut payloads: Vec<i64> = workers
        .iter_mut()
        .map(|worker| worker.receive().items()[2].text().parse().unwrap())
        .collect();
    assert!(pushed.elapsed() < AT_ONCE, "not at once");
    payloads.sort_unstable();
    assert_eq!(payloads, (0..12).collect::<Vec<_>>());
}

#[test]
fn jobs_larger_than_what_redis_sends_to_a_listener_come_through() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).start();
    let payload = vec![b'x'; 40 << 20];
    let mut client = proxy.client();
    client.call(&[&b"QPUSH"[..], b"large", &payload]);
    let job = client.run("QPOP large BLOCK 0");
    assert!(job.items()[2].bytes() == payload);
    client.hello3();
    client.call(&[&b"SET"[..], b"large", &payload]);
    assert!(client.run("GET large").bytes() == payload);
    assert_eq!(count_in_log(&proxy, "connection to redis lost"), 0);
}

#[test]
fn a_killed_child_of_the_embedded_mode_is_restarted_under_load() {
    let proxy = Proxy::embedded()
        .workers(2)
        .allow_log("connection to redis lost")
        .allow_log("redis cannot be used")
        .allow_log("redis-server")
        .start();
    let load = Load::start(&[proxy.address()]);
    load.wait_for_more(SOME);
    let before = child_of(&proxy);
    kill(before);
    wait_until(PATIENCE, "another redis-server", || child_of(&proxy) != before);
    load.wait_for_more(SOME);
    // Its append-only file is synced each second, and while that takes long Redis holds back what it writes: killed just
    // then it forgets what it acknowledged. So what is shown here is that it is restarted and nobody is told an error.
    load.stop();
}

/// The redis-server that the proxy runs, by its own word.
fn child_of(proxy: &Proxy) -> i32 {
    let info = proxy.client().call(&["INFO", "server"]).text();
    let field = info.lines().find_map(|line| line.strip_prefix("process_id:"));
    field
        .unwrap_or_else(|| panic!("no process_id in {info}"))
        .trim()
        .parse()
        .unwrap()
}

fn kill(pid: i32) {
    // SAFETY: the pid is of a child of this test's own proxy, which has just told it.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

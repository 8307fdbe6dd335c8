//! Acknowledged pushes that a Redis loses, with its primary or in a restart, and that the proxy pushes again.

use std::collections::BTreeMap;

use crate::support::proxy::ProxyPlan;
use crate::support::sentinels::{MASTER, SentinelSet};
use crate::support::{Client, PATIENCE, Proxy, RedisServer, wait_until};

const INFORMED: &str = "redis had lost pushes that it had acknowledged, they were pushed again";
const WARNED: &str = "not all could be pushed again";

/// In front of a Redis that keeps nothing on disk, so that a restart loses all.
fn proxy_before(redis: &RedisServer) -> ProxyPlan {
    Proxy::before(redis)
        .workers(2)
        .allow_log("connection to redis lost")
        .allow_log("redis cannot be used")
}

fn resent(client: &mut Client) -> String {
    let info = client.run("INFO queues").text();
    let field = |name: &str| {
        info.lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("a field")
            .to_owned()
    };
    format!("{} {}", field("queue_pushes_resent:"), field("queue_pushes_lost:"))
}

/// Payloads and attempts of all jobs that can be popped.
fn pop_all(client: &mut Client, queue: &str) -> BTreeMap<String, Vec<i64>> {
    let mut popped: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    loop {
        let jobs = client.call(&["QPOP", queue, "COUNT", "50"]);
        if jobs.is_null() {
            return popped;
        }
        for job in jobs.items() {
            let attempt = job.items()[3].integer();
            popped.entry(job.items()[2].text()).or_default().push(attempt);
        }
    }
}

#[test]
fn pushes_that_a_failover_lost_come_back_once_and_those_that_were_done_do_not() {
    let mut set = SentinelSet::start();
    let proxy = Proxy::before_sentinels(&set.addresses(), MASTER)
        .workers(2)
        .allow_log("connection to redis lost")
        .allow_log("redis cannot be used")
        .allow_log("not every sentinel can be asked")
        .start();
    let mut client = proxy.client();
    assert!(!client.run("QPUSH q replicated").is_error(""));
    let old = set.primary();
    let is_old = |server: &&mut RedisServer| server.port() == old;
    for server in set.servers.iter().filter(|server| server.port() != old) {
        wait_until(PATIENCE, "it is replicated", || {
            server.client().run("HLEN q:{q/0}:jobs").integer() == 1
        });
        server.freeze();
    }
    // What lies in a frozen replica's socket it would still read.
    let primary = set.servers.iter_mut().find(is_old).expect("the primary");
    assert_eq!(primary.client().run("CLIENT KILL TYPE replica").integer(), 2);
    for number in 0..100 {
        assert!(!client.call(&["QPUSH", "q", &number.to_string()]).is_error(""));
    }
    let delayed = client.run("QPUSH q delayed DELAY 3600000 META colour blue").text();
    let unique = client.run("QPUSH q unique UNIQUE key PRIORITY low").text();
    // The first is `replicated`. Twenty are done, ten are worked on.
    let done = client.run("QPOP q COUNT 21");
    for job in done.items() {
        assert_eq!(client.call(&["QACK", "q", &job.items()[1].text()]).integer(), 1);
    }
    let held = client.run("QPOP q COUNT 10");
    set.servers.iter_mut().find(is_old).expect("the primary").kill();
    for server in set.servers.iter().filter(|server| server.port() != old) {
        server.thaw();
    }
    set.wait_for_another_than(old);

    wait_until(PATIENCE, "what was lost is pushed again", || {
        resent(&mut client) == "82 0"
    });
    assert_eq!(
        client.run("QPUSH q again UNIQUE key").text(),
        unique,
        "it holds its key"
    );
    let job = client.call(&["QJOB", "q", &delayed]);
    assert_eq!(
        (job.field("state").text(), job.field("payload").text()),
        ("delayed".into(), "delayed".into())
    );
    assert_eq!(job.field("meta").field("colour").text(), "blue");
    let stale = held.items()[0].items()[1].text();
    assert_eq!(client.call(&["QACK", "q", &stale]).integer(), 0, "its lease was lost");
    let popped = pop_all(&mut client, "q");
    let expected = |number: usize| (number.to_string(), vec![if number < 30 { 2 } else { 1 }]);
    let mut all: BTreeMap<_, _> = (20..100).map(expected).collect();
    all.insert("unique".into(), vec![1]);
    all.insert("replicated".into(), vec![1]); // its acknowledgement was lost, its push was not
    assert_eq!(popped, all);
    wait_until(PATIENCE, "the log says so", || proxy.log().contains(INFORMED));
    assert_eq!(proxy.log().matches(INFORMED).count(), 1);
}

#[test]
fn pushes_that_a_restart_lost_come_back_though_nobody_asks_for_them() {
    let mut redis = RedisServer::start();
    let proxy = proxy_before(&redis).start();
    let mut client = proxy.client();
    for number in 0..500 {
        assert!(!client.call(&["QPUSH", "q", &number.to_string()]).is_error(""));
    }
    redis.restart();
    wait_until(PATIENCE, "all are back", || client.run("QLEN q").integer() == 500);
    let next = client.run("QPOP q COUNT 500");
    let order: Vec<String> = next.items().iter().map(|job| job.items()[2].text()).collect();
    assert_eq!(
        order,
        (0..500).map(|number| number.to_string()).collect::<Vec<_>>(),
        "in their order"
    );
}

#[test]
fn what_was_removed_on_purpose_does_not_come_back() {
    let mut redis = RedisServer::start();
    let proxy = proxy_before(&redis).start();
    let mut client = proxy.client();
    for queue in ["purged", "dropped", "taken", "deleted", "kept"] {
        assert!(!client.call(&["QPUSH", queue, "job"]).is_error(""));
    }
    client.run("QPURGE purged");
    client.run("QDROP dropped");
    client.run("QPOP taken NOACK");
    let id = client.run("QPEEK deleted").items()[0].field("id").text();
    assert_eq!(client.call(&["QDEL", "deleted", &id]).integer(), 1);
    redis.restart();
    wait_until(PATIENCE, "the other is back", || client.run("QLEN kept").integer() == 1);
    for queue in ["purged", "dropped", "taken", "deleted"] {
        assert!(!client.call(&["QPUSH", queue, "new"]).is_error(""));
        assert_eq!(client.call(&["QLEN", queue]).integer(), 1, "{queue}");
    }
    assert_eq!(resent(&mut client), "1 0");
}

#[test]
fn flushall_takes_what_was_just_pushed_along() {
    let redis = RedisServer::start();
    let proxy = proxy_before(&redis).start();
    let mut client = proxy.client();
    for _ in 0..10 {
        assert!(!client.run("QPUSH q job").is_error(""));
    }
    assert_eq!(client.run("FLUSHALL").to_string(), "+OK");
    assert!(!client.run("QPUSH q job").is_error(""));
    assert_eq!(
        (client.run("QLEN q").integer(), resent(&mut client).as_str()),
        (1, "0 0")
    );
}

#[test]
fn what_did_not_fit_into_the_memory_is_counted_and_told() {
    let mut redis = RedisServer::start();
    let proxy = proxy_before(&redis).allow_log(WARNED).start();
    let mut client = proxy.client();
    let large = "x".repeat(1 << 20);
    for _ in 0..12 {
        assert!(!client.call(&["QPUSH", "q", &large]).is_error(""));
    }
    redis.restart();
    wait_until(PATIENCE, "those that were kept are back", || {
        client.run("QLEN q").integer() == 7
    });
    assert_eq!(resent(&mut client), "7 5");
    wait_until(PATIENCE, "the log says so", || proxy.log().contains(WARNED));
    assert_eq!(proxy.log().matches(WARNED).count(), 1);
}

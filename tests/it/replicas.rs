//! Pushes that are answered when replicas have them (`replicas`, `replica_timeout`).

use std::time::Duration;

use crate::support::cluster::Cluster;
use crate::support::proxy::ProxyPlan;
use crate::support::sentinels::{MASTER, SentinelSet};
use crate::support::{Client, PATIENCE, Proxy, RedisServer, Reply, wait_until};

/// Long enough that a reply which does not wait is here before.
const QUIET: Duration = Duration::from_millis(20);

fn primary_and_replica() -> (RedisServer, RedisServer) {
    let (primary, replica) = (RedisServer::start(), RedisServer::start());
    replica
        .client()
        .call(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]);
    wait_until(PATIENCE, "the replica follows", || {
        replica.info("master_link_status") == "up"
    });
    (primary, replica)
}

/// Patient, as a loaded machine may take its time: half of `response_timeout`.
fn proxy_before(primary: &RedisServer) -> ProxyPlan {
    Proxy::before(primary)
        .workers(2)
        .set("queues.safe.replicas", "1")
        .set("queues.safe.replica_timeout", "\"1h\"")
}

fn id_in(error: &Reply) -> String {
    let text = error.to_string();
    let id = text.split("stored as job ").nth(1).expect("it names the job");
    id.split(',').next().expect("an id").to_owned()
}

#[test]
fn a_push_is_answered_when_a_replica_has_it() {
    let (primary, replica) = primary_and_replica();
    let proxy = proxy_before(&primary).start();
    let (mut client, mut at_replica) = (proxy.client(), replica.client());
    for number in 1..=100 {
        assert!(!client.run("QPUSH safe job").is_error(""));
        assert_eq!(at_replica.run("HLEN q:{safe/0}:jobs").integer(), number);
    }
    assert_eq!(client.run("QPOP safe").items()[2].text(), "job");
}

#[test]
fn a_push_that_too_few_replicas_confirm_says_so_names_the_job_and_is_stored() {
    let (primary, replica) = primary_and_replica();
    let proxy = proxy_before(&primary)
        .set("queues.safe.replica_timeout", "\"50ms\"")
        .start();
    let mut client = proxy.client();
    assert!(!client.run("QPUSH safe job").is_error(""));
    replica.freeze();
    let told = client.run("QPUSH safe job");
    assert!(told.is_error("NOREPLICAS stored as job "), "{told}");
    assert!(
        told.to_string()
            .ends_with(", but 0 of 1 replicas confirmed it within 50ms"),
        "{told}"
    );
    assert_eq!(
        client.call(&["QJOB", "safe", &id_in(&told)]).field("state").text(),
        "ready"
    );
    let told = client.run("QMPUSH safe 3 a b c");
    assert!(told.is_error("NOREPLICAS stored as 3 jobs "), "{told}");
    let told = client.call(&[&["QMPUSH", "safe", "20"][..], &["x"; 20]].concat());
    assert!(told.to_string().contains(" to "), "the first and the last: {told}");
    assert_eq!(client.run("QLEN safe").integer(), 25);
    assert!(
        !client.run("QPUSH another job").is_error(""),
        "this queue asks for none"
    );
    replica.thaw();
    wait_until(PATIENCE, "the replica confirms again", || {
        !client.run("QPUSH safe job").is_error("")
    });
}

#[test]
fn nobody_else_waits_for_a_push_that_waits() {
    let (primary, replica) = primary_and_replica();
    let proxy = proxy_before(&primary).start();
    let (mut pusher, mut others) = (proxy.client(), proxy.client());
    assert!(!pusher.run("QPUSH safe job").is_error(""));
    replica.freeze();
    pusher.send(&["QPUSH", "safe", "job"]);
    wait_until(PATIENCE, "it is stored", || {
        primary.client().run("HLEN q:{safe/0}:jobs").integer() == 2
    });
    assert_eq!(others.run("SET key value").to_string(), "+OK");
    assert!(!others.run("QPUSH another job").is_error(""));
    assert_eq!(others.run("QPOP another").items()[2].text(), "job");
    assert!(pusher.hears_nothing_for(QUIET), "it waits");
    replica.thaw();
    assert!(!pusher.receive().is_error(""));
}

#[test]
fn a_queue_whose_pushes_wait_long_does_not_hold_up_another_one_that_asks_for_replicas() {
    let (primary, replica) = primary_and_replica();
    let proxy = proxy_before(&primary)
        .workers(1)
        .set("queues.quick.replicas", "1")
        .set("queues.quick.replica_timeout", "\"20ms\"")
        .start();
    let (mut slow, mut quick) = (proxy.client(), proxy.client());
    assert!(!slow.run("QPUSH safe job").is_error(""));
    assert!(!quick.run("QPUSH quick job").is_error(""));
    replica.freeze();
    slow.send(&["QPUSH", "safe", "job"]);
    wait_until(PATIENCE, "it waits", || waits(&mut primary.client()));
    assert!(quick.run("QPUSH quick job").is_error("NOREPLICAS "));
    assert!(slow.hears_nothing_for(QUIET), "it still waits");
    replica.thaw();
    assert!(!slow.receive().is_error(""));
}

#[test]
fn a_connection_lost_while_it_waits_makes_it_wait_again_and_push_no_second_job() {
    let (primary, replica) = primary_and_replica();
    let proxy = proxy_before(&primary).allow_log("connection to redis lost").start();
    let mut client = proxy.client();
    assert!(!client.run("QPUSH safe first").is_error(""));
    replica.freeze();
    client.send(&["QPUSH", "safe", "second"]);
    let stored = |primary: &RedisServer| primary.client().run("HLEN q:{safe/0}:jobs").integer();
    wait_until(PATIENCE, "it is stored", || stored(&primary) == 2);
    let calls = || {
        let stats = primary.client().run("INFO commandstats").text();
        let wait = stats.lines().find_map(|line| line.strip_prefix("cmdstat_wait:calls="));
        wait.map_or(0, |rest| {
            rest.split(',')
                .next()
                .expect("a number")
                .parse::<u32>()
                .expect("a number")
        })
    };
    let before = calls();
    primary.client().run("CLIENT KILL TYPE normal SKIPME yes");
    wait_until(PATIENCE, "it waits again", || {
        calls() > before || waits(&mut primary.client())
    });
    assert!(client.hears_nothing_for(QUIET), "it still waits");
    replica.thaw();
    let id = client.receive();
    assert!(!id.is_error(""), "{id}");
    assert_eq!(stored(&primary), 2);
    assert_eq!(
        client.call(&["QJOB", "safe", &id.text()]).field("payload").text(),
        "second"
    );
}

/// A connection stands in WAIT.
fn waits(client: &mut Client) -> bool {
    client
        .run("CLIENT LIST")
        .text()
        .lines()
        .any(|line| line.contains("cmd=wait") && line.contains("flags=b"))
}

#[test]
fn what_replicas_confirmed_is_there_after_the_primary_was_killed() {
    let mut set = SentinelSet::start();
    let proxy = Proxy::before_sentinels(&set.addresses(), MASTER)
        .workers(2)
        .set("queues.safe.replicas", "1")
        .set("queues.safe.replica_timeout", "\"1h\"")
        .allow_log("connection to redis lost")
        .allow_log("redis cannot be used")
        .allow_log("not every sentinel can be asked")
        .start();
    let mut client = proxy.client();
    let old = set.primary();
    let mut pushed = Vec::new();
    for number in 0..2_000 {
        client.send(&["QPUSH", "safe", &number.to_string()]);
        if number == 1_000 {
            let primary = set.servers.iter_mut().find(|server| server.port() == old);
            primary.expect("one of the set").kill();
        }
        let reply = client.receive();
        if !reply.is_error("NOREPLICAS ") {
            pushed.push((reply.text(), number.to_string()));
        }
    }
    assert_ne!(set.primary(), old);
    assert!(
        pushed.len() > 1_900,
        "two replicas, of which one is left as such: {}",
        pushed.len()
    );
    for (id, payload) in pushed {
        assert_eq!(
            client.call(&["QJOB", "safe", &id]).field("payload").text(),
            payload,
            "{id}"
        );
    }
    let len = client.run("QLEN safe").integer();
    assert_eq!(len, 2_000, "each once, those that were not confirmed too");
}

#[test]
fn in_a_cluster_each_primarys_own_replica_confirms() {
    let mut cluster = Cluster::start(3, 1);
    let proxy = Proxy::before_cluster(&cluster.seeds())
        .workers(2)
        .set("queues.safe.partitions", "3")
        .set("queues.safe.replicas", "1")
        .set("queues.safe.replica_timeout", "\"1h\"")
        .allow_log("connection to redis lost")
        .start();
    let mut client = proxy.client();
    for _ in 0..100 {
        let reply = client.run("QPUSH safe job");
        assert!(!reply.is_error(""), "{reply}");
    }
    assert_eq!(client.run("QCONFIG SET safe replica_timeout 20").to_string(), "+OK");
    let replica = cluster.replica_of(0);
    cluster.kill(replica);
    let replies: Vec<_> = (0..100).map(|_| client.run("QPUSH safe job")).collect();
    let refused = replies.iter().filter(|reply| reply.is_error("NOREPLICAS ")).count();
    assert!(0 < refused && refused < 100, "those of one primary of three: {refused}");
    assert_eq!(client.run("QLEN safe").integer(), 200);
}

#[test]
fn a_queue_is_told_to_wait_while_it_is_in_use() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).start();
    let mut client = proxy.client();
    assert!(!client.run("QPUSH q job").is_error(""));
    assert_eq!(
        client.run("QCONFIG SET q replicas 1 replica_timeout 20").to_string(),
        "+OK"
    );
    let told = client.run("QPUSH q job");
    assert!(
        told.is_error("NOREPLICAS ") && told.to_string().contains("0 of 1"),
        "{told}"
    );
    assert_eq!(client.run("QCONFIG SET q replicas 0").to_string(), "+OK");
    assert!(!client.run("QPUSH q job").is_error(""));
    assert_eq!(client.run("QLEN q").integer(), 3);
}

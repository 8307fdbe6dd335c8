//! That the ground holds: the servers of tests/support start, freeze, die and come back as they say, and the relay between
//! them does to connections what it was told.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use crate::support::cluster::{Cluster, Failover};
use crate::support::relay::Way;
use crate::support::{Client, PATIENCE, RedisServer, Relay, Reply, wait_until};

#[test]
fn a_redis_server_answers_over_its_socket_and_its_port() {
    let redis = RedisServer::start();
    assert_eq!(redis.client().run("SET key value"), Reply::Simple("OK".into()));
    let mut tcp = crate::support::Client::connect(&redis.address()).unwrap();
    assert_eq!(tcp.run("GET key"), Reply::Bulk(b"value".to_vec()));
    assert_eq!(tcp.run("GET nothing"), Reply::NullBulk);
    tcp.hello3();
    assert_eq!(tcp.run("GET nothing"), Reply::Null);
    assert_eq!(tcp.run("CONFIG GET maxmemory").to_string(), r#"{"maxmemory": "0"}"#);
}

#[test]
fn a_killed_redis_comes_back_with_its_data() {
    let mut redis = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    redis.client().run("SET key value");
    redis.kill();
    redis.restart();
    assert_eq!(redis.client().run("GET key"), Reply::Bulk(b"value".to_vec()));
}

#[test]
fn a_frozen_redis_is_silent_until_it_is_thawed() {
    let redis = RedisServer::start();
    let mut client = redis.client();
    redis.freeze();
    client.send(&["PING"]);
    assert!(client.hears_nothing_for(Duration::from_millis(20)));
    redis.thaw();
    wait_until(PATIENCE, "the reply to the PING", || client.try_receive().is_ok());
}

fn a_relayed_redis() -> (RedisServer, Relay, Client) {
    let redis = RedisServer::start();
    let relay = Relay::to(&redis.address());
    let mut client = Client::connect(&relay.address()).unwrap();
    client.run("SET key 0123456789");
    (redis, relay, client)
}

fn lost(client: &mut Client) -> ErrorKind {
    client.try_receive().expect_err("the connection is lost").kind()
}

#[test]
fn a_relay_carries_what_is_said_both_ways_and_the_end_of_it() {
    let (_redis, relay, mut client) = a_relayed_redis();
    let payload = vec![b'x'; 3 << 20]; // more than it holds at once
    client.call(&[&b"SET"[..], b"large", &payload]);
    assert!(client.run("GET large").bytes() == payload);
    client.run("QUIT");
    assert!(client.is_closed());
    drop(client);
    wait_until(PATIENCE, "the line ends", || relay.connections() == 0);
}

#[test]
fn a_relay_delays_what_goes_its_way() {
    let (_redis, relay, mut client) = a_relayed_redis();
    for way in [Way::Up, Way::Down] {
        relay.delay(way, Duration::from_millis(50));
        let asked = Instant::now();
        client.run("GET key");
        assert!(asked.elapsed() >= Duration::from_millis(50), "{way:?}");
        relay.heal();
    }
}

#[test]
fn a_stalled_relay_holds_what_goes_its_way_until_it_is_healed() {
    let (redis, relay, mut client) = a_relayed_redis();
    relay.stall(Way::Down);
    client.send(&["SET", "key", "other"]);
    wait_until(PATIENCE, "it got there", || {
        redis.client().run("GET key").text() == "other"
    });
    assert!(client.hears_nothing_for(Duration::from_millis(20)));
    relay.heal();
    assert_eq!(client.receive(), Reply::Simple("OK".into()));
    relay.stall(Way::Up);
    client.send(&["SET", "key", "third"]);
    assert!(client.hears_nothing_for(Duration::from_millis(20)));
    assert_eq!(redis.client().run("GET key").text(), "other");
    relay.heal();
    assert_eq!(client.receive(), Reply::Simple("OK".into()));
}

#[test]
fn a_throttled_relay_takes_its_time() {
    let (_redis, relay, mut client) = a_relayed_redis();
    client.call(&[&b"SET"[..], b"key", &[b'x'; 2000]]);
    relay.throttle(Way::Down, 10_000);
    let asked = Instant::now();
    assert_eq!(client.run("GET key").bytes().len(), 2000);
    assert!(asked.elapsed() >= Duration::from_millis(150), "{:?}", asked.elapsed());
}

#[test]
fn a_relay_cuts_a_reply_where_it_was_told_and_only_once() {
    let (_redis, relay, mut client) = a_relayed_redis();
    relay.cut(Way::Down, 7);
    client.send(&["GET", "key"]);
    assert_eq!(lost(&mut client), ErrorKind::ConnectionReset);
    assert!(!relay.will_cut(Way::Down));
    let mut client = Client::connect(&relay.address()).unwrap();
    assert_eq!(client.run("GET key").text(), "0123456789");
}

#[test]
fn a_relay_resets_its_connections_and_leads_nowhere_until_it_is_healed() {
    let (_redis, relay, mut client) = a_relayed_redis();
    relay.reset();
    assert_eq!(lost(&mut client), ErrorKind::ConnectionReset);
    relay.lead_nowhere();
    let mut client = Client::connect(&relay.address()).unwrap();
    client.send(&["GET", "key"]);
    assert!(client.hears_nothing_for(Duration::from_millis(20)));
    relay.heal();
    assert_eq!(lost(&mut client), ErrorKind::ConnectionReset);
    assert_eq!(
        Client::connect(&relay.address()).unwrap().run("GET key").text(),
        "0123456789"
    );
}

#[test]
fn a_cluster_fails_over_moves_slots_and_takes_nodes_in_and_out() {
    let mut cluster = Cluster::start(3, 1); // of two, one alone elects nobody
    let slot = 12182; // foo's
    let value = || Reply::Bulk(b"bar".to_vec());
    assert_eq!(cluster.primary_of(slot), 2);
    cluster.nodes[2].call("SET foo bar");

    let replica = cluster.replica_of(2);
    cluster.failover(replica, Failover::Graceful);
    assert_eq!(cluster.primary_of(slot), replica);
    cluster.nodes[2].wait_until_it_follows();
    cluster.wait_until_it_serves();
    cluster.kill(replica);
    assert_eq!(cluster.wait_for_another_than(replica, slot), 2);
    cluster.wait_until_it_serves();
    assert_eq!(cluster.nodes[2].call("GET foo"), value());

    cluster.move_slot(slot, 2, 0);
    assert_eq!(cluster.nodes[0].call("GET foo"), value());
    assert!(cluster.nodes[2].try_call("GET foo").is_error("MOVED 12182 "));
    cluster.restart(replica);
    cluster.wait_until_it_serves();
    let new = cluster.add_node();
    cluster.move_slot(slot, 0, new);
    assert_eq!(cluster.nodes[new].call("GET foo"), value());
    cluster.remove_node(new);
    assert_ne!(cluster.primary_of(slot), new);
}

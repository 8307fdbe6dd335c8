//! Cluster mode, on real clusters whose nodes are broken, failed over and resharded on purpose under load.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::support::cluster::{Cluster, Failover};
use crate::support::proxy::ProxyPlan;
use crate::support::{Client, PATIENCE, Proxy, Reply, wait_until};

use super::load::{Load, QUEUE};

const SOME: usize = 100;

fn proxy_before(cluster: &Cluster) -> ProxyPlan {
    Proxy::before_cluster(&cluster.seeds())
        .workers(2)
        .allow_log("connection to redis lost")
        .allow_log("redis cannot be used")
        .allow_log("not every node of the cluster can be asked")
}

/// The slot of the load's queue.
fn queue_slot(cluster: &Cluster) -> u16 {
    let tag = format!("CLUSTER KEYSLOT q:{{{QUEUE}/0}}");
    cluster.nodes[0].call(&tag).integer() as u16
}

fn left(proxy: &Proxy) -> impl Fn() -> i64 + use<> {
    let address = proxy.address();
    move || {
        let mut client = Client::connect(&address).unwrap();
        let stats = client.run(&format!("QSTATS {QUEUE}"));
        ["ready", "delayed", "leased"]
            .iter()
            .map(|state| stats.field(state).integer())
            .sum()
    }
}

#[test]
fn each_key_and_each_queue_is_served_by_the_owner_of_its_slot() {
    let cluster = Cluster::start(3, 0);
    let proxy = proxy_before(&cluster).start();
    let mut client = proxy.client();
    for key in 0..100 {
        client.send(&["SET", &format!("key-{key}"), &key.to_string()]);
    }
    for key in 0..100 {
        client.send(&["GET", &format!("key-{key}")]);
    }
    (0..100).for_each(|_| assert_eq!(client.receive().to_string(), "+OK"));
    (0..100).for_each(|key| assert_eq!(client.receive().text(), key.to_string()));
    for queue in 0..20 {
        client.run(&format!("QPUSH queue-{queue} job"));
    }
    let share: Vec<_> = cluster.nodes.iter().map(|node| node.call("DBSIZE").integer()).collect();
    assert!(share.iter().all(|keys| *keys > 20), "{share:?}");
    for queue in 0..20 {
        assert_eq!(client.run(&format!("QPOP queue-{queue}")).items()[2].text(), "job");
    }
    let crossing = client.run("MGET key-1 key-2");
    assert!(crossing.is_error("CROSSSLOT"), "{crossing}");
    client.hello3();
    assert_eq!(client.run("GET key-7").text(), "7");
}

/// The queue's load runs on while `break_it` is done to the cluster, and afterwards.
fn survives(cluster: &mut Cluster, break_it: impl FnOnce(&mut Cluster, &Load)) {
    let proxy = proxy_before(cluster).start();
    let load = Load::start(&[proxy.address()]);
    load.wait_for_more(SOME);
    break_it(cluster, &load);
    load.wait_for_more(SOME);
    load.stop();
}

#[test]
fn primaries_are_killed_and_frozen_and_replaced_and_no_client_of_a_queue_is_told_an_error() {
    let mut cluster = Cluster::start(3, 1);
    let slot = queue_slot(&cluster);
    let old = cluster.primary_of(slot);
    survives(&mut cluster, |cluster, _| {
        cluster.kill(old);
        cluster.wait_for_another_than(old, slot);
    });
    cluster.restart(old);
    cluster.nodes[old].wait_until_it_follows();
    cluster.wait_until_it_serves();
    let new = cluster.primary_of(slot);
    survives(&mut cluster, |cluster, _| {
        cluster.freeze(new);
        cluster.wait_for_another_than(new, slot);
    });
    cluster.thaw(new);
}

#[test]
fn a_failover_and_a_move_of_its_slot_lose_and_double_nothing_of_a_queue() {
    let mut cluster = Cluster::start(3, 1);
    let slot = queue_slot(&cluster);
    let proxy = proxy_before(&cluster).start();
    let load = Load::start(&[proxy.address()]);
    load.wait_for_more(SOME);

    let old = cluster.primary_of(slot);
    let replica = cluster.replica_of(old);
    cluster.failover(replica, Failover::Graceful);
    load.wait_for_more(SOME);

    let other = (0..3)
        .find(|node| ![old, replica].contains(node) && cluster.nodes[*node].is_primary())
        .unwrap();
    cluster.move_slot(slot, replica, other);
    load.wait_for_more(SOME);
    cluster.move_slot(slot, other, replica);
    load.wait_for_more(SOME);

    let new = cluster.add_node();
    cluster.move_slot(slot, replica, new);
    load.wait_for_more(SOME);
    cluster.remove_node(new);
    load.wait_for_more(SOME);
    assert!(load.finish(left(&proxy), &[]) > 6 * SOME);
}

/// Appends numbers to a list, one after another without waiting for replies, in bursts.
fn append(address: &str, key: &str, stop: &AtomicBool) -> usize {
    let mut client = Client::connect(address).unwrap();
    let mut sent = 0;
    while !stop.load(Relaxed) {
        for _ in 0..20 {
            sent += 1;
            client.send(&["RPUSH", key, &sent.to_string()]);
        }
        for _ in 0..20 {
            let reply = client.receive();
            assert!(matches!(reply, Reply::Integer(_)), "{key}: {reply}");
        }
    }
    sent
}

#[test]
fn plain_writes_keep_their_order_while_their_slot_moves_and_none_is_lost_or_doubled() {
    let cluster = Cluster::start(3, 0);
    let proxy = proxy_before(&cluster).start();
    let keys: Vec<_> = (0..4).map(|key| format!("{{orders}}-{key}")).collect();
    let slot = cluster.nodes[0].call("CLUSTER KEYSLOT orders").integer() as u16;
    let stop = AtomicBool::new(false);
    let address = proxy.address();
    std::thread::scope(|scope| {
        let writers: Vec<_> = keys
            .iter()
            .map(|key| scope.spawn(|| append(&address, key, &stop)))
            .collect();
        let mut from = cluster.primary_of(slot);
        for round in 0..6 {
            let to = (from + 1 + round % 2) % 3;
            // Slowly enough for keys to be asked for on both sides: each move has its time of ASK.
            cluster.begin_move(slot, from, to);
            let before = proxy_length(&proxy, &keys[0]);
            wait_until(PATIENCE, "writes go on", || proxy_length(&proxy, &keys[0]) > before);
            cluster.move_keys(slot, from, to);
            let before = proxy_length(&proxy, &keys[0]);
            wait_until(PATIENCE, "writes go on by ASK", || {
                proxy_length(&proxy, &keys[0]) > before
            });
            cluster.end_move(slot, from, to);
            from = to;
        }
        stop.store(true, Relaxed);
        for (writer, key) in writers.into_iter().zip(&keys) {
            let sent = writer.join().unwrap();
            let list = proxy.client().run(&format!("LRANGE {key} 0 -1"));
            let numbers: Vec<usize> = list.items().iter().map(|item| item.text().parse().unwrap()).collect();
            assert_eq!(numbers, (1..=sent).collect::<Vec<_>>(), "{key}");
        }
    });
}

fn proxy_length(proxy: &Proxy, key: &str) -> i64 {
    proxy.client().run(&format!("LLEN {key}")).integer()
}

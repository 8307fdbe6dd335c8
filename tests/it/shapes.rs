//! Clusters, and what stands before them, in the shapes in which people run them: over TLS, named by hosts, by addresses of
//! either kind or by none, behind other ports, behind one address for all; and seeds that are not what they should be.

use std::collections::BTreeSet;
use std::fs;

use crate::cluster::readiness;
use crate::load::Load;
use crate::support::certificates::Certificates;
use crate::support::cluster::{Cluster, Failover, Shape};
use crate::support::proxy::ProxyPlan;
use crate::support::relay::Relay;
use crate::support::{Client, PATIENCE, Proxy, RedisServer, wait_until};

fn plan(seeds: &str) -> ProxyPlan {
    Proxy::before_cluster(seeds)
        .workers(2)
        .allow_log("connection to redis lost")
        .allow_log("redis cannot be used")
        .allow_log("not every node of the cluster can be asked")
}

fn wait_for_primaries(client: &mut Client, primaries: &str) {
    wait_until(PATIENCE, "the primaries are known", || {
        client.run("QCONFIG GET new").field("partitions").text() == primaries
    });
}

/// Keys and jobs on all its primaries, and a slot that moves behind the proxy's back: both ways of sending a request on.
fn serves(cluster: &Cluster, proxy: &Proxy) {
    let mut client = proxy.client();
    wait_for_primaries(&mut client, &cluster.nodes.len().to_string());
    for key in 0..50 {
        let set = ["SET", &format!("key-{key}"), &key.to_string()];
        assert_eq!(client.call(&set).to_string(), "+OK");
    }
    for key in 0..50 {
        assert_eq!(client.run(&format!("GET key-{key}")).text(), key.to_string());
    }
    for number in 0..30 {
        assert!(!client.call(&["QPUSH", "q", &number.to_string()]).is_error(""));
    }
    for node in &cluster.nodes {
        assert!(node.call("DBSIZE").integer() > 5);
        assert!(!node.call("KEYS q:{q/*:jobs").items().is_empty());
    }
    let jobs: BTreeSet<_> = (0..30).map(|_| client.run("QPOP q").items()[2].text()).collect();
    assert_eq!(jobs.len(), 30);

    let slot = cluster.nodes[0].call("CLUSTER KEYSLOT key-1").integer() as u16;
    let from = cluster.primary_of(slot);
    let to = (from + 1) % cluster.nodes.len();
    cluster.begin_move(slot, from, to);
    cluster.move_keys(slot, from, to);
    assert_eq!(client.run("GET key-1").text(), "1", "it is asked for with ASKING");
    cluster.end_move(slot, from, to);
    assert_eq!(client.run("GET key-1").text(), "1", "it has moved");
}

#[test]
fn a_cluster_over_tls_is_known_by_its_host_names_for_which_its_certificates_are() {
    let certificates = Certificates::new(&["localhost"]);
    let shape = Shape::with(&[
        "--cluster-announce-hostname",
        "localhost",
        "--cluster-preferred-endpoint-type",
        "hostname",
    ]);
    let cluster = Cluster::start_as(3, 0, shape.named("localhost").over_tls(&certificates));
    let proxy = plan(&cluster.seeds())
        .set("upstream.tls", &certificates.proxy_settings())
        .start();
    serves(&cluster, &proxy);
    for node in &cluster.nodes {
        let named = format!("localhost:{}", node.server.port());
        assert!(proxy.log().contains(&named), "not by its name: {named}");
    }
}

#[test]
fn a_failover_over_tls_loses_and_doubles_nothing() {
    let certificates = Certificates::new(&["127.0.0.1"]);
    let cluster = Cluster::start_as(3, 1, Shape::with(&[]).over_tls(&certificates));
    let tls = certificates.proxy_settings();
    let proxy = plan(&cluster.seeds()).set("upstream.tls", &tls).start();
    let load = Load::start(&[proxy.address()]);
    load.wait_for_more(100);
    cluster.failover(cluster.replica_of(0), Failover::Graceful);
    load.wait_for_more(100);
    load.stop();
}

#[test]
fn a_cluster_whose_nodes_say_no_host_is_found_where_it_was_asked() {
    let shape = Shape::with(&["--cluster-preferred-endpoint-type", "unknown-endpoint"]);
    let cluster = Cluster::start_as(3, 0, shape);
    serves(&cluster, &plan(&cluster.seeds()).start());
}

#[test]
fn a_cluster_whose_nodes_have_a_name_and_do_not_say_it_is_found_where_it_was_asked() {
    let shape = Shape::with(&["--cluster-preferred-endpoint-type", "hostname"]);
    let cluster = Cluster::start_as(3, 0, shape);
    serves(&cluster, &plan(&cluster.seeds()).start());
}

#[test]
fn a_cluster_on_ipv6_is_served() {
    let cluster = Cluster::start_as(3, 0, Shape::with(&[]).at("::1"));
    let proxy = plan(&cluster.seeds()).start();
    serves(&cluster, &proxy);
    assert!(proxy.log().contains("[::1]:"), "not by that address");
}

#[test]
fn nodes_are_reached_at_the_ports_that_they_announce_and_at_no_other() {
    let cluster = Cluster::start_behind_lines(3, 0);
    let seeds: Vec<_> = cluster.nodes.iter().map(|node| node.server.address()).collect();
    let proxy = plan(&format!("{seeds:?}")).start();
    serves(&cluster, &proxy);
    for (node, line) in cluster.nodes.iter().zip(&cluster.lines) {
        assert!(line.connections() > 0);
        let directly = format!(r#""redis":"{}""#, node.server.address());
        assert!(!proxy.log().contains(&directly));
    }
}

/// As ElastiCache's configuration endpoint: it stands for any node, is none itself, and names them all.
#[test]
fn one_address_that_stands_for_all_nodes_is_enough_and_may_come_to_stand_for_others() {
    let mut cluster = Cluster::start(3, 1);
    let endpoint = Relay::to(&cluster.nodes[0].server.address());
    let seeds = format!("[{:?}]", endpoint.address());
    let proxy = plan(&seeds).start();
    let load = Load::start(&[proxy.address()]);
    load.wait_for_more(100);
    endpoint.lead_nowhere();
    endpoint.reset();
    cluster.kill(0);
    cluster.wait_for_another_than(0, 0);
    load.wait_for_more(100);
    load.stop();
    endpoint.heal();
    endpoint.turn_to(&cluster.nodes[1].server.address());
    let late = plan(&seeds).start();
    wait_for_primaries(&mut late.client(), "3");
    assert!(!late.client().run("QPUSH q job").is_error(""));
}

/// As its primary endpoint with cluster mode off: the name comes to stand for the replica that was promoted, while the old
/// primary, to which connections are open, becomes that one's replica.
#[test]
fn a_primary_address_that_turns_to_another_redis_is_followed() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    let follow = |replica: &RedisServer, primary: &RedisServer| {
        replica.client().run(&format!("REPLICAOF 127.0.0.1 {}", primary.port()));
        wait_until(PATIENCE, "the replica follows", || {
            replica.info("master_link_status") == "up"
        });
    };
    follow(&new, &old);
    let endpoint = Relay::to(&old.address());
    let proxy = Proxy::before(&old)
        .set("upstream.address", &format!("{:?}", endpoint.address()))
        .workers(2)
        .allow_log("connection to redis lost")
        .allow_log("redis cannot be used")
        .start();
    let load = Load::start(&[proxy.address()]);
    load.wait_for_more(100);
    // Nothing is written any more that the replica lacks when it is promoted.
    old.client().run("CLIENT PAUSE 60000 WRITE");
    wait_until(PATIENCE, "the replica has all", || {
        old.info("master_repl_offset") == new.info("slave_repl_offset")
    });
    new.client().run("REPLICAOF NO ONE");
    endpoint.turn_to(&new.address());
    follow(&old, &new);
    old.client().run("CLIENT UNPAUSE");
    load.wait_for_more(100);
    load.stop();
    assert!(
        proxy.log().contains("it does not execute commands for now"),
        "by READONLY"
    );
}

#[test]
fn a_seed_of_another_cluster_is_named_and_not_followed() {
    let (mut own, mut other) = (Cluster::start(1, 0), Cluster::start(1, 0));
    let address = |cluster: &Cluster| cluster.nodes[0].server.address();
    other.kill(0);
    let seeds = format!("[{:?}, {:?}]", address(&own), address(&other));
    let proxy = plan(&seeds).set("upstream.failover_timeout", "\"300ms\"").start();
    let mut client = proxy.client();
    assert_eq!(client.run("SET key value").to_string(), "+OK");
    other.restart(0);
    own.kill(0);
    wait_until(PATIENCE, "it is said what the other one is", || {
        proxy
            .log()
            .contains(&format!("{}: it belongs to another cluster", address(&other)))
    });
    let told = client.run("SET key other");
    assert!(told.is_error("UN"), "UNAVAILABLE, or UNCERTAIN: {told}");
    assert_eq!(readiness(&proxy).0, 503);
    assert_eq!(other.nodes[0].call("DBSIZE").integer(), 0);
    own.restart(0);
    wait_until(PATIENCE, "its own is found again", || {
        client.run("GET key").to_string().contains("value")
    });
    assert_eq!(readiness(&proxy).0, 200);
}

#[test]
fn a_password_that_was_wrong_is_mended_without_a_restart() {
    let node = RedisServer::start_with(&["--cluster-enabled", "yes", "--requirepass", "sesame"]);
    let mut operator = node.client();
    operator.run("AUTH sesame");
    operator.run("CLUSTER ADDSLOTSRANGE 0 16383");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("password");
    fs::write(&file, "mustard").expect("a file");
    let proxy = plan(&format!("[{:?}]", node.address()))
        .set("upstream.password_file", &format!("{:?}", file.display().to_string()))
        .allow_log("the built-in table serves")
        .start();
    let (status, text) = readiness(&proxy);
    let said = format!("{}: Redis refused: WRONGPASS", node.address());
    assert!(status == 503 && text.contains(&said), "{text}");
    fs::write(&file, "sesame").expect("a file");
    wait_until(PATIENCE, "the password opens", || readiness(&proxy).0 == 200);
    assert!(!proxy.client().run("QPUSH q job").is_error(""));
}

#[test]
fn a_cluster_that_was_made_anew_at_the_same_addresses_is_followed() {
    let mut cluster = Cluster::start(3, 0);
    for node in cluster.nodes.iter().cycle().take(6) {
        node.call("CLUSTER BUMPEPOCH");
    }
    let proxy = plan(&cluster.seeds())
        .allow_log("the cluster was made anew, with other nodes at its addresses")
        .start();
    let mut client = proxy.client();
    wait_for_primaries(&mut client, "3");
    assert_eq!(client.run("SET foo bar").to_string(), "+OK");
    let epoch = |cluster: &Cluster| {
        cluster.nodes[0]
            .cluster_info("cluster_current_epoch")
            .parse::<u64>()
            .unwrap()
    };
    let before = epoch(&cluster);
    cluster.nodes.pop();
    cluster.form_anew();
    assert!(epoch(&cluster) < before);
    wait_until(PATIENCE, "it is served", || client.run("GET foo").is_null());
    wait_for_primaries(&mut client, "2");
    assert!(!client.run("QPUSH q job").is_error(""));
    serves(&cluster, &proxy);
    wait_until(PATIENCE, "all is well", || readiness(&proxy) == (200, "ready\n".into()));
}

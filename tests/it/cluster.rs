//! Cluster mode, on real clusters whose nodes are broken, failed over and resharded on purpose under load.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::support::cluster::{Cluster, Failover};
use crate::support::proxy::ProxyPlan;
use crate::support::{AT_ONCE, Client, PATIENCE, Proxy, RedisServer, Reply, wait_until};

use super::load::{Load, QUEUE};

const SOME: usize = 100;
/// Each way.
const FAR: Duration = Duration::from_millis(80);

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
    the_proxy_is_one_redis(&mut client);
    assert_eq!(
        scanned(&mut client),
        (0..20).map(|queue| format!("queue-{queue}")).collect()
    );
}

fn the_proxy_is_one_redis(client: &mut Client) {
    let all = client.run("DBSIZE");
    assert!(
        all.is_error("ERR 'dbsize' is not yet supported in cluster mode"),
        "{all}"
    );
    let info = client.run("INFO");
    let Reply::Verbatim(info) = info else { panic!("{info}") };
    let info = String::from_utf8(info).unwrap();
    assert!(
        info.contains("redis_mode:standalone\r\n") && info.contains("cluster_enabled:0\r\n"),
        "{info}"
    );
    assert!(info.contains("upstream_mode:cluster\r\n"), "{info}");
    assert!(
        client
            .run("CLUSTER SLOTS")
            .is_error("ERR This instance has cluster support disabled")
    );
    assert!(
        client
            .run("SELECT 1")
            .is_error("ERR SELECT is not allowed in cluster mode")
    );
    assert_eq!(client.run("PUBLISH channel message").integer(), 0);
    assert_eq!(
        client.run("EVAL \"return redis.call('GET', KEYS[1])\" 1 key-7").text(),
        "7"
    );
}

/// All queues that QSCAN names, in as many calls as it takes.
fn scanned(client: &mut Client) -> std::collections::BTreeSet<String> {
    let (mut names, mut cursor) = (std::collections::BTreeSet::new(), "0".to_owned());
    loop {
        let reply = client.call(&["QSCAN", &cursor, "COUNT", "5"]);
        let [next, found] = reply.items() else {
            panic!("{reply}")
        };
        names.extend(found.items().iter().map(Reply::text));
        cursor = next.text();
        if cursor == "0" {
            return names;
        }
    }
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
fn a_frozen_primary_is_suspected_long_before_it_is_given_up() {
    let mut cluster = Cluster::start(3, 1);
    let proxy = proxy_before(&cluster)
        .set("upstream.response_timeout", "\"60s\"")
        .start();
    let mut client = proxy.client();
    let slot = cluster.nodes[0].call("CLUSTER KEYSLOT key").integer() as u16;
    let old = cluster.primary_of(slot);
    assert!(client.run("GET key").is_null(), "and so it is connected");
    cluster.freeze(old);
    // No other request is on its way that could be told of the election.
    assert!(client.run("GET key").is_null());
    cluster.thaw(old);
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

/// What `/readyz` says: status and text.
pub fn readiness(proxy: &Proxy) -> (u16, String) {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", proxy.admin_port())).unwrap();
    stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let (_, text) = answer.split_once("\r\n\r\n").unwrap();
    (status, text.to_owned())
}

#[test]
fn a_slot_of_which_two_nodes_each_say_that_it_is_the_others_is_asked_for_until_one_takes_it_and_not_for_ever() {
    let cluster = Cluster::start(3, 0);
    let proxy = proxy_before(&cluster).start();
    let impatient = proxy_before(&cluster)
        .set("upstream.failover_timeout", "\"1s\"")
        .start();
    let slot = queue_slot(&cluster);
    let key = format!("{{{QUEUE}/0}}");
    let (owner, other) = (cluster.primary_of(slot), (cluster.primary_of(slot) + 1) % 3);
    cluster.nodes[owner].call(&format!("CLUSTER SETSLOT {slot} NODE {}", cluster.nodes[other].id));
    for node in [owner, other] {
        let told = cluster.nodes[node].try_call(&format!("GET {key}"));
        assert!(told.is_error("MOVED"), "{told}");
    }
    for line in [
        format!("SET {key} v"),
        format!("GET {key}"),
        format!("QPUSH {QUEUE} job"),
    ] {
        let told = impatient.client().run(&line);
        let expected = format!("UNAVAILABLE of slot {slot} each Redis says that it is another one's");
        assert!(told.is_error(&expected), "{line}: {told}");
    }
    let mut client = impatient.client();
    assert_eq!(
        client.run(&format!("SET {{elsewhere}}{key} v")).to_string(),
        "+OK",
        "another slot"
    );
    let mut waiting = [proxy.client(), proxy.client()];
    waiting[0].send(&["SET", &key, "v"]);
    waiting[1].send(&["QPUSH", QUEUE, "job"]);
    let turned_away = || metric(&proxy, r#"millrace_redirects_total{kind="moved"}"#);
    wait_until(PATIENCE, "both are sent to and fro", || turned_away() > 20);
    cluster.nodes[other].call(&format!("CLUSTER SETSLOT {slot} NODE {}", cluster.nodes[other].id));
    assert_eq!(waiting[0].receive().to_string(), "+OK");
    assert!(!waiting[1].receive().is_error(""));
}

#[test]
fn seeds_that_are_no_cluster_are_named_and_one_that_is_heals_it_without_a_restart() {
    let single = RedisServer::start();
    let mut node = RedisServer::start_with(&["--cluster-enabled", "yes"]);
    node.client().run("CLUSTER ADDSLOTSRANGE 0 16383");
    wait_until(PATIENCE, "the cluster of one serves", || {
        node.client().run("CLUSTER INFO").text().contains("cluster_state:ok")
    });
    node.kill();
    let seeds = format!("[{:?}, {:?}]", single.address(), node.address());
    let proxy = Proxy::before_cluster(&seeds)
        .set("upstream.failover_timeout", "\"100ms\"")
        .allow_log("the built-in table serves")
        .allow_log("not every node of the cluster can be asked")
        .start();
    let (status, text) = readiness(&proxy);
    assert_eq!(status, 503, "{text}");
    let disabled = format!("{}: ERR This instance has cluster support disabled", single.address());
    assert!(
        text.contains(&disabled) && text.contains(&format!("{}: no connection", node.address())),
        "{text}"
    );
    assert!(proxy.log().contains(&disabled));
    let told = proxy.client().run("QPUSH q job");
    assert!(
        told.is_error("UNAVAILABLE it is not known which Redis is the primary"),
        "{told}"
    );
    assert!(
        proxy
            .client()
            .run("SET k v")
            .is_error("UNAVAILABLE it is not known which Redis")
    );
    node.restart();
    wait_until(PATIENCE, "the one that is a cluster is found", || {
        readiness(&proxy) == (200, "ready\n".into())
    });
    wait_until(PATIENCE, "the queue works", || {
        !proxy.client().run("QPUSH q job").is_error("")
    });
}

/// As on another continent, or on machines that have much to do: what is asked takes half a second.
#[test]
fn nodes_that_take_their_time_are_heard_out() {
    let mut cluster = Cluster::start_behind_lines(3, 1);
    let proxy = proxy_before(&cluster).set("upstream.connect_timeout", "\"5s\"").start();
    let load = Load::start(&[proxy.address()]);
    load.wait_for_more(SOME);
    cluster.lines.iter().for_each(|line| line.lengthen(FAR));
    let slot = queue_slot(&cluster);
    let old = cluster.primary_of(slot);
    cluster.kill(old);
    cluster.wait_for_another_than(old, slot);
    load.wait_for_more(SOME);
    load.stop();
}

#[test]
fn a_shard_without_a_primary_fails_only_its_own_slots() {
    let mut cluster = Cluster::start_with(3, 0, &["--cluster-require-full-coverage", "no"]);
    let proxy = proxy_before(&cluster)
        .set("upstream.failover_timeout", "\"300ms\"")
        .start();
    let keys = ["{a}", "{b}", "{c}"].map(|tag| {
        let key = (0..).map(|number| format!("{tag}{number}"));
        key.take(1).next().unwrap()
    });
    let owner = |key: &str| {
        let slot = cluster.nodes[0].call(&format!("CLUSTER KEYSLOT {key}")).integer();
        cluster.primary_of(slot as u16)
    };
    let owners = keys.each_ref().map(|key| owner(key));
    let dead = owners[0];
    let mut client = proxy.client();
    keys.iter()
        .for_each(|key| assert_eq!(client.run(&format!("SET {key} v")).to_string(), "+OK"));
    cluster.kill(dead);
    let told = client.run(&format!("GET {}", keys[0]));
    assert!(told.is_error("UNAVAILABLE "), "{told}");
    for (key, owner) in keys.iter().zip(owners).filter(|(_, owner)| *owner != dead) {
        assert_eq!(client.run(&format!("GET {key}")).text(), "v", "of node {owner}");
    }
    wait_until(PATIENCE, "what has no key goes to another", || {
        !client.run("TIME").is_error("")
    });
    wait_until(PATIENCE, "the slots without a primary are named", || {
        let (status, text) = readiness(&proxy);
        status == 200 && text.starts_with("slots without a primary: ")
    });
    for queue in 0..10 {
        let slot = cluster.nodes[(dead + 1) % 3]
            .call(&format!("CLUSTER KEYSLOT q:{{queue-{queue}/0}}"))
            .integer();
        let told = client.run(&format!("QPUSH queue-{queue} job"));
        let lives = cluster.nodes[(dead + 1) % 3].slots().contains(&(slot as u16))
            || cluster.nodes[(dead + 2) % 3].slots().contains(&(slot as u16));
        assert_eq!(!told.is_error("UNAVAILABLE "), lives, "queue-{queue}: {told}");
    }
    cluster.restart(dead);
    wait_until(PATIENCE, "all are served again", || {
        !client.run(&format!("GET {}", keys[0])).is_error("")
    });
}

#[test]
fn a_password_that_is_missing_is_said_at_the_start_and_the_right_one_opens() {
    let node = RedisServer::start_with(&["--cluster-enabled", "yes", "--requirepass", "sesame"]);
    let mut client = node.client();
    client.run("AUTH sesame");
    client.run("CLUSTER ADDSLOTSRANGE 0 16383");
    let proxy = |password: &str| {
        Proxy::before_cluster(&format!("[{:?}]", node.address()))
            .set("upstream.password", &format!("{password:?}"))
            .allow_log("the built-in table serves")
            .allow_log("not every node of the cluster can be asked")
            .start()
    };
    let refused = proxy("");
    let (status, text) = readiness(&refused);
    assert!(
        status == 503 && text.contains(&format!("{}: NOAUTH", node.address())),
        "{text}"
    );
    let wrong = proxy("wrong");
    assert!(readiness(&wrong).1.contains("WRONGPASS"), "{}", readiness(&wrong).1);
    let right = proxy("sesame");
    wait_until(PATIENCE, "the password opens", || readiness(&right).0 == 200);
    assert!(!right.client().run("QPUSH q job").is_error(""));
}

fn metrics(proxy: &Proxy) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", proxy.admin_port())).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// One counter of the proxy's.
fn metric(proxy: &Proxy, name: &str) -> u64 {
    found_metric(proxy, name).unwrap_or_else(|| panic!("no {name} in {}", metrics(proxy)))
}

fn found_metric(proxy: &Proxy, name: &str) -> Option<u64> {
    let answer = metrics(proxy);
    let mut lines = answer.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    Some(value.parse().unwrap())
}

#[test]
fn what_is_counted_of_a_node_says_how_it_fares_and_goes_with_it() {
    let mut cluster = Cluster::start_with(2, 0, &["--cluster-require-full-coverage", "no"]);
    let proxy = proxy_before(&cluster).start();
    let mut client = proxy.client();
    (0..50).for_each(|key| assert_eq!(client.run(&format!("SET key-{key} v")).to_string(), "+OK"));
    let of = |what: &str, node: &str| found_metric(&proxy, &format!("millrace_node_{what}{{node=\"{node}\"}}"));
    let address = |cluster: &Cluster, node: usize| cluster.nodes[node].server.address();
    let second = address(&cluster, 1);
    for node in [&address(&cluster, 0), &second] {
        wait_until(PATIENCE, "both workers are connected", || of("up", node) == Some(1));
        assert!(of("connections_total", node) >= Some(2));
        assert!(of("request_seconds_count", node) > Some(10));
    }
    assert_eq!(of("connections_lost_total", &second), Some(0));
    cluster.kill(1);
    wait_until(PATIENCE, "it is down", || of("up", &second) == Some(0));
    assert!(of("connections_lost_total", &second) >= Some(2));
    assert_eq!(of("up", &address(&cluster, 0)), Some(1));
    assert!(metric(&proxy, "millrace_upstream_connections_lost_total") >= 2);
    cluster.restart(1);
    wait_until(PATIENCE, "it is up again", || of("up", &second) == Some(1));
    cluster.wait_until_it_serves();

    let added = cluster.add_node();
    let third = address(&cluster, added);
    assert_eq!(of("up", &third), None);
    cluster.move_slot(12182, 1, added); // foo's
    assert_eq!(client.run("SET foo bar").to_string(), "+OK");
    wait_until(PATIENCE, "it is counted", || of("up", &third) == Some(1));
    cluster.remove_node(added);
    assert_eq!(client.run("GET foo").text(), "bar");
    wait_until(PATIENCE, "nothing is told of it any more", || {
        of("up", &third).is_none()
    });
}

#[test]
fn a_hundred_clients_on_a_slot_that_moves_make_two_refreshes_a_second_at_most() {
    let cluster = Cluster::start(3, 0);
    let proxy = proxy_before(&cluster).start();
    let slot = cluster.nodes[0].call("CLUSTER KEYSLOT orders").integer() as u16;
    let from = cluster.primary_of(slot);
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let refreshes = || metric(&proxy, "millrace_topology_refreshes_total");
    std::thread::scope(|scope| {
        for client in 0..100 {
            let (stop, served, address) = (&stop, &served, proxy.address());
            scope.spawn(move || {
                let mut connection = Client::connect(&address).unwrap();
                while !stop.load(Relaxed) {
                    let reply = connection.run(&format!("INCR {{orders}}-{client}"));
                    assert!(matches!(reply, Reply::Integer(_)), "{reply}");
                    served.fetch_add(1, Relaxed);
                }
            });
        }
        let more = |requests| {
            let goal = served.load(Relaxed) + requests;
            wait_until(PATIENCE, "the clients are served", || served.load(Relaxed) >= goal);
        };
        more(200);
        let (before, moved) = (refreshes(), metric(&proxy, r#"millrace_redirects_total{kind="moved"}"#));
        let started = Instant::now();
        cluster.move_slot(slot, from, (from + 1) % 3);
        more(500);
        let (after, took) = (refreshes(), started.elapsed());
        assert!(
            metric(&proxy, r#"millrace_redirects_total{kind="moved"}"#) > moved,
            "nobody was sent on"
        );
        let allowed = 1 + took.as_secs() + 1; // the first at once, then one a second
        assert!(after - before <= allowed, "{} refreshes in {took:?}", after - before);
        stop.store(true, Relaxed);
    });
}

#[test]
fn a_push_through_one_proxy_wakes_a_pop_that_waits_at_another_before_and_after_its_slot_moves() {
    let cluster = Cluster::start(3, 0);
    let (one, other) = (proxy_before(&cluster).start(), proxy_before(&cluster).start());
    let slot = queue_slot(&cluster);
    let mut worker = one.client();
    let wakes = |worker: &mut Client| {
        worker.run(&format!("QPOP {QUEUE}"));
        worker.send(&["QPOP", QUEUE, "BLOCK", "0"]);
        wait_until(PATIENCE, "the worker waits", || {
            metric(&one, "millrace_blocked_pops") == 1
        });
        let pushed = Instant::now();
        other.client().run(&format!("QPUSH {QUEUE} job"));
        assert_eq!(worker.receive().items()[2].text(), "job");
        assert!(pushed.elapsed() < AT_ONCE, "{:?}", pushed.elapsed());
    };
    wakes(&mut worker);
    let from = cluster.primary_of(slot);
    cluster.move_slot(slot, from, (from + 1) % 3);
    wakes(&mut worker);
    for node in &cluster.nodes {
        let channels = node.call("PUBSUB SHARDCHANNELS").items().len();
        assert!(channels > 0, "a partition of the queue is on each primary");
        assert_eq!(
            node.call("PUBSUB CHANNELS").items().len(),
            0,
            "none that the whole cluster carries"
        );
    }
    // It waits through a move.
    worker.send(&["QPOP", QUEUE, "BLOCK", "0"]);
    wait_until(PATIENCE, "the worker waits", || {
        metric(&one, "millrace_blocked_pops") == 1
    });
    cluster.move_slot(slot, (from + 1) % 3, from);
    let pushed = Instant::now();
    other.client().run(&format!("QPUSH {QUEUE} job"));
    assert_eq!(worker.receive().items()[2].text(), "job");
    assert!(pushed.elapsed() < AT_ONCE, "{:?}", pushed.elapsed());
}

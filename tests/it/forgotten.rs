//! A failover that loses what partition 0 of a queue was told last, as replication is asynchronous: here its settings are put
//! back behind the proxy's back. The partitions that it has forgotten, and the jobs in them, are found again.

use crate::support::cluster::Cluster;
use crate::support::{Client, PATIENCE, Proxy, RedisServer, wait_until};

const SETTINGS: &str = "q:{q/0}:settings";
const STATS: &str = "q:{q/0}:stats";

fn proxy(redis: &RedisServer) -> Proxy {
    Proxy::before(redis)
        .set("queues.\"*\".partitions", "3")
        .allow_log("connection to redis lost")
        .start()
}

/// What partition 0 goes by, as a replica may have it that becomes the primary.
struct Past {
    spread: String,
    version: String,
}

impl Past {
    fn of(redis: &RedisServer) -> Past {
        let mut client = redis.client();
        let mut read = |key: &str, field: &str| {
            let value = client.call(&["HGET", key, field]);
            if value.is_null() { String::new() } else { value.text() }
        };
        Past {
            spread: read(SETTINGS, "spread"),
            version: read(STATS, "cfg"),
        }
    }

    /// In one step, as it is with a failover: who calls partition 0 meets either the one or the other.
    fn comes_back(&self, redis: &RedisServer) {
        let script = "redis.call('DEL', KEYS[1]); redis.call('HDEL', KEYS[2], 'cfg'); \
                      if ARGV[1] ~= '' then \
                      redis.call('HSET', KEYS[1], 'spread', ARGV[1]); redis.call('HSET', KEYS[2], 'cfg', ARGV[2]) end";
        let words = ["EVAL", script, "2", SETTINGS, STATS, &self.spread, &self.version];
        redis.client().call(&words);
    }
}

fn push(client: &mut Client, numbers: std::ops::Range<usize>) {
    for number in numbers {
        assert!(!client.call(&["QPUSH", "q", &number.to_string()]).is_error(""));
    }
}

/// Whoever waits for jobs gets each of them.
fn all_come(client: &mut Client, jobs: usize) {
    let mut payloads: Vec<usize> = (0..jobs)
        .map(|_| {
            let job = client.run("QPOP q BLOCK 10000");
            assert!(!job.is_null(), "some are stranded");
            job.items()[2].text().parse().unwrap()
        })
        .collect();
    payloads.sort_unstable();
    assert_eq!(payloads, (0..jobs).collect::<Vec<_>>());
}

fn partitions(client: &mut Client) -> String {
    client.run("QCONFIG GET q").field("partitions").text()
}

#[test]
fn a_queue_that_is_not_known_to_have_been_opened_any_more_is_found_by_who_opened_it() {
    let redis = RedisServer::start();
    let proxy = proxy(&redis);
    let mut client = proxy.client();
    let before = Past::of(&redis);
    push(&mut client, 0..30);
    let opened = Past::of(&redis);
    assert_eq!(opened.spread, "3 3 - -");
    before.comes_back(&redis);
    all_come(&mut client, 30);
    assert_eq!(Past::of(&redis).spread, opened.spread);

    before.comes_back(&redis);
    redis.client().run("CLIENT KILL TYPE normal SKIPME yes");
    wait_until(PATIENCE, "it is put right though nobody asks for the queue", || {
        Past::of(&redis).spread == opened.spread
    });
}

#[test]
fn a_queue_that_is_not_known_to_have_been_opened_any_more_is_found_by_a_new_proxy() {
    let redis = RedisServer::start();
    let before = Past::of(&redis);
    let opener = proxy(&redis);
    push(&mut opener.client(), 0..30);
    drop(opener);
    before.comes_back(&redis);
    let proxy = proxy(&redis);
    all_come(&mut proxy.client(), 30);
    assert_eq!(partitions(&mut proxy.client()), "3");
}

/// A queue that has grown to six partitions, and how partition 0 was before.
fn grown(redis: &RedisServer) -> (Proxy, Past) {
    let proxy = proxy(redis);
    let mut client = proxy.client();
    push(&mut client, 0..10);
    let before = Past::of(redis);
    assert_eq!(client.run("QCONFIG SET q partitions 6 retries 7").to_string(), "+OK");
    push(&mut client, 10..60);
    (proxy, before)
}

#[test]
fn a_growth_that_was_lost_is_known_again_to_those_who_knew_of_it_and_to_others() {
    for is_new in [false, true] {
        let redis = RedisServer::start();
        let (mut proxy, before) = grown(&redis);
        match is_new {
            true => {
                proxy.kill();
                before.comes_back(&redis);
                proxy.restart();
            }
            false => before.comes_back(&redis),
        }
        let mut client = proxy.client();
        all_come(&mut client, 60);
        wait_until(PATIENCE, "it has grown again", || partitions(&mut client) == "6");
        assert_eq!(client.run("QCONFIG GET q").field("retries").text(), "7", "so was this");
    }
}

#[test]
fn partitions_that_were_lost_are_joined_to_settings_that_were_changed_since() {
    let redis = RedisServer::start();
    let (proxy, before) = grown(&redis);
    let later = Past::of(&redis).version.parse::<u64>().unwrap() + 1_000_000;
    let changed = Past {
        version: later.to_string(),
        ..before
    };
    changed.comes_back(&redis);
    let mut client = proxy.client();
    all_come(&mut client, 60);
    wait_until(PATIENCE, "it has grown again", || partitions(&mut client) == "6");
    assert_eq!(
        client.run("QCONFIG GET q").field("retries").text(),
        "20",
        "that came later"
    );
}

#[test]
fn a_queue_that_was_dropped_is_not_taken_for_one_that_was_forgotten() {
    let redis = RedisServer::start();
    let (one, other) = (proxy(&redis), proxy(&redis));
    let (mut client, mut client_of_other) = (one.client(), other.client());
    push(&mut client, 0..30);
    assert_eq!(client_of_other.run("QLEN q").integer(), 30);
    assert_eq!(client.run("QDROP q").integer(), 1);
    for client in [&mut client_of_other, &mut client] {
        assert_eq!(client.run("QLEN q").integer(), 0);
        assert!(client.run("QPOP q BLOCK 50").is_null());
    }
    assert_eq!(Past::of(&redis).spread, "");
}

#[test]
fn a_queue_grows_with_its_cluster_unless_it_was_said_how_many_partitions_it_has() {
    let mut cluster = Cluster::start(2, 0);
    let proxy = Proxy::before_cluster(&cluster.seeds()).start();
    let mut client = proxy.client();
    let of = |client: &mut Client, queue: &str| {
        client.call(&["QPUSH", queue, "job"]);
        client.call(&["QSTATS", queue]).field("partitions").integer()
    };
    wait_until(PATIENCE, "both primaries are known", || {
        client.run("QCONFIG GET new").field("partitions").text() == "2"
    });
    assert_eq!(of(&mut client, "grows"), 2);
    client.run("QCONFIG SET stays partitions 2");
    assert_eq!(of(&mut client, "stays"), 2);
    let added = cluster.add_node();
    (12000..12400).for_each(|slot| cluster.move_slot(slot, 1, added));
    client.run("SET foo bar"); // in slot 12182: so the proxy hears of it
    wait_until(PATIENCE, "the third primary is known", || {
        client.run("QCONFIG GET new").field("partitions").text() == "3"
    });
    wait_until(PATIENCE, "the queue has grown", || of(&mut client, "grows") == 3);
    wait_until(PATIENCE, "there are jobs on the new primary", || {
        of(&mut client, "grows");
        !cluster.nodes[added].call("KEYS q:{grows/*:jobs").items().is_empty()
    });
    assert_eq!(of(&mut client, "stays"), 2);
    client.run("QCONFIG SET stays partitions 0");
    assert_eq!(of(&mut client, "stays"), 3);
}

//! QCRON: one push a tick, whichever proxies run, and however they end. The schedules tick each second; what was pushed is
//! held against the ticks that Redis says were made.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use millrace::queue::operation::{JobOptions, Operation, Push, Tick};
use millrace::script::cron::{Asked, MAX_ENTRIES};
use millrace::script::{Outcome, Settings};

use crate::lane::{Bench, Lane};
use crate::support::cluster::Cluster;
use crate::support::relay::{Relay, Way};
use crate::support::{Client, PATIENCE, Proxy, RedisServer, Reply, wait_until};

/// A job that is repeated each second, before its first tick.
struct Each {
    queue: String,
    first: i64,
}

impl Each {
    fn add(client: &mut Client) -> Self {
        // Should the first tick have come before it is asked for, another queue is tried.
        for number in 0.. {
            let queue = format!("q{number}");
            assert_eq!(
                client
                    .call(&["QCRON", "ADD", &queue, "each", "* * * * * *", "payload"])
                    .text(),
                "OK"
            );
            let entry = entry(client, &queue);
            if entry.field("last_ms").is_null() {
                let first = entry.field("next_ms").integer();
                return Self { queue, first };
            }
        }
        unreachable!()
    }

    /// How many ticks were made; each has pushed one job, and none was left out.
    fn ticks(&self, client: &mut Client) -> i64 {
        loop {
            let last = entry(client, &self.queue).field("last_ms");
            let pushed = client.call(&["QSTATS", &self.queue]).field("pushed").integer();
            if entry(client, &self.queue).field("last_ms").to_string() != last.to_string() {
                continue; // one was made meanwhile
            }
            let ticks = match last.is_null() {
                true => 0,
                false => (last.integer() - self.first) / 1000 + 1,
            };
            assert_eq!(pushed, ticks, "jobs for ticks");
            return ticks;
        }
    }

    fn wait_for(&self, client: &mut Client, ticks: i64) {
        wait_until(PATIENCE, "ticks", || self.ticks(client) >= ticks);
    }
}

fn entry(client: &mut Client, queue: &str) -> Reply {
    client.call(&["QCRON", "LIST", queue]).items()[0].clone()
}

#[test]
fn each_tick_pushes_one_job_through_two_proxies_and_a_waiting_pop_gets_it() {
    let redis = RedisServer::start();
    let [one, two] = [(); 2].map(|()| Proxy::before(&redis).set("listen.workers", "2").start());
    let mut client = one.client();
    assert_eq!(
        client
            .run("QCRON ADD q each \"* * * * * *\" payload PRIORITY high META a b")
            .text(),
        "OK"
    );
    let job = two.client().run("QPOP q BLOCK 10000 WITHMETA");
    assert_eq!(
        (job.items()[2].text(), job.items()[4].field("a").text()),
        ("payload".into(), "b".into())
    );
    let each = Each::add(&mut client);
    each.wait_for(&mut client, 4);
    assert_eq!(client.run("QCRON DEL q each").integer(), 1);
    assert_eq!(client.run("QCRON DEL q each").integer(), 0);
    assert!(client.run("QCRON LIST q").items().is_empty());
}

#[test]
fn no_tick_is_missed_when_the_proxy_that_made_them_is_killed() {
    let redis = RedisServer::start();
    let mut one = Proxy::before(&redis).start();
    let two = Proxy::before(&redis).start();
    let each = Each::add(&mut one.client());
    let mut client = two.client();
    each.wait_for(&mut client, 2);
    one.kill();
    let before = each.ticks(&mut client);
    each.wait_for(&mut client, before + 3);
}

#[test]
fn the_first_repeated_job_in_a_redis_is_heard_of_by_all_proxies() {
    let redis = RedisServer::start();
    let mut one = Proxy::before(&redis).start();
    let two = Proxy::before(&redis).start();
    let mut direct = redis.client();
    let keepers = |direct: &mut Client| direct.run("PUBSUB NUMSUB q:wake:keepers").items()[1].integer();
    wait_until(PATIENCE, "both listen", || keepers(&mut direct) == 2);
    assert_eq!(direct.run("DBSIZE").integer(), 0, "nothing is kept for that");
    let mut hearer = redis.client();
    hearer.run("SUBSCRIBE q:wake:keepers");
    let each = Each::add(&mut one.client());
    assert_eq!(hearer.receive().items()[2].text(), "*cron*/0");
    one.kill();
    each.wait_for(&mut two.client(), 2);
}

#[test]
fn a_proxy_that_starts_keeps_what_another_was_told() {
    let redis = RedisServer::start();
    let mut one = Proxy::before(&redis).start();
    let each = Each::add(&mut one.client());
    one.kill();
    let two = Proxy::before(&redis).start();
    each.wait_for(&mut two.client(), 2);
}

#[test]
fn a_tick_whose_job_is_not_done_is_left_out_where_it_has_a_unique_key() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).start();
    let mut client = proxy.client();
    assert_eq!(
        client
            .run("QCRON ADD q each \"* * * * * *\" payload UNIQUE running")
            .text(),
        "OK"
    );
    let deduplicated = |client: &mut Client| client.run("QSTATS q").field("deduplicated").integer();
    wait_until(PATIENCE, "two ticks", || deduplicated(&mut client) >= 1);
    assert_eq!(client.run("QSTATS q").field("pushed").integer(), 1);
}

#[test]
fn a_dropped_queue_ticks_no_more_and_leaves_nothing() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).start();
    let mut client = proxy.client();
    for name in ["a", "b"] {
        assert_eq!(
            client
                .call(&["QCRON", "ADD", "q", name, "* * * * * *", "payload"])
                .text(),
            "OK"
        );
    }
    assert_eq!(client.run("QDROP q").integer(), 1);
    assert!(client.run("QCRON LIST q").items().is_empty());
    let mut direct = redis.client();
    wait_until(PATIENCE, "an empty table of queues", || {
        direct.run("EXISTS q:{*cron*/0}:cron").integer() == 0
    });
    assert_eq!(client.run("QSTATS q").field("pushed").integer(), 0);
}

#[test]
fn adding_a_name_again_replaces_it() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).start();
    let mut client = proxy.client();
    client.run("QCRON ADD q a \"0 3 * * *\" one TZ Europe/Berlin");
    client.run("QCRON ADD q a \"* * * * * *\" two");
    let listed = client.run("QCRON LIST q");
    assert_eq!(listed.items().len(), 1);
    let entry = &listed.items()[0];
    for (field, value) in [
        ("name", "a"),
        ("schedule", "* * * * * *"),
        ("tz", "UTC"),
        ("payload", "two"),
    ] {
        assert_eq!(entry.field(field).text(), value);
    }
    let job = client.run("QPOP q BLOCK 10000");
    assert_eq!(job.items()[2].text(), "two");
    assert!(client.run("QCRON LIST q").items()[0].field("last_ms").integer() > 0);
}

/// The partition that an id or a receipt names.
fn partition_of(id: &str) -> usize {
    id.split('-').nth(1).unwrap().parse().unwrap()
}

fn before_three_partitions(redis: &RedisServer) -> Proxy {
    Proxy::before(redis).set("queues.\"*\".partitions", "3").start()
}

/// What the partitions of a queue know of its repeated jobs.
fn cron_keys(redis: &RedisServer, queue: &str) -> BTreeSet<String> {
    let keys = redis.client().run(&format!("KEYS q:{{{queue}/*"));
    let keys = keys.items().iter().map(Reply::text);
    keys.filter(|key| key.ends_with(":cron") || key.ends_with(":ticks"))
        .collect()
}

#[test]
fn ticks_of_a_queue_of_several_partitions_go_to_all_of_them_and_each_pushes_once() {
    let redis = RedisServer::start();
    let [one, two] = [(); 2].map(|()| before_three_partitions(&redis));
    let mut client = one.client();
    for name in ["a", "b", "c"] {
        client.call(&["QCRON", "ADD", "q", name, "* * * * * *", name]);
    }
    let mut popper = two.client();
    let mut partitions = BTreeSet::new();
    wait_until(PATIENCE, "jobs of all partitions", || {
        let job = popper.run("QPOP q BLOCK 10000");
        partitions.insert(partition_of(&job.items()[1].text()));
        partitions.len() == 3
    });
    for name in ["a", "b", "c"] {
        assert_eq!(client.call(&["QCRON", "DEL", "q", name]).integer(), 1);
    }
    wait_until(PATIENCE, "no trace of them", || cron_keys(&redis, "q").is_empty());
}

#[test]
fn a_tick_meets_what_was_pushed_with_its_key_or_its_group() {
    let redis = RedisServer::start();
    let proxy = before_three_partitions(&redis);
    let mut client = proxy.client();
    for number in 0..3 {
        let (queue, key) = (format!("q{number}"), format!("key-{number}"));
        let id = client.call(&["QPUSH", &queue, "first", "UNIQUE", &key]).text();
        client.call(&["QCRON", "ADD", &queue, "each", "* * * * * *", "tick", "UNIQUE", &key]);
        let grouped = format!("g{number}");
        let first = client.call(&["QPUSH", &grouped, "first", "GROUP", &key]).text();
        client.call(&["QCRON", "ADD", &grouped, "each", "* * * * * *", "tick", "GROUP", &key]);
        wait_until(PATIENCE, "two ticks that left it at that", || {
            client.call(&["QSTATS", &queue]).field("deduplicated").integer() >= 2
        });
        assert_eq!(client.call(&["QSTATS", &queue]).field("pushed").integer(), 1);
        assert_eq!(client.call(&["QACK", &queue, &id]).integer(), 0, "it was never leased");
        assert_eq!(client.call(&["QPOP", &grouped]).items()[2].text(), "first");
        wait_until(PATIENCE, "jobs of its group behind it", || {
            let behind = client.call(&["QPEEK", &grouped]);
            behind.items().len() >= 2
                && behind.items().iter().all(|job| {
                    let id = job.field("id").text();
                    partition_of(&id) == partition_of(&first)
                        && client.call(&["QEXPLAIN", &grouped, &id]).field("reason").text() == "group"
                })
        });
    }
}

#[test]
fn a_tick_with_a_key_and_a_group_is_pushed_once_its_key_is_free_in_every_group() {
    let redis = RedisServer::start();
    let proxies = [0, 1].map(|_| before_three_partitions(&redis));
    let mut client = proxies[0].client();
    for number in 0..4 {
        let (queue, key) = (format!("q{number}"), format!("key-{number}"));
        client.call(&["QPUSH", &queue, "first", "UNIQUE", &key, "GROUP", "a"]);
        let options = ["UNIQUE", &key, "GROUP", "b"];
        client.call(&[&["QCRON", "ADD", &queue, "each", "* * * * * *", "tick"], &options[..]].concat());
    }
    let counted = |client: &mut Client, queue: &str| -> [i64; 2] {
        let stats = client.call(&["QSTATS", queue]);
        ["pushed", "deduplicated"].map(|name| stats.field(name).integer())
    };
    for number in 0..4 {
        let queue = format!("q{number}");
        for pushed in 1..=2 {
            let before = counted(&mut client, &queue);
            wait_until(PATIENCE, "two ticks that left it at that", || {
                let now = counted(&mut client, &queue);
                assert_eq!(now[0], pushed);
                now[1] >= before[1] + 2
            });
            let job = client.call(&["QPOP", &queue]);
            assert_eq!(job.items()[2].text(), ["first", "tick"][pushed as usize - 1]);
            client.call(&["QACK", &queue, &job.items()[1].text()]);
            wait_until(PATIENCE, "the next tick", || counted(&mut client, &queue)[0] > pushed);
        }
    }
}

/// How many ticks were made of repeated jobs that tick each second and did so first at the times of `firsts`.
fn ticks_since(client: &mut Client, firsts: &BTreeMap<String, i64>) -> i64 {
    let listed = client.run("QCRON LIST q");
    let entries = listed.items().iter().map(|entry| {
        let last = entry.field("last_ms");
        let first = firsts[&entry.field("name").text()];
        if last.is_null() {
            0
        } else {
            (last.integer() - first) / 1000 + 1
        }
    });
    entries.sum()
}

/// A queue becomes one of several partitions, grows and shrinks, and of two proxies one after the other is killed. Redis is so
/// far away that both ask for each tick before one of them has made it, and that it is killed between its two steps.
#[test]
fn each_tick_pushes_once_while_proxies_are_killed_and_partitions_come_and_go() {
    const NAMES: usize = 12;
    let redis = RedisServer::start();
    let line = Relay::to(&redis.address());
    line.delay(Way::Down, Duration::from_millis(100));
    let address = format!("{:?}", line.address());
    let start = || Proxy::before(&redis).set("upstream.address", &address).start();
    let mut proxies = [start(), start()];
    let mut client = proxies[0].client();
    let mut firsts = BTreeMap::new();
    for number in 0..NAMES {
        let name = format!("name-{number}");
        let mut call = vec!["QCRON", "ADD", "q", &name, "* * * * * *", &name];
        let both = ["GROUP", &name, "UNIQUE", &format!("key {number}")];
        call.extend_from_slice([&["GROUP", &name][..], &["UNIQUE", &name], &both, &[]][number % 4]);
        assert_eq!(client.call(&call).text(), "OK");
        let listed = client.run("QCRON LIST q");
        let entry = listed
            .items()
            .iter()
            .find(|entry| entry.field("name").text() == name)
            .unwrap()
            .clone();
        let (last, next) = (entry.field("last_ms"), entry.field("next_ms"));
        firsts.insert(name, if last.is_null() { next } else { last }.integer());
    }
    for (round, partitions) in ["3", "5", "2", "1"].iter().enumerate() {
        let mut client = proxies[0].client();
        client.call(&["QCONFIG", "SET", "q", "partitions", partitions]);
        proxies[round % 2].kill();
        let mut client = proxies[1 - round % 2].client();
        let before = ticks_since(&mut client, &firsts);
        let all_have_ticked = |client: &mut Client| ticks_since(client, &firsts) >= before + NAMES as i64;
        wait_until(PATIENCE, "a tick of each", || all_have_ticked(&mut client));
        proxies[round % 2] = start();
    }
    let mut client = proxies[0].client();
    // A tick that was pushed and not noted yet is one too many for a moment; one too many that stays never comes out even.
    wait_until(PATIENCE, "as many pushes as ticks", || {
        let stats = client.run("QSTATS q");
        stats.field("pushed").integer() + stats.field("deduplicated").integer() == ticks_since(&mut client, &firsts)
    });
}

/// A primary loses the last that it was told, as its replica was behind; the one where the ticks are noted does not.
#[test]
fn a_tick_whose_job_a_failover_lost_is_pushed_again_and_no_other() {
    let cluster = Cluster::start(3, 0);
    let plan = Proxy::before_cluster(&cluster.seeds()).allow_log("connection to redis lost");
    let proxy = plan.start();
    let mut client = proxy.client();
    wait_until(PATIENCE, "the proxy knows all primaries", || {
        client.run("QCONFIG GET q").field("partitions").text() == "3"
    });
    let nodes: Vec<_> = cluster.nodes.iter().map(|node| &node.server).collect();
    let node_of = |partition: usize| {
        let keys = |server: &&&RedisServer| server.client().run(&format!("KEYS q:{{q/{partition}*:stats"));
        nodes.iter().position(|server| !keys(&server).items().is_empty())
    };
    client.call(&["QCRON", "ADD", "q", "each", "* * * * * *", "tick"]);
    let ids = |client: &mut Client| -> BTreeSet<String> {
        let shown = client.run("QPEEK q COUNT 1000");
        shown.items().iter().map(|job| job.field("id").text()).collect()
    };
    let is_away = |id: &String| node_of(partition_of(id)) != node_of(0);
    let mut lost = None;
    wait_until(PATIENCE, "a tick away from partition 0", || {
        lost = ids(&mut client).into_iter().find(is_away);
        lost.is_some()
    });
    client.run("QCRON DEL q each");
    let before = ids(&mut client);
    let partition = partition_of(&lost.unwrap());
    let mut server = nodes[node_of(partition).unwrap()].client();
    let told = server.run(&format!("KEYS q:{{q/{partition}*"));
    let told = told.items().iter().map(Reply::text);
    for key in told.filter(|key| !key.ends_with(":stats") && !key.ends_with(":settings")) {
        server.call(&["DEL", &key]);
    }
    server.run("CLIENT KILL TYPE normal SKIPME yes");
    wait_until(PATIENCE, "what there was", || ids(&mut client) == before);
}

/// Both steps of a tick that goes to another partition than 0, by two workers, in every order.
#[test]
fn a_tick_that_is_pushed_in_another_partition_is_pushed_once_however_often_its_steps_are_made() {
    let bench = Bench::start();
    let mut authority = Lane::new(&bench, "orders", "w1");
    let lanes = |worker| Lane::in_partition(&bench, "orders", 1, worker, Settings::default());
    let (mut one, mut two) = (lanes("w1"), lanes("w2"));
    let tick = |at: u64, is_push: bool| {
        let push = Push {
            payloads: vec![Bytes::from("payload").into()],
            options: JobOptions::default(),
        };
        Operation::Tick(Box::new(Tick {
            name: "each".into(),
            at,
            next: Some(at + 1000),
            then: 1,
            push: is_push.then_some(push),
            is_duplicate: false,
        }))
    };
    let first = bench.now();
    let (name, words) = (&b"each"[..], &b"words"[..]);
    authority.change_crons(Asked::Add {
        name,
        words,
        tick: first,
    });
    assert!(matches!(one.one(tick(first, true)), Outcome::Pushed(_)));
    assert_eq!(two.one(tick(first, true)), Outcome::Made, "its proxy died then");
    assert_eq!(authority.crons(Asked::Due).entries.len(), 1, "it is still due");
    for _ in 0..2 {
        assert_eq!(authority.one(tick(first, false)), Outcome::Made);
        let listed = authority.crons(Asked::List(0)).entries.remove(0);
        assert_eq!((listed.tick, listed.last, listed.place), (first + 1000, Some(first), 1));
    }
    assert!(authority.crons(Asked::Due).entries.is_empty());
    assert!(matches!(two.one(tick(first + 1000, true)), Outcome::Pushed(_)));
    assert_eq!(one.one(tick(first, true)), Outcome::Made, "one that was away for long");
    assert_eq!(two.stats().pushed, 2);
    assert_eq!(one.change_crons(Asked::Delete(name)), 1, "what is remembered there");
    assert_eq!(authority.change_crons(Asked::Delete(name)), 1);
    assert!(cron_keys(&bench.redis, "orders").is_empty());
}

#[test]
fn a_queue_has_so_many_repeated_jobs_and_no_more() {
    let bench = Bench::start();
    let mut lane = Lane::new(&bench, "orders", "w1");
    let tick = bench.now();
    let mut add = |number: u64| {
        let name = number.to_string();
        let (name, words) = (name.as_bytes(), &b"words"[..]);
        lane.change_crons(Asked::Add { name, words, tick })
    };
    for number in 0..MAX_ENTRIES {
        assert_eq!(add(number), 1);
    }
    assert_eq!(add(MAX_ENTRIES), 0);
    assert_eq!(add(0), 1, "that one is replaced");
    let told = lane.crons(Asked::Due);
    assert!(told.more && told.entries.len() < 20, "a bounded number a call");
}

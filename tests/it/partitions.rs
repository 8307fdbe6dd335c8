//! Queues of several partitions, on one Redis: every command over all of them, growth and shrinking with jobs in the queue,
//! what stays in order, how bounds are shared, and what is left behind.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::load::{Load, Mix};
use crate::support::cluster::Cluster;
use crate::support::relay::{Relay, Way};
use crate::support::{Client, PATIENCE, Proxy, RedisServer, Reply, wait_until};

/// A proxy whose queues have three partitions from their first push on.
fn proxy(redis: &RedisServer) -> Proxy {
    Proxy::before(redis).set("queues.\"*\".partitions", "3").start()
}

/// The partition that an id or a receipt names.
fn partition_of(id: &str) -> usize {
    id.split('-').nth(1).unwrap().parse().unwrap()
}

fn push_many(client: &mut Client, queue: &str, numbers: std::ops::Range<usize>) -> Vec<String> {
    let push = |number: usize| client.call(&["QPUSH", queue, &number.to_string()]).text();
    numbers.map(push).collect()
}

/// Receipts and payloads of all that is ready.
fn pop_all(client: &mut Client, queue: &str) -> Vec<(String, String)> {
    let pops = std::iter::from_fn(|| Some(client.call(&["QPOP", queue])).filter(|job| !job.is_null()));
    pops.map(|job| (job.items()[1].text(), job.items()[2].text())).collect()
}

/// As many groups as partitions, one in each.
fn groups(client: &mut Client) -> Vec<String> {
    let mut found = BTreeMap::new();
    for number in 0.. {
        let group = format!("group-{number}");
        let id = client.call(&["QPUSH", "groups", "x", "GROUP", &group]).text();
        found.entry(partition_of(&id)).or_insert(group);
        if found.len() == 3 {
            break;
        }
    }
    client.run("QDROP groups");
    found.into_values().collect()
}

fn call<'a>(
    client: &mut Client,
    command: &'a str,
    queue: &'a str,
    words: impl IntoIterator<Item = &'a String>,
) -> Reply {
    let mut call = vec![command, queue];
    call.extend(words.into_iter().map(String::as_str));
    client.call(&call)
}

/// One number of QSTATS.
fn stat(client: &mut Client, queue: &str, name: &str) -> i64 {
    client.call(&["QSTATS", queue]).field(name).integer()
}

/// Runs in RESP2 and in RESP3, each with a Redis of its own.
fn in_both_protocols(test: impl Fn(&RedisServer, &Proxy, &mut Client)) {
    for resp3 in [false, true] {
        let redis = RedisServer::start();
        let proxy = proxy(&redis);
        let mut client = proxy.client();
        if resp3 {
            client.hello3();
        }
        test(&redis, &proxy, &mut client);
    }
}

#[test]
fn jobs_are_spread_evenly_and_all_of_them_are_found() {
    in_both_protocols(|_, _, client| {
        let ids = push_many(client, "q", 0..600);
        let mut counts = [0; 3];
        ids.iter().for_each(|id| counts[partition_of(id)] += 1);
        assert!(counts.iter().all(|count| (190..=210).contains(count)), "{counts:?}");
        assert_eq!(client.run("QLEN q").integer(), 600);
        for (name, number) in [("ready", 600), ("normal", 600), ("pushed", 600), ("partitions", 3)] {
            assert_eq!(stat(client, "q", name), number, "{name}");
        }
        let popped = pop_all(client, "q");
        let payloads: BTreeSet<usize> = popped.iter().map(|(_, payload)| payload.parse().unwrap()).collect();
        assert!(payloads.into_iter().eq(0..600));
        assert_eq!((stat(client, "q", "ready"), stat(client, "q", "leased")), (0, 600));
    });
}

#[test]
fn jobs_of_several_partitions_are_settled_in_one_call() {
    in_both_protocols(|_, _, client| {
        push_many(client, "q", 0..60);
        let jobs = pop_all(client, "q");
        let receipts: Vec<_> = jobs.iter().map(|(receipt, _)| receipt.clone()).collect();
        let partitions: BTreeSet<_> = receipts.iter().map(|receipt| partition_of(receipt)).collect();
        assert_eq!(partitions.len(), 3);
        let ids: Vec<_> = receipts
            .iter()
            .map(|receipt| receipt.split(':').next().unwrap().to_owned())
            .collect();

        assert_eq!(call(client, "QACK", "q", &receipts[..30]).integer(), 30);
        assert_eq!(
            call(client, "QACK", "q", &receipts[..31]).integer(),
            1,
            "those before are done"
        );
        let nacked = [&receipts[31..45], &["DELAY".to_owned(), "60000".to_owned()]].concat();
        assert_eq!(call(client, "QNACK", "q", &nacked).integer(), 14);
        assert_eq!(stat(client, "q", "delayed"), 14);
        let extended = [&["90000".to_owned()], &receipts[40..50]].concat();
        assert_eq!(
            call(client, "QEXTEND", "q", &extended).integer(),
            5,
            "the others are leased no more"
        );
        assert_eq!(call(client, "QPROMOTE", "q", &ids[31..45]).integer(), 14);
        let dead = [&receipts[45..55], &["DEAD".to_owned()]].concat();
        assert_eq!(call(client, "QNACK", "q", &dead).integer(), 10);
        assert_eq!(call(client, "QREDRIVE", "q", &ids[45..50]).integer(), 5);
        assert_eq!(client.run("QREDRIVE q COUNT 3").integer(), 3);
        assert_eq!(client.run("QREDRIVE q").integer(), 2);
        assert_eq!(stat(client, "q", "redriven"), 10);
        assert_eq!(call(client, "QDEL", "q", &ids[..40]).integer(), 9);
        assert_eq!((stat(client, "q", "ready"), stat(client, "q", "leased")), (15, 5));
        for id in &ids[55..] {
            assert_eq!(client.call(&["QJOB", "q", id]).field("state").text(), "leased");
            assert_eq!(client.call(&["QEXPLAIN", "q", id]).field("reason").text(), "leased");
        }
        let done = ["QACK", "q", &receipts[55], &receipts[56], "RESULT", "well"];
        assert_eq!(client.call(&done).integer(), 2);
        for id in &ids[55..57] {
            assert_eq!(client.call(&["QRESULT", "q", id]).text(), "well");
        }
        assert_eq!(client.run("QPURGE q STATE leased").integer(), 3);
        assert_eq!(client.run("QPURGE q").integer(), 15);
        assert_eq!(client.run("QLEN q").integer(), 0);
    });
}

#[test]
fn a_look_at_the_queue_is_in_the_order_of_service() {
    in_both_protocols(|_, _, client| {
        for round in 0..30 {
            for priority in ["low", "normal", "urgent"] {
                let payload = format!("{priority} {round:02}");
                client.call(&["QPUSH", "q", &payload, "PRIORITY", priority]);
            }
        }
        let shown = |client: &mut Client, count: usize, offset: usize| -> Vec<String> {
            let peek = ["QPEEK", "q", "COUNT", &count.to_string(), "OFFSET", &offset.to_string()];
            let jobs = client.call(&peek);
            jobs.items().iter().map(|job| job.field("payload").text()).collect()
        };
        let rounds = |priority: &'static str| (0..30).map(move |round| format!("{priority} {round:02}"));
        let expected: Vec<_> = ["urgent", "normal", "low"].into_iter().flat_map(rounds).collect();
        assert_eq!(shown(client, 90, 0), expected);
        assert_eq!(shown(client, 20, 25), expected[25..45]);
        assert_eq!(shown(client, 20, 85), expected[85..]);
        assert_eq!(shown(client, 5, 90).len(), 0);
        let refused = client.run("QPEEK q OFFSET 10001");
        assert!(refused.is_error("ERR OFFSET is '10001'"), "{refused}");
    });
}

#[test]
fn a_pop_takes_the_highest_priority_that_any_partition_holds() {
    in_both_protocols(|_, _, client| {
        push_many(client, "q", 0..60);
        for number in 0..9 {
            client.call(&["QPUSH", "q", &format!("urgent {number}"), "PRIORITY", "urgent"]);
            let job = client.run("QPOP q");
            assert_eq!(job.items()[2].text(), format!("urgent {number}"));
        }
    });
}

#[test]
fn a_group_and_a_key_are_in_one_partition_for_ever() {
    in_both_protocols(|_, proxy, client| {
        let groups = groups(client);
        for (at, group) in groups.iter().enumerate() {
            for number in 0..5 {
                let id = client
                    .call(&["QPUSH", "q", &format!("{group} {number}"), "GROUP", group])
                    .text();
                assert_eq!(partition_of(&id), at);
            }
            assert!(client.call(&["QPUSH", "q", "x", "UNIQUE", group]).text().contains('-'));
        }
        assert_eq!(client.run("QCONFIG SET q partitions 7").to_string(), "+OK");
        let mut other = proxy.client();
        for group in &groups {
            other.call(&["QPUSH", "q", &format!("{group} 5"), "GROUP", group]);
            let held = other.call(&["QPUSH", "q", "y", "UNIQUE", group]).text();
            assert_eq!(other.call(&["QJOB", "q", &held]).field("payload").text(), "x");
        }
        assert_eq!(stat(client, "q", "deduplicated"), 3);

        let mut next: BTreeMap<String, usize> = BTreeMap::new();
        loop {
            let job = client.run("QPOP q");
            if job.is_null() {
                break;
            }
            let (receipt, payload) = (job.items()[1].text(), job.items()[2].text());
            if let Some((group, number)) = payload.split_once(' ') {
                let expected = next.entry(group.to_owned()).or_default();
                assert_eq!(number, expected.to_string(), "{group}");
                *expected += 1;
            }
            assert_eq!(client.call(&["QACK", "q", &receipt]).integer(), 1);
        }
        assert!(next.values().all(|number| *number == 6) && next.len() == 3, "{next:?}");
    });
}

#[test]
fn a_queue_that_had_groups_before_it_grew_keeps_them_together() {
    let redis = RedisServer::start();
    let (one, other) = (Proxy::before(&redis).start(), Proxy::before(&redis).start());
    let (mut client, mut stale) = (one.client(), other.client());
    for number in 0..3 {
        client.call(&["QPUSH", "q", &number.to_string(), "GROUP", "g"]);
    }
    stale.run("QPUSH q x"); // it knows of one partition
    assert_eq!(client.run("QCONFIG SET q partitions 4").to_string(), "+OK");
    let id = stale
        .call(&["QPUSH", "q", "3", "GROUP", "g", "UNIQUE", "both are judged there"])
        .text();
    assert_eq!(partition_of(&id), 0);
    let spread: BTreeSet<_> = push_many(&mut stale, "q", 0..40)
        .iter()
        .map(|id| partition_of(id))
        .collect();
    assert_eq!(spread.len(), 4, "jobs without a group go everywhere");
}

#[test]
fn a_proxy_that_knows_nothing_of_a_queue_finds_all_of_it() {
    in_both_protocols(|redis, _, client| {
        let ids = push_many(client, "q", 0..30);
        client.run("QPOP q COUNT 5");
        // Each with a proxy that has never seen the queue.
        let fresh = |words: &[&str]| {
            let proxy = Proxy::before(redis).start();
            proxy.client().call(words)
        };
        assert_eq!(fresh(&["QLEN", "q"]).integer(), 25);
        let last = ids.iter().rfind(|id| partition_of(id) == 2).unwrap();
        assert_eq!(fresh(&["QJOB", "q", last]).field("state").text(), "ready");
        assert_eq!(
            fresh(&["QDEL", "q", last, &ids[29], "nothing"]).integer(),
            if ids[29] == *last { 1 } else { 2 }
        );
        let foreign = ids[0].replace("-0-", "-9-");
        assert_eq!(fresh(&["QACK", "q", &foreign]).integer(), 0);
        assert!(fresh(&["QJOB", "q", &foreign]).is_null() || partition_of(&ids[0]) != 0);
        assert!(fresh(&["QRESULT", "q", &foreign]).is_null());
    });
}

#[test]
fn growth_wakes_who_waits_and_they_hear_of_jobs_in_new_partitions() {
    let redis = RedisServer::start();
    let (one, other) = (Proxy::before(&redis).start(), Proxy::before(&redis).start());
    let mut waiting: Vec<_> = (0..20).map(|_| one.client()).collect();
    waiting
        .iter_mut()
        .for_each(|client| client.send(&["QPOP", "q", "BLOCK", "0"]));
    let mut client = other.client();
    wait_until(PATIENCE, "the pops wait", || {
        redis.client().run("ZCARD q:{q/0}:waiting").integer() == 1
    });
    assert_eq!(client.run("QCONFIG SET q partitions 5").to_string(), "+OK");
    let ids = push_many(&mut client, "q", 0..20);
    assert!(ids.iter().any(|id| partition_of(id) > 0));
    for client in &mut waiting {
        assert_eq!(client.receive().items()[0].text(), "q");
    }
}

#[test]
fn shrinking_leaves_no_job_behind() {
    in_both_protocols(|_, proxy, client| {
        let ids = push_many(client, "q", 0..60);
        let mut waiting = proxy.client();
        assert_eq!(client.run("QCONFIG SET q partitions 1").to_string(), "+OK");
        assert_eq!(stat(client, "q", "partitions"), 1);
        assert!(push_many(client, "q", 60..90).iter().all(|id| partition_of(id) == 0));
        assert_eq!(client.run("QLEN q").integer(), 90);
        assert_eq!(pop_all(client, "q").len(), 90);
        // One that comes back in a partition which is not in use any more wakes who waits.
        waiting.send(&["QPOP", "q", "BLOCK", "0"]);
        let last = ids.iter().rfind(|id| partition_of(id) == 2).unwrap();
        assert_eq!(client.call(&["QNACK", "q", last, "DELAY", "0"]).integer(), 1);
        assert!(waiting.receive().items()[1].text().starts_with(last.as_str()));
        assert_eq!(client.run("QCONFIG SET q partitions 3").to_string(), "+OK");
        let spread: BTreeSet<_> = push_many(client, "q", 0..60)
            .iter()
            .map(|id| partition_of(id))
            .collect();
        assert_eq!(spread.len(), 3);
    });
}

#[test]
fn bounds_are_shared_out_and_used_up_to_the_last() {
    in_both_protocols(|_, _, client| {
        assert_eq!(
            client
                .run("QCONFIG SET q max_len 10 concurrency 4 partitions 3")
                .to_string(),
            "+OK"
        );
        assert_eq!(push_many(client, "q", 0..10).len(), 10);
        let full = client.run("QPUSH q x");
        assert!(
            full.is_error("QFULL queue 'q' holds as many jobs as its max_len, 10, allows"),
            "{full}"
        );
        let jobs = pop_all(client, "q");
        assert_eq!(jobs.len(), 4);
        for (receipt, _) in &jobs {
            assert_eq!(client.call(&["QACK", "q", receipt]).integer(), 1);
        }
        assert_eq!(push_many(client, "q", 10..14).len(), 4);
        for (change, said) in [
            (
                "concurrency 2",
                "ERR concurrency is '2', it must be 0 or at least 3, as many as the queue has partitions",
            ),
            (
                "max_len 1",
                "ERR max_len is '1', it must be 0 or at least 3, as many as the queue has partitions",
            ),
            (
                "partitions 5",
                "ERR partitions would be 5 in all, it must be at most 4, the queue's concurrency",
            ),
        ] {
            assert_eq!(
                client.run(&format!("QCONFIG SET q {change}")).to_string(),
                format!("-{said}")
            );
        }
        assert_eq!(
            client.run("QCONFIG SET q partitions 2 concurrency 3").to_string(),
            "+OK"
        );
        assert_eq!(client.run("QCONFIG GET q").field("concurrency").text(), "3");
        client.run("QCONFIG SET narrow concurrency 2");
        push_many(client, "narrow", 0..20);
        assert_eq!(stat(client, "narrow", "partitions"), 2, "each has a share");
        assert_eq!(pop_all(client, "narrow").len(), 2);
    });
}

#[test]
fn a_pause_holds_for_all_partitions_and_every_proxy() {
    let redis = RedisServer::start();
    let (one, other) = (proxy(&redis), proxy(&redis));
    let (mut client, mut client_of_other) = (one.client(), other.client());
    push_many(&mut client, "q", 0..30);
    pop_all(&mut client_of_other, "q");
    push_many(&mut client, "q", 0..30);
    assert_eq!(client.run("QPAUSE q ALL").to_string(), "+OK");
    for client in [&mut client, &mut client_of_other] {
        for _ in 0..30 {
            assert!(client.run("QPOP q").is_null());
            assert!(client.run("QPUSH q x").is_error("QPAUSED"));
        }
    }
    let mut waiting = other.client();
    waiting.send(&["QPOP", "q", "COUNT", "100", "BLOCK", "0"]);
    assert_eq!(client.run("QRESUME q").to_string(), "+OK");
    assert!(!waiting.receive().is_null());
}

#[test]
fn dropping_a_queue_leaves_nothing_and_its_ids_name_nothing() {
    let redis = RedisServer::start();
    let (one, other) = (proxy(&redis), proxy(&redis));
    let (mut client, mut stale) = (one.client(), other.client());
    for round in 0..3 {
        let ids = push_many(&mut client, "q", 0..30);
        let jobs = pop_all(&mut stale, "q");
        assert_eq!(jobs.len(), 30);
        let mut waiting = other.client();
        waiting.send(&["QPOP", "q", "BLOCK", "0"]);
        let far = ids.iter().find(|id| partition_of(id) == 2).unwrap();
        let mut for_result = other.client();
        for_result.send(&["QRESULT", "q", far, "BLOCK", "0"]);
        wait_until(PATIENCE, "both wait", || {
            let mut redis = redis.client();
            redis.run("ZCARD q:{q/2}:waiting").integer() == 1 && redis.run("ZCARD q:{q/2}:awaited").integer() == 1
        });
        assert_eq!(client.run("QDROP q").integer(), 1);
        assert!(for_result.receive().is_null());
        assert_eq!(client.run("QDROP q").integer(), 0);
        let left: Vec<_> = redis
            .client()
            .run("KEYS q:{q/*")
            .items()
            .iter()
            .map(Reply::text)
            .collect();
        let waits = |key: &&String| !key.contains(":lane:") && !key.ends_with("/0}:waiting");
        assert_eq!(left.iter().find(waits), None);
        let receipts: Vec<_> = jobs.into_iter().map(|(receipt, _)| receipt).collect();
        assert_eq!(call(&mut stale, "QACK", "q", &receipts).integer(), 0);
        assert!(stale.call(&["QJOB", "q", far]).is_null());
        // Who waited waits for the queue that comes next.
        stale.call(&["QPUSH", "q", &format!("again {round}")]);
        assert_eq!(waiting.receive().items()[2].text(), format!("again {round}"));
        client.run("QDROP q");
    }
}

#[test]
fn a_queue_that_was_given_one_partition_is_dropped_as_any_other() {
    in_both_protocols(|redis, _, client| {
        for _ in 0..2 {
            assert_eq!(client.run("QCONFIG SET q partitions 1").to_string(), "+OK");
            client.run("QPUSH q x UNIQUE key GROUP name");
            assert_eq!(client.run("QDROP q").integer(), 1);
            assert_eq!(client.run("QLEN q").integer(), 0);
            assert_eq!(redis.client().run("EXISTS q:{q/0}:settings q:{q/0}:jobs").integer(), 0);
        }
        push_many(client, "q", 0..3);
        assert_eq!(stat(client, "q", "partitions"), 3);
    });
}

/// Two proxies that are far from Redis come to the same drop, one as it was asked for that, the other as it met the note of it. What
/// was pushed since is another queue's.
#[test]
fn a_drop_that_two_proxies_finish_takes_nothing_that_was_pushed_since() {
    let redis = RedisServer::start();
    let line = Relay::to(&redis.address());
    line.delay(Way::Down, Duration::from_millis(15));
    let address = format!("{:?}", line.address());
    let far = || {
        let plan = Proxy::before(&redis).set("queues.\"*\".partitions", "3");
        plan.set("upstream.address", &address).start()
    };
    let (one, two, near) = (far(), far(), proxy(&redis));
    let (mut dropper, mut meeter, mut client) = (one.client(), two.client(), near.client());
    for round in 0..20 {
        push_many(&mut client, "q", 0..9);
        dropper.run("QLEN q");
        dropper.send(&["QDROP", "q"]);
        for _ in 0..round % 5 {
            meeter.run("QLEN q");
        }
        meeter.send(&["QLEN", "q"]);
        assert_eq!(dropper.receive().integer(), 1, "there was one");
        let id = client.call(&["QPUSH", "q", "new"]).text();
        meeter.receive();
        meeter.run("QLEN q");
        assert!(!client.call(&["QJOB", "q", &id]).is_null(), "round {round}");
    }
}

#[test]
fn a_drop_that_was_begun_is_finished_by_whoever_comes_next() {
    let redis = RedisServer::start();
    let proxy = proxy(&redis);
    let mut client = proxy.client();
    push_many(&mut client, "q", 0..30);
    // As a proxy leaves it that dies between its first step and its second.
    let mut direct = redis.client();
    direct.run("HSET q:{q/0}:settings dropping 1");
    direct.run("HINCRBY q:{q/0}:stats cfg 1");
    assert_eq!(client.run("QLEN q").integer(), 0);
    push_many(&mut client, "q", 30..31);
    let jobs = pop_all(&mut client, "q");
    assert_eq!(
        jobs.iter().map(|(_, payload)| payload.as_str()).collect::<Vec<_>>(),
        ["30"]
    );
    assert_eq!(client.run("QLEN q").integer(), 0);
}

#[test]
fn a_change_that_did_not_reach_all_partitions_is_made_good() {
    let redis = RedisServer::start();
    let (one, other) = (proxy(&redis), proxy(&redis));
    let (mut client, mut client_of_other) = (one.client(), other.client());
    push_many(&mut client, "q", 0..60);
    // As a QCONFIG SET leaves it that got no further than partition 0.
    let mut direct = redis.client();
    direct.run("HSET q:{q/0}:settings retries 1");
    direct.run("HINCRBY q:{q/0}:stats cfg 1");
    for client in [&mut client, &mut client_of_other] {
        for _ in 0..20 {
            let receipt = client.run("QPOP q").items()[1].text();
            assert_eq!(client.call(&["QNACK", "q", &receipt, "DELAY", "0"]).integer(), 1);
        }
    }
    assert_eq!(client.run("QCONFIG GET q").field("retries").text(), "1");
    // Whoever knew of it, and after partition 0 was used everybody does, buried what failed.
    let receipts: Vec<_> = pop_all(&mut client, "q")
        .into_iter()
        .map(|(receipt, _)| receipt)
        .collect();
    call(&mut client, "QNACK", "q", &receipts);
    assert_eq!(stat(&mut client, "q", "ready") + stat(&mut client, "q", "leased"), 0);
    for partition in 1..3 {
        let retries = format!("HGET q:{{q/{partition}}}:settings retries");
        assert_eq!(direct.run(&retries).text(), "1");
    }
}

#[test]
fn a_queue_that_was_only_popped_from_leaves_nothing_behind() {
    let redis = RedisServer::start();
    let proxy = proxy(&redis);
    let mut client = proxy.client();
    assert!(client.run("QPOP q BLOCK 50").is_null());
    assert!(client.run("QPOP q").is_null());
    assert_eq!(client.run("QLEN q").integer(), 0);
    let keys = redis.client().run("KEYS *");
    let left: Vec<_> = keys.items().iter().map(Reply::text).collect();
    assert!(
        left.iter()
            .all(|key| key.contains(":lane:") || key.ends_with(":waiting")),
        "{left:?}"
    );
    push_many(&mut client, "q", 0..3);
    let names = client.run("QSCAN 0 COUNT 1000");
    assert_eq!(
        names.items()[1].items().len(),
        1,
        "its partitions are no queues: {names}"
    );
}

#[test]
fn a_pipeline_is_answered_in_order_and_its_pops_find_what_it_pushed() {
    in_both_protocols(|_, _, client| {
        for number in 0..300 {
            client.send(&["QPUSH", "q", &number.to_string()]);
            client.send(&["QPOP", "q"]);
            client.send(&["QLEN", "q"]);
        }
        let mut popped = BTreeSet::new();
        for number in 0..300 {
            assert!(client.receive().text().contains('-'), "{number}");
            popped.insert(client.receive().items()[2].text());
            assert_eq!(client.receive().integer(), 0, "{number}");
        }
        assert_eq!(popped.len(), 300);
    });
}

#[test]
fn queues_grow_and_shrink_under_load_and_nothing_is_lost_doubled_or_left_asleep() {
    let redis = RedisServer::start();
    let proxies = [0, 1].map(|_| Proxy::before(&redis).workers(2).start());
    let load = Load::of(Mix::VARIED, &proxies.each_ref().map(Proxy::address));
    let mut client = proxies[0].client();
    load.wait_for_more_of_each(20);
    for partitions in [3, 1, 5, 2, 0, 8] {
        for queue in Mix::VARIED.queues() {
            let set = ["QCONFIG", "SET", queue, "partitions", &partitions.to_string()];
            assert_eq!(client.call(&set).to_string(), "+OK");
        }
        load.wait_for_more_of_each(20);
    }
    let mut looker = proxies[1].client();
    let left = std::cell::RefCell::new(&mut looker);
    let seen = load.finish(
        || {
            let mut left = left.borrow_mut();
            let mut of = |queue: &str| ["ready", "delayed", "leased"].map(|state| stat(&mut left, queue, state));
            Mix::VARIED.queues().into_iter().flat_map(&mut of).sum()
        },
        &[],
    );
    assert!(seen > 500, "{seen}");
}

/// What of a queue lies on each of a cluster's primaries.
fn shares(cluster: &Cluster, queue: &str) -> Vec<i64> {
    let jobs = |client: &mut Client| -> i64 {
        let keys = client.run(&format!("KEYS q:{{{queue}/*}}:jobs"));
        let lens = keys
            .items()
            .iter()
            .map(|key| client.call(&["HLEN", &key.text()]).integer());
        lens.collect::<Vec<_>>().iter().sum()
    };
    cluster
        .nodes
        .iter()
        .map(|node| jobs(&mut node.server.client()))
        .collect()
}

/// On a loaded machine a node may be thought to be gone for a moment, and a queue gets no partition there.
fn wait_for_all_primaries(client: &mut Client, queue: &str) {
    wait_until(PATIENCE, "the proxy knows all primaries", || {
        client.call(&["QCONFIG", "GET", queue]).field("partitions").text() == "3"
    });
}

/// Pushes until each partition has got a job: a primary to which there is no connection yet gets none. How many it took.
fn push_to_each(client: &mut Client, queue: &str) -> usize {
    let (mut pushed, mut seen) = (0, BTreeMap::new());
    wait_until(PATIENCE, "each primary gets a job", || {
        let id = client.call(&["QPUSH", queue, "first"]).text();
        pushed += 1;
        *seen.entry(partition_of(&id)).or_insert(0) += 1;
        seen.len() == 3
    });
    pushed
}

#[test]
fn a_cluster_has_a_partition_on_each_primary_and_each_carries_a_third() {
    let cluster = Cluster::start(3, 0);
    let proxy = Proxy::before_cluster(&cluster.seeds()).workers(2).start();
    let mut client = proxy.client();
    for queue in ["a", "orders", "mail:eu", "x-y.z"] {
        wait_for_all_primaries(&mut client, queue);
        let first = push_to_each(&mut client, queue);
        assert_eq!(client.call(&["QPURGE", queue]).integer() as usize, first);
        push_many(&mut client, queue, 0..600);
        let shares = shares(&cluster, queue);
        assert!(
            shares.iter().all(|share| (190..=210).contains(share)),
            "{queue}: {shares:?}"
        );
        assert_eq!(client.call(&["QLEN", queue]).integer(), 600);
        assert_eq!(stat(&mut client, queue, "partitions"), 3);
    }
    assert_eq!(client.run("QCONFIG SET a partitions 6").to_string(), "+OK");
    push_many(&mut client, "a", 600..1200);
    let shares = shares(&cluster, "a");
    assert!(shares.iter().all(|share| (380..=420).contains(share)), "{shares:?}");
    let names = client.run("QSCAN 0 COUNT 1000");
    assert!(names.items().len() == 2, "{names}");
    assert_eq!(pop_all(&mut client, "a").len(), 1200);
    assert_eq!(client.run("QDROP a").integer(), 1);
}

#[test]
fn a_primary_that_is_gone_holds_up_nobody_who_can_go_elsewhere() {
    let mut cluster = Cluster::start_with(3, 0, &["--cluster-require-full-coverage", "no"]);
    let plan = Proxy::before_cluster(&cluster.seeds()).allow_log("connection to redis lost");
    let plan = plan
        .allow_log("redis cannot be used")
        .allow_log("not every node of the cluster");
    let proxy = plan.set("upstream.failover_timeout", "\"60s\"").start();
    let mut client = proxy.client();
    wait_for_all_primaries(&mut client, "q");
    let first = push_to_each(&mut client, "q");
    assert_eq!(pop_all(&mut client, "q").len(), first);
    let gone = (0..3)
        .find(|node| !cluster.nodes[*node].try_call("KEYS q:{q/2*}:jobs").items().is_empty())
        .unwrap();
    cluster.kill(gone);
    // A pop that finds nothing elsewhere, and one that waits.
    let mut waiting = proxy.client();
    waiting.send(&["QPOP", "q", "BLOCK", "0"]);
    for number in 0..100 {
        let payload = number.to_string();
        let id = client.call(&["QPUSH", "q", &payload]).text();
        assert_ne!(partition_of(&id), 2);
        let job = match number {
            0 => waiting.receive(),
            _ => client.run("QPOP q"),
        };
        assert_eq!(job.items()[2].text(), payload);
    }
}

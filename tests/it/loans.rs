//! Jobs with a unique key and a group, in a queue whose keys and groups belong to several partitions: the key is lent to the
//! group's partition (`src/script/ending.lua`). That all of it together is one queue to its user walks `spread`, that a key has
//! one job at a time under a hundred clients shows `unique`.

use std::collections::BTreeSet;
use std::rc::Rc;

use bytes::Bytes;
use millrace::queue::operation::{JobOptions, Loan, Nack, Operation, Push, Unique};
use millrace::script::loans::{KeyAt, KeyWanted, NotHere};
use millrace::script::{Outcome, Settings};

use crate::lane::{Bench, Lane, by_receipt};
use crate::support::client::encode;
use crate::support::{Client, PATIENCE, Proxy, RedisServer, wait_until};

fn proxy(redis: &RedisServer) -> Proxy {
    Proxy::before(redis).set("queues.\"*\".partitions", "3").start()
}

fn partition_of(id: &str) -> &str {
    id.split('-').nth(1).unwrap()
}

fn push(client: &mut Client, key: &str, group: &str) -> String {
    client.call(&["QPUSH", "q", "x", "UNIQUE", key, "GROUP", group]).text()
}

fn pop_and_ack(client: &mut Client, id: &str) {
    let job = client.run("QPOP q");
    let receipt = job.items()[1].text();
    assert!(receipt.starts_with(id), "{receipt} is not {id}");
    assert_eq!(client.call(&["QACK", "q", &receipt]).integer(), 1);
}

#[test]
fn a_key_is_the_whole_queues_whatever_the_group_and_the_proxy() {
    let redis = RedisServer::start();
    let proxies = [proxy(&redis), proxy(&redis)];
    let [mut one, mut other] = proxies.each_ref().map(Proxy::client);
    other.hello3();
    let mut partitions = BTreeSet::new();
    for number in 0..20 {
        let key = format!("key-{number}");
        let id = push(&mut one, &key, "a");
        partitions.insert(partition_of(&id).to_owned());
        for group in ["a", "b", "c", "d"] {
            assert_eq!(push(&mut other, &key, group), id);
        }
        assert_eq!(one.call(&["QPUSH", "q", "x", "UNIQUE", &key]).text(), id);
        let job = other.call(&["QJOB", "q", &id]);
        assert_eq!(
            (job.field("unique").text(), job.field("group").text()),
            (key.clone(), "a".into())
        );
        pop_and_ack(&mut one, &id);

        // Free for a job without a group, and then for one of another group.
        let alone = other.call(&["QPUSH", "q", "x", "UNIQUE", &key]).text();
        assert_eq!(push(&mut one, &key, "b"), alone);
        pop_and_ack(&mut other, &alone);
        let next = push(&mut one, &key, "b");
        assert!(next != id && next != alone);
        pop_and_ack(&mut one, &next);
    }
    assert_eq!(partitions.len(), 1, "a group's jobs are in one partition");
    let stats = one.run("QSTATS q");
    let counted = ["pushed", "acked", "deduplicated"].map(|name| stats.field(name).integer());
    assert_eq!(counted, [60, 60, 120]);
}

#[test]
fn a_hold_outlasts_its_job_for_all_groups() {
    let redis = RedisServer::start();
    let proxy = proxy(&redis);
    let mut client = proxy.client();
    let held = |client: &mut Client, key: &str, group: &str| {
        client
            .call(&["QPUSH", "q", "x", "UNIQUE", key, "FOR", "300000", "GROUP", group])
            .text()
    };
    for key in ["x", "y", "z"] {
        let id = held(&mut client, key, "a");
        pop_and_ack(&mut client, &id);
        assert_eq!(push(&mut client, key, "b"), id);
        assert_eq!(client.call(&["QPUSH", "q", "x", "UNIQUE", key]).text(), id);
    }
}

#[test]
fn pushing_that_is_paused_is_refused_before_a_key_is_looked_at() {
    let redis = RedisServer::start();
    let proxy = proxy(&redis);
    let mut client = proxy.client();
    push(&mut client, "held", "a");
    client.run("QPAUSE q PUSH");
    for key in ["held", "free", "another", "one more"] {
        let refused = client.call(&["QPUSH", "q", "x", "UNIQUE", key, "GROUP", "b"]);
        assert!(refused.is_error("QPAUSED pushing to queue 'q' is paused"), "{refused}");
    }
    client.run("QRESUME q");
    assert_eq!(client.run("QLEN q").integer(), 1);
}

#[test]
fn a_pipeline_keeps_the_order_of_its_group() {
    let redis = RedisServer::start();
    let proxy = proxy(&redis);
    let mut client = proxy.client();
    let mut bytes = Vec::new();
    for number in 0..300 {
        let (number, key) = (number.to_string(), format!("key-{number}"));
        let mut words = vec!["QPUSH", "q", &number, "GROUP", "g"];
        words.extend(
            ["UNIQUE", key.as_str()]
                .iter()
                .filter(|_| number.ends_with(['0', '1', '5'])),
        );
        bytes.extend(encode(&words));
    }
    client.send_bytes(&bytes);
    (0..300).for_each(|_| drop(client.receive().text()));
    for number in 0..300 {
        let job = client.run("QPOP q");
        assert_eq!(job.items()[2].text(), number.to_string());
        client.call(&["QACK", "q", &job.items()[1].text()]);
    }
}

/// Keys whose jobs have ended come home when a look is due, as long as somebody calls.
#[test]
fn a_drained_queue_keeps_nothing_of_its_keys() {
    let redis = RedisServer::start();
    let proxy = proxy(&redis);
    let mut client = proxy.client();
    for number in 0..250 {
        push(&mut client, &format!("key-{number}"), &format!("group-{}", number % 7));
    }
    client.run("QPURGE q");
    let mut direct = redis.client();
    wait_until(PATIENCE, "no key but settings and counters", || {
        let mut cursor = "0".to_owned();
        loop {
            let found = client.call(&["QCHECK", "q", "CURSOR", &cursor]);
            assert_eq!(found.field("unsound").integer(), 0, "{found}");
            cursor = found.field("cursor").text();
            if cursor == "0" {
                break;
            }
        }
        let keys = direct.run("KEYS q:{q/*");
        let mut names = keys
            .items()
            .iter()
            .map(|key| key.text().split(':').nth(2).unwrap().to_owned());
        names.all(|name| ["stats", "settings", "lane"].contains(&name.as_str()))
    });
}

fn lanes() -> (Rc<Bench>, Lane, Lane) {
    let bench = Bench::start();
    let lane = |number| Lane::in_partition(&bench, "orders", number, "w", Settings::default());
    let (home, other) = (lane(0), lane(1));
    (bench, home, other)
}

fn wanted(by: Option<u16>, returned: Option<Loan>) -> KeyWanted {
    KeyWanted {
        key: "k".into(),
        by,
        returned,
        past: 0,
        for_push: true,
    }
}

fn unique(loan: Option<u64>) -> Operation {
    Operation::Push(Push {
        payloads: vec![Bytes::from("x").into()],
        options: JobOptions {
            unique: Some(Unique {
                key: "k".into(),
                hold: None,
                loan,
            }),
            ..JobOptions::default()
        },
    })
}

fn borrowed(home: &mut Lane, returned: Option<Loan>) -> Loan {
    match home.lend(wanted(Some(1), returned)) {
        KeyAt::Lent(loan) => loan,
        other => panic!("not lent: {other:?}"),
    }
}

#[test]
fn a_push_that_comes_after_its_key_was_given_back_is_refused() {
    let (_bench, mut home, mut other) = lanes();
    let loan = borrowed(&mut home, None);
    assert_eq!(
        borrowed(&mut home, None),
        loan,
        "the same as long as it is not given back"
    );
    assert_eq!(home.one(unique(None)), Outcome::KeyNotHere(NotHere::Lent(loan)));

    assert_eq!(other.recall(loan.number), None);
    let refused = other.one(unique(Some(loan.number)));
    assert_eq!(refused, Outcome::KeyNotHere(NotHere::Returned(loan.number)));
    let next = borrowed(&mut home, Some(loan));
    assert!(next.number > loan.number);
    let Outcome::Pushed(ids) = other.one(unique(Some(next.number))) else {
        panic!("it has the key");
    };

    // Home believes nobody who speaks of a loan before this one; and a key that is held does not come back.
    assert_eq!(home.lend(wanted(None, Some(loan))), KeyAt::Lent(next));
    assert_eq!(other.recall(next.number), Some(ids[0]));
    assert_eq!(other.one(unique(Some(next.number))), Outcome::Duplicate(ids[0]));
    let job = other.pop(1).remove(0);
    assert_eq!(other.ack(by_receipt(&job)), 1);
    assert_eq!(other.recall(next.number), None);
    assert_eq!(home.lend(wanted(None, Some(next))), KeyAt::Home);
    assert!(matches!(home.one(unique(None)), Outcome::Pushed(_)));
    assert!(matches!(home.lend(wanted(Some(1), None)), KeyAt::Held(_)));
}

#[test]
fn a_look_is_due_when_a_key_has_been_away_for_twice_as_long() {
    let (bench, mut home, _) = lanes();
    let loan = borrowed(&mut home, None);
    let mut looks = Vec::new();
    for second in 1..=20 {
        bench.advance(1000);
        if home.is_overdue() {
            assert_eq!(home.overdue(), [("k".into(), loan)]);
            assert!(!home.is_overdue());
            looks.push(second);
        }
    }
    assert_eq!(looks, [1, 2, 4, 8, 16]);
}

#[test]
fn a_job_that_is_ready_again_gets_its_key_when_that_has_come_home() {
    let (_bench, mut home, mut other) = lanes();
    let Outcome::Pushed(ids) = home.one(unique(None)) else {
        panic!("it has the key");
    };
    let job = home.pop(1).remove(0);
    let died = home.one(Operation::Nack(Nack {
        claims: vec![by_receipt(&job)],
        delay: None,
        error: None,
        dead: true,
    }));
    assert_eq!(died, Outcome::Nacked(1));
    let loan = borrowed(&mut home, None);
    assert_eq!(home.revive_one(), [(ids[0], "k".into())]);
    assert_eq!(home.retake(ids[0]), Some(NotHere::Lent(loan)));
    assert_eq!(other.recall(loan.number), None);
    assert_eq!(home.lend(wanted(None, Some(loan))), KeyAt::Home);
    assert_eq!(home.retake(ids[0]), None);
    assert_eq!(home.one(unique(None)), Outcome::Duplicate(ids[0]));
}

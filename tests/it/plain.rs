//! `plain.lua` does what is plain as `batch.lua` would, and leaves a queue as it is where anything is unusual.

use std::collections::BTreeMap;

use bytes::Bytes;
use millrace::queue::operation::{Claim, Finish, JobOptions, Operation, Pop, Priority, Push, Start, Unique};
use millrace::script::Outcome;

use crate::lane::{Bench, Lane, by_receipt};
use crate::support::{Proxy, RedisServer};

fn push(payloads: &[&str]) -> Operation {
    Operation::Push(Push {
        payloads: payloads
            .iter()
            .map(|payload| Bytes::copy_from_slice(payload.as_bytes()).into())
            .collect(),
        options: JobOptions::default(),
    })
}

fn pop(count: u32, waits: bool) -> Operation {
    Operation::Pop(Pop {
        count,
        lease: None,
        noack: false,
        waits,
    })
}

fn payloads(outcome: &Outcome) -> Vec<&[u8]> {
    match outcome {
        Outcome::Popped(jobs) => jobs.iter().map(|job| job.payload.as_ref()).collect(),
        other => panic!("not popped: {other:?}"),
    }
}

/// All keys and what is in them.
fn contents(lane: &Lane) -> BTreeMap<String, String> {
    let mut client = lane.bench.connect();
    let keys = client.run("KEYS q:*");
    let dumped = keys.items().iter().map(|key| {
        let dump = client.call(&["DUMP", &key.text()]);
        (key.text(), format!("{dump:?}"))
    });
    dumped.collect()
}

#[test]
fn a_whole_call_is_done_and_answered_as_by_the_batch() {
    let mut lane = Lane::new(&Bench::start(), "orders", "w1");
    lane.batch(&[push(&["a", "b", "c", "d"])]);
    let (first, second) = (lane.pop(1).remove(0), lane.pop(1).remove(0));
    let claims = [by_receipt(&first), by_receipt(&second), by_receipt(&first)];
    let operations = [
        Operation::Ack(claims[..2].to_vec()),
        Operation::Ack(claims[2..].to_vec()),
        push(&["e"]),
        push(&["f", "g"]),
        pop(2, false),
        Operation::Pop(Pop {
            count: 2,
            lease: Some(500),
            noack: false,
            waits: true,
        }),
    ];
    let reply = lane.try_plain(&operations).expect("all of it is plain");
    let Outcome::Pushed(ids) = &reply.outcomes[3] else {
        panic!("not pushed: {:?}", reply.outcomes[3]);
    };
    assert_eq!(
        (&reply.outcomes[0], &reply.outcomes[1]),
        (&Outcome::Acked(2), &Outcome::Acked(0))
    );
    assert_eq!(payloads(&reply.outcomes[4]), [b"c", b"d"]);
    assert_eq!(payloads(&reply.outcomes[5]), [b"e", b"f"]);
    let standing = reply.standing;
    assert_eq!(
        (standing.ready, standing.next_due, standing.plain),
        (1, Some(lane.bench.now() + 500), true)
    );

    let again = lane.repeat().unwrap();
    assert!(!lane.was_plain, "a repeat is answered from the record, by the batch");
    assert_eq!(again.outcomes, reply.outcomes);
    let stats = lane.stats();
    assert_eq!((stats.pushed, stats.acked, stats.ready(), stats.leased), (7, 2, 1, 4));
    lane.bench.advance(500);
    assert_eq!(
        lane.pop_payloads(9),
        ["e", "f", "g"],
        "two leases of half a second have ended"
    );
    assert_eq!(lane.pop_payloads(9), [""; 0]);
    assert!(lane.job(ids[1]).is_some());
}

#[test]
fn a_call_that_comes_once_more_does_nothing() {
    let mut lane = Lane::new(&Bench::start(), "orders", "w1");
    for operation in [push(&["a", "b"]), pop(1, false)] {
        let reply = lane.try_plain(&[operation]).expect("it is plain");
        assert_eq!(lane.repeat().unwrap().outcomes, reply.outcomes);
    }
    let stats = lane.stats();
    assert_eq!((stats.pushed, stats.ready(), stats.leased), (2, 1, 1));
}

#[test]
fn a_call_as_large_as_may_be_is_done() {
    let mut lane = Lane::new(&Bench::start(), "orders", "w1");
    let many: Vec<String> = (0..2000).map(|number| number.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    lane.try_plain(&[push(&many)]).expect("it is plain");
    let popped = lane.try_plain(&[pop(2000, false)]).expect("it is plain").outcomes;
    let Outcome::Popped(jobs) = &popped[0] else {
        panic!("not popped: {popped:?}");
    };
    let acks = Operation::Ack(jobs.iter().map(by_receipt).collect());
    let acked = lane.try_plain(&[acks]).expect("it is plain");
    assert_eq!((lane.was_plain, &acked.outcomes[0]), (true, &Outcome::Acked(2000)));
    assert_eq!(lane.stats().acked, 2000);
}

#[test]
fn what_is_not_there_is_waited_for_by_the_batch() {
    let mut lane = Lane::new(&Bench::start(), "orders", "w1");
    assert!(lane.try_plain(&[pop(1, true)]).is_none(), "somebody waits");
    let reply = lane.try_plain(&[pop(1, false)]).expect("nobody waits");
    assert_eq!(payloads(&reply.outcomes[0]), [b""; 0]);
    let reply = lane
        .try_plain(&[push(&["a"]), pop(5, true)])
        .expect("it gets something");
    assert_eq!(payloads(&reply.outcomes[1]), [b"a"]);
}

#[test]
fn nothing_is_done_where_anything_is_unusual() {
    type Change = fn(&mut Lane);
    let unusual: [(&str, Change); 13] = [
        ("an urgent job", |lane| {
            lane.push_with("u", of(Priority::Urgent));
        }),
        ("a high one", |lane| {
            lane.push_with("h", of(Priority::High));
        }),
        ("a low one", |lane| {
            lane.push_with("l", of(Priority::Low));
        }),
        ("a delayed one", |lane| {
            let start = Start::After(1000);
            lane.push_with(
                "d",
                JobOptions {
                    start,
                    ..JobOptions::default()
                },
            );
        }),
        ("one with a TTL", |lane| {
            let ttl = Some(1000);
            lane.push_with(
                "t",
                JobOptions {
                    ttl,
                    ..JobOptions::default()
                },
            );
        }),
        ("one of a group", |lane| {
            let group = Some("g".into());
            lane.push_with(
                "g",
                JobOptions {
                    group,
                    ..JobOptions::default()
                },
            );
        }),
        ("one that failed", |lane| {
            let job = lane.pop(1).remove(0);
            lane.nack(by_receipt(&job), Some(0));
        }),
        ("a lease that ended", |lane| {
            lane.pop(1);
            lane.bench.advance(30_000);
        }),
        ("one that was deleted where it stood", |lane| {
            let id = lane.push("x");
            lane.delete(&[id]);
        }),
        ("a result", |lane| {
            let job = lane.pop(1).remove(0);
            lane.one(Operation::Finish(Finish {
                claims: vec![by_receipt(&job)],
                result: "done".into(),
                ttl: None,
            }));
        }),
        ("a key that is held for longer than its job", |lane| {
            let unique = Some(Unique {
                key: "k".into(),
                hold: Some(10_000),
                loan: None,
            });
            lane.push_with(
                "k",
                JobOptions {
                    unique,
                    ..JobOptions::default()
                },
            );
            let jobs = lane.pop(9);
            lane.one(Operation::Ack(jobs.iter().map(by_receipt).collect()));
            lane.push("another");
        }),
        ("a worker that waits", |lane| {
            lane.pop(9);
            Lane::on_the_same(lane, "w2").batch(&[pop(1, true)]);
        }),
        ("settings that this lane does not know", |lane| {
            let known = lane.settings.clone();
            lane.configure(&[("retries", "7".into())]);
            lane.settings = known;
        }),
    ];
    for (what, change) in unusual {
        let mut lane = Lane::new(&Bench::start(), "orders", "w1");
        lane.batch(&[push(&["a", "b"])]);
        change(&mut lane);
        let before = contents(&lane);
        for operation in [push(&["c"]), pop(1, false)] {
            assert!(lane.try_plain(&[operation]).is_none(), "{what}");
        }
        assert_eq!(contents(&lane), before, "{what}");
    }
}

fn of(priority: Priority) -> JobOptions {
    JobOptions {
        priority,
        ..JobOptions::default()
    }
}

#[test]
fn a_receipt_that_is_not_good_is_judged_by_the_batch() {
    let mut lane = Lane::new(&Bench::start(), "orders", "w1");
    lane.batch(&[push(&["a", "b", "c"])]);
    let jobs = lane.pop(2);
    let waiting = lane.peek(millrace::queue::operation::State::Ready, 1, 0).remove(0);
    let bad = Claim {
        job: waiting.id,
        ..by_receipt(&jobs[0])
    };
    let before = contents(&lane);
    let acks = Operation::Ack(vec![by_receipt(&jobs[0]), bad, by_receipt(&jobs[1])]);
    assert!(lane.try_plain(&[acks.clone(), push(&["d"])]).is_none());
    assert_eq!(contents(&lane), before);
    assert_eq!(lane.one(acks), Outcome::Acked(2));
    assert_eq!(lane.pop_payloads(9), ["c"]);
}

#[test]
fn pushes_that_find_no_memory_are_turned_away_by_the_batch() {
    for acknowledges in [false, true] {
        let mut lane = Lane::new(&Bench::start(), "orders", "w1");
        lane.batch(&[push(&["a"])]);
        let job = lane.pop(1).remove(0);
        let mut operations = vec![push(&["b"])];
        if acknowledges {
            operations.insert(0, Operation::Ack(vec![by_receipt(&job)]));
        }
        let before = contents(&lane);
        lane.bench.connect().run("CONFIG SET maxmemory 1");
        assert!(lane.try_plain(&operations).is_none());
        assert_eq!(contents(&lane), before);
        assert_eq!(lane.repeat().unwrap().outcomes.last(), Some(&Outcome::OutOfMemory));
        assert_eq!(lane.stats().leased, u64::from(!acknowledges));
        lane.bench.connect().run("CONFIG SET maxmemory 0");
        assert_eq!(lane.stats().pushed, 1);
    }
}

#[test]
fn what_another_proxy_makes_of_a_queue_holds_for_the_next_call() {
    let redis = RedisServer::start();
    let (one, other) = (Proxy::before(&redis).start(), Proxy::before(&redis).start());
    let (mut here, mut there, mut waiting) = (one.client(), other.client(), one.client());
    for payload in ["a", "b", "c", "d"] {
        here.call(&["QPUSH", "q", payload]);
    }
    let receipt = here.run("QPOP q").items()[1].text();
    assert!(there.run("QPUSH q now PRIORITY urgent").text().len() > 10);
    let popped = here.run("QPOP q");
    assert_eq!(
        popped.items()[2].text(),
        "now",
        "whatever this proxy took the queue for"
    );
    assert_eq!(there.call(&["QNACK", "q", &receipt, "DELAY", "0"]).integer(), 1);
    assert_eq!(here.call(&["QACK", "q", &receipt]).integer(), 0);
    assert_eq!(here.run("QPOP q COUNT 9").items().len(), 4);
    waiting.send(&["QPOP", "q", "BLOCK", "0"]);
    assert!(there.run("QPOP q").is_null());
    there.run("QPUSH q e");
    assert_eq!(waiting.receive().items()[2].text(), "e");
}

#[test]
fn no_request_costs_two_calls_because_the_first_one_was_in_vain() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).start();
    let mut client = proxy.client();
    for payload in ["a", "b", "c"] {
        client.call(&["QPUSH", "q", payload]);
    }
    let id = client.call(&["QPUSH", "q", "deleted"]).text();
    client.call(&["QDEL", "q", &id]);
    redis.client().run("CONFIG RESETSTAT");
    let mut requests = 0;
    for round in 0..10 {
        let popped = client.run("QPOP q BLOCK 10000");
        let receipt = popped.items()[1].text();
        assert_eq!(client.call(&["QACK", "q", &receipt]).integer(), 1);
        client.run("QPUSH q again");
        requests += 3;
        if round % 3 == 0 {
            assert!(client.run("QPOP q-that-is-empty BLOCK 1").is_null());
            requests += 2; // once more when its time is over
        }
    }
    let stats = redis.info("cmdstat_evalsha");
    let calls = stats
        .strip_prefix("calls=")
        .and_then(|rest| rest.split(',').next())
        .unwrap();
    assert!(
        calls.parse::<usize>().unwrap() <= requests,
        "{calls} calls for {requests} requests"
    );
}

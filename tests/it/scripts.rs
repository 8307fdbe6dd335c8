//! The scripts, one promise at a time, against a real Redis: what happens at the edges that the model's random walk seldom
//! or never meets: waking, refusal, bounds, repeats.

use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use millrace::config::{QueueSettings, Rate};
use millrace::queue::operation::{JobOptions, Operation, Pop, Push, Start, State};
use millrace::script::wake::Wake;
use millrace::script::{CallError, Changed, Outcome, Settings};

use crate::lane::{Bench, Lane, by_id, by_receipt};
use crate::support::{Client, RedisServer, Reply};

fn orders(worker: &str) -> Lane {
    Lane::new(&Bench::start(), "orders", worker)
}

fn push_of(payloads: &[&str]) -> Operation {
    let payloads = payloads
        .iter()
        .map(|payload| Bytes::copy_from_slice(payload.as_bytes()).into())
        .collect();
    Operation::Push(Push {
        payloads,
        options: JobOptions::default(),
    })
}

fn waiting_pop() -> Operation {
    Operation::Pop(Pop {
        count: 1,
        lease: None,
        noack: false,
        waits: true,
    })
}

#[test]
fn a_job_is_pushed_popped_and_acknowledged() {
    let mut lane = orders("w1");
    let id = lane.push("hello");
    assert_eq!(lane.stats().ready(), 1);
    let job = lane.pop(1).remove(0);
    assert_eq!((job.id, job.delivery, job.payload.as_ref()), (id, 1, &b"hello"[..]));
    assert_eq!(lane.ack(by_receipt(&job)), 1);
    assert_eq!(lane.ack(by_receipt(&job)), 0);
    let stats = lane.stats();
    assert_eq!((stats.ready(), stats.leased, stats.pushed, stats.acked), (0, 0, 1, 1));
}

#[test]
fn a_receipt_is_good_until_somebody_brought_the_job_back() {
    let mut lane = orders("w1");
    lane.push("a");
    let late = lane.pop(1).remove(0);
    lane.bench.advance(30_000);
    assert_eq!(lane.ack(by_receipt(&late)), 1);
    lane.push("b");
    let first = lane.pop(1).remove(0);
    lane.bench.advance(30_000);
    let second = lane.pop(1).remove(0);
    assert_eq!((second.id, second.delivery), (first.id, 2));
    assert_eq!(lane.ack(by_receipt(&first)), 0);
    assert_eq!(lane.nack(by_receipt(&first), None), 0);
    assert_eq!(lane.ack(by_id(first.id)), 1);
}

#[test]
fn one_receipt_twice_in_a_batch_counts_once_each_time_where_it_stood_first() {
    let mut lane = orders("w1");
    lane.batch(&[push_of(&["a", "b", "c"])]);
    let jobs = lane.pop(3);
    let (a, b, c) = (by_receipt(&jobs[0]), by_receipt(&jobs[1]), by_receipt(&jobs[2]));
    let reply = lane.batch(&[
        Operation::Ack(vec![a, b]),
        Operation::Ack(vec![b]),
        Operation::Ack(vec![c, b]),
    ]);
    assert_eq!(
        reply.outcomes,
        [Outcome::Acked(2), Outcome::Acked(0), Outcome::Acked(1)]
    );
}

#[test]
fn a_stale_receipt_among_good_ones_is_left_out() {
    let mut lane = orders("w1");
    lane.batch(&[push_of(&["a", "b", "c"])]);
    let jobs = lane.pop(3);
    lane.ack(by_receipt(&jobs[1]));
    let all = jobs.iter().map(by_receipt).collect();
    assert_eq!(lane.one(Operation::Ack(all)), Outcome::Acked(2));
    assert_eq!(lane.stats().acked, 3);
}

#[test]
fn a_repeated_batch_answers_the_same_and_does_nothing() {
    let mut lane = orders("w1");
    lane.push("a");
    let leased = lane.pop(1).remove(0);
    let batch = [
        Operation::Ack(vec![by_receipt(&leased)]),
        push_of(&["b", "c"]),
        waiting_pop(),
    ];
    let first = lane.batch(&batch);
    let stats = lane.stats();
    assert_eq!(lane.repeat().unwrap(), first);
    assert_eq!(lane.stats(), stats);
}

#[test]
fn a_repeat_leaves_out_what_was_finished_meanwhile() {
    let bench = Bench::start();
    let (mut one, mut two) = (Lane::new(&bench, "orders", "w1"), Lane::new(&bench, "orders", "w2"));
    one.batch(&[push_of(&["a", "b"])]);
    let jobs = one.pop(2);
    two.ack(by_receipt(&jobs[0]));
    let again = one.repeat().unwrap();
    assert_eq!(again.outcomes, [Outcome::Popped(vec![jobs[1].clone()])]);
}

#[test]
fn out_of_memory_turns_pushes_away_and_lets_the_rest_of_the_batch_go_on() {
    let mut lane = orders("w1");
    lane.batch(&[push_of(&["a", "b"])]);
    let job = lane.pop(1).remove(0);
    lane.bench.connect().run("CONFIG SET maxmemory 1");
    let reply = lane.batch(&[push_of(&["c"]), Operation::Ack(vec![by_receipt(&job)]), waiting_pop()]);
    assert_eq!(reply.outcomes[..2], [Outcome::OutOfMemory, Outcome::Acked(1)]);
    assert!(matches!(&reply.outcomes[2], Outcome::Popped(jobs) if jobs[0].payload == "b"));
    assert_eq!(lane.repeat().unwrap(), reply);
    lane.bench.connect().run("CONFIG SET maxmemory 0");
    assert_eq!(lane.stats().pushed, 2);
}

#[test]
fn a_redis_that_refuses_writes_refuses_the_whole_batch() {
    let mut lane = orders("w1");
    lane.batch(&[push_of(&["a", "b"])]);
    let job = lane.pop(1).remove(0);
    let before = lane.stats();
    lane.bench.connect().run("CONFIG SET min-replicas-to-write 1");
    for operation in [push_of(&["c"]), Operation::Ack(vec![by_receipt(&job)]), waiting_pop()] {
        let refused = lane.try_batch(&[operation]);
        assert!(
            matches!(&refused, Err(CallError::Refused(line)) if line.starts_with(b"NOREPLICAS")),
            "{refused:?}"
        );
    }
    lane.bench.connect().run("CONFIG SET min-replicas-to-write 0");
    assert_eq!(lane.stats(), before);
}

#[test]
fn a_script_that_redis_does_not_know_is_named_as_such() {
    let mut lane = orders("w1");
    lane.bench.connect().run("SCRIPT FLUSH");
    let refused = lane.try_batch(&[]);
    assert!(
        matches!(&refused, Err(CallError::Refused(line)) if line.starts_with(b"NOSCRIPT")),
        "{refused:?}"
    );
}

#[test]
fn more_than_one_call_brings_back_is_brought_back_by_several() {
    let mut lane = orders("w1");
    let payloads: Vec<String> = (0..1500).map(|i| i.to_string()).collect();
    let payloads: Vec<&str> = payloads.iter().map(String::as_str).collect();
    lane.batch(&[push_of(&payloads)]);
    lane.pop(1500);
    lane.bench.advance(30_000);
    let reply = lane.batch(&[]);
    assert!(reply.standing.more && (1..1500).contains(&reply.standing.ready));
    assert_eq!(lane.stats().ready(), 1500);
    let shown = lane.peek(State::Ready, 1500, 0);
    assert!(
        shown.is_sorted_by_key(|job| job.id.as_bytes().to_vec()),
        "in push order"
    );
    let options = JobOptions {
        start: Start::After(10),
        ttl: Some(20),
        ..JobOptions::default()
    };
    lane.batch(&[Operation::Push(Push {
        payloads: vec![Bytes::from("x").into(); 1500],
        options,
    })]);
    lane.bench.advance(10);
    assert_eq!(lane.stats().ready(), 3000);
    lane.bench.advance(10);
    assert_eq!((lane.stats().ready(), lane.stats().expired), (1500, 1500));
    assert_eq!(lane.purge(None), 1500);
    assert_eq!(lane.stats().ready(), 0);
}

#[test]
fn nothing_is_popped_until_all_leases_that_ended_are_back() {
    let mut lane = orders("w1");
    let payloads: Vec<String> = (0..500).map(|i| i.to_string()).collect();
    lane.batch(&[push_of(&payloads.iter().map(String::as_str).collect::<Vec<_>>())]);
    lane.pop(500);
    lane.bench.advance(30_000);
    let mut popped = Vec::new();
    while popped.is_empty() {
        let ask = Operation::Pop(Pop {
            count: 3,
            lease: None,
            noack: false,
            waits: false,
        });
        let reply = lane.batch(&[ask]);
        let Outcome::Popped(jobs) = &reply.outcomes[0] else {
            panic!()
        };
        assert_eq!(jobs.is_empty(), reply.standing.more);
        popped.extend(jobs.iter().map(|job| job.payload.clone()));
    }
    assert_eq!(popped, ["0", "1", "2"]);
}

#[test]
fn deleted_jobs_leave_nothing_behind_once_the_queue_is_drained() {
    let mut lane = orders("w1");
    let Outcome::Pushed(ids) = lane.one(push_of(&["a", "b", "c", "d"])) else {
        panic!()
    };
    assert_eq!(lane.delete(&[ids[0], ids[2]]), 2);
    assert_eq!(lane.peek(State::Ready, 10, 1).len(), 1);
    assert_eq!(lane.pop_payloads(5), ["b", "d"]);
    assert_eq!(lane.delete(&ids), 2);
    let Reply::Array(left) = lane.bench.connect().run("KEYS q:*") else {
        panic!()
    };
    let mut left: Vec<String> = left.iter().map(Reply::text).collect();
    left.sort();
    assert_eq!(left, ["q:{orders/0}:lane:w1", "q:{orders/0}:stats"]);
}

// Waiting and waking: what a worker hears on its channel.

fn listen(lane: &Lane, worker: &str) -> Client {
    let mut client = lane.bench.connect();
    client.run(&format!("SUBSCRIBE q:wake:{worker}"));
    client
}

fn heard(client: &mut Client) -> Wake {
    let Reply::Array(message) = client.receive() else {
        panic!("no message")
    };
    Wake::parse(message[2].bytes()).unwrap()
}

fn waiting(lane: &Lane) -> Vec<String> {
    let Reply::Array(workers) = lane.bench.connect().run("ZRANGE q:{orders/0}:waiting 0 -1") else {
        panic!()
    };
    workers.iter().map(Reply::text).collect()
}

#[test]
fn a_push_wakes_the_worker_that_has_waited_longest_and_only_it() {
    let bench = Bench::start();
    let mut lanes: Vec<Lane> = ["w1", "w2", "w3"]
        .iter()
        .map(|worker| Lane::new(&bench, "orders", worker))
        .collect();
    let mut second = listen(&lanes[1], "w2");
    for lane in lanes[1..].iter_mut() {
        lane.batch(&[waiting_pop()]);
        bench.advance(1);
    }
    assert_eq!(waiting(&lanes[0]), ["w2", "w3"]);
    lanes[0].push("a");
    assert!(matches!(heard(&mut second), Wake::Come(queue, 0) if queue.as_str() == "orders"));
    assert_eq!(waiting(&lanes[0]), ["w3"]);
}

#[test]
fn a_worker_that_hears_nothing_is_passed_over() {
    let bench = Bench::start();
    let mut lanes: Vec<Lane> = ["w1", "w2", "w3"]
        .iter()
        .map(|worker| Lane::new(&bench, "orders", worker))
        .collect();
    let mut third = listen(&lanes[2], "w3");
    for lane in lanes[1..].iter_mut() {
        lane.batch(&[waiting_pop()]);
        bench.advance(1);
    }
    lanes[0].push("a");
    assert!(matches!(heard(&mut third), Wake::Come(..)));
    assert!(waiting(&lanes[0]).is_empty());
}

#[test]
fn the_waiting_are_told_of_a_due_time_sooner_than_they_know() {
    let bench = Bench::start();
    let (mut one, mut two) = (Lane::new(&bench, "orders", "w1"), Lane::new(&bench, "orders", "w2"));
    let mut second = listen(&two, "w2");
    two.batch(&[waiting_pop()]);
    for (delay, told) in [(500, true), (900, false), (200, true)] {
        one.push_with(
            "later",
            JobOptions {
                start: Start::After(delay),
                ..JobOptions::default()
            },
        );
        if told {
            assert!(matches!(heard(&mut second), Wake::Due(_, 0, due) if due == bench.now() + delay));
        }
    }
    assert_eq!(waiting(&one), ["w2"]);
}

#[test]
fn a_worker_waits_only_while_it_has_clients_that_got_nothing() {
    let bench = Bench::start();
    let mut lane = Lane::new(&bench, "orders", "w1");
    lane.batch(&[push_of(&["a"]), waiting_pop()]);
    assert!(waiting(&lane).is_empty());
    lane.batch(&[
        waiting_pop(),
        Operation::Pop(Pop {
            count: 1,
            lease: None,
            noack: false,
            waits: false,
        }),
    ]);
    assert_eq!(waiting(&lane), ["w1"]);
    lane.parked = true;
    lane.batch(&[]);
    assert_eq!(waiting(&lane), ["w1"]);
    lane.parked = false;
    lane.batch(&[]);
    assert!(waiting(&lane).is_empty());
}

#[test]
fn a_call_with_old_settings_does_nothing_and_brings_the_new_ones() {
    let mut lane = orders("w1");
    lane.push("a");
    lane.configure(&[("lease", "5".into()), ("paused_pop", "1".into())]);
    let changed = Changed::read(&lane.raw_batch()).expect("the settings").unwrap();
    let mut overrides = changed.overrides.clone();
    overrides.sort();
    assert_eq!(
        overrides,
        [("lease".into(), "5".into()), ("paused_pop".into(), "1".into())]
    );

    lane.settings = Settings::with_overrides(QueueSettings::default(), changed.version, &overrides);
    let reply = lane.batch(&[waiting_pop()]);
    assert_eq!(reply.outcomes, [Outcome::Popped(Vec::new())], "popping is paused");
    assert_eq!(reply.standing.ready, 0, "nobody needs to come for it");
    assert_eq!(lane.stats().ready(), 1);
}

#[test]
fn a_call_that_was_applied_is_answered_from_its_record_whatever_the_settings_became() {
    let mut lane = orders("w1");
    let reply = lane.batch(&[push_of(&["a"])]);
    Lane::on_the_same(&lane, "w2").configure(&[("lease", "5".into())]);
    assert_eq!(lane.repeat().unwrap().outcomes, reply.outcomes);
}

#[test]
fn a_queue_that_is_resumed_calls_those_who_wait() {
    let mut lane = orders("w1");
    lane.settings.pause.pop = true;
    lane.push("a");
    let mut ears = Client::connect(&lane.bench.redis.address()).unwrap();
    ears.run("SUBSCRIBE q:wake:w1");
    lane.batch(&[waiting_pop()]);
    Lane::on_the_same(&lane, "w2").configure(&[("paused_pop", String::new())]);
    assert_eq!(ears.receive().items()[2].text(), "orders/0");
}

/// Else whoever hears of it would look again and again whether they have come.
#[test]
fn nobody_is_called_to_jobs_that_may_not_be_popped() {
    let mut lane = orders("w1");
    lane.settings.pause.pop = true;
    lane.batch(&[waiting_pop()]);
    let mut other = Lane::on_the_same(&lane, "w2");
    other.settings.pause.pop = true;
    assert!(!other.batch(&[push_of(&["a"])]).standing.called, "it is paused");
    other.settings.pause.pop = false;
    assert!(other.batch(&[push_of(&["b"])]).standing.called);
    assert!(
        !other.batch(&[push_of(&["c"])]).standing.called,
        "nobody waits any more"
    );
}

#[test]
fn no_more_is_stored_than_the_bound_allows() {
    let mut lane = orders("w1");
    lane.settings.max_len = 3;
    let reply = lane.batch(&[
        push_of(&["a", "b"]),
        push_of(&["c", "d"]),
        push_of(&["e"]),
        push_of(&["f"]),
    ]);
    let full: Vec<bool> = reply.outcomes.iter().map(|outcome| *outcome == Outcome::Full).collect();
    assert_eq!(full, [false, true, false, true]);
    assert_eq!(lane.repeat().unwrap().outcomes, reply.outcomes);
    assert_eq!((lane.stats().ready(), lane.stats().pushed), (3, 3));
    assert_eq!(lane.pop_payloads(5), ["a", "b", "e"]);
}

#[test]
fn a_rate_says_when_the_next_job_may_go() {
    let mut lane = orders("w1");
    lane.settings.rate = Rate(Some((2, Duration::from_secs(1))));
    lane.batch(&[push_of(&["a", "b", "c"])]);
    assert_eq!(lane.pop_payloads(3), ["a", "b"]);
    let now = lane.bench.now();
    let reply = lane.batch(&[waiting_pop()]);
    assert_eq!((reply.standing.ready, reply.standing.next_due), (0, Some(now + 500)));
    lane.bench.advance(500);
    assert_eq!(lane.pop_payloads(3), ["c"]);
}

#[test]
fn a_pop_that_found_nothing_takes_nothing_when_it_comes_once_more() {
    let mut lane = orders("w1");
    let reply = lane.batch(&[waiting_pop()]);
    Lane::on_the_same(&lane, "w2").push("a");
    assert_eq!(lane.repeat().unwrap().outcomes, reply.outcomes);
    assert_eq!(lane.stats().ready(), 1);
}

#[test]
fn a_purge_takes_the_job_of_a_group_that_its_own_upkeep_made_ready() {
    let mut lane = orders("w1");
    let options = JobOptions {
        start: Start::After(10),
        group: Some("g".into()),
        ..JobOptions::default()
    };
    let id = lane.push_with("later", options);
    lane.bench.advance(10);
    assert_eq!(lane.purge(Some(State::Ready)), 1);
    assert_eq!((lane.job(id), lane.stats().ready()), (None, 0));
}

#[test]
fn groups_whose_jobs_die_with_their_leases_go_on_in_the_order_in_which_these_ended() {
    let mut lane = orders("w1");
    let of_group = |group: &'static str| JobOptions {
        group: Some(group.into()),
        retries: Some(1),
        ..JobOptions::default()
    };
    for (payload, group) in [
        ("a", "one"),
        ("b", "two"),
        ("c", "three"),
        ("d", "one"),
        ("e", "two"),
        ("f", "three"),
    ] {
        lane.push_with(payload, of_group(group));
    }
    assert_eq!(lane.pop_payloads(9), ["a", "b", "c"]);
    lane.bench.advance(30_000);
    assert_eq!(lane.pop_payloads(9), ["d", "e", "f"]);
    assert_eq!(lane.stats().dead, 3);
}

#[test]
fn a_reply_says_whether_there_are_jobs_that_cost_more() {
    let mut lane = orders("w1");
    lane.push("plain");
    assert!(!lane.batch(&[]).standing.dear);
    let of_group = JobOptions {
        group: Some("g".into()),
        ..JobOptions::default()
    };
    lane.push_with("of a group", of_group);
    assert!(lane.batch(&[]).standing.dear);
    for job in lane.pop(2) {
        assert_eq!(lane.ack(by_receipt(&job)), 1);
    }
    assert!(!lane.batch(&[]).standing.dear);
}

/// In Danish aa stands behind z, and Redis compares words as its locale does.
#[cfg(target_os = "linux")]
#[test]
fn a_group_keeps_its_order_whatever_the_servers_locale() {
    let dir = tempfile::tempdir().unwrap();
    let made = Command::new("localedef")
        .args(["-i", "da_DK", "-f", "UTF-8", "./da_DK.UTF-8"])
        .current_dir(dir.path())
        .status();
    assert!(made.unwrap().success());
    let path = dir.path().to_str().unwrap().to_owned();
    let bench = Bench::before(RedisServer::start_in(vec![
        ("LOCPATH", path),
        ("LC_ALL", "da_DK.UTF-8".into()),
    ]));
    let mut client = bench.connect();
    assert_eq!(
        client.call(&["EVAL", "return tostring('0aa' < '0b0')", "0"]).text(),
        "false"
    );

    let mut lane = Lane::new(&bench, "orders", "w1");
    let grouped = JobOptions {
        group: Some("g".into()),
        ..JobOptions::default()
    };
    // Ids whose stamps end like that.
    let round = 1_700_000_000_000_000 / 36u64.pow(3) * 36u64.pow(3);
    for (stamp, ending) in [(10 * 36 + 10, "0aa"), (11 * 36, "0b0")] {
        bench.set_clock(round + stamp);
        let id = lane.push_with("x", grouped.clone());
        assert_eq!(&id.as_bytes()[7..10], ending.as_bytes());
    }
    let first = lane.pop(1).remove(0);
    assert_eq!(lane.nack(by_receipt(&first), Some(1000)), 1);
    assert_eq!(lane.pop(1), [], "it backs off, and the other waits for it");
}

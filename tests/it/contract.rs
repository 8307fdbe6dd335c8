//! The queue commands: each sentence of their contract as a few lines of a transcript in tests/transcripts/queue,
//! played through the proxy in RESP2 and RESP3. What takes time (a lease, a delay) is waited for by a blocked pop.

use crate::support::client::encode;
use crate::support::transcript::{Protocol, Role, Transcript};
use crate::support::{Proxy, RedisServer, Reply};

fn the_contract_holds_in(protocol: Protocol) {
    for transcript in Transcript::all_in("tests/transcripts/queue") {
        let redis = RedisServer::start();
        let proxy = Proxy::before(&redis).start();
        transcript.play(&proxy.address(), protocol, Role::Proxy, None);
    }
}

#[test]
fn the_contract_holds_in_resp2() {
    the_contract_holds_in(Protocol::Resp2);
}

#[test]
fn the_contract_holds_in_resp3() {
    the_contract_holds_in(Protocol::Resp3);
}

#[test]
fn a_pipeline_of_queue_and_plain_commands_is_answered_in_order() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).start();
    let mut client = proxy.client();
    for n in 0..500 {
        client.send(&["QPUSH", "q", &n.to_string()]);
        client.send(&["SET", "key", &n.to_string()]);
        client.send(&["QPOP", "q"]);
        client.send(&["GET", "key"]);
        client.send(&["PING", &n.to_string()]);
    }
    for n in 0..500 {
        let n = n.to_string();
        assert!(!client.receive().text().is_empty(), "an id");
        assert_eq!(client.receive().text(), "OK");
        assert_eq!(client.receive().items()[2].text(), n, "first in, first out");
        assert_eq!(client.receive().text(), n);
        assert_eq!(client.receive().text(), n);
    }
}

#[test]
fn any_bytes_come_back_as_they_were_pushed() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).start();
    let mut client = proxy.client();
    let every_byte: Vec<u8> = (0..=255).collect();
    let large = vec![b'\n'; 3 << 20];
    for payload in [&every_byte[..], b"", b"\r\n", &large] {
        client.call(&[&b"QPUSH"[..], b"q", payload]);
        let job = client.run("QPOP q");
        assert!(
            job.items()[2].bytes() == payload,
            "{} bytes came back changed",
            payload.len()
        );
    }
}

#[test]
fn a_client_that_vanishes_while_blocked_takes_no_job_along() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).start();
    for n in 0..50 {
        let mut blocked = proxy.client();
        blocked.send(&["QPOP", "q", "BLOCK", "0"]);
        drop(blocked);
        let mut client = proxy.client();
        client.call(&["QPUSH", "q", &n.to_string()]);
        let job = client.run("QPOP q BLOCK 5000");
        assert_eq!(job.items()[2].text(), n.to_string());
        assert_eq!(
            job.items()[3].integer(),
            1,
            "a delivery that reached nobody is not counted"
        );
    }
}

#[test]
fn bound_jobs_come_back_when_their_connection_closes() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).start();
    let (mut bound, mut other) = (proxy.client(), proxy.client());
    other.run("QMPUSH q 4 a b c d");
    let jobs = bound.run("QPOP q COUNT 4 BOUND");
    let receipt = |n: usize| jobs.items()[n].items()[1].text();
    assert_eq!(bound.call(&["QACK", "q", &receipt(1)]).integer(), 1);
    assert_eq!(
        other.call(&["QACK", "q", &receipt(3)]).integer(),
        1,
        "over another connection"
    );
    drop(bound);
    for payload in ["a", "c"] {
        let job = other.run("QPOP q BLOCK 5000");
        assert_eq!((job.items()[2].text(), job.items()[3].integer()), (payload.into(), 2));
    }
    assert!(other.run("QPOP q").is_null());
}

/// A reply that comes later than the next request's is still the one to the request that was made.
#[test]
fn a_request_is_answered_in_the_protocol_in_which_it_was_made() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).start();
    let mut client = proxy.client();
    let (pop, stats) = (["QPOP", "q"], ["QSTATS", "q"]);
    let pipeline = [&pop[..], &stats, &["HELLO", "3"], &pop, &stats, &["RESET"], &pop];
    client.send_bytes(&pipeline.map(encode).concat());
    let replies = pipeline.map(|_| client.receive());
    for at in [0, 6] {
        assert!(replies[at].is_null() && replies[at] != Reply::Null, "{}", replies[at]);
    }
    assert!(matches!(replies[1], Reply::Array(_)));
    assert!(matches!(replies[2], Reply::Map(_)));
    assert_eq!(replies[3], Reply::Null);
    assert!(matches!(replies[4], Reply::Map(_)));
}

#[test]
fn who_waits_for_a_result_gets_it_when_the_job_ends_through_another_proxy_too() {
    let redis = RedisServer::start();
    let (one, other) = (Proxy::before(&redis).start(), Proxy::before(&redis).start());
    let mut worker = other.client();
    let id = worker.run("QPUSH q a").text();
    let mut waiting: Vec<_> = [&one, &one, &other].into_iter().map(Proxy::client).collect();
    for client in &mut waiting {
        client.send(&["QRESULT", "q", &id, "BLOCK", "0"]);
    }
    let mut gone = one.client();
    gone.send(&["QRESULT", "q", &id, "BLOCK", "0"]);
    drop(gone);
    let receipt = worker.run("QPOP q BLOCK 0").items()[1].text();
    assert_eq!(worker.call(&["QACK", "q", &receipt, "RESULT", "done"]).integer(), 1);
    for client in &mut waiting {
        assert_eq!(client.receive().text(), "done");
    }
}

#[test]
fn a_wait_for_a_result_ends_with_its_time_though_nothing_else_happens() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).start();
    let mut client = proxy.client();
    let id = client.run("QPUSH q a").text();
    assert!(client.call(&["QRESULT", "q", &id, "BLOCK", "1500"]).is_null());
}

#[test]
fn a_wait_for_a_result_ends_without_one_when_the_job_does() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis).start();
    let mut client = proxy.client();
    for end in ["QDEL q {id}", "QNACK q {id} DEAD", "QACK q {id}", "QPURGE q", "QDROP q"] {
        let id = client.run("QPUSH q a").text();
        client.run("QPOP q");
        let mut waiting = proxy.client();
        waiting.send(&["QRESULT", "q", &id, "BLOCK", "0"]);
        // Behind the waiting client's request, which is on its way: asked for through the same lane, it is answered after it.
        waiting.send(&["QLEN", "q"]);
        client.run(&end.replace("{id}", &id));
        assert!(waiting.receive().is_null(), "{end}");
        waiting.receive();
    }
}

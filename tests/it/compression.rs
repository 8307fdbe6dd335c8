//! `compress_over`: what Redis keeps is smaller, and no client can tell.

use crate::support::{PATIENCE, Proxy, RedisServer, wait_until};

/// Compresses whatever gets smaller by it.
fn compressing(redis: &RedisServer) -> crate::support::proxy::ProxyPlan {
    Proxy::before(redis).set("queues.\"*\".compress_over", "\"100B\"")
}

fn payloads() -> Vec<Vec<u8>> {
    let json = r#"{"id":17,"status":"pending","email":"somebody@example.com"},"#;
    let noise = (0..5000u32).map(|n| (n.wrapping_mul(2654435761) >> 24) as u8);
    vec![
        json.repeat(100).into_bytes(),
        b"small".to_vec(),
        noise.collect(),
        vec![b'\n'; 3 << 20],
        Vec::new(),
    ]
}

#[test]
fn compressed_payloads_come_back_as_they_were_pushed_through_any_proxy() {
    let redis = RedisServer::start();
    let (proxy, plain) = (compressing(&redis).start(), Proxy::before(&redis).start());
    let (mut producer, mut worker) = (proxy.client(), plain.client());
    let payloads = payloads();
    let mut words: Vec<&[u8]> = vec![b"QMPUSH", b"q", b"5"];
    words.extend(payloads.iter().map(Vec::as_slice));
    let ids = producer.call(&words);

    let kept = redis.client().run("HVALS q:{q/0}:jobs");
    let kept: usize = kept.items().iter().map(|payload| payload.bytes().len()).sum();
    assert!(kept < 8000, "Redis keeps {kept} bytes");

    let peeked = worker.run("QPEEK q");
    for (n, payload) in payloads.iter().enumerate() {
        assert!(
            peeked.items()[n].field("payload").bytes() == payload,
            "QPEEK of payload {n}"
        );
        let id = ids.items()[n].text();
        let seen = worker.call(&["QJOB", "q", &id]);
        assert!(seen.field("payload").bytes() == payload, "QJOB of payload {n}");
    }
    let popped = worker.run("QPOP q COUNT 5");
    for (n, payload) in payloads.iter().enumerate() {
        let job = popped.items()[n].items();
        assert!(job[2].bytes() == payload, "QPOP of payload {n}");
        assert_eq!(worker.call(&["QACK", "q", &job[1].text()]).integer(), 1);
    }
}

#[test]
fn queues_are_compressed_by_the_pattern_that_fits_their_name() {
    let redis = RedisServer::start();
    let proxy = Proxy::before(&redis)
        .set("queues.\"*\".compress_over", "\"1MiB\"")
        .set("queues.\"big-*\".compress_over", "\"100B\"")
        .set("queues.\"big-raw\".compress_over", "\"0\"")
        .start();
    let mut client = proxy.client();
    let text = "tick ".repeat(1000);
    for (queue, is_packed) in [("big-mail", true), ("big-raw", false), ("mail", false)] {
        client.call(&["QPUSH", queue, &text]);
        let kept = redis.client().run(&format!("HVALS q:{{{queue}/0}}:jobs"));
        assert_eq!(kept.items()[0].bytes().len() < text.len(), is_packed, "{queue}");
        assert_eq!(client.call(&["QPOP", queue]).items()[2].text(), text);
    }
}

#[test]
fn a_compressed_job_keeps_its_place_its_key_and_its_payload_wherever_it_goes() {
    let redis = RedisServer::start();
    let proxy = compressing(&redis).start();
    let mut client = proxy.client();
    let text = "tick ".repeat(100);
    let id = client
        .call(&["QPUSH", "q", &text, "UNIQUE", "key", "PRIORITY", "high"])
        .text();
    client.run("QPUSH q small");
    assert_eq!(
        client.call(&["QPUSH", "q", &text, "UNIQUE", "key"]).text(),
        id,
        "the key is held by a compressed job"
    );
    for end in ["DELAY 0", "DEAD"] {
        let job = client.run("QPOP q");
        assert_eq!(job.items()[2].text(), text, "the higher priority");
        client.run(&format!("QNACK q {id} {end}"));
    }
    assert_eq!(
        client.run("QPEEK q STATE dead").items()[0].field("payload").text(),
        text
    );
    assert_eq!(client.run("QREDRIVE q").integer(), 1);
    assert_eq!(client.run("QPOP q NOACK").items()[2].text(), text);
    assert_eq!(client.run("QPOP q").items()[2].text(), "small");
}

#[test]
fn a_compressed_job_taken_by_a_client_that_vanished_comes_back_whole() {
    let redis = RedisServer::start();
    let proxy = compressing(&redis).start();
    let text = "tick ".repeat(100);
    for _ in 0..20 {
        let mut blocked = proxy.client();
        blocked.send(&["QPOP", "q", "BLOCK", "0", "NOACK"]);
        drop(blocked);
        let mut client = proxy.client();
        client.call(&["QPUSH", "q", &text]);
        let job = client.run("QPOP q BLOCK 5000 NOACK");
        assert_eq!(job.items()[2].text(), text);
    }
}

#[test]
fn a_reply_that_would_outgrow_client_output_is_not_even_unpacked() {
    let redis = RedisServer::start();
    let proxy = compressing(&redis)
        .set("limits.client_output", "\"4MiB\"")
        .allow_log("reply is larger than client_output")
        .start();
    let mut client = proxy.client();
    let bomb = vec![0; 3 << 20];
    for _ in 0..2 {
        client.call(&[&b"QPUSH"[..], b"q", &bomb]);
    }
    for request in ["QPOP q COUNT 2", "QPOP q COUNT 2 NOACK", "QPEEK q"] {
        let mut greedy = proxy.client();
        greedy.send(&request.split(' ').collect::<Vec<_>>());
        assert!(greedy.is_closed(), "{request}");
        wait_until(PATIENCE, "its jobs are ready again", || {
            client.run("QLEN q").integer() == 2
        });
    }
    assert!(client.run("QPOP q").items()[2].bytes() == bomb);
}

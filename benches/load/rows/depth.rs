//! A queue that holds a million jobs: what push, pop and ack cost then, against an empty one, how long a single call holds
//! Redis, and how much of Redis's memory a waiting job takes beyond its payload.

use anyhow::{Result, ensure};

use super::{Settings, redis_and_proxy};
use crate::flow::PAYLOAD_BYTES;
use crate::phases::cost_of_each;
use crate::support::{Client, Proxy, RedisServer, Reply};
use crate::table::{Goal, Report, Row, median};

const DEEP: usize = 1_000_000;
const A_CALL: usize = 500; // payloads of one QMPUSH
const IN_FLIGHT: usize = 4; // calls

const BYTES_A_JOB: f64 = 130.0; // design.md's layouts: 122 with 20-byte ids, 80 with integers
const FLAT: f64 = 1.25;
const HELD: f64 = 2.0; // ms

pub fn measure(settings: &Settings, report: &mut Report) -> Result<()> {
    let (deep_redis, deep_proxy) = redis_and_proxy(settings.workers);
    let (empty_redis, empty_proxy) = redis_and_proxy(settings.workers);

    let before: f64 = deep_redis.info("used_memory").parse()?;
    fill(&mut deep_proxy.client())?;
    let after: f64 = deep_redis.info("used_memory").parse()?;
    report.row(Row {
        what: "Redis memory a waiting job beyond its payload".into(),
        unit: "bytes",
        ours: (after - before) / DEEP as f64 - PAYLOAD_BYTES as f64,
        peer: None,
        goal: Goal::Value(BYTES_A_JOB),
        aim: None,
    });

    deep_redis.client().run("CONFIG SET slowlog-log-slower-than 100");
    deep_redis.client().run("CONFIG SET slowlog-max-len 100000");
    let mut costs: [(Vec<f64>, Vec<f64>); 3] = Default::default();
    for _ in 0..settings.rounds {
        let (deep, empty) = (deep_proxy.address(), empty_proxy.address());
        let places = [(deep.as_str(), deep_redis.pid()), (empty.as_str(), empty_redis.pid())];
        for (figures, [deep, empty]) in costs.iter_mut().zip(cost_of_each(places, "depth")?) {
            figures.0.push(deep);
            figures.1.push(empty);
        }
    }
    for (call, (deep, empty)) in ["push", "pop", "ack"].into_iter().zip(costs) {
        report.row(Row {
            what: format!("Redis CPU a {call}, 1,000,000 waiting"),
            unit: "us",
            ours: median(deep),
            peer: Some(("0 waiting", median(empty))),
            goal: Goal::Ratio(FLAT),
            aim: None,
        });
    }
    holds(&deep_redis, &deep_proxy, report)
}

/// How long one call held Redis, by its own slow log: while 50 clients pushed, popped and acknowledged, and then while one
/// asked for as much as can be asked for at once.
fn holds(redis: &RedisServer, proxy: &Proxy, report: &mut Report) -> Result<()> {
    let mut longest = longest_call(redis, report, "50 clients");
    let mut client = proxy.client();
    let many = A_CALL.to_string();
    let ids = client.call(&["QMPUSH", "depth", "1", "last"]).items()[0].text();
    let requests = [
        "QSTATS depth".to_owned(),
        format!("QEXPLAIN depth {ids}"),
        format!("QPEEK depth COUNT {many} OFFSET 100000"),
        format!("QPOP depth COUNT {many}"),
        format!("QDEL depth {}", some_ids(&mut client, &many)),
        "QPURGE depth".to_owned(),
    ];
    longest = longest.max(longest_call(redis, report, "QMPUSH, QPEEK"));
    for request in requests {
        let words: Vec<_> = request.split(' ').collect();
        let reply = client.call(&words);
        ensure!(!matches!(reply, Reply::Error(_)), "{} got {reply}", words[0]);
        longest = longest.max(longest_call(redis, report, words[0]));
    }
    report.row(Row {
        what: "Longest call to Redis, 1,000,000 waiting".into(),
        unit: "ms",
        ours: longest,
        peer: None,
        goal: Goal::Value(HELD),
        aim: None,
    });
    Ok(())
}

fn some_ids(client: &mut Client, count: &str) -> String {
    let jobs = client.call(&["QPEEK", "depth", "COUNT", count, "OFFSET", "1000"]);
    let ids = jobs.items().iter().map(|job| job.field("id").text());
    ids.collect::<Vec<_>>().join(" ")
}

/// In milliseconds, since the slow log was read last.
fn longest_call(redis: &RedisServer, report: &mut Report, during: &str) -> f64 {
    let slow = redis.client().run("SLOWLOG GET -1");
    redis.client().run("SLOWLOG RESET");
    let is_call = |entry: &&Reply| entry.items()[3].items()[0].bytes().eq_ignore_ascii_case(b"evalsha");
    let mut took: Vec<f64> = slow
        .items()
        .iter()
        .filter(is_call)
        .map(|entry| entry.items()[2].integer() as f64 / 1000.0)
        .collect();
    took.sort_by(f64::total_cmp);
    let at = |share: f64| took.get((took.len() as f64 * share) as usize).copied().unwrap_or(0.0);
    let longest = took.last().copied().unwrap_or(0.0);
    report.note(format!(
        "calls of more than 0.1 ms, {during}: {}; median {:.2}, p99 {:.2}, longest {longest:.2} ms",
        took.len(),
        at(0.5),
        at(0.99)
    ));
    longest
}

fn fill(client: &mut Client) -> Result<()> {
    let payload = [b'x'; PAYLOAD_BYTES];
    let count = A_CALL.to_string();
    let mut words: Vec<&[u8]> = vec![b"QMPUSH", b"depth", count.as_bytes()];
    words.resize(A_CALL + 3, &payload);
    let mut waiting = 0;
    for _ in 0..DEEP / A_CALL {
        if waiting == IN_FLIGHT {
            pushed(client)?;
            waiting -= 1;
        }
        client.try_send(&words)?;
        waiting += 1;
    }
    (0..waiting).try_for_each(|_| pushed(client))
}

fn pushed(client: &mut Client) -> Result<()> {
    let reply = client.try_receive()?;
    ensure!(
        matches!(&reply, Reply::Array(ids) if ids.len() == A_CALL),
        "QMPUSH got {reply}"
    );
    Ok(())
}

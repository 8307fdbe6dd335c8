//! A queue that holds a million jobs: what push, pop and ack cost then, against an empty one, and how much of Redis's
//! memory a waiting job takes beyond its payload.

use anyhow::{Result, ensure};

use super::{Settings, redis_and_proxy};
use crate::flow::PAYLOAD_BYTES;
use crate::phases::cost_of_each;
use crate::support::{Client, Reply};
use crate::table::{Goal, Report, Row, median};

const DEEP: usize = 1_000_000;
const A_CALL: usize = 500; // payloads of one QMPUSH
const IN_FLIGHT: usize = 4; // calls

const BYTES_A_JOB: f64 = 130.0; // design.md's layouts: 122 with 20-byte ids, 80 with integers
const FLAT: f64 = 1.25;

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

    let mut costs: [(Vec<f64>, Vec<f64>); 3] = Default::default();
    for _ in 0..settings.rounds {
        let deep = cost_of_each(&deep_proxy.address(), "depth", deep_redis.pid())?;
        let empty = cost_of_each(&empty_proxy.address(), "depth", empty_redis.pid())?;
        for (figures, (deep, empty)) in costs.iter_mut().zip(deep.into_iter().zip(empty)) {
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
    Ok(())
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

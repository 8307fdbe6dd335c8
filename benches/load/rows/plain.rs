//! Plain SET and GET through one worker, by redis-benchmark with 50 clients: the proxy's CPU a request against
//! nutcracker's, and Redis's CPU a request behind the proxy against that of the same clients sent to it directly.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::{Settings, redis_and_proxy};
use crate::peers::Peer;
use crate::table::{Goal, Report, Row, median};
use crate::usage::Meter;

struct Case {
    pipeline: u32,
    /// Of each of SET and GET: about two seconds' worth.
    requests: u32,
    /// Proxy's CPU against nutcracker's.
    proxy_goal: f64,
    /// Redis's CPU behind the proxy against direct.
    redis_goal: Goal,
}

const CASES: [Case; 2] = [
    Case {
        pipeline: 1,
        requests: 80_000,
        proxy_goal: 0.9,
        redis_goal: Goal::Ratio(0.25),
    },
    Case {
        pipeline: 16,
        requests: 400_000,
        proxy_goal: 0.6,
        redis_goal: Goal::None,
    },
];

pub fn measure(settings: &Settings, report: &mut Report) -> Result<()> {
    let (redis, proxy) = redis_and_proxy(1);
    let nutcracker = Peer::nutcracker(&redis);
    for case in CASES {
        let (mut ours, mut theirs, mut behind, mut direct) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..settings.rounds {
            let costs = costs_a_request(&case, proxy.port(), &[proxy.pid(), redis.pid()])?;
            ours.push(costs[0]);
            behind.push(costs[1]);
            if let Some(nutcracker) = &nutcracker {
                theirs.push(costs_a_request(&case, nutcracker.port(), &[nutcracker.pid()])?[0]);
            }
            direct.push(costs_a_request(&case, redis.port(), &[redis.pid()])?[0]);
        }
        let pipeline = match case.pipeline {
            1 => String::new(),
            depth => format!(", -P {depth}"),
        };
        report.row(Row {
            what: format!("Proxy CPU a SET or GET{pipeline}"),
            unit: "us",
            ours: median(ours),
            peer: (!theirs.is_empty()).then(|| ("nutcracker", median(theirs))),
            goal: Goal::Ratio(case.proxy_goal),
            aim: None,
        });
        report.row(Row {
            what: format!("Redis CPU a SET or GET behind the proxy{pipeline}"),
            unit: "us",
            ours: median(behind),
            peer: Some(("direct", median(direct))),
            goal: case.redis_goal,
            aim: None,
        });
    }
    if nutcracker.is_none() {
        report.note("Proxy CPU a SET or GET: peer not installed (nutcracker)".into());
    }
    Ok(())
}

/// CPU microseconds a request of each process, while redis-benchmark sends SETs and then GETs to `port`.
fn costs_a_request(case: &Case, port: u16, pids: &[u32]) -> Result<Vec<f64>> {
    let meter = Meter::start(pids)?;
    let output = Command::new("redis-benchmark")
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &port.to_string(),
            "-t",
            "set,get",
            "-c",
            "50",
            "-q",
        ])
        .args(["-n", &case.requests.to_string(), "-P", &case.pipeline.to_string()])
        .output()
        .context("redis-benchmark does not start (Debian: apt-get install redis-tools)")?;
    let spent = meter.stop()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && said.matches("requests per second").count() == 2,
        "redis-benchmark said: {said}"
    );
    let requests = f64::from(2 * case.requests);
    Ok(spent.iter().map(|cpu| cpu.as_secs_f64() * 1e6 / requests).collect())
}

//! How long those who wait are kept waiting: for a job that falls due, for one whose lease ends, and for one that is pushed,
//! each through another proxy than the one at which they wait.

use std::collections::HashMap;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};

use super::{Settings, redis_and_proxy};
use crate::latency::Latencies;
use crate::support::{Client, Proxy, RedisServer, Reply};
use crate::table::{Goal, Report, Row};

const JOBS: usize = 300;
const FIRST_DUE: Duration = Duration::from_millis(1500); // all of them are pushed by then
const APART: Duration = Duration::from_millis(10); // each is waited for
const PUSHES: usize = 500;
const PAUSE: Duration = Duration::from_millis(3); // by then the pop waits again

fn redis_and_two_proxies(settings: &Settings) -> (RedisServer, Proxy, Proxy) {
    let (redis, proxy) = redis_and_proxy(settings.workers);
    let other = Proxy::before(&redis).workers(settings.workers).start();
    (redis, proxy, other)
}

/// From the moment a job falls due until the pop that waits for it, at another proxy, has it.
pub fn due(settings: &Settings, report: &mut Report) -> Result<()> {
    let (_redis, pushing, waiting) = redis_and_two_proxies(settings);
    let (mut delays, mut lapses) = (Latencies::new(), Latencies::new());
    for round in 0..settings.rounds {
        let queue = format!("delayed-{round}");
        let dues = push_delayed(&mut pushing.client(), &queue)?;
        pop_all(&mut waiting.client(), &queue, dues, &mut delays)?;

        let queue = format!("leased-{round}");
        let ends = lease_all(&mut pushing.client(), &queue)?;
        pop_all(&mut waiting.client(), &queue, ends, &mut lapses)?;
    }
    for (what, latencies) in [
        ("A delay's end to the waiting pop", delays),
        ("A lease's end to the waiting pop", lapses),
    ] {
        for (which, percentile, goal) in [("median", 50.0, Goal::None), ("the longest", 100.0, Goal::Value(50.0))] {
            report.row(row(format!("{what}, {which}"), latencies.at(percentile), goal));
        }
    }
    Ok(())
}

fn row(what: String, microseconds: f64, goal: Goal) -> Row {
    Row {
        what,
        unit: "ms",
        ours: microseconds / 1000.0,
        peer: None,
        goal,
        aim: None,
    }
}

/// By payload, when each job may be popped: Unix time in milliseconds. Redis's clock is this machine's.
type Dues = HashMap<Vec<u8>, u64>;

fn push_delayed(client: &mut Client, queue: &str) -> Result<Dues> {
    let first = now()? + FIRST_DUE;
    let mut dues = Dues::new();
    for n in 0..JOBS {
        let due = (first + APART * n as u32).as_millis() as u64;
        let payload = n.to_string();
        client.call(&["QPUSH", queue, &payload, "AT", &due.to_string()]);
        dues.insert(payload.into_bytes(), due);
    }
    Ok(dues)
}

/// Takes jobs under leases that end one after another.
fn lease_all(client: &mut Client, queue: &str) -> Result<Dues> {
    let first = now()? + FIRST_DUE;
    for n in 0..JOBS {
        client.call(&["QPUSH", queue, &n.to_string()]);
        let lease = (first + APART * n as u32).saturating_sub(now()?).as_millis();
        client.call(&["QPOP", queue, "LEASE", &lease.to_string()]);
    }
    let leased = client.call(&["QPEEK", queue, "STATE", "leased", "COUNT", &JOBS.to_string()]);
    let ends = leased.items().iter().map(|job| {
        let end = job.field("lease_ends_ms").integer() as u64;
        (job.field("payload").bytes().to_vec(), end)
    });
    Ok(ends.collect())
}

fn pop_all(client: &mut Client, queue: &str, mut dues: Dues, latencies: &mut Latencies) -> Result<()> {
    ensure!(dues.len() == JOBS, "{} jobs instead of {JOBS}", dues.len());
    while !dues.is_empty() {
        let job = client.try_call(&["QPOP", queue, "BLOCK", "5000", "NOACK"])?;
        let popped = now()?;
        ensure!(!job.is_null(), "{} jobs never came", dues.len());
        let due = dues.remove(job.items()[2].bytes()).context("a job came twice")?;
        let late = popped.checked_sub(Duration::from_millis(due));
        latencies.record(late.context("a job came before it was due")?);
    }
    Ok(())
}

fn now() -> Result<Duration> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
}

/// From the moment a push is sent to one proxy until the pop that waits at another one has the job.
pub fn woken(settings: &Settings, report: &mut Report) -> Result<()> {
    let (_redis, pushing, waiting) = redis_and_two_proxies(settings);
    let mut latencies = Latencies::new();
    for round in 0..settings.rounds {
        let queue = format!("woken-{round}");
        let (told, popped) = mpsc::channel();
        let (mut consumer, mut producer) = (waiting.client(), pushing.client());
        let waits = queue.clone();
        let consuming = thread::spawn(move || -> Result<()> {
            for _ in 0..PUSHES {
                let job = consumer.try_call(&["QPOP", &waits, "BLOCK", "5000", "NOACK"])?;
                ensure!(matches!(job, Reply::Array(_)), "no job: {job}");
                told.send(Instant::now())?;
            }
            Ok(())
        });
        for _ in 0..PUSHES {
            thread::sleep(PAUSE);
            let pushed = Instant::now();
            producer.try_call(&["QPUSH", &queue, "payload"])?;
            latencies.record(popped.recv()?.saturating_duration_since(pushed));
        }
        consuming
            .join()
            .map_err(|_| anyhow::anyhow!("the consumer panicked"))??;
    }
    for (which, percentile, goal) in [("median", 50.0, Goal::Value(5.0)), ("p99", 99.0, Goal::None)] {
        let what = format!("A push to the pop at another proxy, {which}");
        report.row(row(what, latencies.at(percentile), goal));
    }
    Ok(())
}

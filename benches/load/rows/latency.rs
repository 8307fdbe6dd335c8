//! Time that a client sees: what the proxy adds to a lone client's round trip, and from push to pop at a fixed rate.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Settings, redis_and_proxy};
use crate::flow::Dialect;
use crate::latency::Latencies;
use crate::paced::Paced;
use crate::peers::Peer;
use crate::support::Client;
use crate::table::{Goal, Report, Row, median};

const ROUND_TRIPS: usize = 3000;
const RATE: u32 = 2000;
const WINDOW: Duration = Duration::from_secs(3);

/// Microseconds that the proxy, and nutcracker, add to the median GET of a client that is alone.
pub fn lone(settings: &Settings, report: &mut Report) -> Result<()> {
    let (redis, proxy) = redis_and_proxy(1);
    let nutcracker = Peer::nutcracker(&redis);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..settings.rounds {
        let direct = median_get(&redis.address())?;
        ours.push(median_get(&proxy.address())? - direct);
        if let Some(nutcracker) = &nutcracker {
            theirs.push(median_get(&nutcracker.address())? - direct);
        }
    }
    report.row(Row {
        what: "Added to a lone client's median round trip".into(),
        unit: "us",
        ours: median(ours),
        peer: (!theirs.is_empty()).then(|| ("nutcracker", median(theirs))),
        goal: Goal::Value(100.0),
        aim: None,
    });
    Ok(())
}

fn median_get(address: &str) -> Result<f64> {
    let mut client = Client::connect(address)?;
    let mut latencies = Latencies::new();
    for _ in 0..ROUND_TRIPS {
        let started = Instant::now();
        client.try_call(&["GET", "nothing"])?;
        latencies.record(started.elapsed());
    }
    Ok(latencies.at(50.0))
}

/// From the moment a push was due until a waiting consumer has the job, at 2,000 jobs a second.
pub fn fixed_rate(settings: &Settings, report: &mut Report) -> Result<()> {
    let (_redis, proxy) = redis_and_proxy(settings.workers);
    let beanstalkd = Peer::beanstalkd();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..settings.rounds {
        let queue = format!("paced-{round}");
        ours.push(run(Dialect::Queue, &proxy.address(), &queue)?);
        if let Some(beanstalkd) = &beanstalkd {
            theirs.push(run(Dialect::Beanstalkd, &beanstalkd.address(), &queue)?);
        }
    }
    for percentile in [50.0, 99.0] {
        let at = |delays: &[crate::paced::Delays]| median(delays.iter().map(|d| d.popped.at(percentile)).collect());
        report.row(Row {
            what: format!("Push to pop at {RATE} jobs/s, p{percentile}"),
            unit: "us",
            ours: at(&ours),
            peer: (!theirs.is_empty()).then(|| ("beanstalkd", at(&theirs))),
            goal: Goal::None,
            aim: None,
        });
    }
    if let Some(delays) = ours.last() {
        report.note(format!(
            "{RATE} jobs/s, last round: push to its reply {}; push to pop {}",
            delays.pushed, delays.popped
        ));
    }
    Ok(())
}

fn run(dialect: Dialect, address: &str, queue: &str) -> Result<crate::paced::Delays> {
    Paced {
        dialect,
        address,
        queue,
        producers: 25,
        consumers: 25,
        rate: RATE,
        window: WINDOW,
    }
    .run()
}

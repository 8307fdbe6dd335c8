//! A whole job: pushed, popped with a lease, acknowledged. What Redis spends on it against a bare list's LPUSH and RPOP,
//! and what proxy and Redis spend together against beanstalkd and against streams that the clients drive themselves.

use anyhow::{Context as _, Result};

use super::{Settings, redis_and_proxy};
use crate::closed::{Closed, Crew, Outcome};
use crate::flow::Dialect;
use crate::peers::Peer;
use crate::support::{Proxy, RedisServer};
use crate::table::{Goal, Report, Row, median};

/// 50 + 50 clients.
pub fn fifty(settings: &Settings, report: &mut Report) -> Result<()> {
    against_bare_list(settings, report, 50, 0.6, 0.35)
}

/// 500 + 500 clients.
pub fn five_hundred(settings: &Settings, report: &mut Report) -> Result<()> {
    against_bare_list(settings, report, 500, 0.3, 0.15)
}

fn against_bare_list(settings: &Settings, report: &mut Report, each: usize, goal: f64, aim: f64) -> Result<()> {
    let (redis, proxy) = redis_and_proxy(settings.workers);
    let crew = Crew::Apart {
        producers: each,
        consumers: each,
    };
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    let mut last = None;
    for round in 0..settings.rounds {
        let queue = format!("jobs-{round}");
        let (through, scripts) = through_the_proxy(&redis, &proxy, &queue, crew)?;
        let direct = bare_list(&redis, &format!("list-{round}"), crew)?;
        ours.push(through.cpu_a_job(0));
        bare.push(direct.cpu_a_job(0));
        last = Some((through, scripts, direct));
    }
    report.row(Row {
        what: format!("Redis CPU a job, {each} + {each} clients"),
        unit: "us",
        ours: median(ours),
        peer: Some(("bare list", median(bare))),
        goal: Goal::Ratio(goal),
        aim: Some(aim),
    });
    if let Some((through, scripts, direct)) = last {
        let name = format!("{each} + {each}, last round");
        report.note(format!("{name}, ours: {}", told(&through)));
        report.note(format!(
            "{name}, ours: {scripts}; proxy CPU {:.1} us a job",
            through.cpu_a_job(1)
        ));
        report.note(format!("{name}, bare list: {}", told(&direct)));
    }
    Ok(())
}

/// The same queue in three partitions and in one, which lie on one Redis here: what spreading costs, not what it gains.
pub fn partitions(settings: &Settings, report: &mut Report) -> Result<()> {
    let (redis, proxy) = redis_and_proxy(settings.workers);
    for each in [50, 500] {
        let crew = Crew::Apart {
            producers: each,
            consumers: each,
        };
        let (mut three, mut one) = (Vec::new(), Vec::new());
        for round in 0..settings.rounds {
            for (partitions, figures) in [(3, &mut three), (1, &mut one)] {
                let queue = format!("in-{partitions}-{each}-{round}");
                let set = ["QCONFIG", "SET", &queue, "partitions", &partitions.to_string()];
                proxy.client().call(&set);
                let (outcome, scripts) = through_the_proxy(&redis, &proxy, &queue, crew)?;
                figures.push(outcome.cpu_a_job(0));
                if round + 1 == settings.rounds {
                    let name = format!("{each} + {each}, {partitions} partitions, last round");
                    let proxy_cpu = outcome.cpu_a_job(1);
                    report.note(format!("{name}: {}", told(&outcome)));
                    report.note(format!("{name}: {scripts}; proxy CPU {proxy_cpu:.1} us a job"));
                }
            }
        }
        report.row(Row {
            what: format!("Redis CPU a job, three partitions, {each} + {each} clients"),
            unit: "us",
            ours: median(three),
            peer: Some(("one partition", median(one))),
            goal: Goal::Ratio(1.3),
            aim: None,
        });
    }
    Ok(())
}

/// One run of ours; the CPU figures are Redis's and the proxy's. With it, what the scripts had of Redis's.
fn through_the_proxy(redis: &RedisServer, proxy: &Proxy, queue: &str, crew: Crew) -> Result<(Outcome, String)> {
    redis.client().run("CONFIG RESETSTAT");
    let (dialect, pids) = (Dialect::Queue, [redis.pid(), proxy.pid()]);
    let outcome = Closed {
        dialect,
        address: &proxy.address(),
        queue,
        crew,
        pids: &pids,
    }
    .run()?;
    let scripts = script_share(redis, outcome.all_jobs)?;
    Ok((outcome, scripts))
}

fn bare_list(redis: &RedisServer, list: &str, crew: Crew) -> Result<Outcome> {
    let pids = [redis.pid()];
    let outcome = Closed {
        dialect: Dialect::List,
        address: &redis.address(),
        queue: list,
        crew,
        pids: &pids,
    }
    .run()?;
    redis.client().call(&["DEL", list]);
    Ok(outcome)
}

/// Proxy and Redis together, against beanstalkd and streams: 50 connections that each push, pop and acknowledge.
pub fn whole(settings: &Settings, report: &mut Report) -> Result<()> {
    let (redis, proxy) = redis_and_proxy(settings.workers);
    let beanstalkd = Peer::beanstalkd();
    let crew = Crew::Whole { clients: 50 };
    let (mut ours, mut theirs, mut streams) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..settings.rounds {
        let queue = format!("whole-{round}");
        let (through, scripts) = through_the_proxy(&redis, &proxy, &queue, crew)?;
        ours.push(through.cpu_a_job(0) + through.cpu_a_job(1));
        let (redis_share, proxy_share) = (through.cpu_a_job(0), through.cpu_a_job(1));
        report.note(format!("whole, ours: {}", told(&through)));
        report.note(format!(
            "whole, ours: Redis {redis_share:.1} + proxy {proxy_share:.1} us a job; {scripts}"
        ));

        if let Some(beanstalkd) = &beanstalkd {
            let (address, pids) = (beanstalkd.address(), [beanstalkd.pid()]);
            let outcome = Closed {
                dialect: Dialect::Beanstalkd,
                address: &address,
                queue: &queue,
                crew,
                pids: &pids,
            }
            .run()?;
            theirs.push(outcome.cpu_a_job(0));
            report.note(format!("whole, beanstalkd: {}", told(&outcome)));
        }
        let (address, stream, pids) = (redis.address(), format!("stream-{round}"), [redis.pid()]);
        let outcome = Closed {
            dialect: Dialect::Stream,
            address: &address,
            queue: &stream,
            crew,
            pids: &pids,
        }
        .run()?;
        streams.push(outcome.cpu_a_job(0));
        redis.client().call(&["DEL", &stream]);
    }
    let ours = median(ours);
    let what = "Proxy + Redis CPU a job, 50 connections";
    let row = |peer, goal, aim| Row {
        what: what.into(),
        unit: "us",
        ours,
        peer: Some(peer),
        goal,
        aim,
    };
    if theirs.is_empty() {
        report.note(format!("{what}: peer not installed (beanstalkd)"));
    } else {
        report.row(row(("beanstalkd", median(theirs)), Goal::Ratio(1.0), Some(0.85)));
    }
    report.row(row(("streams", median(streams)), Goal::None, None));
    Ok(())
}

/// What the scripts had of Redis's time since its statistics were reset, by its own count (`INFO commandstats`).
/// The rest of its CPU time is reading, parsing, writing: what a batch pays once, however many jobs are in it.
fn script_share(redis: &RedisServer, jobs: u64) -> Result<String> {
    let stats = redis.info("cmdstat_evalsha");
    let number = |name: &str| {
        let found = stats
            .split(',')
            .find_map(|part| part.strip_prefix(name)?.parse::<f64>().ok());
        found.with_context(|| format!("no {name} in {stats}"))
    };
    let (calls, microseconds) = (number("calls=")?, number("usec=")?);
    let jobs = jobs as f64;
    Ok(format!(
        "{:.3} script calls a job, {:.1} us in them ({:.1} us a call)",
        calls / jobs,
        microseconds / jobs,
        microseconds / calls
    ))
}

fn told(outcome: &Outcome) -> String {
    let rate = outcome.jobs_per_second();
    format!(
        "{rate:.0} jobs/s; push {}; pop {}; ack {}",
        outcome.push, outcome.pop, outcome.ack
    )
}

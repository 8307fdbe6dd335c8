//! A whole job: pushed, popped with a lease, acknowledged. What Redis spends on it against a bare list's LPUSH and RPOP,
//! and what proxy and Redis spend together against beanstalkd and against streams that the clients drive themselves.

use anyhow::{Context as _, Result};

use super::{Settings, redis_and_proxy};
use crate::closed::{Closed, Crew, Outcome};
use crate::flow::Dialect;
use crate::peers::Peer;
use crate::support::cluster::Cluster;
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
        let through = through_the_proxy(&[&redis], &proxy, &queue, crew)?;
        let direct = bare_list(&redis, &format!("list-{round}"), crew)?;
        ours.push(through.redis);
        bare.push(direct.cpu_a_job(0));
        last = Some((through, direct));
    }
    report.row(Row {
        what: format!("Redis CPU a job, {each} + {each} clients"),
        unit: "us",
        ours: median(ours),
        peer: Some(("bare list", median(bare))),
        goal: Goal::Ratio(goal),
        aim: Some(aim),
    });
    if let Some((through, direct)) = last {
        let name = format!("{each} + {each}, last round");
        through.tell(&format!("{name}, ours"), report);
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
                let through = through_the_proxy(&[&redis], &proxy, &queue, crew)?;
                figures.push(through.redis);
                if round + 1 == settings.rounds {
                    through.tell(&format!("{each} + {each}, {partitions} partitions, last round"), report);
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

/// The same queue over the three primaries of a cluster, each a process of its own, and on one Redis: what it costs to be spread
/// over several, and whether each carries its share.
pub fn cluster(settings: &Settings, report: &mut Report) -> Result<()> {
    let cluster = Cluster::start_with(3, 0, &["--appendonly", "no"]);
    let spread = Proxy::before_cluster(&cluster.seeds())
        .workers(settings.workers)
        .start();
    let primaries: Vec<_> = cluster.nodes.iter().map(|node| &node.server).collect();
    let (redis, single) = redis_and_proxy(settings.workers);
    for each in [50, 500] {
        let crew = Crew::Apart {
            producers: each,
            consumers: each,
        };
        let (mut three, mut one, mut furthest) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..settings.rounds {
            let queue = format!("over-{each}-{round}");
            let set = spread.client().call(&["QCONFIG", "SET", &queue, "partitions", "3"]);
            anyhow::ensure!(!set.is_error(""), "{set}");
            let over = through_the_proxy(&primaries, &spread, &queue, crew)?;
            let on_one = through_the_proxy(&[&redis], &single, &queue, crew)?;
            let shares = shares(&primaries, &queue);
            let off = shares.iter().map(|share| (share - 100.0 / 3.0).abs());
            furthest.push(off.fold(0.0, f64::max));
            three.push(over.redis);
            one.push(on_one.redis);
            if round + 1 == settings.rounds {
                let name = format!("{each} + {each}, last round");
                over.tell(&format!("{name}, three primaries"), report);
                on_one.tell(&format!("{name}, one Redis"), report);
                let shares: Vec<_> = shares.iter().map(|share| format!("{share:.1} %")).collect();
                report.note(format!("{name}, jobs of each primary: {}", shares.join(", ")));
            }
        }
        report.row(Row {
            what: format!("Redis CPU a job, three primaries, {each} + {each} clients"),
            unit: "us",
            ours: median(three),
            peer: Some(("one Redis", median(one))),
            goal: Goal::Ratio(1.3),
            aim: None,
        });
        report.row(Row {
            what: format!("A primary's jobs off a third, {each} + {each} clients"),
            unit: "%",
            ours: median(furthest),
            peer: None,
            goal: Goal::Value(5.0),
            aim: None,
        });
    }
    Ok(())
}

/// Of a queue's pushes, in per cent, what each Redis has taken.
fn shares(servers: &[&RedisServer], queue: &str) -> Vec<f64> {
    let pushed = |server: &&RedisServer| {
        let mut client = server.client();
        let keys = client.call(&["KEYS", &format!("q:{{{queue}/*}}:stats")]);
        let of_each = keys
            .items()
            .iter()
            .map(|key| client.call(&["HGET", &key.text(), "pushed"]));
        of_each
            .filter_map(|pushed| pushed.text().parse::<f64>().ok())
            .sum::<f64>()
    };
    let all: Vec<f64> = servers.iter().map(pushed).collect();
    let sum: f64 = all.iter().sum();
    all.into_iter().map(|pushed| 100.0 * pushed / sum).collect()
}

/// One run of ours: microseconds of CPU a job, of all Redis servers together and of the proxy, and what the scripts had of
/// the former.
struct Through {
    outcome: Outcome,
    redis: f64,
    proxy: f64,
    scripts: String,
}

impl Through {
    fn tell(&self, name: &str, report: &mut Report) {
        let Through {
            outcome,
            proxy,
            scripts,
            ..
        } = self;
        report.note(format!("{name}: {}", told(outcome)));
        report.note(format!("{name}: {scripts}; proxy CPU {proxy:.1} us a job"));
    }
}

fn through_the_proxy(servers: &[&RedisServer], proxy: &Proxy, queue: &str, crew: Crew) -> Result<Through> {
    for server in servers {
        server.client().run("CONFIG RESETSTAT");
    }
    let pids: Vec<_> = servers.iter().map(|server| server.pid()).chain([proxy.pid()]).collect();
    let outcome = Closed {
        dialect: Dialect::Queue,
        address: &proxy.address(),
        queue,
        crew,
        pids: &pids,
    }
    .run()?;
    Ok(Through {
        redis: (0..servers.len()).map(|server| outcome.cpu_a_job(server)).sum(),
        proxy: outcome.cpu_a_job(servers.len()),
        scripts: script_share(servers, outcome.all_jobs)?,
        outcome,
    })
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
        let through = through_the_proxy(&[&redis], &proxy, &queue, crew)?;
        ours.push(through.redis + through.proxy);
        report.note(format!("whole, ours: {}", told(&through.outcome)));
        let Through {
            redis: of_redis,
            proxy: of_proxy,
            scripts,
            ..
        } = through;
        report.note(format!(
            "whole, ours: Redis {of_redis:.1} + proxy {of_proxy:.1} us a job; {scripts}"
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
fn script_share(servers: &[&RedisServer], jobs: u64) -> Result<String> {
    let (mut calls, mut microseconds) = (0.0, 0.0);
    for server in servers {
        let stats = server.info("cmdstat_evalsha");
        let number = |name: &str| {
            let found = stats
                .split(',')
                .find_map(|part| part.strip_prefix(name)?.parse::<f64>().ok());
            found.with_context(|| format!("no {name} in {stats}"))
        };
        calls += number("calls=")?;
        microseconds += number("usec=")?;
    }
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

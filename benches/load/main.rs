//! `make bench`: runs Millrace and its peers side by side on this machine and prints what was promised, as ratios.
//! It starts and stops every server itself, on loopback ports of its own. It says what is measured and what it came to;
//! what the figures mean, and where the rest of the time goes, is in benches/README.md.

mod closed;
mod flow;
mod latency;
mod paced;
mod peers;
mod phases;
mod rows;
mod table;
mod usage;
mod wire;

#[path = "../../tests/support/mod.rs"]
#[allow(dead_code, unused_imports)] // shared with the tests: neither uses all of it
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Parser;

use rows::{Settings, depth, idle, jobs, latency as latency_rows, plain, waiting};
use table::Report;

/// Runs Millrace and its peers side by side and prints ratios.
#[derive(Parser)]
struct Arguments {
    /// Only the measurements with these names (see --list); may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// How often each is run; the table shows medians
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Worker threads of the proxy where the promise does not name their number (0: one a core)
    #[arg(long, default_value_t = 0)]
    workers: usize,
    /// Another build of Millrace that is measured instead of this one
    #[arg(long, value_name = "FILE")]
    proxy: Option<PathBuf>,
    /// Names the measurements and ends
    #[arg(long)]
    list: bool,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

type Measure = fn(&Settings, &mut Report) -> Result<()>;

const MEASUREMENTS: [(&str, &str, Measure); 14] = [
    (
        "jobs-50",
        "Redis's CPU a whole job, 50 + 50 clients, against a bare list",
        jobs::fifty,
    ),
    ("jobs-500", "the same with 500 + 500 clients", jobs::five_hundred),
    (
        "partitions",
        "Redis's CPU a whole job, three partitions against one, on one Redis",
        jobs::partitions,
    ),
    (
        "cluster",
        "Redis's CPU a whole job over a cluster of three processes, against one",
        jobs::cluster,
    ),
    (
        "whole",
        "proxy and Redis a whole job, against beanstalkd and streams",
        jobs::whole,
    ),
    (
        "plain",
        "SET and GET through one worker, against nutcracker and direct",
        plain::measure,
    ),
    (
        "depth",
        "push, pop and ack with 0 and 1,000,000 waiting jobs; memory a waiting job",
        depth::measure,
    ),
    (
        "idle-memory",
        "memory of an idle connection at 10,000 clients",
        idle::memory,
    ),
    (
        "idle-commands",
        "what an idle proxy with 100 blocked pops sends",
        idle::commands,
    ),
    (
        "blocked",
        "10,000 blocked pops on 100 queues: connections to Redis, and what an idle proxy sends",
        idle::blocked,
    ),
    (
        "due",
        "from the end of a delay, or of a lease, to the pop that waits at another proxy",
        waiting::due,
    ),
    (
        "woken",
        "from a push to the pop that waits at another proxy",
        waiting::woken,
    ),
    (
        "lone",
        "what the proxy adds to a lone client's round trip",
        latency_rows::lone,
    ),
    (
        "paced",
        "push to pop at a fixed rate, against beanstalkd",
        latency_rows::fixed_rate,
    ),
];

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.list {
        MEASUREMENTS
            .iter()
            .for_each(|(name, what, _)| println!("{name:<14} {what}"));
        return Ok(());
    }
    for name in &arguments.only {
        let known = MEASUREMENTS.iter().any(|(known, ..)| known == name);
        anyhow::ensure!(known, "no measurement is called {name:?}: --list names them");
    }

    if let Some(path) = arguments.proxy {
        let path = path.canonicalize().with_context(|| format!("{}", path.display()))?;
        support::proxy::use_binary(path);
    }
    let settings = Settings {
        rounds: arguments.rounds.max(1),
        workers: arguments.workers,
    };
    let mut report = Report::default();
    for (name, what, measure) in MEASUREMENTS {
        if arguments.only.is_empty() || arguments.only.iter().any(|only| only == name) {
            eprintln!("{name}: {what}");
            // A server that fails panics, as it does in the tests; the other measurements go on.
            let run = AssertUnwindSafe(|| measure(&settings, &mut report));
            let outcome = catch_unwind(run).unwrap_or_else(|_| Err(anyhow::anyhow!("a server failed: see above")));
            if let Err(error) = outcome {
                report.failed(name, &error);
            }
        }
    }
    report.print();
    Ok(())
}

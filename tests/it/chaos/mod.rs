//! Faults, one after another, under a load that goes on: each deployment with its table of them. What clients were told is
//! judged at the end of each round ([`super::history`]), and what the faults cost them is printed.
//!
//! A round brings each fault of the table about once, under one load, and checks the history of it all. `make test` runs one
//! round in the tables' order, but of the lines to a Sentinel set and to a cluster; `make chaos` as many as `MILLRACE_CHAOS_ROUNDS` says, in orders drawn from `MILLRACE_CHAOS_SEED`.
//! `MILLRACE_CHAOS_ONLY` leaves the faults whose names hold that text.

mod clients;
mod cluster;
mod lines;
mod sentinel;
mod single;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::history::{Kind, Loss, Rules, Span, Verdict};
use super::load::{Load, Mix, QUEUE};
use crate::support::proxy::ProxyPlan;
use crate::support::{Proxy, RedisServer};

/// Jobs of each queue that go all their way between one fault and the next.
const SOME: usize = 10;
/// What was acknowledged so long before a primary was lost may not have got to a replica. Far more than it takes on loopback.
const LAG: Duration = Duration::from_secs(1);
/// So long after another primary was known the old one, if it lives, may still be asked.
const MOVING: Duration = Duration::from_secs(2);

/// Where an acknowledgement may be forgotten its job comes back when the lease ends, and until then its group waits.
const FORGETFUL: Mix = Mix {
    lease: Duration::from_secs(4),
    ..Mix::VARIED
};

fn forgetful_rules() -> Rules {
    let strict = Rules::strict(FORGETFUL.lease);
    let patience = strict.patience + FORGETFUL.lease;
    Rules { patience, ..strict }
}

/// The servers, and the proxies in front of them.
struct Stage<R> {
    redis: R,
    proxies: Vec<Proxy>,
}

/// The servers of one deployment.
trait Servers {
    /// All that are up.
    fn nodes(&self) -> Vec<&RedisServer>;
}

/// One row of a table.
struct Fault<R> {
    name: &'static str,
    /// Brings it about and heals it, both under the load. When another primary was known, if there came another.
    happens: fn(&mut Stage<R>, &Load) -> Option<Instant>,
    forgets: Forgets,
}

/// One after which nothing may be missing.
const fn fault<R>(name: &'static str, happens: fn(&mut Stage<R>, &Load) -> Option<Instant>) -> Fault<R> {
    let forgets = Forgets::Nothing;
    Fault { name, happens, forgets }
}

/// What Redis had acknowledged may be forgotten by it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Forgets {
    Nothing,
    /// But what replicas had confirmed before its reply.
    AllButPushes,
    All,
}

/// What one fault came to.
struct Brought {
    name: &'static str,
    span: Span,
    forgets: Forgets,
    /// When another primary was, and how long after that the first call succeeded.
    known: Option<Instant>,
    first_success: Option<Duration>,
}

impl<R: Servers> Stage<R> {
    fn addresses(&self) -> Vec<String> {
        self.proxies.iter().map(Proxy::address).collect()
    }

    /// All rounds of the tables. `rules`: what holds beside what the faults excuse.
    fn run(&mut self, title: &str, mix: Mix, addresses: &[String], tables: &[&[Fault<R>]], rules: &Rules) {
        let only = std::env::var("MILLRACE_CHAOS_ONLY").unwrap_or_default();
        let all = tables.iter().copied().flatten();
        let mut order: Vec<&Fault<R>> = all.filter(|fault| fault.name.contains(&only)).collect();
        let mut dice = Dice::seeded();
        let mut figures = Figures::default();
        for round in 0..rounds() {
            let load = Load::of(mix, addresses);
            let brought: Vec<Brought> = order.iter().map(|fault| self.bring(title, fault, &load)).collect();
            let mut rules = rules.clone();
            rules.losses.extend(brought.iter().filter_map(Brought::loss));
            let verdict = load.finish_by(&rules, || left(&self.proxies[0], &mix));
            figures.add(&brought, &verdict);
            dice.shuffle(&mut order);
            println!("{title}: round {} is sound", round + 1);
        }
        figures.print(title);
    }

    fn bring(&mut self, title: &str, fault: &Fault<R>, load: &Load) -> Brought {
        load.wait_for_more_of_each(SOME);
        let from = Instant::now();
        println!("{title}, {}: {}", load.history().at(from), fault.name);
        let known = (fault.happens)(self, load);
        let until = Instant::now();
        load.send_home();
        load.wait_for_more_of_each(SOME);
        let first_success = known.and_then(|known| Some(load.history().first_success_after(known, QUEUE)? - known));
        Brought {
            name: fault.name,
            span: Span { from, until },
            forgets: fault.forgets,
            known,
            first_success,
        }
    }
}

impl Brought {
    fn loss(&self) -> Option<Loss> {
        let span = Span {
            from: self.span.from - LAG,
            until: self
                .known
                .map_or(self.span.until, |known| self.span.until.max(known + MOVING)),
        };
        let of_pushes = self.forgets == Forgets::All;
        (self.forgets != Forgets::Nothing).then_some(Loss { span, of_pushes })
    }
}

/// Jobs that are in the queues, in whatever state but dead.
fn left(proxy: &Proxy, mix: &Mix) -> i64 {
    let mut client = proxy.client();
    let mut left = |queue: &&str| {
        let stats = client.call(&["QSTATS", queue]);
        let states = ["ready", "delayed", "leased"].iter();
        states.map(|state| stats.field(state).integer()).sum::<i64>()
    };
    mix.queues().iter().map(&mut left).sum()
}

fn rounds() -> usize {
    setting("MILLRACE_CHAOS_ROUNDS").unwrap_or(1) as usize
}

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}

/// Orders of the faults, the same ones for the same seed.
struct Dice(u64);

impl Dice {
    fn seeded() -> Dice {
        Dice(setting("MILLRACE_CHAOS_SEED").unwrap_or(1))
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for place in (1..items.len()).rev() {
            items.swap(place, self.below(place + 1));
        }
    }

    /// By a linear congruential generator (Knuth, MMIX), whose high bits are the good ones.
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % limit
    }
}

/// What the faults of a table cost, over all rounds.
#[derive(Default)]
struct Figures {
    costs: BTreeMap<&'static str, Cost>,
    /// Calls that were answered between the faults.
    quiet: Vec<Duration>,
}

#[derive(Default)]
struct Cost {
    /// The longest of each time.
    pauses: Vec<Duration>,
    first_successes: Vec<Duration>,
    /// Of pushes and settlements that were answered meanwhile.
    calls: Vec<Duration>,
    /// Of acknowledged pushes, and of other acknowledgements.
    lost: (usize, usize),
    /// From the oldest of them that was forgotten until the fault.
    window: Duration,
}

impl Figures {
    fn add(&mut self, brought: &[Brought], verdict: &Verdict) {
        for brought in brought {
            let cost = self.costs.entry(brought.name).or_default();
            let within = verdict.pauses.iter().filter_map(|pause| pause.with(&brought.span));
            cost.pauses
                .push(within.map(|pause| pause.length()).max().unwrap_or_default());
            cost.first_successes.extend(brought.first_success);
        }
        for call in &verdict.calls {
            let cause = brought.iter().find(|brought| brought.span.holds(call.until));
            match cause {
                Some(cause) => &mut self.costs.entry(cause.name).or_default().calls,
                None => &mut self.quiet,
            }
            .push(call.length());
        }
        for loss in &verdict.losses {
            // The latest, as an earlier one's time to move may reach into it.
            let explains = |brought: &&Brought| brought.loss().is_some_and(|span| span.span.holds(loss.at));
            let mut forgot = brought.iter().filter(explains);
            let Some(cause) = forgot.next_back() else { continue };
            let cost = self.costs.entry(cause.name).or_default();
            match loss.kind {
                Kind::Lost => cost.lost.0 += 1,
                _ => cost.lost.1 += 1,
            }
            cost.window = cost.window.max(cause.span.from.saturating_duration_since(loss.at));
        }
    }

    fn print(&self, title: &str) {
        let quiet = p99(&self.quiet);
        println!("\n{title}: what clients saw, median (longest) in ms; what Redis forgot of what it had acknowledged");
        println!(
            "p99 of pushes and settlements between the faults: {:.1} ms",
            millis(quiet)
        );
        let heads = [
            "pause",
            "after new primary",
            "p99",
            "forgotten: pushes",
            "others",
            "from ms before",
        ];
        println!("{:<44}{}", "fault", heads.map(|head| format!("{head:>19}")).concat());
        for (name, cost) in &self.costs {
            let p99 = p99(&cost.calls);
            let ratio = millis(p99) / millis(quiet);
            let figures = [
                shown(&cost.pauses),
                shown(&cost.first_successes),
                format!("{:.1} ({ratio:.1} x)", millis(p99)),
                cost.lost.0.to_string(),
                cost.lost.1.to_string(),
                cost.window.as_millis().to_string(),
            ];
            println!("{name:<44}{}", figures.map(|figure| format!("{figure:>19}")).concat());
        }
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn p99(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() * 99 / 100).copied().unwrap_or_default()
}

fn shown(times: &[Duration]) -> String {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    match (sorted.get(sorted.len() / 2), sorted.last()) {
        (Some(median), Some(longest)) => format!("{} ({})", median.as_millis(), longest.as_millis()),
        _ => String::new(),
    }
}

/// A proxy that says what it suffers, which is part of all this.
fn suffering(plan: ProxyPlan) -> ProxyPlan {
    plan.workers(2)
        .allow_log("connection to redis lost")
        .allow_log("redis cannot be used")
}

/// What can happen to any deployment's servers.
const fn anywhere<R: Servers>() -> [Fault<R>; 3] {
    [
        fault("SCRIPT FLUSH", forgotten_scripts),
        fault("CLIENT KILL", killed_connections),
        fault("CLIENT PAUSE", paused_clients),
    ]
}

fn forgotten_scripts<R: Servers>(stage: &mut Stage<R>, load: &Load) -> Option<Instant> {
    for _ in 0..3 {
        at_each_node(stage, "SCRIPT FLUSH");
        load.wait_for_more_of_each(SOME / 2);
    }
    None
}

fn killed_connections<R: Servers>(stage: &mut Stage<R>, load: &Load) -> Option<Instant> {
    for kind in ["normal", "pubsub"] {
        at_each_node(stage, &format!("CLIENT KILL TYPE {kind} SKIPME yes"));
        load.wait_for_more_of_each(SOME / 2);
    }
    None
}

fn paused_clients<R: Servers>(stage: &mut Stage<R>, load: &Load) -> Option<Instant> {
    for mode in ["WRITE", "ALL"] {
        at_each_node(stage, &format!("CLIENT PAUSE 300 {mode}"));
        load.wait_for_more_of_each(SOME / 2);
    }
    None
}

fn at_each_node<R: Servers>(stage: &Stage<R>, line: &str) {
    for node in stage.redis.nodes() {
        let told = node.client().run(line);
        assert!(!told.is_error(""), "{line}: {told}");
    }
}

//! A random walk over the scripts and the model at once: the same calls, by the same clock, must come to the same.
//! `MILLRACE_MODEL_CALLS` sets how many calls (20,000; `make nightly` makes 200,000), `MILLRACE_MODEL_SEED` from where; a
//! failure prints the seed and the shortest walk that proptest finds for it.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use millrace::config::Rate;
use millrace::queue::id::LocalId;
use millrace::queue::operation::{
    Claim, Finish, JobOptions, Nack, Operation, Pop, Priority, Push, Return, Start, State, Tick, Unique,
};
use millrace::queue::payload::Payload;
use millrace::queue::settings::Pause;
use millrace::script::check::KINDS;
use millrace::script::cron::Asked;
use millrace::script::look::Detail;
use millrace::script::mend::Revive;
use millrace::script::{Job, Outcome, Settings, Standing};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::Queue;
use super::soundness::{assert_drained, assert_sound};
use crate::lane::{Bench, Lane};

const QUEUES: [&str; 3] = ["orders", "mails", "limited"];
/// QCONFIG SET, QPAUSE and QRESUME, and what they come to.
type Change = (&'static str, &'static str, fn(&mut Settings));
const CHANGES: [Change; 16] = [
    ("rate", "4/s", |s| s.rate = Rate(Some((4, Duration::from_secs(1))))),
    ("rate", "", |s| s.rate = Rate(None)),
    ("group_rate", "2/s", |s| {
        s.group_rate = Rate(Some((2, Duration::from_secs(1))))
    }),
    ("group_rate", "90/m", |s| {
        s.group_rate = Rate(Some((90, Duration::from_secs(60))))
    }),
    ("group_rate", "", |s| s.group_rate = Rate(None)),
    ("group_concurrency", "1", |s| s.group_concurrency = 1),
    ("group_concurrency", "3", |s| s.group_concurrency = 3),
    ("concurrency", "2", |s| s.concurrency = 2),
    ("concurrency", "0", |s| s.concurrency = 0),
    ("max_len", "5", |s| s.max_len = 5),
    ("max_len", "0", |s| s.max_len = 0),
    ("max_wait", "300", |s| s.max_wait = Duration::from_millis(300)),
    ("max_wait", "0", |s| s.max_wait = Duration::ZERO),
    ("retries", "2", |s| s.retries = 2),
    ("paused_push", "1", |s| s.pause.push = true),
    ("paused_pop", "1", |s| s.pause.pop = true),
];
const CRONS: [&str; 2] = ["hourly", "daily"];
const STEPS: usize = 100; // a walk has on average; shorter ones shrink faster, longer ones meet more

#[derive(Clone, Debug)]
enum Step {
    Batch {
        queue: usize,
        worker: usize,
        wishes: Vec<Wish>,
        repeat: bool,
    },
    Wait(u64),
    Delete {
        queue: usize,
        picks: Vec<Pick>,
    },
    Purge {
        queue: usize,
        state: Option<State>,
    },
    Look {
        queue: usize,
        pick: Pick,
    },
    Redrive {
        queue: usize,
        count: u64,
    },
    /// Of one state those of them that are in it.
    Revive {
        queue: usize,
        from: State,
        picks: Vec<Index>,
    },
    Drop {
        queue: usize,
    },
    /// By its place in `CHANGES`.
    Configure {
        queue: usize,
        change: usize,
    },
    /// A repeated job ticks first after so many ms; without, it is removed.
    Cron {
        queue: usize,
        name: usize,
        first: Option<u64>,
    },
}

/// An operation whose jobs are chosen when its turn comes.
#[derive(Clone, Debug)]
enum Wish {
    Push(Push),
    Ack(Vec<Pick>),
    Finish(Vec<Pick>, Option<u64>),
    Nack {
        picks: Vec<Pick>,
        delay: Option<u64>,
        error: Option<Bytes>,
        dead: bool,
    },
    Extend(Vec<Pick>, u64),
    Return(Index),
    Lapse(Vec<Pick>),
    Pop(Pop),
    /// Of the tick that is next, or of the one before, which somebody has made; and after how many ms the next comes.
    Tick {
        name: usize,
        is_old: bool,
        next: Option<u64>,
        push: Push,
    },
}

#[derive(Clone, Debug)]
enum Pick {
    /// The receipt of a delivery that somebody has.
    Receipt(Index),
    /// The bare id of one.
    Id(Index),
    /// Any job there ever was, in any delivery.
    Any(Index, Option<u32>),
}

fn picks() -> impl Strategy<Value = Vec<Pick>> {
    let pick = prop_oneof![
        6 => any::<Index>().prop_map(Pick::Receipt),
        1 => any::<Index>().prop_map(Pick::Id),
        1 => (any::<Index>(), option::of(1u32..4)).prop_map(|(index, delivery)| Pick::Any(index, delivery)),
    ];
    prop::collection::vec(pick, 1..5)
}

fn options() -> impl Strategy<Value = JobOptions> {
    let start = prop_oneof![
        Just(Start::Now),
        (0u64..1500).prop_map(Start::After),
        (0u64..3000).prop_map(|ms| Start::At(1_700_000_000_000 + ms * 20)),
    ];
    let fields = (
        start,
        option::of(1u64..3000),
        option::of(1u32..4),
        option::of(0u64..500),
        option::of(1u64..2000),
    );
    let words = prop::collection::vec((any::<Vec<u8>>(), any::<Vec<u8>>()), 0..3);
    let meta = words.prop_map(|pairs| pairs.into_iter().map(|(a, b)| (a.into(), b.into())).collect());
    let group = option::weighted(0.7, select(vec!["a", "b", "ab"]).prop_map(Bytes::from));
    let special = (
        select(Priority::ALL.to_vec()),
        fields,
        option::of(0u64..1000),
        meta,
        group,
    )
        .prop_map(
            |(priority, (start, ttl, retries, backoff, lease), max_backoff, meta, group)| JobOptions {
                priority,
                start,
                ttl,
                retries,
                backoff,
                max_backoff,
                lease,
                meta,
                unique: None,
                group,
            },
        );
    prop_oneof![2 => Just(JobOptions::default()), 1 => special]
}

/// As they came, or packed.
fn payload() -> impl Strategy<Value = Payload> {
    let small = prop::collection::vec(any::<u8>(), 0..8).prop_map(|bytes| Payload::from(Bytes::from(bytes)));
    let packed = (any::<u8>(), 100usize..200).prop_map(|(byte, len)| {
        let mut payload = Payload::from(Bytes::from(vec![byte; len]));
        payload.pack(64);
        assert!(payload.is_packed());
        payload
    });
    prop_oneof![3 => small, 1 => packed]
}

fn wish() -> impl Strategy<Value = Wish> {
    let payloads = prop::collection::vec(payload(), 1..4);
    let push = (payloads, options()).prop_map(|(payloads, options)| Wish::Push(Push { payloads, options }));
    let key = (select(vec!["a", "b"]), option::of(1u64..3000)).prop_map(|(key, hold)| Unique {
        key: key.into(),
        hold,
        loan: None,
    });
    let unique = (options(), key).prop_map(|(options, unique)| {
        let unique = Some(unique);
        Wish::Push(Push {
            payloads: vec![Bytes::from("one").into()],
            options: JobOptions { unique, ..options },
        })
    });
    let error = option::of("[a-z]{0,3}".prop_map(Bytes::from));
    let nack =
        (picks(), option::of(0u64..1000), error, prop::bool::weighted(0.2)).prop_map(|(picks, delay, error, dead)| {
            Wish::Nack {
                picks,
                delay,
                error,
                dead,
            }
        });
    let pop = (
        1u32..5,
        option::of(1u64..2000),
        prop::bool::weighted(0.2),
        any::<bool>(),
    )
        .prop_map(|(count, lease, noack, waits)| {
            Wish::Pop(Pop {
                count,
                lease: lease.filter(|_| !noack),
                noack,
                waits,
            })
        });
    let tick = (
        0..CRONS.len(),
        prop::bool::weighted(0.2),
        option::weighted(0.9, 1u64..1000),
        payload(),
        options(),
        option::of(select(vec!["a", "b"])),
    )
        .prop_map(|(name, is_old, next, payload, options, key)| {
            let unique = key.map(|key| Unique {
                key: key.into(),
                hold: None,
                loan: None,
            });
            let push = Push {
                payloads: vec![payload],
                options: JobOptions { unique, ..options },
            };
            Wish::Tick {
                name,
                is_old,
                next,
                push,
            }
        });
    prop_oneof![
        4 => push,
        2 => unique,
        2 => tick,
        4 => pop,
        1 => picks().prop_map(Wish::Lapse),
        3 => picks().prop_map(Wish::Ack),
        1 => (picks(), option::of(1u64..2000)).prop_map(|(picks, ttl)| Wish::Finish(picks, ttl)),
        2 => nack,
        1 => (picks(), 1u64..2000).prop_map(|(picks, lease)| Wish::Extend(picks, lease)),
        1 => any::<Index>().prop_map(Wish::Return),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let queue = 0..QUEUES.len();
    let batch = (
        queue.clone(),
        0usize..2,
        prop::collection::vec(wish(), 0..6),
        prop::bool::weighted(0.3),
    )
        .prop_map(|(queue, worker, wishes, repeat)| Step::Batch {
            queue,
            worker,
            wishes,
            repeat,
        });
    let state = option::of(select(State::ALL.to_vec()));
    prop_oneof![
        30 => batch,
        8 => prop_oneof![0u64..100, 0u64..3000].prop_map(Step::Wait),
        2 => (queue.clone(), picks()).prop_map(|(queue, picks)| Step::Delete { queue, picks }),
        1 => (queue.clone(), state).prop_map(|(queue, state)| Step::Purge { queue, state }),
        1 => (queue.clone(), 1u64..4).prop_map(|(queue, count)| Step::Redrive { queue, count }),
        2 => (queue.clone(), select(vec![State::Dead, State::Delayed]), prop::collection::vec(any::<Index>(), 1..4))
            .prop_map(|(queue, from, picks)| Step::Revive { queue, from, picks }),
        1 => queue.clone().prop_map(|queue| Step::Drop { queue }),
        3 => (queue.clone(), 0..CHANGES.len()).prop_map(|(queue, change)| Step::Configure { queue, change }),
        2 => (queue.clone(), 0..CRONS.len(), option::weighted(0.8, 0u64..1000))
            .prop_map(|(queue, name, first)| Step::Cron { queue, name, first }),
        3 => (queue, picks()).prop_map(|(queue, mut picks)| Step::Look { queue, pick: picks.remove(0) }),
    ]
}

/// One queue, twice.
struct Twins {
    name: &'static str,
    lanes: [Lane; 2],
    model: Queue,
    defaults: Settings,
    pushed: Vec<LocalId>,
    /// Popped with `NOACK` and not given back.
    taken: Vec<Job>,
}

impl Twins {
    fn new(bench: &Rc<Bench>, name: &'static str) -> Self {
        let settings = Settings {
            lease: Duration::from_millis(1000),
            retries: 3,
            backoff: Duration::from_millis(100),
            max_backoff: Duration::from_millis(350),
            max_lapses: if name == "orders" { 2 } else { 0 },
            dead_max_len: 4,
            dead_ttl: Duration::from_millis(5000),
            result_ttl: Duration::from_millis(500),
            ..Settings::default()
        };
        let settings = match name {
            "mails" => Settings {
                max_wait: Duration::from_millis(700),
                group_concurrency: 2,
                group_rate: Rate(Some((3, Duration::from_secs(1)))),
                ..settings
            },
            "limited" => Settings {
                ttl: Duration::from_millis(2500),
                max_len: 8,
                concurrency: 4,
                rate: Rate(Some((6, Duration::from_secs(1)))),
                ..settings
            },
            _ => settings,
        };
        let lanes = ["w1", "w2"].map(|worker| Lane::with_settings(bench, name, worker, settings.clone()));
        Self {
            name,
            lanes,
            model: Queue::new(settings.clone()),
            defaults: settings,
            pushed: Vec::new(),
            taken: Vec::new(),
        }
    }

    fn claims(&self, picks: &[Pick]) -> Vec<Claim> {
        picks.iter().filter_map(|pick| self.claim(pick)).collect()
    }

    fn claim(&self, pick: &Pick) -> Option<Claim> {
        let one_of = |index: &Index, ids: &[LocalId]| (!ids.is_empty()).then(|| ids[index.index(ids.len())]);
        let leased = self.model.in_state(State::Leased);
        Some(match pick {
            Pick::Any(index, delivery) => Claim {
                partition: 0,
                job: one_of(index, &self.pushed)?,
                delivery: *delivery,
            },
            Pick::Id(index) => Claim {
                partition: 0,
                job: one_of(index, &leased)?,
                delivery: None,
            },
            Pick::Receipt(index) => {
                let job = one_of(index, &leased)?;
                Claim {
                    partition: 0,
                    job,
                    delivery: Some(self.model.view(job)?.record.delivery()),
                }
            }
        })
    }

    fn operation(&mut self, wish: &Wish) -> Option<Operation> {
        let some = |claims: Vec<Claim>| (!claims.is_empty()).then_some(claims);
        Some(match wish.clone() {
            Wish::Push(push) => Operation::Push(push),
            Wish::Pop(pop) => Operation::Pop(pop),
            Wish::Tick {
                name,
                is_old,
                next,
                push,
            } => {
                let name = Bytes::from(CRONS[name]);
                let at = self.model.ticks.get(&name).copied()?;
                let at = at - u64::from(is_old);
                let next = next.map(|after| at + after);
                let push = Some(push);
                Operation::Tick(Box::new(Tick {
                    name,
                    at,
                    next,
                    then: 0,
                    push,
                    is_duplicate: false,
                }))
            }
            Wish::Lapse(picks) => {
                let claims = self.claims(&picks);
                Operation::Lapse(some(
                    claims.into_iter().filter(|claim| claim.delivery.is_some()).collect(),
                )?)
            }
            Wish::Finish(picks, ttl) => Operation::Finish(Finish {
                claims: some(self.claims(&picks))?,
                result: "result".into(),
                ttl,
            }),
            Wish::Ack(picks) => Operation::Ack(some(self.claims(&picks))?),
            Wish::Extend(picks, lease) => Operation::Extend {
                claims: some(self.claims(&picks))?,
                lease,
            },
            Wish::Nack {
                picks,
                delay,
                error,
                dead,
            } => Operation::Nack(Nack {
                claims: some(self.claims(&picks))?,
                delay,
                error,
                dead,
            }),
            Wish::Return(index) if !self.taken.is_empty() => {
                let job = self.taken.remove(index.index(self.taken.len()));
                let taken = Some((job.payload, job.record));
                Operation::Return(vec![Return {
                    job: job.id,
                    delivery: job.delivery,
                    taken,
                    lost: false,
                }])
            }
            Wish::Return(index) => {
                let claim = self.claim(&Pick::Receipt(index))?;
                let returned = Return {
                    job: claim.job,
                    delivery: claim.delivery?,
                    taken: None,
                    lost: false,
                };
                Operation::Return(vec![returned])
            }
        })
    }

    fn batch(&mut self, worker: usize, wishes: &[Wish], repeat: bool) {
        let operations: Vec<_> = wishes.iter().filter_map(|wish| self.operation(wish)).collect();
        let now = self.lanes[worker].bench.now();
        let reply = self.lanes[worker].batch(&operations);
        let expected = self.model.batch(now, 0.5, &operations, &reply.outcomes);
        self.note(&operations, &reply.outcomes);
        assert_eq!(without_records(&reply.outcomes), expected, "outcomes of {operations:?}");
        let Standing {
            now: at,
            next_due,
            ready,
            more,
            ..
        } = reply.standing;
        let (expected, due) = self.model.standing(now);
        assert_eq!(
            (at, ready, more),
            (now, expected, false),
            "standing after {operations:?}"
        );
        // `plain.lua` may name the end of a lease that the call itself acknowledged.
        let is_sooner = self.lanes[worker].was_plain && next_due.is_some_and(|told| due.is_none_or(|due| told < due));
        assert!(
            next_due == due || is_sooner,
            "due after {operations:?}: {next_due:?}, not {due:?}"
        );
        if repeat {
            let again = self.lanes[worker].repeat().unwrap();
            // Who was called waits no more, and batch.lua answers what plain.lua has done.
            let to_repeat = |standing| Standing {
                called: false,
                plain: false,
                next_due: due,
                ..standing
            };
            assert_eq!(again.standing.next_due, due, "due by a repeat");
            assert_eq!(
                to_repeat(again.standing),
                to_repeat(reply.standing),
                "standing of a repeat"
            );
            if !operations
                .iter()
                .any(|operation| matches!(operation, Operation::Pop(Pop { noack: true, .. })))
            {
                assert_eq!(again.outcomes, reply.outcomes, "outcomes of a repeat");
            }
        }
        self.compare_stats();
    }

    fn note(&mut self, operations: &[Operation], outcomes: &[Outcome]) {
        for (operation, outcome) in operations.iter().zip(outcomes) {
            match (operation, outcome) {
                (_, Outcome::Pushed(ids)) => self.pushed.extend(ids),
                (Operation::Pop(Pop { noack: true, .. }), Outcome::Popped(jobs)) => self.taken.extend(jobs.clone()),
                _ => {}
            }
        }
    }

    fn compare_stats(&mut self) {
        let now = self.lanes[0].bench.now();
        assert_eq!(self.lanes[0].stats(), self.model.stats(now), "stats of {}", self.name);
    }

    /// Now and then pauses end.
    fn configure(&mut self, change: usize) {
        let (name, value, apply) = CHANGES[change];
        let paused = self.model.settings.pause;
        let mut changes = vec![(name, value.to_owned())];
        apply(&mut self.model.settings);
        if paused != Pause::default() {
            changes.extend(Settings::resuming());
            self.model.settings.pause = Pause::default();
        }
        self.lanes[1].configure(&changes);
        let version = self.lanes[1].version();
        self.model.settings.version = version;
        for lane in &mut self.lanes {
            lane.settings = self.model.settings.clone();
        }
        self.compare_stats();
    }

    fn compare_crons(&mut self) {
        let listed = self.lanes[0].crons(Asked::List(0)).entries;
        let listed: Vec<_> = listed.into_iter().map(|entry| (entry.tick, entry.name)).collect();
        let mut expected: Vec<_> = self.model.ticks.iter().map(|(name, at)| (*at, name.clone())).collect();
        expected.sort();
        assert_eq!(listed, expected, "repeated jobs of {}", self.name);
        let now = self.lanes[0].bench.now();
        let (due, later): (Vec<_>, Vec<_>) = expected.into_iter().partition(|(at, _)| *at <= now);
        let told = self.lanes[0].crons(Asked::Due);
        assert_eq!(told.soonest, later.first().map(|(at, _)| *at));
        assert_eq!(told.entries.len(), due.len());
    }

    fn compare_explanation(&mut self, id: LocalId, now: u64) {
        let explained = self.lanes[0].explain(id).map(|explanation| {
            let number = match explanation.detail {
                Detail::Number(number) if explanation.reason != "behind" => Some(number),
                _ => None,
            };
            (explanation.state, explanation.reason, number)
        });
        let expected = self.model.explain(id, now);
        let expected = expected.map(|(state, reason, number)| (state.name().into(), reason.into(), number));
        assert_eq!(explained, expected, "why {id:?} does not run");
    }

    fn look(&mut self, pick: &Pick) {
        self.compare_crons();
        let now = self.lanes[0].bench.now();
        for state in State::ALL {
            let expected = self.model.peek(state, now);
            assert_eq!(
                self.lanes[0].peek(state, 100, 0),
                expected,
                "{state:?} jobs of {}",
                self.name
            );
            for view in expected.iter().take(3) {
                self.compare_explanation(view.id, now);
            }
            let some = expected.iter().skip(1).take(2).cloned().collect::<Vec<_>>();
            assert_eq!(
                self.lanes[0].peek(state, 2, 1),
                some,
                "two {state:?} jobs of {}",
                self.name
            );
        }
        if let Some(claim) = self.claim(pick) {
            assert_eq!(self.lanes[0].job(claim.job), self.model.view(claim.job));
            self.compare_explanation(claim.job, now);
            assert_eq!(self.lanes[0].result(claim.job), self.model.ending(claim.job, now));
        }
    }
}

/// The model has no encoded records; what is in them shows in every later reply.
fn without_records(outcomes: &[Outcome]) -> Vec<Outcome> {
    let strip = |outcome: &Outcome| match outcome {
        Outcome::Popped(jobs) => Outcome::Popped(
            jobs.iter()
                .map(|job| Job {
                    record: None,
                    ..job.clone()
                })
                .collect(),
        ),
        other => other.clone(),
    };
    outcomes.iter().map(strip).collect()
}

fn walk(bench: &Rc<Bench>, steps: &[Step]) {
    bench.restart_time();
    let mut queues = QUEUES.map(|name| Twins::new(bench, name));
    for step in steps {
        match step {
            Step::Wait(ms) => bench.advance(*ms),
            Step::Batch {
                queue,
                worker,
                wishes,
                repeat,
            } => queues[*queue].batch(*worker, wishes, *repeat),
            Step::Look { queue, pick } => queues[*queue].look(pick),
            Step::Delete { queue, picks } => {
                let twins = &mut queues[*queue];
                let ids: Vec<_> = twins.claims(picks).iter().map(|claim| claim.job).collect();
                assert_eq!(
                    twins.lanes[1].delete(&ids),
                    twins.model.delete(&ids, bench.now()),
                    "deleted"
                );
                twins.compare_stats();
            }
            Step::Redrive { queue, count } => {
                let (twins, now) = (&mut queues[*queue], bench.now());
                let revived = twins.lanes[1].revive(Revive::Dead(*count));
                let dead: Vec<_> = twins.model.peek(State::Dead, now).iter().map(|view| view.id).collect();
                let first = &dead[..dead.len().min(*count as usize)];
                assert_eq!(revived, twins.model.revive(State::Dead, first, now), "redriven");
                twins.compare_stats();
            }
            Step::Revive { queue, from, picks } => {
                let (twins, now) = (&mut queues[*queue], bench.now());
                let pushed = &twins.pushed;
                let ids = picks
                    .iter()
                    .filter(|_| !pushed.is_empty())
                    .map(|at| pushed[at.index(pushed.len())]);
                let ids: Vec<_> = ids.collect::<BTreeSet<_>>().into_iter().collect();
                let whom = match from {
                    State::Dead => Revive::DeadIds(ids.clone()),
                    _ => Revive::DelayedIds(ids.clone()),
                };
                let revived = match ids.is_empty() {
                    true => 0,
                    false => twins.lanes[0].revive(whom),
                };
                assert_eq!(revived, twins.model.revive(*from, &ids, now), "made ready");
                twins.compare_stats();
            }
            Step::Configure { queue, change } => queues[*queue].configure(*change),
            Step::Cron { queue, name, first } => {
                let (twins, name) = (&mut queues[*queue], CRONS[*name].as_bytes());
                let tick = first.map(|after| bench.now() + after);
                let asked = match tick {
                    Some(tick) => Asked::Add {
                        name,
                        words: b"words",
                        tick,
                    },
                    None => Asked::Delete(name),
                };
                let counted = twins.lanes[1].change_crons(asked);
                let before = twins.model.ticks.remove(name).is_some();
                twins
                    .model
                    .ticks
                    .extend(tick.map(|tick| (Bytes::from_static(name), tick)));
                assert_eq!(counted == 1, before || tick.is_some(), "repeated jobs changed");
                twins.compare_crons();
            }
            Step::Drop { queue } => {
                let twins = &mut queues[*queue];
                let dropped = twins.lanes[0].drop_queue();
                assert_eq!(dropped, twins.model.drop_queue(&twins.defaults), "dropped");
                for lane in &mut twins.lanes {
                    lane.settings = twins.defaults.clone();
                }
                twins.taken.clear();
                bench.advance(1); // ids are made of the time, and a dropped queue remembers none
                twins.compare_stats();
            }
            Step::Purge { queue, state } => {
                let twins = &mut queues[*queue];
                assert_eq!(
                    twins.lanes[1].purge(*state),
                    twins.model.purge(*state, bench.now()),
                    "purged {state:?}"
                );
                twins.compare_stats();
            }
        }
    }
    for twins in &mut queues {
        assert_sound(bench, twins.name);
        let checked = twins.lanes[0].check(false);
        assert_eq!(checked.kinds, [0; KINDS.len()], "QCHECK of {}: {KINDS:?}", twins.name);
        twins.lanes[0].purge(None);
        for name in CRONS {
            twins.lanes[0].change_crons(Asked::Delete(name.as_bytes()));
        }
        bench.advance(3000); // FOR holds keys beyond their jobs
        twins.lanes[0].stats();
        assert_drained(bench, twins.name);
    }
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

#[test]
fn the_scripts_do_what_the_model_does() {
    let calls = from_environment("MILLRACE_MODEL_CALLS", 20_000);
    let seed = from_environment("MILLRACE_MODEL_SEED", rand_seed());
    println!("MILLRACE_MODEL_SEED={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: (calls / STEPS as u64).max(1) as u32,
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let bench = Bench::start();
    let walks = prop::collection::vec(step(), 1..2 * STEPS);
    if let Err(difference) = runner.run(&walks, |steps| {
        walk(&bench, &steps);
        Ok(())
    }) {
        panic!("MILLRACE_MODEL_SEED={seed}: {difference}");
    }
}

/// The key of a job that comes back may be held by another's FOR that is over, before any upkeep has noticed.
#[test]
fn a_job_that_comes_back_takes_its_key_from_a_hold_that_is_over() {
    let push = |hold| {
        let unique = Some(Unique {
            key: "a".into(),
            hold,
            loan: None,
        });
        Wish::Push(Push {
            payloads: vec![Bytes::from("one").into()],
            options: JobOptions {
                unique,
                ..JobOptions::default()
            },
        })
    };
    let pop = |noack| {
        Wish::Pop(Pop {
            count: 1,
            lease: None,
            noack,
            waits: false,
        })
    };
    let the_only_one = any::<Index>().new_tree(&mut TestRunner::deterministic());
    let index = the_only_one.unwrap().current();
    let batch = |wishes| Step::Batch {
        queue: 0,
        worker: 0,
        wishes,
        repeat: false,
    };
    let steps = [
        batch(vec![push(None), pop(true)]),
        batch(vec![push(Some(100)), pop(false)]),
        batch(vec![Wish::Ack(vec![Pick::Receipt(index)])]),
        Step::Wait(200),
        batch(vec![Wish::Return(index), push(None), pop(false)]),
    ];
    walk(&Bench::start(), &steps);
}

fn rand_seed() -> u64 {
    getrandom::u64().unwrap()
}

//! What producers and consumers saw while the servers were broken under them, and whether it may have been so.
//!
//! Each client notes what it was told, and when it had asked. Nothing is judged while the load runs; the checks at the end
//! read the notes alone, so that they depend neither on the proxy's word nor on a client's opinion of it:
//!
//! - every acknowledged push was delivered and acknowledged (the consumers go on until the queue is empty);
//! - a payload has one id, that of its push's reply: no push was applied twice, and none that was refused;
//! - a delivery was acknowledged once, and its job not delivered again;
//! - a job was delivered again only when it had been given back, or its lease could be over ([`leases`]);
//! - within a group jobs came in the order of their pushes, and never too many at once ([`groups`]);
//! - no pop waited for long beside a ready job ([`waits`]);
//! - no connection was closed, and no call failed but as the test allows.
//!
//! A note says when it was asked for and when it was told, and what it tells of happened somewhere between. So a fault is
//! only what was wrong whenever in between it happened.
//!
//! The load itself is in [`super::load`].

mod groups;
mod leases;
mod waits;

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use leases::Jobs;

/// One thing that one client was told.
#[derive(Clone, Debug)]
pub struct Note {
    pub asked: Instant,
    pub told: Instant,
    pub queue: &'static str,
    pub what: What,
}

#[derive(Clone, Debug)]
pub enum What {
    /// A producer's name, a dot, and a number that grows with its pushes: that is the payload.
    Pushed {
        payload: String,
        id: String,
        group: Option<String>,
        delayed: bool,
    },
    /// The reply said that nothing was done.
    Refused {
        payload: String,
    },
    Delivered {
        payload: String,
        receipt: String,
        attempt: i64,
    },
    /// A pop with BLOCK that ended with null.
    Waited,
    Acked {
        receipt: String,
        counted: i64,
    },
    /// With `DELAY 0`, or with its connection, where it was `BOUND`.
    GivenBack {
        receipt: String,
        counted: i64,
    },
    /// It was acknowledged or given back, or it was not: the reply was UNCERTAIN, or none came.
    Doubted {
        receipt: String,
    },
    /// The call whose words begin so failed. A connection that closes is a failure too.
    Failed {
        call: String,
        error: String,
    },
}

impl What {
    /// The payload and the id of the job that it is about.
    fn names(&self) -> [&str; 2] {
        match self {
            What::Pushed { payload, id, .. } => [payload, id],
            What::Refused { payload } => [payload, payload],
            What::Delivered { payload, receipt, .. } => [payload, leases::id_of(receipt)],
            What::Acked { receipt, .. } | What::GivenBack { receipt, .. } | What::Doubted { receipt } => {
                [leases::id_of(receipt), leases::id_of(receipt)]
            }
            What::Waited | What::Failed { .. } => ["-", "-"],
        }
    }
}

/// From when until when.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub from: Instant,
    pub until: Instant,
}

impl Span {
    pub fn holds(&self, at: Instant) -> bool {
        self.from <= at && at <= self.until
    }

    pub fn length(&self) -> Duration {
        self.until - self.from
    }

    /// What both have in common.
    pub fn with(&self, other: &Span) -> Option<Span> {
        let (from, until) = (self.from.max(other.from), self.until.min(other.until));
        (from < until).then_some(Span { from, until })
    }
}

/// What may be in a history.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Of every pop.
    pub lease: Duration,
    /// Of every group.
    pub group_concurrency: usize,
    /// How errors may begin.
    pub allowed: Vec<String>,
    /// A pop may wait for so long beside a ready job.
    pub patience: Duration,
    /// A primary was lost or replaced that had not told its replicas all.
    pub losses: Vec<Loss>,
}

impl Rules {
    /// No errors, no losses.
    pub fn strict(lease: Duration) -> Rules {
        Rules {
            lease,
            group_concurrency: 1,
            allowed: Vec::new(),
            patience: Duration::from_secs(3), // an outage's pause does not count
            losses: Vec::new(),
        }
    }

    pub fn allow(mut self, errors: &[&str]) -> Rules {
        self.allowed.extend(errors.iter().map(|error| (*error).to_owned()));
        self
    }
}

/// What was acknowledged in this span may be forgotten.
#[derive(Clone, Copy, Debug)]
pub struct Loss {
    pub span: Span,
    /// Pushes too. Else those were acknowledged when replicas had them.
    pub of_pushes: bool,
}

impl Loss {
    fn explains(&self, fault: &Fault) -> bool {
        let may_be = match fault.kind {
            Kind::Failed | Kind::Slept | Kind::Denied => false,
            Kind::Lost => self.of_pushes,
            _ => true,
        };
        may_be && self.span.holds(fault.at)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An acknowledged push that nobody could acknowledge as a job.
    Lost,
    Doubled,
    /// A push that was refused, and its job was delivered.
    Denied,
    AfterAck,
    TwoLeases,
    GroupOrder,
    GroupCrowd,
    Slept,
    Failed,
    /// A reply that contradicts an earlier one.
    Untrue,
}

/// What may not have been so.
#[derive(Clone, Debug)]
pub struct Fault {
    pub kind: Kind,
    /// When that was told which turned out untrue.
    pub at: Instant,
    pub words: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

/// What a history came to.
#[derive(Debug)]
pub struct Verdict {
    pub faults: Vec<Fault>,
    /// Faults that the rules' losses explain.
    pub losses: Vec<Fault>,
    /// Nobody was told anything but errors.
    pub pauses: Vec<Span>,
    /// From the request to the reply of every push and every settlement.
    pub calls: Vec<Span>,
}

pub struct History {
    began: Instant,
    notes: Mutex<Vec<Note>>,
}

impl History {
    pub fn new() -> History {
        History {
            began: Instant::now(),
            notes: Mutex::default(),
        }
    }

    /// How far it was at that time.
    pub fn at(&self, then: Instant) -> String {
        format!("{:.3} s", (then - self.began).as_secs_f64())
    }

    pub fn note(&self, asked: Instant, queue: &'static str, what: What) {
        let told = Instant::now();
        self.lock().push(Note {
            asked,
            told,
            queue,
            what,
        });
    }

    pub fn failures(&self) -> Vec<String> {
        let failed = |note: &Note| match &note.what {
            What::Failed { call, error } => Some(format!("{call}: {error}")),
            _ => None,
        };
        self.lock().iter().filter_map(failed).collect()
    }

    /// When anybody was first told something of the queue after `then`, but for errors.
    pub fn first_success_after(&self, then: Instant, queue: &str) -> Option<Instant> {
        let counts = |note: &&Note| note.is_success() && note.queue == queue && note.told > then;
        self.lock().iter().filter(counts).map(|note| note.told).min()
    }

    pub fn judge(&self, rules: &Rules) -> Verdict {
        judge(&self.lock(), rules)
    }

    /// Panics with all that may not have been so.
    #[track_caller]
    pub fn check(&self, rules: &Rules) -> Verdict {
        let verdict = self.judge(rules);
        let shown = verdict.faults.iter().take(20);
        let mut shown: Vec<_> = shown.map(|fault| format!("{}: {fault}", self.at(fault.at))).collect();
        shown.extend(verdict.faults.first().map(|fault| self.story(&fault.words)));
        assert!(
            shown.is_empty(),
            "{} faults, the first of them:\n{}",
            verdict.faults.len(),
            shown.join("\n")
        );
        verdict
    }

    /// All notes of the jobs that the words name, by payload or id.
    fn story(&self, words: &str) -> String {
        let names = |name: &str| words.split([' ', ',', ':', '"', '[', ']']).any(|word| word == name);
        let notes = self.lock();
        let told = notes.iter().filter(|note| note.what.names().into_iter().any(names));
        let lines = told.map(|note| format!("  {} to {}: {:?}", self.at(note.asked), self.at(note.told), note.what));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Note>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Note {
    /// Redis had a part in it. A pop's null is no success: it comes from the proxy alone.
    fn is_success(&self) -> bool {
        use What::{Acked, Delivered, GivenBack, Pushed};
        matches!(
            self.what,
            Pushed { .. } | Delivered { .. } | Acked { .. } | GivenBack { .. }
        )
    }

    fn span(&self) -> Span {
        Span {
            from: self.asked,
            until: self.told,
        }
    }
}

/// Everything in the notes that may not have been so.
fn judge(notes: &[Note], rules: &Rules) -> Verdict {
    let mut found = Vec::new();
    let jobs = Jobs::read(notes);
    let pauses = waits::pauses(notes);
    judge_errors(notes, &rules.allowed, &mut found);
    leases::judge(&jobs, rules.lease, &mut found);
    groups::judge(&jobs, rules, &mut found);
    waits::judge(notes, &jobs, &pauses, rules.patience, &mut found);
    let excused = |fault: &Fault| rules.losses.iter().any(|loss| loss.explains(fault));
    let (losses, faults) = found.into_iter().partition(excused);
    let calls = notes
        .iter()
        .filter(|note| note.is_success() && !matches!(note.what, What::Delivered { .. }));
    Verdict {
        faults,
        losses,
        pauses,
        calls: calls.map(Note::span).collect(),
    }
}

fn judge_errors(notes: &[Note], allowed: &[String], found: &mut Vec<Fault>) {
    for note in notes {
        let What::Failed { call, error } = &note.what else {
            continue;
        };
        if !allowed.iter().any(|prefix| error.starts_with(prefix)) {
            found.push(Fault {
                kind: Kind::Failed,
                at: note.told,
                words: format!("{call} {} failed: {error}", note.queue),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub const LEASE: Duration = Duration::from_secs(1);

    /// A made-up history: each note's time of asking and of telling, in ms, the queue, and what.
    pub fn notes(told: &[(u64, u64, What)]) -> Vec<Note> {
        let start = Instant::now();
        let note = |(asked, told, what): &(u64, u64, What)| Note {
            asked: start + Duration::from_millis(*asked),
            told: start + Duration::from_millis(*told),
            queue: "q",
            what: what.clone(),
        };
        told.iter().map(note).collect()
    }

    pub fn rules() -> Rules {
        Rules::strict(LEASE).allow(&["OOM"])
    }

    #[track_caller]
    pub fn says_by(rules: &Rules, told: &[(u64, u64, What)], expected: &[&str]) {
        let verdict = judge(&notes(told), rules);
        let faults: Vec<_> = verdict.faults.iter().map(Fault::to_string).collect();
        assert_eq!(faults, expected);
    }

    /// What is found in these notes, each asked for and told at one time.
    #[track_caller]
    pub fn says(told: &[(u64, What)], expected: &[&str]) {
        let told: Vec<_> = told.iter().map(|(ms, what)| (*ms, *ms, what.clone())).collect();
        says_by(&rules(), &told, expected);
    }

    /// One job of the payload `p.1`.
    pub fn pushed(id: &str) -> What {
        pushed_as("p.1", id, None)
    }

    pub fn pushed_as(payload: &str, id: &str, group: Option<&str>) -> What {
        What::Pushed {
            payload: payload.into(),
            id: id.into(),
            group: group.map(str::to_owned),
            delayed: false,
        }
    }

    pub fn delivered(receipt: &str) -> What {
        delivered_as("p.1", receipt)
    }

    pub fn delivered_as(payload: &str, receipt: &str) -> What {
        What::Delivered {
            payload: payload.into(),
            receipt: receipt.into(),
            attempt: receipt.split_once(':').unwrap().1.parse().unwrap(),
        }
    }

    pub fn acked(receipt: &str) -> What {
        What::Acked {
            receipt: receipt.into(),
            counted: 1,
        }
    }

    pub fn given_back(receipt: &str) -> What {
        What::GivenBack {
            receipt: receipt.into(),
            counted: 1,
        }
    }

    pub fn failed(error: &str) -> What {
        What::Failed {
            call: "QPOP".into(),
            error: error.into(),
        }
    }

    #[test]
    fn a_call_that_failed_is_found_unless_its_error_was_allowed() {
        says(
            &[
                (0, failed("unexpected end of file")),
                (1, failed("OOM command not allowed")),
            ],
            &["QPOP q failed: unexpected end of file"],
        );
    }

    #[test]
    fn what_was_acknowledged_while_a_primary_was_lost_may_be_forgotten_and_nothing_else() {
        let told = notes(&[
            (0, 0, pushed("j")),
            (5, 5, pushed_as("p.2", "k", None)),
            (9, 9, failed("ERR")),
        ]);
        let mut rules = rules();
        let span = Span {
            from: told[1].told,
            until: told[2].told,
        };
        rules.losses.push(Loss { span, of_pushes: true });
        let verdict = judge(&told, &rules);
        let faults: Vec<_> = verdict.faults.iter().map(|fault| fault.kind).collect();
        assert_eq!(faults, [Kind::Failed, Kind::Lost]);
        assert_eq!(verdict.losses.len(), 1);
        assert_eq!(
            verdict.losses[0].to_string(),
            "p.2 was acknowledged as k and never delivered"
        );
        rules.losses[0].of_pushes = false; // replicas had it
        assert_eq!(judge(&told, &rules).losses.len(), 0);
    }
}

//! What producers and consumers saw while the servers were broken under them, and whether it may have been so.
//!
//! Each client notes what it was told, and when it had asked. Nothing is judged while the load runs; the checks at the end
//! read the notes alone, so that they depend neither on the proxy's word nor on a client's opinion of it:
//!
//! - every acknowledged push was delivered and acknowledged (the consumers go on until the queue is empty);
//! - a payload has one id, that of its push's reply: no push was applied twice;
//! - a delivery was acknowledged once, and its job not delivered again;
//! - a job was delivered again only when it had been given back, or its lease could be over;
//! - no connection was closed, and no call failed but as the test allows.
//!
//! The load itself is in [`super::load`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One thing that one client was told.
#[derive(Clone, Debug)]
pub struct Note {
    pub asked: Instant,
    pub told: Instant,
    pub what: What,
}

#[derive(Clone, Debug)]
pub enum What {
    Pushed {
        payload: String,
        id: String,
    },
    Delivered {
        payload: String,
        receipt: String,
        attempt: i64,
    },
    Acked {
        receipt: String,
        counted: i64,
    },
    GivenBack {
        receipt: String,
        counted: i64,
    },
    /// It was acknowledged or given back, or it was not: the reply was UNCERTAIN.
    Doubted {
        receipt: String,
    },
    /// The call whose words begin so failed. A connection that closes is a failure too.
    Failed {
        call: String,
        error: String,
    },
}

#[derive(Default)]
pub struct History {
    notes: Mutex<Vec<Note>>,
}

impl History {
    pub fn note(&self, asked: Instant, what: What) {
        let told = Instant::now();
        self.lock().push(Note { asked, told, what });
    }

    pub fn failures(&self) -> Vec<String> {
        let failed = |note: &Note| match &note.what {
            What::Failed { call, error } => Some(format!("{call}: {error}")),
            _ => None,
        };
        self.lock().iter().filter_map(failed).collect()
    }

    /// Panics with all that may not have been so. `lease`: of every pop. `allowed`: how errors may begin.
    #[track_caller]
    pub fn check(&self, lease: Duration, allowed: &[&str]) {
        let faults = judge(&self.lock(), lease, allowed);
        let shown: Vec<_> = faults.iter().take(20).map(String::as_str).collect();
        assert!(
            faults.is_empty(),
            "{} faults, the first of them:\n{}",
            faults.len(),
            shown.join("\n")
        );
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Note>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One delivery, and what became of it.
#[derive(Debug, Default)]
struct Delivery {
    attempt: i64,
    asked: Vec<Instant>,
    told: Vec<Instant>,
    acked: usize,
    doubted: bool,
    given_back: Option<Instant>,
}

/// All that is known of one job, by its id.
#[derive(Debug, Default)]
struct Job {
    payloads: BTreeSet<String>,
    deliveries: BTreeMap<i64, Delivery>,
}

/// Everything in the notes that may not have been so, in words.
pub fn judge(notes: &[Note], lease: Duration, allowed: &[&str]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut pushed: HashMap<&str, &str> = HashMap::new();
    let mut jobs: BTreeMap<&str, Job> = BTreeMap::new();
    for note in notes {
        match &note.what {
            What::Pushed { payload, id } => {
                if let Some(other) = pushed.insert(payload, id) {
                    faults.push(format!("{payload} was pushed as {other} and as {id}"));
                }
            }
            What::Delivered {
                payload,
                receipt,
                attempt,
            } => {
                let job = jobs.entry(id_of(receipt)).or_default();
                job.payloads.insert(payload.clone());
                let delivery = delivery(job, receipt);
                delivery.attempt = *attempt;
                delivery.asked.push(note.asked);
                delivery.told.push(note.told);
            }
            What::Acked { receipt, counted } => {
                delivery(jobs.entry(id_of(receipt)).or_default(), receipt).acked += *counted as usize;
            }
            What::GivenBack { receipt, counted } if *counted > 0 => {
                delivery(jobs.entry(id_of(receipt)).or_default(), receipt).given_back = Some(note.asked);
            }
            What::GivenBack { .. } => {}
            What::Doubted { receipt } => {
                let delivery = delivery(jobs.entry(id_of(receipt)).or_default(), receipt);
                delivery.doubted = true;
                delivery.given_back = Some(note.asked);
            }
            What::Failed { call, error } if !allowed.iter().any(|prefix| error.starts_with(prefix)) => {
                faults.push(format!("{call} failed: {error}"));
            }
            What::Failed { .. } => {}
        }
    }
    for (id, job) in &jobs {
        judge_job(id, job, lease, &mut faults);
    }
    judge_pushes(&pushed, &jobs, &mut faults);
    faults
}

fn judge_pushes(pushed: &HashMap<&str, &str>, jobs: &BTreeMap<&str, Job>, faults: &mut Vec<String>) {
    let mut ids_of: HashMap<&str, Vec<&str>> = HashMap::new();
    for (id, job) in jobs {
        for payload in &job.payloads {
            ids_of.entry(payload).or_default().push(id);
        }
    }
    for (payload, ids) in &ids_of {
        if ids.len() > 1 {
            faults.push(format!("{payload} was pushed once and stored as {ids:?}"));
        }
    }
    for (payload, id) in pushed {
        let found = ids_of.get(payload).is_some_and(|ids| ids.contains(id));
        let done = |delivery: &Delivery| delivery.acked > 0 || delivery.doubted;
        let acked = jobs.get(id).is_some_and(|job| job.deliveries.values().any(done));
        if !found {
            faults.push(format!("{payload} was acknowledged as {id} and never delivered"));
        } else if !acked {
            faults.push(format!(
                "{payload}, {id}, was delivered, and nobody could acknowledge it"
            ));
        }
    }
}

fn judge_job(id: &str, job: &Job, lease: Duration, faults: &mut Vec<String>) {
    if job.payloads.len() > 1 {
        faults.push(format!("{id} came with the payloads {:?}", job.payloads));
    }
    let acked: usize = job.deliveries.values().map(|delivery| delivery.acked).sum();
    if acked > 1 {
        faults.push(format!("{id} was acknowledged {acked} times"));
    }
    let mut before: Option<(i64, &Delivery)> = None;
    for (&number, delivery) in &job.deliveries {
        if delivery.told.len() > 1 {
            faults.push(format!(
                "{id}: delivery {number} was handed out {} times",
                delivery.told.len()
            ));
        }
        if delivery.attempt != number && !delivery.told.is_empty() {
            faults.push(format!(
                "{id}: delivery {number} said it is attempt {}",
                delivery.attempt
            ));
        }
        if let Some((earlier, ended)) = before {
            if ended.acked > 0 {
                faults.push(format!(
                    "{id}: delivery {number} after delivery {earlier} was acknowledged"
                ));
            }
            // At the latest the lease began when the reply came, at the earliest when the pop was asked for.
            let over = |told: &Instant| {
                let lapsed = ended.asked.iter().all(|asked| *told >= *asked + lease);
                lapsed || ended.given_back.is_some_and(|asked| *told >= asked)
            };
            if !delivery.told.iter().all(over) {
                faults.push(format!(
                    "{id}: delivery {number} while delivery {earlier} had its lease"
                ));
            }
        }
        before = Some((number, delivery));
    }
}

fn delivery<'a>(job: &'a mut Job, receipt: &str) -> &'a mut Delivery {
    job.deliveries.entry(number_of(receipt)).or_default()
}

/// A receipt is a job id, a colon, the number of the delivery.
fn id_of(receipt: &str) -> &str {
    receipt.split_once(':').map_or(receipt, |(id, _)| id)
}

fn number_of(receipt: &str) -> i64 {
    let number = receipt.split_once(':').and_then(|(_, number)| number.parse().ok());
    number.unwrap_or_else(|| panic!("{receipt} is no receipt"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(1);

    /// Notes of one job `p`, id `j`, at so many ms: asked and told at once.
    fn at(start: Instant, ms: u64, what: What) -> Note {
        let at = start + Duration::from_millis(ms);
        Note {
            asked: at,
            told: at,
            what,
        }
    }

    fn pushed(id: &str) -> What {
        What::Pushed {
            payload: "p".into(),
            id: id.into(),
        }
    }

    fn delivered(receipt: &str, attempt: i64) -> What {
        What::Delivered {
            payload: "p".into(),
            receipt: receipt.into(),
            attempt,
        }
    }

    fn acked(receipt: &str) -> What {
        What::Acked {
            receipt: receipt.into(),
            counted: 1,
        }
    }

    #[track_caller]
    fn says(notes: &[(u64, What)], expected: &[&str]) {
        let start = Instant::now();
        let notes: Vec<_> = notes.iter().map(|(ms, what)| at(start, *ms, what.clone())).collect();
        assert_eq!(judge(&notes, LEASE, &["OOM"]), expected);
    }

    #[test]
    fn a_sound_history_has_no_fault() {
        let back = What::GivenBack {
            receipt: "j:1".into(),
            counted: 1,
        };
        let refused = What::Failed {
            call: "QPUSH".into(),
            error: "OOM command not allowed".into(),
        };
        says(
            &[
                (0, pushed("j")),
                (1, delivered("j:1", 1)),
                (2, back),
                (3, delivered("j:2", 2)),
                (4, refused),
                (5, acked("j:2")),
            ],
            &[],
        );
        says(
            &[
                (0, pushed("j")),
                (1, delivered("j:1", 1)),
                (1002, delivered("j:2", 2)),
                (1003, acked("j:2")),
            ],
            &[],
        );
    }

    #[test]
    fn a_lost_job_is_found() {
        says(&[(0, pushed("j"))], &["p was acknowledged as j and never delivered"]);
        says(
            &[(0, pushed("j")), (1, delivered("j:1", 1))],
            &["p, j, was delivered, and nobody could acknowledge it"],
        );
    }

    #[test]
    fn a_push_applied_twice_is_found() {
        says(
            &[
                (0, pushed("j")),
                (1, delivered("j:1", 1)),
                (2, delivered("k:1", 1)),
                (3, acked("j:1")),
                (3, acked("k:1")),
            ],
            &[r#"p was pushed once and stored as ["j", "k"]"#],
        );
    }

    #[test]
    fn two_leases_at_once_are_found() {
        says(
            &[
                (0, pushed("j")),
                (1, delivered("j:1", 1)),
                (999, delivered("j:2", 2)),
                (1000, acked("j:2")),
            ],
            &["j: delivery 2 while delivery 1 had its lease"],
        );
        says(
            &[
                (0, pushed("j")),
                (1, delivered("j:1", 1)),
                (2, delivered("j:1", 1)),
                (3, acked("j:1")),
            ],
            &["j: delivery 1 was handed out 2 times"],
        );
    }

    #[test]
    fn a_delivery_after_the_acknowledgement_is_found() {
        says(
            &[
                (0, pushed("j")),
                (1, delivered("j:1", 1)),
                (2, acked("j:1")),
                (2000, delivered("j:2", 2)),
            ],
            &["j: delivery 2 after delivery 1 was acknowledged"],
        );
    }

    #[test]
    fn a_call_that_failed_is_found() {
        let closed = What::Failed {
            call: "QPOP".into(),
            error: "unexpected end of file".into(),
        };
        says(&[(0, closed)], &["QPOP failed: unexpected end of file"]);
    }
}

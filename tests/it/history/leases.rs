//! Each job by itself: that it was there, once, and was one client's at a time until it was acknowledged.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::{Fault, Kind, Note, What};

/// One delivery, and what became of it.
#[derive(Debug, Default)]
pub struct Delivery {
    attempt: i64,
    pub asked: Vec<Instant>,
    pub told: Vec<Instant>,
    pub acks: Vec<Ack>,
    doubted: bool,
    /// When its client first said anything of its end, whether or not that counted.
    settled: Option<Instant>,
    /// Both times of giving it back: asked, told.
    pub given_back: Option<(Instant, Instant)>,
}

#[derive(Clone, Copy, Debug)]
pub struct Ack {
    pub asked: Instant,
    told: Instant,
}

/// All that is known of one job, by its id.
#[derive(Debug, Default)]
pub struct Job {
    payloads: BTreeSet<String>,
    pub deliveries: BTreeMap<i64, Delivery>,
}

/// What a producer was told of its push.
#[derive(Debug)]
pub struct Push<'a> {
    pub id: &'a str,
    pub queue: &'static str,
    pub group: Option<&'a str>,
    pub delayed: bool,
    pub told: Instant,
}

/// The notes in the order of the jobs.
#[derive(Debug, Default)]
pub struct Jobs<'a> {
    /// By payload.
    pub pushed: BTreeMap<&'a str, Push<'a>>,
    pushed_again: Vec<(&'a str, Push<'a>)>,
    refused: BTreeMap<&'a str, Instant>,
    by_id: BTreeMap<&'a str, Job>,
}

impl<'a> Jobs<'a> {
    pub fn read(notes: &'a [Note]) -> Jobs<'a> {
        let mut jobs = Jobs::default();
        for note in notes {
            jobs.add(note);
        }
        jobs
    }

    pub fn get(&self, id: &str) -> Option<&Job> {
        self.by_id.get(id)
    }

    fn add(&mut self, note: &'a Note) {
        match &note.what {
            What::Pushed {
                payload,
                id,
                group,
                delayed,
            } => {
                let push = Push {
                    id,
                    queue: note.queue,
                    group: group.as_deref(),
                    delayed: *delayed,
                    told: note.told,
                };
                if let Some(other) = self.pushed.insert(payload, push) {
                    self.pushed_again.push((payload, other));
                }
            }
            What::Refused { payload } => drop(self.refused.insert(payload, note.told)),
            What::Delivered {
                payload,
                receipt,
                attempt,
            } => {
                self.by_id
                    .entry(id_of(receipt))
                    .or_default()
                    .payloads
                    .insert(payload.clone());
                let delivery = self.delivery(receipt);
                delivery.attempt = *attempt;
                delivery.asked.push(note.asked);
                delivery.told.push(note.told);
            }
            What::Acked { receipt, counted } => {
                let ack = Ack {
                    asked: note.asked,
                    told: note.told,
                };
                let delivery = self.delivery(receipt);
                delivery.acks.extend(std::iter::repeat_n(ack, *counted as usize));
                delivery.settled.get_or_insert(note.asked);
            }
            What::GivenBack { receipt, counted } => {
                let delivery = self.delivery(receipt);
                delivery.settled.get_or_insert(note.asked);
                if *counted > 0 {
                    delivery.given_back = Some((note.asked, note.told));
                }
            }
            What::Doubted { receipt } => {
                let delivery = self.delivery(receipt);
                delivery.doubted = true;
                delivery.settled.get_or_insert(note.asked);
                delivery.given_back = Some((note.asked, note.told));
            }
            What::Waited | What::Failed { .. } => {}
        }
    }

    fn delivery(&mut self, receipt: &'a str) -> &mut Delivery {
        let job = self.by_id.entry(id_of(receipt)).or_default();
        job.deliveries.entry(number_of(receipt)).or_default()
    }
}

impl Job {
    pub fn first_ack(&self) -> Option<Ack> {
        let acks = self.deliveries.values().flat_map(|delivery| &delivery.acks);
        acks.min_by_key(|ack| ack.asked).copied()
    }

    fn is_done(&self) -> bool {
        let done = |delivery: &Delivery| !delivery.acks.is_empty() || delivery.doubted;
        self.deliveries.values().any(done)
    }
}

impl Delivery {
    /// When it can have begun at the earliest, and is known to have begun.
    pub fn began(&self) -> Option<(Instant, Instant)> {
        Some((*self.asked.iter().min()?, *self.told.iter().min()?))
    }

    /// Until when its client certainly had the job.
    pub fn leased_until(&self, lease: Duration) -> Option<Instant> {
        let lapsed = *self.asked.iter().min()? + lease;
        Some(self.settled.map_or(lapsed, |settled| settled.min(lapsed)))
    }
}

pub fn judge(jobs: &Jobs, lease: Duration, found: &mut Vec<Fault>) {
    for (id, job) in &jobs.by_id {
        judge_job(id, job, lease, &mut |kind, at, words| {
            found.push(Fault { kind, at, words })
        });
    }
    judge_pushes(jobs, &mut |kind, at, words| found.push(Fault { kind, at, words }));
}

fn judge_pushes(jobs: &Jobs, fault: &mut impl FnMut(Kind, Instant, String)) {
    let mut ids_of: HashMap<&str, Vec<&str>> = HashMap::new();
    for (id, job) in &jobs.by_id {
        for payload in &job.payloads {
            ids_of.entry(payload).or_default().push(id);
        }
    }
    for (payload, push) in &jobs.pushed_again {
        let id = jobs.pushed[payload].id;
        let words = format!("{payload} was pushed as {} and as {id}", push.id);
        fault(Kind::Untrue, push.told, words);
    }
    for (payload, ids) in ids_of.iter().filter(|(_, ids)| ids.len() > 1) {
        let first = ids
            .iter()
            .filter_map(|id| jobs.by_id[id].deliveries.values().next()?.began());
        let Some((_, at)) = first.min() else { continue };
        fault(
            Kind::Doubled,
            at,
            format!("{payload} was pushed once and stored as {ids:?}"),
        );
    }
    for (payload, at) in jobs
        .refused
        .iter()
        .filter(|(payload, _)| ids_of.contains_key(**payload))
    {
        fault(Kind::Denied, *at, format!("{payload} was refused and delivered"));
    }
    for (payload, Push { id, told, .. }) in &jobs.pushed {
        let found = ids_of.get(payload).is_some_and(|ids| ids.contains(id));
        if !found {
            let words = format!("{payload} was acknowledged as {id} and never delivered");
            fault(Kind::Lost, *told, words);
        } else if !jobs.by_id[id].is_done() {
            let words = format!("{payload}, {id}, was delivered, and nobody could acknowledge it");
            fault(Kind::Lost, *told, words);
        }
    }
}

fn judge_job(id: &str, job: &Job, lease: Duration, fault: &mut impl FnMut(Kind, Instant, String)) {
    let Some(first) = job.deliveries.values().find_map(Delivery::began) else {
        return;
    };
    if job.payloads.len() > 1 {
        fault(
            Kind::Untrue,
            first.1,
            format!("{id} came with the payloads {:?}", job.payloads),
        );
    }
    let acked = job
        .deliveries
        .values()
        .map(|delivery| delivery.acks.len())
        .sum::<usize>();
    if let Some(ack) = job.first_ack().filter(|_| acked > 1) {
        fault(Kind::AfterAck, ack.told, format!("{id} was acknowledged {acked} times"));
    }
    for (number, delivery) in &job.deliveries {
        let Some((_, at)) = delivery.began() else { continue };
        if delivery.told.len() > 1 {
            let times = delivery.told.len();
            fault(
                Kind::TwoLeases,
                at,
                format!("{id}: delivery {number} was handed out {times} times"),
            );
        }
        if delivery.attempt != *number {
            let attempt = delivery.attempt;
            fault(
                Kind::Untrue,
                at,
                format!("{id}: delivery {number} said it is attempt {attempt}"),
            );
        }
    }
    for ((earlier, ended), (later, began)) in job.deliveries.iter().zip(job.deliveries.iter().skip(1)) {
        judge_pair(id, (*earlier, ended), (*later, began), lease, fault);
    }
}

/// Two deliveries of one job, one after the other.
fn judge_pair(
    id: &str,
    (earlier, ended): (i64, &Delivery),
    (later, began): (i64, &Delivery),
    lease: Duration,
    fault: &mut impl FnMut(Kind, Instant, String),
) {
    let delivered_before = |then: Instant| began.told.iter().any(|told| *told < then);
    if let Some(ack) = ended.acks.first() {
        let (_, came) = began.began().unwrap_or((ack.told, ack.told));
        let (kind, at, what) = match came < ack.asked {
            // The earlier receipt should have counted for nothing any more.
            true => (Kind::TwoLeases, came, "before"),
            false => (Kind::AfterAck, ack.told, "after"),
        };
        let words = format!("{id}: delivery {later} {what} delivery {earlier} was acknowledged");
        fault(kind, at, words);
    }
    // At the latest the lease began when the reply came, at the earliest when the pop was asked for.
    let lapsed = !ended.asked.iter().any(|asked| delivered_before(*asked + lease));
    let given_back = ended.given_back.is_some_and(|(asked, _)| !delivered_before(asked));
    if let Some((_, at)) = ended.began().filter(|_| !lapsed && !given_back) {
        fault(
            Kind::TwoLeases,
            at,
            format!("{id}: delivery {later} while delivery {earlier} had its lease"),
        );
    }
}

/// A receipt is a job id, a colon, the number of the delivery.
pub fn id_of(receipt: &str) -> &str {
    receipt.split_once(':').map_or(receipt, |(id, _)| id)
}

fn number_of(receipt: &str) -> i64 {
    let number = receipt.split_once(':').and_then(|(_, number)| number.parse().ok());
    number.unwrap_or_else(|| panic!("{receipt} is no receipt"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{acked, delivered, delivered_as, given_back, pushed, pushed_as, says};
    use super::*;

    #[test]
    fn a_sound_history_has_no_fault() {
        says(
            &[
                (0, pushed("j")),
                (1, delivered("j:1")),
                (2, given_back("j:1")),
                (3, delivered("j:2")),
                (5, acked("j:2")),
            ],
            &[],
        );
        says(
            &[
                (0, pushed("j")),
                (1, delivered("j:1")),
                (1002, delivered("j:2")),
                (1003, acked("j:2")),
            ],
            &[],
        );
    }

    #[test]
    fn a_lost_job_is_found() {
        says(&[(0, pushed("j"))], &["p.1 was acknowledged as j and never delivered"]);
        says(
            &[(0, pushed("j")), (1, delivered("j:1"))],
            &["p.1, j, was delivered, and nobody could acknowledge it"],
        );
    }

    #[test]
    fn a_push_applied_twice_is_found() {
        says(
            &[
                (0, pushed("j")),
                (1, delivered("j:1")),
                (2, delivered("k:1")),
                (3, acked("j:1")),
                (3, acked("k:1")),
            ],
            &[r#"p.1 was pushed once and stored as ["j", "k"]"#],
        );
        says(
            &[
                (0, pushed("j")),
                (1, pushed("k")),
                (2, delivered("k:1")),
                (3, acked("k:1")),
            ],
            &["p.1 was pushed as j and as k"],
        );
    }

    #[test]
    fn a_refused_push_that_was_applied_is_found() {
        let refused = What::Refused { payload: "p.1".into() };
        says(
            &[(0, refused), (1, delivered("j:1")), (2, acked("j:1"))],
            &["p.1 was refused and delivered"],
        );
    }

    #[test]
    fn two_leases_at_once_are_found() {
        says(
            &[
                (0, pushed("j")),
                (1, delivered("j:1")),
                (999, delivered("j:2")),
                (1000, acked("j:2")),
            ],
            &["j: delivery 2 while delivery 1 had its lease"],
        );
        says(
            &[
                (0, pushed("j")),
                (1, delivered("j:1")),
                (2, delivered("j:1")),
                (3, acked("j:1")),
            ],
            &["j: delivery 1 was handed out 2 times"],
        );
        says(
            &[
                (0, pushed("j")),
                (1, delivered("j:1")),
                (3, delivered("j:2")),
                (4, given_back("j:1")),
                (5, acked("j:2")),
            ],
            &["j: delivery 2 while delivery 1 had its lease"],
        );
    }

    #[test]
    fn a_delivery_after_the_acknowledgement_is_found() {
        says(
            &[
                (0, pushed("j")),
                (1, delivered("j:1")),
                (2, acked("j:1")),
                (2000, delivered("j:2")),
            ],
            &["j: delivery 2 after delivery 1 was acknowledged"],
        );
        says(
            &[
                (0, pushed("j")),
                (1, delivered("j:1")),
                (2, acked("j:1")),
                (3, acked("j:1")),
            ],
            &["j was acknowledged 2 times"],
        );
    }

    #[test]
    fn a_stale_receipt_that_counts_is_found() {
        says(
            &[
                (0, pushed("j")),
                (1, delivered("j:1")),
                (1002, delivered("j:2")),
                (1003, acked("j:1")),
            ],
            &["j: delivery 2 before delivery 1 was acknowledged"],
        );
    }

    #[test]
    fn replies_that_contradict_each_other_are_found() {
        let miscounted = What::Delivered {
            payload: "p.1".into(),
            receipt: "j:1".into(),
            attempt: 2,
        };
        says(
            &[(0, pushed("j")), (1, miscounted), (2, acked("j:1"))],
            &["j: delivery 1 said it is attempt 2"],
        );
        says(
            &[
                (0, pushed("j")),
                (1, delivered("j:1")),
                (2, given_back("j:1")),
                (3, delivered_as("p.2", "j:2")),
                (4, acked("j:2")),
                (5, pushed_as("p.2", "j", None)),
            ],
            &[r#"j came with the payloads {"p.1", "p.2"}"#],
        );
    }
}

//! How long clients waited: pauses, in which nobody was served, and pops that waited beside ready jobs.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::leases::{Job, Jobs};
use super::{Fault, Kind, Note, Span, What};

/// Under the loads of these tests somebody is told something every few milliseconds.
const PAUSE: Duration = Duration::from_millis(100);

/// The times in which nobody was told anything but errors.
pub fn pauses(notes: &[Note]) -> Vec<Span> {
    let mut told: Vec<Instant> = notes
        .iter()
        .filter(|note| note.is_success())
        .map(|note| note.told)
        .collect();
    told.sort_unstable();
    let gaps = told.windows(2).map(|pair| Span {
        from: pair[0],
        until: pair[1],
    });
    gaps.filter(|gap| gap.length() > PAUSE).collect()
}

pub fn judge(notes: &[Note], jobs: &Jobs, pauses: &[Span], patience: Duration, found: &mut Vec<Fault>) {
    let waits = |note: &&Note| matches!(note.what, What::Waited | What::Delivered { .. });
    let mut long_waits: HashMap<&str, Vec<Span>> = HashMap::new();
    for note in notes
        .iter()
        .filter(waits)
        .filter(|note| note.span().length() > patience)
    {
        long_waits.entry(note.queue).or_default().push(note.span());
    }
    for (payload, push) in &jobs.pushed {
        // Whose turn it is in a group, and when a delay is over, is not known from the notes.
        if push.group.is_some() || push.delayed {
            continue;
        }
        let Some(waits) = long_waits.get(push.queue) else {
            continue;
        };
        for ready in ready_times(push.told, jobs.get(push.id)) {
            let slept = waits.iter().filter_map(|wait| Some(awake(&wait.with(&ready)?, pauses)));
            let Some(longest) = slept.max().filter(|slept| *slept > patience) else {
                continue;
            };
            found.push(Fault {
                kind: Kind::Slept,
                at: ready.from,
                words: format!("{payload} was ready while a pop waited for {} ms", longest.as_millis()),
            });
        }
    }
}

/// When the job was ready, as far as clients know: from its push, or its giving back, until somebody had it.
fn ready_times(pushed: Instant, job: Option<&Job>) -> Vec<Span> {
    let mut times = Vec::new();
    let mut ready = Some(pushed);
    for delivery in job.into_iter().flat_map(|job| job.deliveries.values()) {
        let had = delivery.began().map(|(_, told)| told);
        times.extend(
            ready
                .zip(had)
                .filter(|(from, until)| from < until)
                .map(|(from, until)| Span { from, until }),
        );
        ready = delivery.given_back.map(|(_, told)| told);
    }
    times
}

/// Its length without the pauses.
fn awake(span: &Span, pauses: &[Span]) -> Duration {
    let paused: Duration = pauses.iter().filter_map(|pause| Some(pause.with(span)?.length())).sum();
    span.length() - paused
}

#[cfg(test)]
mod tests {
    use super::super::tests::{
        acked, delivered, delivered_as, failed, given_back, notes, pushed, pushed_as, rules, says_by,
    };
    use super::*;

    /// In vain, but Redis said so.
    fn served() -> What {
        What::GivenBack {
            receipt: "x:1".into(),
            counted: 0,
        }
    }

    /// A client that is served every 50 ms, so that there is no pause.
    fn others_are_served() -> Vec<(u64, u64, What)> {
        (0..200)
            .map(|number| (50 * number, 50 * number + 1, served()))
            .collect()
    }

    #[test]
    fn a_pop_that_sleeps_beside_a_ready_job_is_found() {
        let mut told = others_are_served();
        told.extend([
            (0, 1, pushed("j")),
            (10, 5000, What::Waited),
            (5001, 5002, delivered("j:1")),
            (5003, 5004, acked("j:1")),
        ]);
        says_by(&rules(), &told, &["p.1 was ready while a pop waited for 4990 ms"]);
    }

    #[test]
    fn a_pop_that_sleeps_beside_a_job_given_back_is_found_even_if_it_gets_it_in_the_end() {
        let mut told = others_are_served();
        told.extend([
            (0, 1, pushed("j")),
            (2, 3, delivered("j:1")),
            (4, 5, given_back("j:1")),
            (5, 6000, delivered("j:2")),
            (6002, 6003, acked("j:2")),
        ]);
        says_by(&rules(), &told, &["p.1 was ready while a pop waited for 5995 ms"]);
    }

    #[test]
    fn pops_may_wait_while_there_is_no_job_or_nobody_is_served() {
        let mut told = others_are_served();
        told.extend([
            (0, 5000, What::Waited),
            (4000, 4001, pushed("j")),
            (5001, 5002, delivered("j:1")),
            (5003, 5004, acked("j:1")),
        ]);
        says_by(&rules(), &told, &[]);
        let outage = [
            (0, 1, pushed("j")),
            (1, 2, pushed_as("p.2", "k", None)),
            (2, 6000, delivered("j:1")),
            (6001, 6002, delivered_as("p.2", "k:1")),
            (6003, 6004, acked("j:1")),
            (6003, 6004, acked("k:1")),
        ];
        says_by(&rules(), &outage, &[]);
    }

    #[test]
    fn a_pause_is_as_long_as_nobody_hears_anything_but_errors() {
        let told = notes(&[
            (0, 0, pushed("j")),
            (1, 300, failed("ERR")),
            (1, 600, What::Waited),
            (1, 700, served()),
            (1, 750, served()),
        ]);
        let pauses = pauses(&told);
        assert_eq!(pauses.len(), 1);
        assert_eq!(pauses[0].length(), Duration::from_millis(700));
    }
}

//! The jobs of each group: in the order of their pushes, as each producer knows it, and never more at once than may be.

use std::collections::BTreeMap;
use std::time::Instant;

use super::leases::{Job, Jobs, Push};
use super::{Fault, Kind, Rules};

/// One job of a group.
struct Member<'a> {
    payload: &'a str,
    push: &'a Push<'a>,
    job: &'a Job,
}

pub fn judge(jobs: &Jobs, rules: &Rules, found: &mut Vec<Fault>) {
    let mut groups: BTreeMap<(&str, &str), Vec<Member>> = BTreeMap::new();
    for (payload, push) in &jobs.pushed {
        let (Some(group), Some(job)) = (push.group, jobs.get(push.id)) else {
            continue;
        };
        let member = Member { payload, push, job };
        groups.entry((push.queue, group)).or_default().push(member);
    }
    for ((queue, group), mut members) in groups {
        judge_crowd(&format!("{queue}, group {group}"), &members, rules, found);
        members.retain(|member| !member.push.delayed);
        members.sort_by_key(|member| place(member.payload));
        for pair in members.windows(2) {
            judge_order(&pair[0], &pair[1], rules, found);
        }
    }
}

/// A producer's name, and which of its pushes.
fn place(payload: &str) -> (&str, u64) {
    let place = payload
        .rsplit_once('.')
        .and_then(|(producer, number)| Some((producer, number.parse().ok()?)));
    place.unwrap_or_else(|| panic!("{payload} is not of the load"))
}

/// Where one is allowed at a time, the later job waits until the earlier one is done; else until that was delivered too.
fn judge_order(earlier: &Member, later: &Member, rules: &Rules, found: &mut Vec<Fault>) {
    if place(earlier.payload).0 != place(later.payload).0 {
        return;
    }
    let Some((_, came)) = later.job.deliveries.values().find_map(|delivery| delivery.began()) else {
        return;
    };
    let waits_for = match rules.group_concurrency {
        1 => earlier.job.first_ack().map(|ack| ack.asked),
        _ => first_asked(earlier.job),
    };
    if waits_for.is_some_and(|then| came < then) {
        found.push(Fault {
            kind: Kind::GroupOrder,
            at: earlier.push.told,
            words: format!(
                "{} came before {} of its group was done",
                later.payload, earlier.payload
            ),
        });
    }
}

/// When the first delivery was asked for, if it was heard of.
fn first_asked(job: &Job) -> Option<Instant> {
    Some(job.deliveries.get(&1)?.began()?.0)
}

/// Counts, at each beginning of a lease, those that certainly are not over.
fn judge_crowd(group: &str, members: &[Member], rules: &Rules, found: &mut Vec<Fault>) {
    let deliveries = members.iter().flat_map(|member| member.job.deliveries.values());
    let leases = deliveries.filter_map(|delivery| Some((delivery.began()?.1, delivery.leased_until(rules.lease)?)));
    let mut leases: Vec<_> = leases.filter(|(began, until)| began < until).collect();
    leases.sort_unstable();
    let mut running: Vec<Instant> = Vec::new();
    for (began, until) in leases {
        running.retain(|until| *until > began);
        running.push(until);
        if running.len() > rules.group_concurrency {
            found.push(Fault {
                kind: Kind::GroupCrowd,
                at: began,
                words: format!("{group}: {} leased at once", running.len()),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::What;
    use super::super::tests::{acked, delivered_as, given_back, pushed_as, rules, says, says_by};

    fn first() -> What {
        pushed_as("p.9", "j", Some("g"))
    }

    /// The tenth of `p`, which as text stands before the ninth.
    fn second() -> What {
        pushed_as("p.10", "k", Some("g"))
    }

    #[test]
    fn a_group_in_its_order_has_no_fault() {
        says(
            &[
                (0, first()),
                (1, second()),
                (2, delivered_as("p.9", "j:1")),
                (3, given_back("j:1")),
                (4, delivered_as("p.9", "j:2")),
                (5, acked("j:2")),
                (6, delivered_as("p.10", "k:1")),
                (7, acked("k:1")),
            ],
            &[],
        );
        // One acknowledgement was on its way while the next job came: it may have been first.
        says_by(
            &rules(),
            &[
                (0, 1, first()),
                (1, 2, second()),
                (2, 3, delivered_as("p.9", "j:1")),
                (4, 9, acked("j:1")),
                (3, 5, delivered_as("p.10", "k:1")),
                (6, 7, acked("k:1")),
            ],
            &[],
        );
    }

    #[test]
    fn a_job_that_overtakes_its_group_is_found() {
        says(
            &[
                (0, first()),
                (1, second()),
                (2, delivered_as("p.10", "k:1")),
                (3, acked("k:1")),
                (4, delivered_as("p.9", "j:1")),
                (5, acked("j:1")),
            ],
            &["p.10 came before p.9 of its group was done"],
        );
        // While the first backs off, too.
        says(
            &[
                (0, first()),
                (1, second()),
                (2, delivered_as("p.9", "j:1")),
                (3, given_back("j:1")),
                (4, delivered_as("p.10", "k:1")),
                (5, acked("k:1")),
                (6, delivered_as("p.9", "j:2")),
                (7, acked("j:2")),
            ],
            &["p.10 came before p.9 of its group was done"],
        );
    }

    #[test]
    fn too_many_of_a_group_at_once_are_found() {
        let told = [
            (0, 0, pushed_as("p.1", "j", Some("g"))),
            (0, 0, pushed_as("q.1", "k", Some("g"))),
            (0, 0, pushed_as("r.1", "l", Some("g"))),
            (1, 1, delivered_as("p.1", "j:1")),
            (2, 2, delivered_as("q.1", "k:1")),
            (3, 3, acked("j:1")),
            (4, 4, delivered_as("r.1", "l:1")),
            (5, 5, acked("k:1")),
            (5, 5, acked("l:1")),
        ];
        let crowd = "q, group g: 2 leased at once";
        says_by(&rules(), &told, &[crowd, crowd]);
        let mut two = rules();
        two.group_concurrency = 2;
        says_by(&two, &told, &[]);
    }
}

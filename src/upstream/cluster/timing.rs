//! When a cluster's nodes are asked. It asks nobody, and reads no clock: the time is handed in.
//!
//! All is asked for on a slow timer, and when a slot has moved or a primary is lost: the first time at once, then once a
//! second at most, with jitter, so that many proxies do not come together. While a primary is lost, nodes are asked ten
//! times a second for the number of elections alone, a few bytes: a new one is the moment to ask for all, and again soon
//! until an owner has changed.

use std::time::Duration;

use tokio::time::Instant;

use super::random_below;
use crate::upstream::topology::Doubt;

const CALM: Duration = Duration::from_secs(15);
/// While no node can be believed.
const UNKNOWN: Duration = Duration::from_millis(500);
/// Between two times that all is asked for.
const SPACING: Duration = Duration::from_secs(1);
const HURRY: Duration = Duration::from_millis(100);
/// After a doubt: a lost connection is doubted again as long as it is not made good.
const HURRY_FOR: Duration = Duration::from_secs(5);
/// While an election goes on: first so soon, then at intervals that double.
const SOON: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub struct Timing {
    /// For all, when last and when next.
    asked: Option<Instant>,
    next: Instant,
    /// For the number of elections.
    next_glance: Instant,
    hurry_until: Instant,
    /// It has begun, and no owner has changed yet.
    election: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    Nothing,
    /// The number of elections.
    Glance,
    All,
}

/// What asking for all has come to.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    pub is_known: bool,
    /// There were more elections than before.
    pub was_election: bool,
    pub owners_changed: bool,
}

impl Timing {
    /// All is to be asked for at once.
    pub fn new(now: Instant) -> Self {
        Self {
            asked: None,
            next: now,
            next_glance: now,
            hurry_until: now,
            election: None,
        }
    }

    pub fn is_in_hurry(&self, now: Instant) -> bool {
        now < self.hurry_until
    }

    /// When something will be due.
    pub fn wake(&self, now: Instant) -> Instant {
        match self.is_in_hurry(now) {
            true => self.next.min(self.next_glance),
            false => self.next,
        }
    }

    pub fn due(&mut self, now: Instant) -> Due {
        if self.next <= now {
            return Due::All;
        }
        if !self.is_in_hurry(now) || self.next_glance > now {
            return Due::Nothing;
        }
        self.next_glance = now + HURRY;
        Due::Glance
    }

    /// Many doubt, one after another, and again while it lasts: that puts off nothing.
    pub fn doubted(&mut self, doubt: Doubt, now: Instant) {
        let spacing = match doubt {
            Doubt::Moved => jittered(SPACING),
            Doubt::Lost if self.is_in_hurry(now) => {
                self.hurry_until = now + HURRY_FOR;
                return;
            }
            Doubt::Lost => {
                self.hurry_until = now + HURRY_FOR;
                HURRY
            }
        };
        let soonest = self.asked.map_or(now, |asked| now.max(asked + spacing));
        self.next = self.next.min(soonest);
    }

    /// There was an election of which nothing is known yet.
    pub fn elected(&mut self, now: Instant) {
        self.next = now;
    }

    pub fn told(&mut self, told: Told, now: Instant) {
        self.asked = Some(now);
        let begins = told.was_election.then_some(now);
        let goes_on = |began: &Instant| !told.owners_changed && now < *began + SPACING;
        self.election = self.election.or(begins).filter(goes_on);
        let pause = match (told.is_known, self.is_in_hurry(now), self.election) {
            (false, ..) => UNKNOWN,
            // Its number rises when it begins, and a few ms later there is a new primary.
            (true, true, Some(began)) => (now - began).clamp(SOON, HURRY),
            (true, true, None) => jittered(SPACING),
            (true, false, _) => jittered(CALM),
        };
        self.next = now + pause;
    }
}

/// Up to a quarter longer.
fn jittered(duration: Duration) -> Duration {
    duration + duration * random_below(250) as u32 / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING_NEW: Told = Told {
        is_known: true,
        was_election: false,
        owners_changed: false,
    };

    fn ms(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    /// What is asked for within `time` while somebody doubts every 30 ms: when all was, and how often the elections.
    fn asked(timing: &mut Timing, start: Instant, time: Duration, told: Told) -> (Vec<Duration>, usize) {
        let (mut all, mut glances) = (Vec::new(), 0);
        let (mut now, mut doubt) = (start, start);
        while now < start + time {
            match timing.due(now) {
                Due::All => {
                    all.push(now - start);
                    timing.told(told, now);
                }
                Due::Glance => glances += 1,
                Due::Nothing => {}
            }
            if doubt <= now {
                timing.doubted(Doubt::Lost, now);
                doubt += ms(30);
            }
            now = timing.wake(now).clamp(now, doubt);
        }
        (all, glances)
    }

    #[test]
    fn elections_are_asked_for_ten_times_a_second_however_many_doubt_and_all_once() {
        let start = Instant::now();
        let (all, glances) = asked(&mut Timing::new(start), start, ms(2900), NOTHING_NEW);
        assert!((28..=30).contains(&glances), "{glances}");
        assert!((3..=4).contains(&all.len()), "{all:?}");
    }

    #[test]
    fn an_election_is_followed_closely_until_an_owner_has_changed_and_for_a_second_at_most() {
        let start = Instant::now();
        let mut timing = Timing::new(start);
        asked(&mut timing, start, ms(500), NOTHING_NEW);
        let start = start + ms(500);
        timing.elected(start);
        let begins = Told {
            was_election: true,
            ..NOTHING_NEW
        };
        assert_eq!(timing.due(start), Due::All);
        timing.told(begins, start);
        let (all, _) = asked(&mut timing, start, ms(1500), NOTHING_NEW);
        let soon: Vec<_> = all.iter().take(5).map(Duration::as_millis).collect();
        assert_eq!(soon, [10, 20, 40, 80, 160]);
        assert!((13..=16).contains(&all.len()), "{all:?}");

        let start = start + ms(1500);
        timing.elected(start);
        timing.told(begins, start);
        let over = Told {
            owners_changed: true,
            ..NOTHING_NEW
        };
        let (all, _) = asked(&mut timing, start, ms(900), over);
        assert_eq!(all, [SOON], "the owner has changed");
    }

    #[test]
    fn without_a_doubt_all_is_asked_for_on_a_slow_timer() {
        let start = Instant::now();
        let mut timing = Timing::new(start);
        assert_eq!(timing.due(start), Due::All);
        timing.told(NOTHING_NEW, start);
        assert!(timing.wake(start) >= start + CALM);
        timing.doubted(Doubt::Moved, start);
        assert!(timing.wake(start) >= start + SPACING);
        let later = start + SPACING * 2;
        timing.doubted(Doubt::Moved, later);
        assert_eq!(timing.due(later), Due::All, "the first is heeded at once");
    }
}

//! When a lane, or a pipe of plain commands, that serves a crowd waits a moment before it sends, so that more goes at once.
//!
//! A call costs Redis about as much as thirty jobs in it (benches/scripts.md), and where many clients ask in a closed loop
//! those that were just answered ask again within microseconds. A lane that sent at once would take along the few that
//! were quick and leave the rest for the next call.
//!
//! 1. When a reply comes, the crowd is counted: whom it answered, and who has come meanwhile.
//! 2. The next call is held until most of the crowd is there, but not for long. Of a lane three quarters are waited for, and no
//!    longer than its last call took, or [`HOLD`]: more gained it nothing. Of a pipe nine tenths, and no longer than [`HOLD`],
//!    however far Redis is.
//! 3. A small crowd is never held: its calls would gain little, and a lone client would wait for nobody.
//!
//! What it gains: benches/README.md, "Batches".

use std::time::{Duration, Instant};

/// Fewer clients than this are not waited for.
const CROWD: usize = 16;
/// A call may be held for so long. The clock that ends it may be a millisecond late; where a crowd asks in a closed loop it is
/// seldom needed.
const HOLD: Duration = Duration::from_micros(500);
/// No call is held for longer, however long the last one took.
const LONGEST_HOLD: Duration = Duration::from_millis(5);

/// What a lane, or a pipe, knows of its crowd since its last reply.
#[derive(Debug, Default)]
pub struct Pace {
    expected: usize,
    until: Option<Instant>,
}

impl Pace {
    /// A lane's reply came, `took` after its call was sent. `crowd`: whom it answered, and who has come meanwhile. No call carries
    /// more than `most`.
    pub fn lane_replied(&mut self, crowd: usize, most: usize, took: Duration, now: Instant) {
        self.expect(crowd, (crowd * 3 / 4).min(most), now + took.clamp(HOLD, LONGEST_HOLD));
    }

    /// Replies came over a pipe, which may have more on their way.
    pub fn pipe_replied(&mut self, crowd: usize, now: Instant) {
        self.expect(crowd, crowd * 9 / 10, now + HOLD);
    }

    fn expect(&mut self, crowd: usize, expected: usize, until: Instant) {
        *self = match crowd >= CROWD {
            true => Self {
                expected,
                until: Some(until),
            },
            false => Self::default(),
        };
    }

    /// A call is on its way: what was expected is over.
    pub fn sent(&mut self) {
        *self = Self::default();
    }

    /// Most of a pipe's crowd is on its way; those who were late wait for its replies, but not for long.
    pub fn sent_most(&mut self, now: Instant) {
        self.until = self.until.map(|_| now + HOLD);
    }

    /// Until when so few are held; `None`: not at all.
    pub fn holds(&self, gathered: usize, now: Instant) -> Option<Instant> {
        self.until.filter(|end| gathered < self.expected && now < *end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_waited_for_but_not_for_long() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.lane_replied(40, 250, HOLD, now);
        assert_eq!(pace.holds(29, now), Some(now + HOLD));
        assert_eq!(pace.holds(30, now), None, "three quarters are here");
        assert_eq!(pace.holds(1, now + HOLD), None, "it was long enough");
        pace.sent();
        assert_eq!(pace.holds(1, now), None);
    }

    #[test]
    fn who_was_late_waits_for_the_replies_but_not_for_ever() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.sent_most(now);
        assert_eq!(pace.holds(1, now), None, "no crowd was seen");
        pace.pipe_replied(40, now);
        assert_eq!(pace.holds(35, now), Some(now + HOLD));
        assert_eq!(pace.holds(36, now), None, "nine tenths are here");
        let sent = now + HOLD / 2;
        pace.sent_most(sent);
        assert_eq!(pace.holds(1, sent), Some(sent + HOLD));
        assert_eq!(pace.holds(1, sent + HOLD), None);
    }

    #[test]
    fn a_few_are_not_waited_for() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.lane_replied(CROWD - 1, 250, HOLD, now);
        assert_eq!(pace.holds(1, now), None);
    }

    #[test]
    fn no_more_are_waited_for_than_fit_in_a_call() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.lane_replied(5000, 250, HOLD, now);
        assert_eq!(pace.holds(250, now), None);
    }
}

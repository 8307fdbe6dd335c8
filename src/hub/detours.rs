//! Requests that cannot go the straight way now, slot by slot: its node sends them elsewhere, or to come again, or nobody
//! owns the slot. Decides only; what is sent is sent by [`super::routes`].
//!
//! A client's requests on one slot are to be executed in the order in which it sent them. So:
//!   1. The first one that is turned away closes its slot: what comes now is held.
//!   2. What was sent before has its reply still to come: it is executed, or turned away too, and stands in that order.
//!   3. When nothing of the slot is on its way any more, and the time has come, all go out: what was turned away, what was
//!      recalled before it was sent, what was held. The slot is open, but on trial: it is closed again by the next that is
//!      turned away, for longer, and settled by the first that is executed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::upstream::pipe::Unsent;

/// A slot whose nodes contradict each other for a moment (news take a few ms through a cluster) is asked again at once so
/// often, and then at these intervals, doubling.
const AT_ONCE: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(40);
/// It has been asked for at the longest intervals for some time.
const LONG_DISOWNED: u32 = 8;

/// Why a request is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Away {
    /// To another node.
    Elsewhere,
    /// To come again.
    Later,
    /// Its connection was lost, or never came to be.
    Lost,
}

#[derive(Debug)]
struct Detour<T> {
    turned_away: Vec<Unsent<T>>,
    recalled: Vec<Unsent<T>>,
    held: Vec<Unsent<T>>,
    /// Not before.
    retry: Instant,
    refusals: u32,
    /// The last error by which one was told to come again.
    said: String,
    open: bool,
}

#[derive(Debug)]
pub(super) struct Detours<T> {
    by_slot: HashMap<u16, Detour<T>, ahash::RandomState>,
    requests: usize,
    bytes: usize,
}

impl<T> Default for Detours<T> {
    fn default() -> Self {
        Self {
            by_slot: HashMap::default(),
            requests: 0,
            bytes: 0,
        }
    }
}

impl<T> Detours<T> {
    pub fn is_empty(&self) -> bool {
        self.by_slot.is_empty()
    }

    /// Requests that wait here.
    pub fn len(&self) -> usize {
        self.requests
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Nothing new may be sent for the slot.
    pub fn is_closed(&self, slot: u16) -> bool {
        !self.by_slot.is_empty() && self.by_slot.get(&slot).is_some_and(|detour| !detour.open)
    }

    /// A new request, behind all others of its slot.
    pub fn hold(&mut self, request: Unsent<T>, now: Instant) {
        self.count(&request);
        self.closed(request.slot, now).held.push(request);
    }

    /// One that was on its way, and no byte of it was sent.
    pub fn recall(&mut self, request: Unsent<T>, now: Instant) {
        self.count(&request);
        self.closed(request.slot, now).recalled.push(request);
    }

    /// One that was sent, and was not executed.
    pub fn turn_away(&mut self, request: Unsent<T>, why: Away, now: Instant) {
        self.count(&request);
        let detour = self.closed(request.slot, now);
        if detour.turned_away.is_empty() {
            detour.refusals += u32::from(why != Away::Lost);
            let pause = match (why, detour.refusals) {
                (Away::Lost, _) => Duration::ZERO,
                (Away::Elsewhere, refusals) if refusals <= AT_ONCE => Duration::ZERO,
                (_, refusals) => (FIRST_PAUSE * (1 << refusals.min(8) >> 1)).min(LONGEST_PAUSE),
            };
            detour.retry = detour.retry.max(now + pause);
        }
        detour.turned_away.push(request);
    }

    /// Nodes tell to come again with these words.
    pub fn note(&mut self, slot: u16, said: &[u8]) {
        if let Some(detour) = self.by_slot.get_mut(&slot) {
            detour.said = String::from_utf8_lossy(said).into_owned();
        }
    }

    /// Why requests of the slot wait here, or did before they went out on trial.
    pub fn why(&self, slot: u16) -> Option<String> {
        let detour = self.by_slot.get(&slot)?;
        Some(match detour.said.as_str() {
            "" if detour.refusals > LONG_DISOWNED => format!("of slot {slot} each Redis says that it is another one's"),
            "" => format!("slot {slot} is on its way from one Redis to another"),
            said => said.to_owned(),
        })
    }

    /// What is on its way is to have its reply before anything else of the slot is sent.
    pub fn close(&mut self, slot: u16, now: Instant) {
        self.closed(slot, now);
    }

    /// A request of the slot was executed.
    pub fn passed(&mut self, slot: u16) {
        if self.by_slot.get(&slot).is_some_and(|detour| detour.open) {
            self.by_slot.remove(&slot);
        }
    }

    /// The slots that may be opened now, of those that `is_free` says of: they have an owner and nothing on its way.
    pub fn ripe(&self, now: Instant, is_free: impl Fn(u16) -> bool) -> Vec<u16> {
        let closed = self.by_slot.iter().filter(|(_, detour)| !detour.open);
        let ripe = closed.filter(|(slot, detour)| detour.retry <= now && is_free(**slot));
        ripe.map(|(slot, _)| *slot).collect()
    }

    /// When the next of those will be.
    pub fn next_ripe(&self, is_free: impl Fn(u16) -> bool) -> Option<Instant> {
        let closed = self.by_slot.iter().filter(|(_, detour)| !detour.open);
        closed
            .filter(|(slot, _)| is_free(**slot))
            .map(|(_, detour)| detour.retry)
            .min()
    }

    /// Opens a slot: what waited for it, in its order.
    pub fn open(&mut self, slot: u16) -> Vec<Unsent<T>> {
        let Some(detour) = self.by_slot.get_mut(&slot) else {
            return Vec::new();
        };
        let mut all = std::mem::take(&mut detour.turned_away);
        all.append(&mut detour.recalled);
        all.append(&mut detour.held);
        detour.open = true;
        if all.is_empty() {
            self.by_slot.remove(&slot);
        }
        self.requests -= all.len();
        self.bytes -= all.iter().map(|request| request.bytes.len()).sum::<usize>();
        all
    }

    /// Takes out those that `leaves` says of.
    pub fn take(&mut self, leaves: impl Fn(&Unsent<T>) -> bool) -> Vec<Unsent<T>> {
        let mut gone = Vec::new();
        for detour in self.by_slot.values_mut() {
            for requests in [&mut detour.turned_away, &mut detour.recalled, &mut detour.held] {
                gone.extend(requests.extract_if(.., |request| leaves(request)));
            }
        }
        self.requests -= gone.len();
        self.bytes -= gone.iter().map(|request| request.bytes.len()).sum::<usize>();
        gone
    }

    fn closed(&mut self, slot: u16, now: Instant) -> &mut Detour<T> {
        let detour = self.by_slot.entry(slot).or_insert_with(|| Detour {
            turned_away: Vec::new(),
            recalled: Vec::new(),
            held: Vec::new(),
            retry: now,
            refusals: 0,
            said: String::new(),
            open: false,
        });
        detour.open = false;
        detour
    }

    fn count(&mut self, request: &Unsent<T>) {
        self.requests += 1;
        self.bytes += request.bytes.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::pipe::Repeat;

    fn request(name: &'static str, since: Instant) -> Unsent<&'static str> {
        Unsent {
            to: name,
            repeat: Repeat::Unsafe,
            since,
            slot: 0,
            waits: false,
            bytes: name.as_bytes().to_vec(),
        }
    }

    #[test]
    fn what_was_sent_first_goes_first_whatever_became_of_it() {
        let now = Instant::now();
        let mut detours = Detours::default();
        detours.turn_away(request("1", now), Away::Elsewhere, now);
        detours.hold(request("5", now), now);
        detours.turn_away(request("2", now), Away::Elsewhere, now);
        detours.recall(request("3", now), now);
        detours.recall(request("4", now), now);
        assert!(detours.is_closed(0) && !detours.is_closed(1));
        assert!(detours.ripe(now, |_| false).is_empty(), "something is on its way still");
        assert_eq!(detours.ripe(now, |_| true), [0]);
        assert_eq!((detours.len(), detours.bytes()), (5, 5));
        let names: Vec<_> = detours.open(0).into_iter().map(|request| request.to).collect();
        assert_eq!(names, ["1", "2", "3", "4", "5"]);
        assert_eq!((detours.len(), detours.bytes()), (0, 0));
        assert!(!detours.is_closed(0));
    }

    #[test]
    fn a_slot_that_is_turned_away_again_and_again_waits_longer_until_one_is_executed() {
        let start = Instant::now();
        let mut detours = Detours::default();
        let mut now = start;
        let mut pauses = Vec::new();
        for _ in 0..7 {
            detours.turn_away(request("a", now), Away::Elsewhere, now);
            let ripe = detours.next_ripe(|_| true).unwrap();
            pauses.push(ripe - now);
            now = ripe;
            detours.open(0);
        }
        assert!(pauses[..3].iter().all(Duration::is_zero), "{pauses:?}");
        assert!(pauses.is_sorted() && pauses[6] == LONGEST_PAUSE, "{pauses:?}");
        assert_eq!(
            detours.why(0).as_deref(),
            Some("slot 0 is on its way from one Redis to another")
        );
        for _ in pauses.len()..=LONG_DISOWNED as usize {
            detours.turn_away(request("a", now), Away::Elsewhere, now);
            detours.open(0);
        }
        assert_eq!(
            detours.why(0).as_deref(),
            Some("of slot 0 each Redis says that it is another one's")
        );
        detours.passed(0);
        assert!(detours.is_empty());
        detours.turn_away(request("a", now), Away::Later, now);
        assert_eq!(detours.next_ripe(|_| true), Some(now + FIRST_PAUSE));
    }

    #[test]
    fn those_that_waited_too_long_are_taken_out() {
        let now = Instant::now();
        let mut detours = Detours::default();
        detours.hold(request("old", now), now);
        detours.hold(request("new", now + Duration::from_secs(1)), now);
        let gone = detours.take(|request| request.since <= now);
        assert_eq!(gone.len(), 1);
        assert_eq!(detours.open(0).len(), 1);
    }
}

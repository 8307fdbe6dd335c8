//! Repeated jobs: a schedule, and the push that each of its ticks makes. Pure.
//!
//! Redis keeps the words of the `QCRON ADD` as they came ([`Repeated::words`]), so that any proxy reads them as it would read the
//! command. Who makes a tick is decided in `batch.lua`, which one is due is watched by [`super::crons`].

use std::str::FromStr;

use bytes::Bytes;
use croner::Cron;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::operation::Push;
use super::parse;
use crate::resp::reader::Reader;
use crate::resp::request::OwnedRequest;

/// Bytes of a schedule's and of a zone's text. Whatever makes sense is far shorter.
const MAX_TEXT: usize = 256;
/// Ticks that were missed for less than this, because no proxy ran or none had a Redis, are all made good; of older ones the first.
const MADE_GOOD_MS: u64 = 60_000;

/// When, in which zone.
#[derive(Clone, Debug)]
pub struct Schedule {
    cron: Cron,
    zone: TimeZone,
}

impl Schedule {
    /// `Err`: what is wrong with it.
    pub fn parse(schedule: &[u8], zone: &[u8]) -> Result<Self, String> {
        let cron = text(schedule)
            .filter(|text| (5..=6).contains(&text.split_ascii_whitespace().count()))
            .and_then(|text| Cron::from_str(text).ok())
            .ok_or_else(|| {
                let shown = schedule[..schedule.len().min(MAX_TEXT)].escape_ascii();
                format!("ERR schedule '{shown}', it must be five fields of cron, or six with seconds")
            })?;
        let zone = text(zone).and_then(|zone| TimeZone::get(zone).ok()).ok_or_else(|| {
            let shown = zone[..zone.len().min(MAX_TEXT)].escape_ascii();
            format!("ERR TZ is '{shown}', it must be a time zone like UTC or Europe/Berlin")
        })?;
        Ok(Self { cron, zone })
    }

    /// The first tick after that Unix time in ms. `None`: there is none.
    pub fn next_after(&self, ms: u64) -> Option<u64> {
        let start = Timestamp::from_millisecond(ms.try_into().ok()?).ok()?;
        let next = self
            .cron
            .find_next_occurrence(&start.to_zoned(self.zone.clone()), false);
        u64::try_from(next.ok()?.timestamp().as_millisecond()).ok()
    }

    /// The one after the tick `at`, which is made at `now`.
    pub fn following(&self, at: u64, now: u64) -> Option<u64> {
        self.next_after(at.max(now.saturating_sub(MADE_GOOD_MS)))
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| text.len() <= MAX_TEXT)
}

/// One entry of `QCRON`.
#[derive(Clone, Debug)]
pub struct Repeated {
    pub name: Bytes,
    pub schedule: Schedule,
    /// As they were given.
    pub schedule_text: Bytes,
    pub zone_text: Bytes,
    pub push: Push,
    /// The whole command, as RESP.
    pub words: Bytes,
}

impl Repeated {
    /// From what Redis keeps. `None`: a version that takes more than this one wrote it.
    pub fn from_words(words: &Bytes) -> Option<Self> {
        let mut reader = Reader::new(words.clone());
        let count = reader.array().ok()?;
        let parts = (0..count).map(|_| reader.bulk()).collect::<Result<Vec<_>, _>>().ok()?;
        (!parts.is_empty()).then_some(())?;
        parse::repeated(OwnedRequest::from_words(&parts).as_request()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: u64 = 1_700_049_600_000; // 2023-11-15 12:00:00 UTC, a Wednesday

    fn next(schedule: &str, zone: &str, after: u64) -> Option<u64> {
        Schedule::parse(schedule.as_bytes(), zone.as_bytes())
            .unwrap()
            .next_after(after)
    }

    #[test]
    fn ticks_are_those_of_cron() {
        const MINUTE: u64 = 60_000;
        for (schedule, zone, expected) in [
            ("* * * * *", "UTC", NOON + MINUTE),
            ("* * * * * *", "UTC", NOON + 1000),
            ("*/5 * * * *", "UTC", NOON + 5 * MINUTE),
            ("30 13 * * *", "UTC", NOON + 90 * MINUTE),
            ("30 13 * * *", "Europe/Berlin", NOON + 30 * MINUTE),
            ("0 9 * * MON-FRI", "America/New_York", NOON + 2 * 60 * MINUTE),
        ] {
            assert_eq!(next(schedule, zone, NOON), Some(expected), "{schedule} {zone}");
        }
        assert_eq!(
            next("* * * * * *", "UTC", NOON + 1),
            Some(NOON + 1000),
            "within a second"
        );
    }

    #[test]
    fn the_hour_that_is_skipped_and_the_one_that_comes_twice_make_one_tick_each() {
        let hour = 3_600_000;
        let spring = 1_711_846_800_000 - hour; // 2024-03-31 00:00 UTC: at 01:00 Berlin goes from 2 to 3
        let first = next("30 2 * * *", "Europe/Berlin", spring).unwrap();
        let second = next("30 2 * * *", "Europe/Berlin", first).unwrap();
        assert!(first < spring + 2 * hour, "{first}");
        assert!(second > spring + 20 * hour, "{second}");
        let autumn = 1_729_987_200_000; // 2024-10-27 00:00 UTC: at 01:00 Berlin goes back from 3 to 2
        let first = next("30 2 * * *", "Europe/Berlin", autumn).unwrap();
        let second = next("30 2 * * *", "Europe/Berlin", first).unwrap();
        assert!(second - first > 20 * hour, "{first} {second}");
    }

    #[test]
    fn what_was_missed_long_ago_is_made_once_and_the_last_minute_in_full() {
        let schedule = Schedule::parse(b"* * * * * *", b"UTC").unwrap();
        assert_eq!(schedule.following(NOON, NOON + 5000), Some(NOON + 1000));
        assert_eq!(schedule.following(NOON, NOON + 3_600_000), Some(NOON + 3_541_000));
    }

    #[test]
    fn a_schedule_that_never_comes_has_no_tick() {
        assert_eq!(next("0 0 30 2 *", "UTC", NOON), None);
    }

    #[test]
    fn what_is_no_schedule_or_zone_is_named() {
        let long = "1,".repeat(200) + "1 * * * *";
        for text in [
            "",
            "x",
            "* * * *",
            "* * * * * * *",
            "60 * * * *",
            "@daily",
            "* * * * \u{fc}",
            &long,
        ] {
            let error = Schedule::parse(text.as_bytes(), b"UTC").unwrap_err();
            assert!(error.starts_with("ERR schedule '"), "{error}");
        }
        for zone in ["", "Nowhere/City", "../etc/passwd", "\u{0}"] {
            let error = Schedule::parse(b"* * * * *", zone.as_bytes()).unwrap_err();
            assert!(error.starts_with("ERR TZ is '"), "{error}");
        }
    }
}

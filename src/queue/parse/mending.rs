//! What looks at a queue and its jobs, changes what they go by, and mends them.

use super::words::{Seen, Words, shown};
use super::{About, Ask, MAX_COUNT, Refusal, Unknown, alone};
use crate::queue::id::QueueMark;
use crate::queue::operation::State;
use crate::queue::settings::{Pause, Settings};
use crate::queue::single::Single;
use crate::script::check::Place;
use crate::script::mend::Revive;

/// What `QPEEK` shows unless told.
const PEEK_COUNT: u64 = 10;

pub(super) fn peek(words: &mut Words) -> Result<Ask, Refusal> {
    let queue = words.queue()?;
    let (mut state, mut count, mut offset) = (State::Ready, PEEK_COUNT, 0);
    let mut seen = Seen::default();
    while let Some(option) = words.option() {
        seen.once(&option)?;
        match option.as_str() {
            "STATE" => state = words.state()?,
            "COUNT" => count = words.number(&option, 1, MAX_COUNT)?,
            "OFFSET" => offset = words.number(&option, 0, u32::MAX.into())?,
            _ => return Err(words.unknown(&option)),
        }
    }
    let seen = Vec::new();
    let single = Single::Peek {
        state,
        count,
        offset,
        seen,
    };
    Ok(Ask::Single { queue, single })
}

pub(super) fn job(words: &mut Words, what: About, unknown: Unknown) -> Result<Ask, Refusal> {
    let queue = words.queue()?;
    let name = words.required()?;
    words.nothing_more()?;
    Ok(match QueueMark::of(&queue).parse(name) {
        Some(claim) => Ask::About {
            queue,
            jobs: vec![claim],
            what,
        },
        None => Ask::NoJob { queue, unknown },
    })
}

pub(super) fn about(words: &mut Words, what: About) -> Result<Ask, Refusal> {
    let queue = words.queue()?;
    let jobs = words.jobs(&queue)?;
    Ok(Ask::About { queue, jobs, what })
}

pub(super) fn purge(words: &mut Words) -> Result<Ask, Refusal> {
    let queue = words.queue()?;
    let mut state = None;
    let mut seen = Seen::default();
    while let Some(option) = words.option() {
        seen.once(&option)?;
        match option.as_str() {
            "STATE" => state = Some(words.state()?),
            _ => return Err(words.unknown(&option)),
        }
    }
    let single = Single::Purge { state, removed: 0 };
    Ok(Ask::Single { queue, single })
}

pub(super) fn config(words: &mut Words) -> Result<Ask, Refusal> {
    let what = words.required()?;
    let set = match what.to_ascii_uppercase().as_slice() {
        b"GET" => false,
        b"SET" => true,
        _ => {
            return Err(format!(
                "ERR unknown subcommand '{}' of qconfig, it must be GET or SET",
                shown(what)
            ));
        }
    };
    if !set {
        return alone(words, Single::Settings);
    }
    let queue = words.queue()?;
    let mut changes = Vec::new();
    let mut seen = Seen::default();
    // The first pair must be there.
    while changes.is_empty() || words.left() > 0 {
        let field = words.required()?;
        seen.once(&shown(&field.to_ascii_lowercase()))?;
        let value = words.value(&shown(field))?;
        changes.push(Settings::change(field, value).map_err(|wrong| format!("ERR {wrong}"))?);
    }
    let single = Single::configure(changes);
    Ok(Ask::Single { queue, single })
}

pub(super) fn pause(words: &mut Words) -> Result<Ask, Refusal> {
    let queue = words.queue()?;
    let pause = match words.option().as_deref() {
        None | Some("POP") => Pause { push: false, pop: true },
        Some("PUSH") => Pause { push: true, pop: false },
        Some("ALL") => Pause::ALL,
        Some(option) => return Err(words.unknown(option)),
    };
    words.nothing_more()?;
    let single = Single::configure(Settings::pausing(pause));
    Ok(Ask::Single { queue, single })
}

pub(super) fn redrive(words: &mut Words) -> Result<Ask, Refusal> {
    let queue = words.queue()?;
    let counted = words.ahead().is_some_and(|word| word.eq_ignore_ascii_case(b"COUNT"));
    let whom = match (words.left(), counted) {
        (0, _) => Revive::Dead(u64::MAX),
        (_, true) => {
            words.next();
            let count = words.number("COUNT", 1, MAX_COUNT)?;
            words.nothing_more()?;
            Revive::Dead(count)
        }
        _ => {
            let jobs = words.jobs(&queue)?;
            let what = About::Redrive;
            return Ok(Ask::About { queue, jobs, what });
        }
    };
    let single = Single::Revive { whom, revived: 0 };
    Ok(Ask::Single { queue, single })
}

pub(super) fn check(words: &mut Words) -> Result<Ask, Refusal> {
    let queue = words.queue()?;
    let (mut place, mut repair) = (Place::first_of(0), false);
    let mut seen = Seen::default();
    while let Some(option) = words.option() {
        seen.once(&option)?;
        match option.as_str() {
            "CURSOR" => {
                let cursor = words.value(&option)?;
                if cursor != b"0" {
                    place = Place::parse(cursor)
                        .ok_or_else(|| format!("ERR CURSOR is '{}', no reply had that one", shown(cursor)))?;
                }
            }
            "REPAIR" => repair = true,
            _ => return Err(words.unknown(&option)),
        }
    }
    let single = Single::Check { place, repair };
    Ok(Ask::Single { queue, single })
}

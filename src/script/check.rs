//! Calls of `check.lua`: is the queue sound, and if not, mend it. A call looks at a bounded part of the queue, and says where
//! the next one goes on. It has no sequence: looking again at the same part, or mending it again, does no harm.

use std::fmt;

use bytes::Bytes;

use super::call::Call;
use super::{CallError, Partition, Scripts, Settings, Standing, open, unsigned};
use crate::resp::reader::BadReply;
use crate::resp::scanner::parse_integer;

/// The ways in which a queue can be unsound, as `QCHECK` names them; in the order of `check.lua`.
pub const KINDS: [&str; 10] = [
    "bodies_in_no_index",
    "entries_without_body",
    "jobs_in_two_states",
    "records_without_body",
    "keys_for_nobody",
    "ttls_astray",
    "groups_astray",
    "results_astray",
    "waits_for_nobody",
    "tombstones_miscounted",
];

/// Where a check goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub partition: u16,
    /// From 1.
    part: u64,
    cursor: u64,
    surplus: i64,
}

impl Place {
    pub const fn first_of(partition: u16) -> Self {
        Self {
            partition,
            part: 1,
            cursor: 0,
            surplus: 0,
        }
    }

    /// As it is written. `None`: this is no place.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut parts = text.split(|byte| *byte == b'.');
        let mut number = || parts.next().and_then(parse_integer);
        let (partition, part, cursor, surplus) = (number()?, number()?, number()?, number()?);
        let place = Self {
            partition: partition.try_into().ok()?,
            part: part.try_into().ok().filter(|part| *part > 0)?,
            cursor: cursor.try_into().ok()?,
            surplus,
        };
        parts.next().is_none().then_some(place)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            partition,
            part,
            cursor,
            surplus,
        } = self;
        write!(f, "{partition}.{part}.{cursor}.{surplus}")
    }
}

/// What was looked at, and found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub jobs: u64,
    pub kinds: [u64; KINDS.len()],
    /// `None`: that was all.
    pub next: Option<Place>,
}

pub fn check(scripts: &Scripts, partition: &Partition, settings: &Settings, place: Place, repair: bool) -> Bytes {
    let mut call = Call::new(&scripts.check, partition, settings, 0);
    call.number(place.part);
    call.number(place.cursor);
    call.word(place.surplus.to_string().as_bytes());
    call.number(repair.into());
    call.finish()
}

/// If more is due than one call brings back, nothing was looked at.
pub fn found(reply: Bytes, partition: u16) -> Result<(Standing, Found), CallError> {
    let (standing, mut reader, _) = open(reply)?;
    let part = unsigned(reader.integer()?)?;
    let cursor = parse_integer(&reader.bulk()?).and_then(|cursor| u64::try_from(cursor).ok());
    let place = Place {
        partition,
        part,
        cursor: cursor.ok_or(BadReply("a cursor was due"))?,
        surplus: reader.integer()?,
    };
    let mut found = Found {
        jobs: unsigned(reader.integer()?)?,
        next: (part > 0).then_some(place),
        ..Found::default()
    };
    for kind in &mut found.kinds {
        *kind = unsigned(reader.integer()?)?;
    }
    Ok((standing, found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_written_and_nothing_else_is() {
        let place = Place {
            partition: 2,
            part: 15,
            cursor: 200,
            surplus: -3,
        };
        assert_eq!(Place::parse(place.to_string().as_bytes()), Some(place));
        for text in [
            "",
            "0",
            "1",
            "0.1.2",
            "0.0.0.0",
            "0.1.-1.0",
            "-1.1.0.0",
            "0.1.0.0.0",
            "0.x.0.0",
            "0.1.0.99999999999999999999",
        ] {
            assert_eq!(Place::parse(text.as_bytes()), None, "{text}");
        }
    }
}

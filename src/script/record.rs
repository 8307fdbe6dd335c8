//! What is remembered of a job that has a past or options: a MessagePack map that the scripts keep in `T:meta`.
//! The letters are explained in `prelude.lua`. A plain job that waits for its first delivery has none.

use bytes::Bytes;
use rmp::encode::{self, ValueWriteError};
use rmpv::ValueRef;

use crate::queue::operation::{JobOptions, Start};
use crate::resp::reader::BadReply;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    pub nacks: u32,
    pub lapses: u32,
    /// Unix ms: ready since, or from then on. `None`: since its push.
    pub ready_from: Option<u64>,
    /// Unix ms: the end of its TTL.
    pub expires: Option<u64>,
    pub retries: Option<u32>,
    pub backoff: Option<u64>,
    pub max_backoff: Option<u64>,
    pub lease: Option<u64>,
    /// What the worker said of the last failure that it explained.
    pub error: Option<Bytes>,
    /// Fields and values, as the push gave them.
    pub meta: Vec<(Bytes, Bytes)>,
    pub unique: Option<Bytes>,
    pub group: Option<Bytes>,
    /// Unix ms: when its last lapse made it ready again.
    pub ready_again: Option<u64>,
}

impl Record {
    /// Deliveries that failed.
    pub fn failures(&self) -> u32 {
        self.nacks.saturating_add(self.lapses)
    }

    /// Of a leased job the delivery that is running, of others the one that would be next: 1 for the first.
    pub fn delivery(&self) -> u32 {
        self.failures().saturating_add(1)
    }

    pub fn decode(packed: &[u8]) -> Result<Self, BadReply> {
        const BAD: BadReply = BadReply("a job's record is no MessagePack map");
        let value = rmpv::decode::read_value_ref(&mut &packed[..]).map_err(|_| BAD)?;
        let ValueRef::Map(fields) = value else { return Err(BAD) };
        let mut record = Self::default();
        for (name, value) in fields {
            let (ValueRef::String(name), number) = (name, value.as_u64()) else {
                return Err(BAD);
            };
            let small = || number.and_then(|number| u32::try_from(number).ok());
            match name.as_bytes() {
                b"n" => record.nacks = small().ok_or(BAD)?,
                b"s" => record.lapses = small().ok_or(BAD)?,
                b"r" => record.retries = Some(small().ok_or(BAD)?),
                b"t" => record.ready_from = Some(number.ok_or(BAD)?),
                b"x" => record.expires = Some(number.ok_or(BAD)?),
                b"b" => record.backoff = Some(number.ok_or(BAD)?),
                b"m" => record.max_backoff = Some(number.ok_or(BAD)?),
                b"l" => record.lease = Some(number.ok_or(BAD)?),
                b"e" => record.error = Some(text(&value).ok_or(BAD)?),
                b"u" => record.unique = Some(text(&value).ok_or(BAD)?),
                b"g" => record.group = Some(text(&value).ok_or(BAD)?),
                b"w" => record.ready_again = Some(number.ok_or(BAD)?),
                b"h" => record.meta = pairs(&value).ok_or(BAD)?,
                _ => {} // v, which the scripts alone go by; or a later version's
            }
        }
        Ok(record)
    }

    /// As `decode`, of a job that may have none.
    pub fn decode_or_default(packed: Option<&Bytes>) -> Result<Self, BadReply> {
        packed.map_or(Ok(Self::default()), |packed| Self::decode(packed))
    }
}

/// Redis packs its strings as text, whatever bytes are in them.
fn text(value: &ValueRef) -> Option<Bytes> {
    match value {
        ValueRef::String(text) => Some(Bytes::copy_from_slice(text.as_bytes())),
        _ => None,
    }
}

fn pairs(value: &ValueRef) -> Option<Vec<(Bytes, Bytes)>> {
    let ValueRef::Array(words) = value else { return None };
    words
        .chunks(2)
        .map(|pair| Some((text(&pair[0])?, text(pair.get(1)?)?)))
        .collect()
}

/// The record that a push gives its jobs, but for what depends on Redis's clock; with it, as `f`, for how long their unique
/// key is held. Empty if there is nothing to remember.
pub(super) fn encode_options(options: &JobOptions) -> Vec<u8> {
    let unique = options.unique.as_ref();
    encode_with(options, &[("f", unique.and_then(|unique| unique.hold))])
}

/// The record of a job that Redis has lost and that is pushed again: dates as they were made at its push (Unix ms), `f` among
/// them, and the deliveries that were lost with it, after which no delay counts any more.
pub fn encode_kept(options: &JobOptions, pushed: u64, lapses: u32) -> Vec<u8> {
    let hold = options.unique.as_ref().and_then(|unique| unique.hold);
    let start = match options.start {
        Start::After(ms) => Some(pushed + ms),
        Start::At(date) => Some(date),
        Start::Now => None,
    };
    let lapses = u64::from(lapses);
    let dates = [
        ("f", hold.map(|ms| pushed + ms)),
        ("t", start.filter(|_| lapses == 0)),
        ("x", options.ttl.map(|ms| pushed + ms)),
        ("s", Some(lapses).filter(|lapses| *lapses > 0)),
    ];
    encode_with(options, &dates)
}

fn encode_with(options: &JobOptions, more: &[(&str, Option<u64>)]) -> Vec<u8> {
    let mut numbers = vec![
        ("r", options.retries.map(u64::from)),
        ("b", options.backoff),
        ("m", options.max_backoff),
        ("l", options.lease),
    ];
    numbers.extend_from_slice(more);
    let unique = options.unique.as_ref();
    numbers.push(("v", unique.and_then(|unique| unique.loan)));
    let words = [("u", unique.map(|unique| &unique.key)), ("g", options.group.as_ref())];
    let given = numbers.iter().filter(|(_, number)| number.is_some()).count();
    let worded = words.iter().filter(|(_, word)| word.is_some()).count();
    let fields = given + worded + usize::from(!options.meta.is_empty());
    let mut packed = Vec::new();
    if fields > 0 {
        // Writing to memory cannot fail.
        let _ = write_fields(&mut packed, fields, &numbers, &words, &options.meta);
    }
    packed
}

fn write_fields(
    packed: &mut Vec<u8>,
    fields: usize,
    numbers: &[(&str, Option<u64>)],
    words: &[(&str, Option<&Bytes>)],
    meta: &[(Bytes, Bytes)],
) -> Result<(), ValueWriteError> {
    encode::write_map_len(packed, fields as u32)?;
    for (name, number) in numbers {
        if let Some(number) = number {
            encode::write_str(packed, name)?;
            encode::write_uint(packed, *number)?;
        }
    }
    for (name, word) in words {
        if let Some(word) = word {
            encode::write_str(packed, name)?;
            write_text(packed, word)?;
        }
    }
    if !meta.is_empty() {
        encode::write_str(packed, "h")?;
        encode::write_array_len(packed, 2 * meta.len() as u32)?;
        for word in meta.iter().flat_map(|(field, value)| [field, value]) {
            write_text(packed, word)?;
        }
    }
    Ok(())
}

/// As text, whatever bytes it has: Redis's MessagePack knows no binary.
fn write_text(packed: &mut Vec<u8>, bytes: &[u8]) -> Result<(), ValueWriteError> {
    encode::write_str_len(packed, bytes.len() as u32)?;
    packed.extend_from_slice(bytes);
    Ok(())
}

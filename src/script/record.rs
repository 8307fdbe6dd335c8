//! What is remembered of a job that has a past or options: a MessagePack map that the scripts keep in `T:meta`.
//! The letters are explained in `prelude.lua`. A plain job that waits for its first delivery has none.

use bytes::Bytes;
use rmpv::{Value, ValueRef};

use crate::queue::operation::JobOptions;
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
                b"e" => match value {
                    ValueRef::String(text) => record.error = Some(Bytes::copy_from_slice(text.as_bytes())),
                    _ => return Err(BAD),
                },
                _ => {} // a later version's
            }
        }
        Ok(record)
    }

    /// As `decode`, of a job that may have none.
    pub fn decode_or_default(packed: Option<&Bytes>) -> Result<Self, BadReply> {
        packed.map_or(Ok(Self::default()), |packed| Self::decode(packed))
    }
}

/// The record that a push gives its jobs, but for what depends on Redis's clock; empty if there is nothing to remember.
pub(super) fn encode_options(options: &JobOptions) -> Vec<u8> {
    let fields = [
        ("r", options.retries.map(u64::from)),
        ("b", options.backoff),
        ("m", options.max_backoff),
        ("l", options.lease),
    ];
    let fields: Vec<_> = fields
        .into_iter()
        .filter_map(|(name, value)| Some((Value::from(name), Value::from(value?))))
        .collect();
    let mut packed = Vec::new();
    if !fields.is_empty() {
        // Writing to memory cannot fail.
        let _ = rmpv::encode::write_value(&mut packed, &Value::Map(fields));
    }
    packed
}

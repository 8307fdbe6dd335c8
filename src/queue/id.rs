//! How a job is named.
//!
//! - Inside its partition, by a [`LocalId`], which the push script makes: ten digits of base 36 (Redis's clock in µs, later
//!   than any id before), one to four digits that count within one call, a `Z` if its payload is packed ([`super::payload`]),
//!   and the first letter of its priority.
//! - To clients, by its id: `<local id>-<partition>-<the queue's mark>`. The mark, 64 bits of a hash of the queue's name,
//!   makes it unique across queues, and tells another queue's job.
//! - A receipt is an id, a colon, and the number of the delivery.
//!
//! Anything else is the name of no job: not an error, but nothing that counts.

use std::fmt;

use bytes::{BufMut, BytesMut};
use sha2::{Digest, Sha256};

use super::operation::{Claim, Priority, QueueName};

const STAMP: usize = 10;
/// In capitals, as no digit is: before the priority's letter.
pub const PACKED: u8 = b'Z';
const MARK: usize = 13; // digits of base 36 that hold 64 bits

/// A job's name within its partition.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LocalId {
    len: u8,
    bytes: [u8; Self::MAX_LEN],
}

impl LocalId {
    /// Four digits count beyond a million jobs in one push, which is more than a request has arguments.
    pub const MAX_LEN: usize = STAMP + 4 + 1 + 1;

    pub fn parse(id: &[u8]) -> Option<Self> {
        let (&letter, digits) = id.split_last()?;
        let digits = digits.strip_suffix(&[PACKED]).unwrap_or(digits);
        let valid = (STAMP + 1..=STAMP + 4).contains(&digits.len())
            && digits
                .iter()
                .all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
            && Priority::ALL.iter().any(|priority| priority.letter() == letter);
        valid.then(|| {
            let mut bytes = [0; Self::MAX_LEN];
            bytes[..id.len()].copy_from_slice(id);
            Self {
                len: id.len() as u8,
                bytes,
            }
        })
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    pub fn priority(&self) -> Priority {
        let letter = self.as_bytes().last();
        let found = Priority::ALL
            .into_iter()
            .find(|priority| letter == Some(&priority.letter()));
        found.unwrap_or_default() // `parse` let no other letter through
    }

    /// Its payload is kept packed.
    pub fn is_packed(&self) -> bool {
        self.as_bytes().iter().nth_back(1) == Some(&PACKED)
    }

    /// Unix time of the push, in milliseconds.
    pub fn pushed_ms(&self) -> u64 {
        self.bytes[..STAMP].iter().fold(0, |sum, &byte| sum * 36 + digit(byte)) / 1000
    }
}

impl PartialOrd for LocalId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// The order of the pushes.
impl Ord for LocalId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl fmt::Debug for LocalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.as_bytes()))
    }
}

/// What marks the ids of one queue's jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueMark([u8; MARK]);

impl QueueMark {
    pub fn of(queue: &QueueName) -> Self {
        let hash = Sha256::digest(queue.as_bytes());
        let mut value = hash.iter().take(8).fold(0u64, |sum, &byte| sum << 8 | u64::from(byte));
        let mut mark = [0; MARK];
        for place in mark.iter_mut().rev() {
            *place = base36_digit(value % 36);
            value /= 36;
        }
        Self(mark)
    }

    /// An id or a receipt of this queue's. `None`: the name of no job of this queue.
    pub fn parse(&self, name: &[u8]) -> Option<Claim> {
        let (id, delivery) = match memchr::memchr(b':', name) {
            None => (name, None),
            Some(colon) => (&name[..colon], Some(parse_delivery(&name[colon + 1..])?)),
        };
        let mut parts = id.split(|&byte| byte == b'-');
        let (job, partition, mark) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || mark != self.0 {
            return None;
        }
        Some(Claim {
            partition: parse_partition(partition)?,
            job: LocalId::parse(job)?,
            delivery,
        })
    }
}

/// Where jobs are: with it a local id is an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    pub mark: QueueMark,
    pub partition: u16,
}

impl Origin {
    pub fn of(queue: &QueueName, partition: u16) -> Self {
        let mark = QueueMark::of(queue);
        Self { mark, partition }
    }

    /// The id that clients see.
    pub fn write_id(&self, job: LocalId, out: &mut BytesMut) {
        out.put_slice(job.as_bytes());
        out.put_u8(b'-');
        put_base36(u64::from(self.partition), 0, out);
        out.put_u8(b'-');
        out.put_slice(&self.mark.0);
    }

    pub fn write_receipt(&self, job: LocalId, delivery: u32, out: &mut BytesMut) {
        self.write_id(job, out);
        out.put_u8(b':');
        out.put_slice(itoa::Buffer::new().format(delivery).as_bytes());
    }
}

/// As `write_receipt` has it: no sign, no leading zero, so that a delivery has one receipt only.
fn parse_delivery(text: &[u8]) -> Option<u32> {
    let canonical = matches!(text.first(), Some(b'1'..=b'9')) && text.iter().all(u8::is_ascii_digit);
    canonical.then(|| std::str::from_utf8(text).ok()?.parse().ok())?
}

fn parse_partition(text: &[u8]) -> Option<u16> {
    let canonical = !text.is_empty()
        && text.len() <= 4
        && (text == b"0" || text[0] != b'0')
        && text
            .iter()
            .all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase());
    canonical
        .then(|| text.iter().fold(0, |sum, &byte| sum * 36 + digit(byte)))?
        .try_into()
        .ok()
}

fn digit(byte: u8) -> u64 {
    u64::from(if byte.is_ascii_digit() {
        byte - b'0'
    } else {
        byte - b'a' + 10
    })
}

fn base36_digit(value: u64) -> u8 {
    b"0123456789abcdefghijklmnopqrstuvwxyz"[value as usize]
}

/// At least `width` digits.
pub fn put_base36(mut value: u64, width: usize, out: &mut impl BufMut) {
    let mut digits = [b'0'; 13];
    let mut start = digits.len();
    while value > 0 || start == digits.len() {
        start -= 1;
        digits[start] = base36_digit(value % 36);
        value /= 36;
    }
    out.put_slice(&digits[start.min(digits.len() - width)..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(queue: &str) -> QueueMark {
        QueueMark::of(&QueueName::new(queue.as_bytes()).unwrap())
    }

    fn origin(queue: &str, partition: u16) -> Origin {
        let mark = mark(queue);
        Origin { mark, partition }
    }

    #[test]
    fn what_is_written_is_read() {
        for job in [b"hbx1wjzk2o0an" as &[u8], b"hbx1wjzk2o0aaaZn"] {
            let job = LocalId::parse(job).unwrap();
            for (partition, delivery) in [(0, 1), (35, 2), (36, 17), (u16::MAX, u32::MAX)] {
                let (mut id, mut receipt) = (BytesMut::new(), BytesMut::new());
                origin("orders", partition).write_id(job, &mut id);
                origin("orders", partition).write_receipt(job, delivery, &mut receipt);
                assert!(id.len() <= 40);
                let claim = |delivery| Claim {
                    partition,
                    job,
                    delivery,
                };
                assert_eq!(mark("orders").parse(&id), Some(claim(None)));
                assert_eq!(mark("orders").parse(&receipt), Some(claim(Some(delivery))));
                assert_eq!(mark("others").parse(&receipt), None);
            }
        }
    }

    #[test]
    fn anything_else_names_no_job() {
        let mut id = BytesMut::new();
        origin("q", 0).write_id(LocalId::parse(b"hbx1wjzk2o0an").unwrap(), &mut id);
        let id = String::from_utf8(id.to_vec()).unwrap();
        for name in [
            "",
            "-",
            ":",
            "x",
            "hbx1wjzk2o0an",
            &format!("{id}:"),
            &format!("{id}:0"),
            &format!("{id}:01"),
            &format!("{id}:+1"),
            &format!("{id}:1:1"),
            &format!("{id}:4294967296"),
            &format!("{id}-0"),
            &format!("x{id}xxxxxx"),
            &id.to_uppercase(),
            &id.replace("0an-0-", "0ax-0-"),
            &id.replace("0an-0-", "0aZZn-0-"),
            &id.replace("0an-0-", "Z0an-0-"),
            &id.replace("0an-0-", "Zn-0-"),
            &id.replace("-0-", "-00-"),
            &id.replace("-0-", "--"),
            &id.replace("-0-", "-zzzz-"),
        ] {
            assert_eq!(mark("q").parse(name.as_bytes()), None, "{name}");
        }
        assert!(mark("q").parse(id.as_bytes()).is_some());
    }

    #[test]
    fn ids_sort_as_they_were_pushed_and_tell_when() {
        let early = LocalId::parse(b"hbx1wjzk2o0an").unwrap();
        let late = LocalId::parse(b"hbx1wjzk2p00u").unwrap();
        assert!(early < late);
        assert_eq!(late.priority(), Priority::Urgent);
        let packed = LocalId::parse(b"hbx1wjzk2p01Zu").unwrap();
        assert!(packed > late && packed.is_packed() && !late.is_packed());
        assert_eq!(
            (packed.priority(), packed.pushed_ms()),
            (Priority::Urgent, late.pushed_ms())
        );
        assert_eq!(early.pushed_ms(), u64::from_str_radix("hbx1wjzk2o", 36).unwrap() / 1000);
    }
}

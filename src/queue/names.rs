//! `QSCAN`: which queues there are. A queue's counters stand under `<prefix>:{<queue>/<partition>}:stats` as long as it
//! exists, so Redis's own SCAN for these keys finds them; the names are taken out of its reply. There is no list to be kept.
//!
//! A cluster's primaries are scanned one after another, in the order of their first slots. The cursor is Redis's own with the
//! slot behind it by which its primary is found.

use bytes::Bytes;

use super::operation::QueueName;
use super::parse::{MAX_COUNT, Refusal, Seen, Words};
use crate::command::glob;
use crate::resp::reader::{BadReply, Reader};
use crate::resp::{OwnedRequest, ReplyWriter, Request};

const COUNT: u64 = 10; // as SCAN's own
/// Keys that one call looks at, at most: a hint that Redis would follow for a second on a large database.
const MOST: u64 = 1000;

/// What a QSCAN asks for.
pub struct Scan {
    /// In a cluster a primary's, and any slot that it owns, else 0.
    pub cursor: u64,
    pub slot: u16,
    /// The names in its reply must match it.
    pub glob: Bytes,
    count: u64,
}

/// Redis's cursor has a bit for each doubling of its table: 50 of them are more than fit into any memory.
const SLOT_BITS: u32 = 14;

pub fn parse(request: Request<'_>, is_cluster: bool) -> Result<Scan, Refusal> {
    let mut words = Words::new(request);
    let cursor = String::from_utf8(words.required()?.to_vec()).ok();
    let cursor: Option<u64> = cursor.and_then(|text| text.parse().ok());
    let cursor = cursor.ok_or("ERR invalid cursor")?;
    let (cursor, slot) = match is_cluster {
        true => (cursor >> SLOT_BITS, (cursor & ((1 << SLOT_BITS) - 1)) as u16),
        false => (cursor, 0),
    };
    let (mut glob, mut count) = (Bytes::from_static(b"*"), COUNT);
    let mut seen = Seen::default();
    while let Some(option) = words.option() {
        seen.once(&option)?;
        match option.as_str() {
            "MATCH" => glob = Bytes::copy_from_slice(words.value(&option)?),
            "COUNT" => count = words.number(&option, 1, MAX_COUNT)?,
            _ => return Err(words.unknown(&option)),
        }
    }
    Ok(Scan {
        cursor,
        slot,
        glob,
        count: count.min(MOST),
    })
}

impl Scan {
    /// The SCAN that it stands for.
    pub fn request(&self, prefix: &str) -> OwnedRequest {
        // The client's glob is no part of this pattern: an open bracket in it would swallow what stands behind.
        let pattern = format!("{prefix}:{{*/0}}:stats");
        let (cursor, count) = (self.cursor.to_string(), self.count.to_string());
        OwnedRequest::from_words(&["SCAN", &cursor, "MATCH", &pattern, "COUNT", &count])
    }
}

/// Where a scan of a cluster goes on, given what a primary found by `slot` said, and the first slot of the next one.
pub fn onward(cursor: u64, slot: u16, next: Option<u16>) -> u64 {
    match (cursor, next) {
        (0, None) => 0,
        (0, Some(next)) => u64::from(next),
        (cursor, _) => cursor << SLOT_BITS | u64::from(slot),
    }
}

/// SCAN's reply as QSCAN's: cursor and names. An error is handed on as it is.
pub fn write(reply: &[u8], prefix: &str, glob: &[u8], onward: impl Fn(u64) -> u64, out: &mut ReplyWriter) {
    match read(reply, prefix, glob) {
        Ok((cursor, names)) => {
            out.array(2);
            out.bulk(onward(cursor).to_string().as_bytes());
            out.array(names.len());
            names.iter().for_each(|name| out.bulk(name.as_bytes()));
        }
        Err(_) => out.raw(reply),
    }
}

fn read(reply: &[u8], prefix: &str, glob: &[u8]) -> Result<(u64, Vec<QueueName>), BadReply> {
    let mut reader = Reader::new(Bytes::copy_from_slice(reply));
    reader.array()?;
    let cursor = std::str::from_utf8(&reader.bulk()?)
        .ok()
        .and_then(|text| text.parse().ok());
    let cursor = cursor.ok_or(BadReply("no cursor"))?;
    let len = reader.array()?;
    let mut names = Vec::with_capacity(len);
    for _ in 0..len {
        let key = reader.bulk()?;
        let tagged = key
            .strip_prefix(prefix.as_bytes())
            .and_then(|rest| rest.strip_prefix(b":{"));
        let name = tagged.and_then(|rest| rest.strip_suffix(b"/0}:stats"));
        names.extend(
            name.and_then(QueueName::new)
                .filter(|name| glob::matches_exactly(glob, name.as_bytes())),
        );
    }
    Ok((cursor, names))
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::resp::Protocol;

    #[test]
    fn names_are_taken_out_of_the_keys() {
        let reply = b"*2\r\n$2\r\n17\r\n*3\r\n$14\r\nq:{a:b/0}:stats\r\n";
        assert!(read(reply, "q", b"*").is_err(), "cut short");
        let reply =
            b"*2\r\n$2\r\n17\r\n*3\r\n$15\r\nq:{a:b/0}:stats\r\n$15\r\nq:{x y/0}:stats\r\n$13\r\nq:{b/0}:stats\r\n";
        let mut out = BytesMut::new();
        write(
            reply,
            "q",
            b"a*",
            |cursor| cursor,
            &mut ReplyWriter::new(&mut out, Protocol::Resp2),
        );
        assert_eq!(out, "*2\r\n$2\r\n17\r\n*1\r\n$3\r\na:b\r\n");
    }

    #[test]
    fn a_cursor_leads_from_primary_to_primary_and_back_to_0() {
        let asked = |cursor: u64| {
            let request = OwnedRequest::from_words(&["QSCAN", &cursor.to_string()]);
            let scan = parse(request.as_request(), true).unwrap_or_else(|_| panic!("{cursor}"));
            (scan.cursor, scan.slot)
        };
        assert_eq!(
            asked(0),
            (0, 0),
            "it begins with the owner of slot 0, or the first one after it"
        );
        let next = onward(17, 0, Some(5461));
        assert_eq!(asked(next), (17, 0));
        let next = onward(0, 0, Some(5461));
        assert_eq!(asked(next), (0, 5461));
        let next = onward(1 << 49, 5461, Some(10923));
        assert_eq!(asked(next), (1 << 49, 5461));
        assert_eq!(onward(0, 5461, None), 0);
    }
}

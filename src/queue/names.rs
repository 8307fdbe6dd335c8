//! `QSCAN`: which queues there are. A queue's counters stand under `<prefix>:{<queue>/<partition>}:stats` as long as it
//! exists, so Redis's own SCAN for these keys finds them; the names are taken out of its reply. There is no list to be kept.

use bytes::Bytes;

use super::operation::QueueName;
use super::parse::{MAX_COUNT, Refusal, Seen, Words};
use crate::command::glob;
use crate::resp::reader::{BadReply, Reader};
use crate::resp::{OwnedRequest, ReplyWriter, Request};

const COUNT: u64 = 10; // as SCAN's own
/// Keys that one call looks at, at most: a hint that Redis would follow for a second on a large database.
const MOST: u64 = 1000;

/// The SCAN that a QSCAN stands for, and the glob that the names in its reply must match.
pub fn scan(request: Request<'_>, prefix: &str) -> Result<(OwnedRequest, Bytes), Refusal> {
    let mut words = Words::new(request);
    let cursor = words.required()?.to_vec();
    let cursor = String::from_utf8(cursor)
        .ok()
        .filter(|text| text.parse::<u64>().is_ok());
    let cursor = cursor.ok_or("ERR invalid cursor")?;
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
    // The client's glob is no part of this pattern: an open bracket in it would swallow what stands behind.
    let pattern = format!("{prefix}:{{*/0}}:stats");
    let count = count.min(MOST).to_string();
    let scan = OwnedRequest::from_words(&[
        b"SCAN",
        cursor.as_bytes(),
        b"MATCH",
        pattern.as_bytes(),
        b"COUNT",
        count.as_bytes(),
    ]);
    Ok((scan, glob))
}

/// SCAN's reply as QSCAN's: cursor and names. An error is handed on as it is.
pub fn write(reply: &[u8], prefix: &str, glob: &[u8], out: &mut ReplyWriter) {
    match read(reply, prefix, glob) {
        Ok((cursor, names)) => {
            out.array(2);
            out.bulk(&cursor);
            out.array(names.len());
            names.iter().for_each(|name| out.bulk(name.as_bytes()));
        }
        Err(_) => out.raw(reply),
    }
}

fn read(reply: &[u8], prefix: &str, glob: &[u8]) -> Result<(Bytes, Vec<QueueName>), BadReply> {
    let mut reader = Reader::new(Bytes::copy_from_slice(reply));
    reader.array()?;
    let cursor = reader.bulk()?;
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
        write(reply, "q", b"a*", &mut ReplyWriter::new(&mut out, Protocol::Resp2));
        assert_eq!(out, "*2\r\n$2\r\n17\r\n*1\r\n$3\r\na:b\r\n");
    }
}

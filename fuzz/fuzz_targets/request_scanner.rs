//! Any bytes from a client, cut anywhere: the same requests and the same fault as in one piece, and those that
//! `redis-protocol` finds, where both read the same language.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace::resp::scanner::{Limits, ProtocolError, Scan, Scanner, parse_integer};
use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::types::OwnedFrame;

const LIMITS: Limits = Limits {
    arguments: 1024,
    bulk: 1 << 16,
    request: 1 << 17,
    authenticated: true,
};

type Words = Vec<Vec<u8>>;

// The first byte says how many pieces there are, so many more how long each is; behind them stands the input.
fuzz_target!(|data: &[u8]| {
    let Some((pieces, rest)) = data.split_first() else { return };
    let (pieces, input) = rest.split_at(usize::from(*pieces % 16).min(rest.len()));
    let ends = pieces.iter().scan(0, |end, piece| {
        *end += usize::from(*piece);
        Some(*end)
    });
    let cuts: Vec<usize> = ends.map(|end| end.min(input.len())).collect();

    let (whole, fault) = requests(input, &[]);
    assert_eq!(requests(input, &cuts), (whole.clone(), fault), "cut at {cuts:?}");

    let mut ours = whole.into_iter();
    let mut at = 0;
    while at < input.len() {
        let Some((words, len)) = oracle(&input[at..]) else { return };
        if !words.is_empty() {
            assert_eq!(ours.next(), Some(words), "at {at}");
        }
        at += len;
    }
    assert_eq!(ours.next(), None);
});

/// All requests, and the fault after them, of input that arrives in pieces.
fn requests(input: &[u8], cuts: &[usize]) -> (Vec<Words>, Option<ProtocolError>) {
    let mut scanner = Scanner::default();
    let mut found = vec![];
    let mut start = 0;
    for &end in cuts.iter().chain([&input.len()]) {
        while start < end {
            match scanner.scan(&input[start..end], &LIMITS) {
                Err(fault) => return (found, Some(fault)),
                Ok(Scan::Incomplete { .. }) => break,
                Ok(Scan::Nothing { len }) => start += len,
                Ok(Scan::Inline { len, request }) => {
                    found.push(request.as_request().args().map(<[u8]>::to_vec).collect());
                    start += len;
                }
                Ok(Scan::Request { len }) => {
                    let frame = &input[start..start + len];
                    let words = scanner.spans().iter();
                    let words = words.map(|span| frame[span.start as usize..span.end as usize].to_vec());
                    found.push(words.collect());
                    start += len;
                }
            }
        }
    }
    (found, None)
}

/// One request by `redis-protocol`; `None`: none is whole here, or not one that both read alike. The differences, where
/// we follow Redis: it takes `+1` and `01` for lengths, looks for `\r\n` where Redis looks for `\r`, knows no inline
/// commands, no limits, and other frames than arrays of bulk strings.
fn oracle(input: &[u8]) -> Option<(Words, usize)> {
    if input.first() != Some(&b'*') || !lines_are_plain(input) {
        return None;
    }
    let (OwnedFrame::Array(items), len) = decode(input).ok()?? else {
        return None;
    };
    if items.len() > LIMITS.arguments || len > LIMITS.bulk {
        return None;
    }
    let words = items.into_iter().map(|item| match item {
        OwnedFrame::BulkString(word) => Some(word),
        _ => None,
    });
    Some((words.collect::<Option<_>>()?, len))
}

/// Whether the headers of this request are ones that both sides take for the same.
fn lines_are_plain(input: &[u8]) -> bool {
    let mut at = 0;
    let mut left = 1;
    while left > 0 {
        let Some(end) = input[at..].iter().position(|byte| *byte == b'\r') else {
            return false;
        };
        let number = input.get(at + 1..at + end).and_then(parse_integer);
        let (Some(number @ 0..), Some(b'\n')) = (number, input.get(at + end + 1)) else {
            return false;
        };
        let number = number as usize;
        let first = at == 0;
        at += end + 2;
        match first {
            true => left = number,
            false => {
                left -= 1;
                at = at.saturating_add(number).saturating_add(2);
            }
        }
        if at > input.len() {
            return false;
        }
    }
    true
}

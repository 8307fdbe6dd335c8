//! The scanners of requests and of replies, held against `redis-protocol`: the same frames and the same faults, however
//! the bytes are cut.
//!
//! Where we differ from it, we follow Redis: it takes `+1` and `01` for lengths, ends a line at `\r\n` where Redis looks
//! for `\r` and skips a byte, and knows neither inline commands nor limits. Neither looks at the two bytes behind a bulk
//! string. It refuses maps whose keys are arrays, and takes `-1` in RESP3 for a streamed frame, which no Redis sends.

use millrace::resp::frame::{Frame, FrameScanner, NotResp};
use millrace::resp::scanner::{Limits, ProtocolError, Scan, Scanner};
use proptest::prelude::*;
use redis_protocol::resp2;
use redis_protocol::resp3;

const LIMITS: Limits = Limits {
    arguments: 64,
    bulk: 4096,
    request: 1 << 16,
    authenticated: true,
};

type Words = Vec<Vec<u8>>;

/// All requests, and the fault after them, of input that arrives in pieces which end at `cuts`.
fn requests(input: &[u8], cuts: &[usize]) -> (Vec<Words>, Option<ProtocolError>) {
    let mut scanner = Scanner::default();
    let (mut found, mut start) = (Vec::new(), 0);
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
                    found.push(
                        words
                            .map(|s| frame[s.start as usize..s.end as usize].to_vec())
                            .collect(),
                    );
                    start += len;
                }
            }
        }
    }
    (found, None)
}

/// The same by `redis-protocol`, of input that holds arrays of bulk strings only. Whether there is a fault behind them.
fn requests_by_the_oracle(input: &[u8]) -> (Vec<Words>, bool) {
    let (mut found, mut start) = (Vec::new(), 0);
    loop {
        match resp2::decode::decode(&input[start..]) {
            Err(_) => return (found, true),
            Ok(None) => return (found, false),
            Ok(Some((frame, len))) => {
                start += len;
                let resp2::types::OwnedFrame::Array(items) = frame else {
                    continue; // `*-1`, which asks for nothing
                };
                let words: Option<Words> = items.into_iter().map(bulk).collect();
                match words {
                    None => return (found, true),
                    Some(words) if words.is_empty() => {}
                    Some(words) => found.push(words),
                }
            }
        }
    }
}

fn bulk(frame: resp2::types::OwnedFrame) -> Option<Vec<u8>> {
    match frame {
        resp2::types::OwnedFrame::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}

/// All frames, and the refusal after them, of input that arrives in pieces.
fn frames(input: &[u8], cuts: &[usize]) -> (Vec<Frame>, Option<NotResp>) {
    let mut scanner = FrameScanner::default();
    let (mut found, mut start) = (Vec::new(), 0);
    for &end in cuts.iter().chain([&input.len()]) {
        loop {
            match scanner.scan(&input[start..end]) {
                Err(refused) => return (found, Some(refused)),
                Ok(None) => break,
                Ok(Some(frame)) => {
                    let (Frame::Reply(len) | Frame::Push(len)) = frame;
                    start += len;
                    found.push(frame);
                }
            }
        }
    }
    (found, None)
}

/// The same by `redis-protocol`.
fn frames_by_the_oracle(input: &[u8]) -> (Vec<Frame>, bool) {
    let (mut found, mut start) = (Vec::new(), 0);
    loop {
        match resp3::decode::complete::decode(&input[start..]) {
            Err(_) => return (found, true),
            Ok(None) => return (found, false),
            Ok(Some((frame, len))) => {
                start += len;
                found.push(match frame {
                    resp3::types::OwnedFrame::Push { .. } => Frame::Push(len),
                    _ => Frame::Reply(len),
                });
            }
        }
    }
}

fn word() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..20),
        2 => prop::sample::select(vec![&b"\r\n"[..], b"*1\r\n", b"$-1\r\n", b"", b"GET"]).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..4000),
    ]
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::collection::vec(word(), 0..6);
    words.prop_map(|words| {
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            bytes.extend(format!("${}\r\n", word.len()).bytes());
            bytes.extend(word);
            bytes.extend(b"\r\n");
        }
        bytes
    })
}

/// What both sides call a fault, in their own words.
fn fault() -> impl Strategy<Value = Vec<u8>> {
    let faults = [
        "*x\r\n",
        "*1\r\n$x\r\n",
        "*1\r\n:1\r\n",
        "*2\r\n$1\r\na\r\n+b\r\n",
        "*1\r\n$-2\r\n",
        "*\r\n",
    ];
    prop::sample::select(faults.map(|text| text.as_bytes().to_vec()).to_vec())
}

fn scalar() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,12}".prop_map(|text| format!("+{text}\r\n")),
        "[ -~]{0,12}".prop_map(|text| format!("-ERR {text}\r\n")),
        any::<i64>().prop_map(|number| format!(":{number}\r\n")),
        "[ -~\r\n]{0,40}".prop_map(|text| format!("${}\r\n{text}\r\n", text.len())),
        "[ -~\r\n]{0,40}".prop_map(|text| format!("!{}\r\n{text}\r\n", text.len())),
        "[ -~\r\n]{0,40}".prop_map(|text| format!("={}\r\ntxt:{text}\r\n", text.len() + 4)),
        any::<i32>().prop_map(|number| format!(",{number}.5\r\n")),
        any::<u128>().prop_map(|number| format!("({number}\r\n")),
        any::<bool>().prop_map(|truth| format!("#{}\r\n", if truth { 't' } else { 'f' })),
        Just("_\r\n".to_owned()),
    ]
}

/// A frame of RESP3, some levels deep. Keys of maps and members of sets are strings: others the oracle refuses.
fn element() -> impl Strategy<Value = String> {
    let key = || "[a-z]{1,8}".prop_map(|text| format!("${}\r\n{text}\r\n", text.len()));
    scalar().prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(|all| format!("*{}\r\n{}", all.len(), all.concat())),
            prop::collection::vec(key(), 0..6).prop_map(|all| format!("~{}\r\n{}", all.len(), all.concat())),
            prop::collection::vec((key(), inner), 0..4).prop_map(|all| {
                let pairs: String = all.iter().flat_map(|(key, value)| [key.as_str(), value]).collect();
                format!("%{}\r\n{pairs}", all.len())
            }),
        ]
    })
}

fn frame() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => element(),
        1 => prop::collection::vec(element(), 1..4).prop_map(|all| format!(">{}\r\n{}", all.len(), all.concat())),
        1 => element().prop_filter("the oracle's null has no attributes", |reply| reply != "_\r\n")
            .prop_map(|reply| format!("|1\r\n+ttl\r\n:3600\r\n{reply}")),
    ]
}

/// Where to cut `len` bytes: nowhere, somewhere, or everywhere.
fn cuts(places: Vec<prop::sample::Index>, everywhere: bool, len: usize) -> Vec<usize> {
    if everywhere {
        return (0..len).collect();
    }
    let mut cuts: Vec<usize> = places.iter().map(|place| place.index(len + 1)).collect();
    cuts.sort_unstable();
    cuts
}

fn places() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..8)
}

proptest! {
    #[test]
    fn requests_and_faults_are_those_of_the_oracle_however_they_are_cut(
        whole in prop::collection::vec(request(), 0..8),
        last in prop::option::of(fault()),
        places in places(),
        everywhere: bool,
    ) {
        let mut input = whole.concat();
        input.extend(last.iter().flatten());
        let (right, fails) = requests_by_the_oracle(&input);
        let (found, fault) = requests(&input, &cuts(places, everywhere, input.len()));
        prop_assert_eq!(found, right);
        prop_assert_eq!(fault.is_some(), fails);
        prop_assert_eq!(fails, last.is_some());
    }

    #[test]
    fn a_request_that_is_not_all_here_is_no_request(whole in request(), place: prop::sample::Index) {
        let part = &whole[..place.index(whole.len())];
        prop_assert_eq!(requests(part, &[]), (vec![], None));
        prop_assert_eq!(requests_by_the_oracle(part), (vec![], false));
    }

    #[test]
    fn any_bytes_are_the_same_requests_however_they_are_cut(
        input in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"*$\r\n01239-\"' ".to_vec())], 0..200),
        places in places(),
        everywhere: bool,
    ) {
        prop_assert_eq!(requests(&input, &cuts(places, everywhere, input.len())), requests(&input, &[]));
    }

    #[test]
    fn frames_are_those_of_the_oracle_however_they_are_cut(
        whole in prop::collection::vec(frame(), 0..6),
        junk: bool,
        places in places(),
        everywhere: bool,
    ) {
        let mut input = whole.concat().into_bytes();
        if junk {
            input.extend(b"/\r\n");
        }
        let (right, fails) = frames_by_the_oracle(&input);
        let (found, refused) = frames(&input, &cuts(places, everywhere, input.len()));
        prop_assert_eq!(found, right);
        prop_assert_eq!((refused.is_some(), fails), (junk, junk));
    }

    #[test]
    fn any_bytes_are_the_same_frames_however_they_are_cut(
        input in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"*$%~>|+:_\r\n0123-".to_vec())], 0..200),
        places in places(),
        everywhere: bool,
    ) {
        prop_assert_eq!(frames(&input, &cuts(places, everywhere, input.len())), frames(&input, &[]));
    }
}

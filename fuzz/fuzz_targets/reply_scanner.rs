//! Any bytes from a Redis, cut anywhere: the same frames and the same refusal as in one piece; whatever `redis-protocol`
//! takes for a whole frame is one for us, of the same length; and reading a frame's elements never fails but by an error.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use millrace::resp::frame::{Frame, FrameScanner, NotResp};
use millrace::resp::reader::Reader;
use redis_protocol::resp3::decode::complete::decode_range;

const DEEPEST: usize = 64; // the oracle calls itself for each level, we do not

// The first byte says how many pieces there are, so many more how long each is; behind them stands the input.
fuzz_target!(|data: &[u8]| {
    let Some((pieces, rest)) = data.split_first() else { return };
    let (pieces, input) = rest.split_at(usize::from(*pieces % 16).min(rest.len()));
    let ends = pieces.iter().scan(0, |end, piece| {
        *end += usize::from(*piece);
        Some(*end)
    });
    let cuts: Vec<usize> = ends.map(|end| end.min(input.len())).collect();

    let (whole, refused) = frames(input, &[]);
    assert_eq!(frames(input, &cuts), (whole.clone(), refused), "cut at {cuts:?}");

    let mut start = 0;
    for frame in whole {
        let (Frame::Reply(len) | Frame::Push(len)) = frame;
        let bytes = &input[start..start + len];
        if is_comparable(bytes)
            && let Ok(Some((_, theirs))) = decode_range(bytes)
        {
            assert_eq!(theirs, len, "{:?}", bytes.escape_ascii().to_string());
        }
        let mut reader = Reader::new(Bytes::copy_from_slice(bytes));
        while reader.element().is_ok() {}
        start += len;
    }
    let rest = &input[start..];
    if is_comparable(rest) && let Ok(Some(theirs)) = decode_range(rest) {
        panic!("{theirs:?} is a frame, but we say {refused:?}");
    }
});

/// All frames, and the refusal after them, of input that arrives in pieces.
fn frames(input: &[u8], cuts: &[usize]) -> (Vec<Frame>, Option<NotResp>) {
    let mut scanner = FrameScanner::default();
    let mut found = vec![];
    let mut start = 0;
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

/// Where the two differ by intent: we end a line at `\r`, it at `\r\n`; it takes `+1` and `01` for numbers, streamed
/// frames (`$?`, which no Redis sends, and for which it takes `-1` too) and `HELLO`.
fn is_comparable(bytes: &[u8]) -> bool {
    let lone = |(at, byte): (usize, &u8)| *byte == b'\r' && bytes.get(at + 1) != Some(&b'\n');
    let odd = |pair: &[u8]| !pair[0].is_ascii_digit() && (pair[1] == b'0' || pair[1] == b'+');
    let depth = bytes.iter().filter(|byte| b"*~>%|".contains(byte)).count();
    !bytes.iter().enumerate().any(lone)
        && !bytes.windows(2).any(odd)
        && !bytes.iter().any(|byte| b"?-;.H".contains(byte))
        && depth <= DEEPEST
}

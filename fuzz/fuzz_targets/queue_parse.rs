//! Any words as a queue command: it is understood, or it is refused by one line that has an upper-case code.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace::command::queue::Verb;
use millrace::queue::parse::parse;
use millrace::resp::OwnedRequest;

const VERBS: [(Verb, usize); 13] = [
    (Verb::Push, 3),
    (Verb::PushMany, 4),
    (Verb::Pop, 2),
    (Verb::PopAny, 3),
    (Verb::Ack, 3),
    (Verb::Nack, 3),
    (Verb::Extend, 4),
    (Verb::Len, 2),
    (Verb::Stats, 2),
    (Verb::Peek, 2),
    (Verb::Job, 3),
    (Verb::Delete, 3),
    (Verb::Purge, 2),
];

const MAX_PAYLOAD: usize = 64;

// The first byte is the verb; the words are separated by newlines, so that the fuzzer can put them together from seeds.
fuzz_target!(|data: &[u8]| {
    let Some((verb, rest)) = data.split_first() else { return };
    let (verb, fewest) = VERBS[usize::from(*verb) % VERBS.len()];
    let words: Vec<&[u8]> = [&b"Q"[..]].into_iter().chain(rest.split(|byte| *byte == b'\n')).collect();
    if words.len() < fewest {
        return; // the table's arity has refused it before
    }
    let request = OwnedRequest::from_words(&words);
    if let Err(refusal) = parse(verb, request.as_request(), MAX_PAYLOAD) {
        let code = refusal.split(' ').next().unwrap_or_default();
        assert!(!code.is_empty() && code.bytes().all(|byte| byte.is_ascii_uppercase()), "{refusal:?}");
    }
});

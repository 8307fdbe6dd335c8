//! Any words as a queue command: it is understood, or it is refused by one line that has an upper-case code.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace::command::Route;
use millrace::command::queue::COMMANDS;
use millrace::queue::parse::parse;
use millrace::resp::OwnedRequest;

const MAX_PAYLOAD: usize = 64;

// The words are separated by newlines, so that the fuzzer can put them together from seeds; the first is the command.
fuzz_target!(|data: &[u8]| {
    let words: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
    let named = COMMANDS.iter().find(|spec| words[0].eq_ignore_ascii_case(spec.name.as_bytes()));
    let Some((Route::Queue(verb), arity)) = named.map(|spec| (spec.route, spec.arity)) else {
        return;
    };
    let (fewest, is_exact) = (arity.unsigned_abs() as usize, arity > 0);
    if words.len() < fewest || is_exact && words.len() > fewest {
        return; // the table's arity has refused it before
    }
    let request = OwnedRequest::from_words(&words);
    if let Err(refusal) = parse(verb, request.as_request(), MAX_PAYLOAD) {
        let code = refusal.split(' ').next().unwrap_or_default();
        assert!(!code.is_empty() && code.bytes().all(|byte| byte.is_ascii_uppercase()), "{refusal:?}");
    }
});

//! Any bytes as what Redis keeps of a payload: unpacking them gives what they claim, or nothing, and no more memory is taken
//! than that. And any bytes as a payload: they come back as they went.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use millrace::queue::payload::{Payload, unpack, unpacked_len};

/// What claims to be larger is not unpacked here: that it would take its memory is no news.
const LARGEST: usize = 16 << 20;

fuzz_target!(|data: &[u8]| {
    if unpacked_len(data).is_none_or(|len| len <= LARGEST)
        && let Some(payload) = unpack(data)
    {
        assert_eq!(Some(payload.len()), unpacked_len(data));
    }

    let mut payload = Payload::from(Bytes::copy_from_slice(data));
    payload.pack(1);
    match payload.is_packed() {
        true => assert_eq!(unpack(payload.stored()).as_deref(), Some(data)),
        false => assert_eq!(payload.stored(), data),
    }
    assert!(payload.stored().len() <= data.len());
});

//! A job's payload as Redis keeps it: as it came, or packed, if the queue's `compress_over` asks for that.
//!
//! Which of the two it is stands in the job's id ([`super::id::LocalId::is_packed`]). So every proxy reads it, whatever its
//! own settings are, nothing is guessed from the bytes, and neither the scripts nor jobs that are not packed pay for it.
//! Packed is zstd at its first level: see benches/README.md, "Compression".

use std::cell::RefCell;

use bytes::Bytes;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::get_frame_content_size;

const LEVEL: i32 = 1;
/// No payload is larger (Redis's own bound, `limits.max_payload`), so what claims to be is none of ours.
const LARGEST: u64 = 512 << 20;

// Both hold tables that cost more to make than most payloads cost to pack. Nothing of one payload stays for the next.
thread_local! {
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = RefCell::new(Compressor::new(LEVEL).ok());
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = RefCell::new(Decompressor::new().ok());
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    stored: Bytes,
    packed: bool,
}

impl Payload {
    /// Packs it if it has more bytes than `over` (0: never) and gets smaller by that.
    pub fn pack(&mut self, over: u64) {
        if over == 0 || self.packed || self.stored.len() as u64 <= over {
            return;
        }
        let packed = COMPRESSOR.with_borrow_mut(|compressor| compressor.as_mut()?.compress(&self.stored).ok());
        if let Some(packed) = packed.filter(|packed| packed.len() < self.stored.len()) {
            // A copy, as zstd's buffer has room for a payload that does not get smaller.
            self.stored = Bytes::copy_from_slice(&packed);
            self.packed = true;
        }
    }

    pub fn stored(&self) -> &Bytes {
        &self.stored
    }

    pub fn is_packed(&self) -> bool {
        self.packed
    }
}

/// As it came.
impl From<Bytes> for Payload {
    fn from(stored: Bytes) -> Self {
        Self { stored, packed: false }
    }
}

/// How long a packed payload was. `None`: no proxy packed this.
pub fn unpacked_len(stored: &[u8]) -> Option<usize> {
    let len = get_frame_content_size(stored).ok().flatten()?;
    (len <= LARGEST).then_some(len as usize)
}

/// A packed payload as it came; it takes no more memory than its length, which it names. `None`: no proxy packed this.
pub fn unpack(stored: &[u8]) -> Option<Vec<u8>> {
    let len = unpacked_len(stored)?;
    DECOMPRESSOR.with_borrow_mut(|decompressor| decompressor.as_mut()?.decompress(stored, len).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(bytes: &[u8], over: u64) -> Payload {
        let mut payload = Payload::from(Bytes::copy_from_slice(bytes));
        payload.pack(over);
        payload
    }

    #[test]
    fn what_is_packed_comes_back_as_it_was() {
        for len in [65, 1000, 100_000, 3 << 20] {
            let bytes: Vec<u8> = (0..len).map(|i| (i / 7 % 13) as u8).collect();
            let payload = packed(&bytes, 64);
            assert!(payload.is_packed() && payload.stored().len() < bytes.len());
            assert_eq!(unpacked_len(payload.stored()), Some(bytes.len()));
            assert!(unpack(payload.stored()).unwrap() == bytes);
        }
    }

    #[test]
    fn what_is_small_or_gets_no_smaller_stays_as_it_is() {
        let mut state = 7u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 56) as u8
        })
        .take(5000)
        .collect();
        let zeros = [0; 64];
        for (bytes, over) in [(&noise[..], 64), (&zeros[..], 64), (&zeros[..], 0), (&b""[..], 1)] {
            let payload = packed(bytes, over);
            assert!(
                !payload.is_packed() && payload.stored() == bytes,
                "{} bytes",
                bytes.len()
            );
        }
    }

    #[test]
    fn what_no_proxy_packed_is_refused_before_it_takes_memory() {
        let whole = packed(&[b'a'; 10_000], 1);
        let whole = whole.stored();
        // The frame's header: four bytes, a descriptor, and a length. Here it claims 2^63 bytes.
        let huge = [&whole[..4], &[0xe0], &[0, 0, 0, 0, 0, 0, 0, 0x80], &whole[7..]].concat();
        for bytes in [&b""[..], b"plain text", &whole[..whole.len() - 1], &huge] {
            assert_eq!(unpack(bytes), None);
        }
        assert_eq!(unpacked_len(&huge), None);
    }
}

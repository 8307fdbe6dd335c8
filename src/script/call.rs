//! Writes one call of a script as Redis takes it: `EVALSHA sha keys… argv…`.
//! A call is bytes from then on. A lane keeps them until it has the reply, as a repeat must be the same call.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::Script;
use super::keys::{CRON_KEYS, FIXED, KEYS, PLAIN_KEYS, Partition, put_bulk, put_header, put_number, write_settings};
use crate::queue::settings::Settings;

/// A call being written.
pub struct Call {
    out: BytesMut,
    arguments: usize,
}

/// Room for the array's header, which counts the arguments and so comes last.
const HEADER: usize = 16;

impl Call {
    /// `sequence`: 0 for a look-up, which leaves no trace.
    pub fn new(script: &Script, partition: &Partition, settings: &Settings, sequence: u64) -> Self {
        Self::made(script, partition, settings, &settings.version, sequence, false)
    }

    /// One that has to do with repeated jobs.
    pub fn with_cron(script: &Script, partition: &Partition, settings: &Settings, sequence: u64) -> Self {
        Self::made(script, partition, settings, &settings.version, sequence, true)
    }

    /// One that is done whatever settings the partition has; with repeated jobs too.
    pub fn whatever_the_settings(script: &Script, partition: &Partition, settings: &Settings, sequence: u64) -> Self {
        Self::made(script, partition, settings, b"*", sequence, true)
    }

    /// One of `plain.lua`, which goes by none of the settings, but for their version.
    pub fn plain(script: &Script, partition: &Partition, settings: &Settings, sequence: u64) -> Self {
        let mut call = Self::begun(script, PLAIN_KEYS, &[&partition.plain_keys]);
        call.number(sequence);
        call.number(partition.applied);
        call.word(&settings.version);
        call
    }

    /// One that goes by settings that no partition has: nothing is done, and the reply brings those that it has.
    pub fn of_no_settings(script: &Script, partition: &Partition, settings: &Settings) -> Self {
        Self::made(script, partition, settings, b"?", 0, false)
    }

    fn made(
        script: &Script,
        partition: &Partition,
        settings: &Settings,
        version: &[u8],
        sequence: u64,
        cron: bool,
    ) -> Self {
        let mut call = match cron {
            true => Self::begun(script, KEYS + CRON_KEYS, &[&partition.keys, &partition.cron_keys]),
            false => Self::begun(script, KEYS, &[&partition.keys]),
        };
        call.out.put_slice(&partition.caller);
        match partition.applied {
            applied if applied > 0 && sequence > 0 => {
                put_bulk(format!("{sequence} {applied}").as_bytes(), &mut call.out)
            }
            _ => put_number(sequence, &mut call.out),
        }
        write_settings(settings, version, &mut call.out);
        call.arguments += FIXED;
        call
    }

    fn begun(script: &Script, keys: usize, rendered: &[&Bytes]) -> Self {
        let mut out = BytesMut::with_capacity(1024);
        out.put_bytes(0, HEADER);
        put_bulk(b"EVALSHA", &mut out);
        put_bulk(script.sha.as_bytes(), &mut out);
        put_number(keys as u64, &mut out);
        for keys in rendered {
            out.put_slice(keys);
        }
        Self {
            out,
            arguments: 3 + keys,
        }
    }

    pub fn word(&mut self, word: &[u8]) {
        put_bulk(word, &mut self.out);
        self.arguments += 1;
    }

    pub fn number(&mut self, number: u64) {
        put_number(number, &mut self.out);
        self.arguments += 1;
    }

    /// Empty: not given.
    pub fn number_or_empty(&mut self, number: Option<u64>) {
        match number {
            Some(number) => self.number(number),
            None => self.word(b""),
        }
    }

    pub fn finish(mut self) -> Bytes {
        let mut header = BytesMut::with_capacity(HEADER);
        put_header(b'*', self.arguments, &mut header);
        let start = HEADER - header.len();
        self.out[start..HEADER].copy_from_slice(&header);
        self.out.advance(start);
        self.out.freeze()
    }
}

/// `SCRIPT LOAD source`, for a Redis that answered NOSCRIPT. It answers the script's `sha`.
pub fn load(script: &Script) -> Bytes {
    let mut out = BytesMut::with_capacity(script.source.len() + 64);
    put_header(b'*', 3, &mut out);
    put_bulk(b"SCRIPT", &mut out);
    put_bulk(b"LOAD", &mut out);
    put_bulk(script.source.as_bytes(), &mut out);
    out.freeze()
}

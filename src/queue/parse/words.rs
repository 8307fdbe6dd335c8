//! A command's arguments, read from left to right, each within its bounds.

use bytes::Bytes;
use smallvec::SmallVec;

use super::{Block, MAX_MS, Refusal};
use crate::queue::id::QueueMark;
use crate::queue::operation::{Claim, QueueName, State};
use crate::resp::Request;
use crate::resp::scanner::parse_integer;

/// Bytes of a repeated job's name.
const MAX_CRON_NAME: usize = 128;

/// The arguments, read from left to right.
pub(in crate::queue) struct Words<'a> {
    pub request: Request<'a>,
    next: usize,
}

impl<'a> Words<'a> {
    pub fn new(request: Request<'a>) -> Self {
        Self { request, next: 1 }
    }

    pub fn left(&self) -> usize {
        self.request.len() - self.next
    }

    /// The next one, which stays the next.
    pub fn ahead(&self) -> Option<&'a [u8]> {
        (self.left() > 0).then(|| self.request.arg(self.next))
    }

    pub fn next(&mut self) -> Option<&'a [u8]> {
        let word = self.ahead()?;
        self.next += 1;
        Some(word)
    }

    /// The next positional argument. Arity lets too few through only where options stand in their places.
    pub fn required(&mut self) -> Result<&'a [u8], Refusal> {
        let name = self.request.name().to_ascii_lowercase();
        self.next()
            .ok_or_else(|| format!("ERR wrong number of arguments for '{}' command", shown(&name)))
    }

    pub fn queue(&mut self) -> Result<QueueName, Refusal> {
        let name = self.required()?;
        QueueName::new(name).ok_or_else(|| match name.len() > QueueName::MAX_LEN {
            true => format!(
                "ERR queue name of {} bytes, it must have 1 to {}",
                name.len(),
                QueueName::MAX_LEN
            ),
            false => format!(
                "ERR queue name '{}' must be 1 to {} of A-Z a-z 0-9 . _ : -",
                shown(name),
                QueueName::MAX_LEN
            ),
        })
    }

    /// Of a repeated job.
    pub fn cron_name(&mut self) -> Result<Bytes, Refusal> {
        let name = self.required()?;
        match (1..=MAX_CRON_NAME).contains(&name.len()) {
            true => Ok(Bytes::copy_from_slice(name)),
            false => Err(format!(
                "ERR name of {} bytes, it must have 1 to {MAX_CRON_NAME}",
                name.len()
            )),
        }
    }

    pub fn nothing_more(&mut self) -> Result<(), Refusal> {
        match self.option() {
            None => Ok(()),
            Some(option) => Err(self.unknown(&option)),
        }
    }

    pub fn payload(&mut self, max: usize) -> Result<Bytes, Refusal> {
        let payload = self.required()?;
        match payload.len() > max {
            true => Err(format!(
                "ERR payload of {} bytes is larger than max_payload, {max} bytes",
                payload.len()
            )),
            false => Ok(Bytes::copy_from_slice(payload)),
        }
    }

    /// All words up to one of `options`, as names of jobs: at least one. What names no job of this queue is left out:
    /// it cannot be counted.
    pub fn claims(&mut self, queue: &QueueName, options: &[&str]) -> Result<Vec<Claim>, Refusal> {
        let mut claims = Vec::with_capacity(1);
        let mark = QueueMark::of(queue);
        claims.extend(mark.parse(self.required()?));
        while let Some(word) = self.ahead() {
            if options
                .iter()
                .any(|option| word.eq_ignore_ascii_case(option.as_bytes()))
            {
                break;
            }
            self.next += 1;
            claims.extend(mark.parse(word));
        }
        Ok(claims)
    }

    /// All words that are left, as jobs, each once.
    pub fn jobs(&mut self, queue: &QueueName) -> Result<Vec<Claim>, Refusal> {
        let mut jobs = self.claims(queue, &[])?;
        jobs.sort_unstable_by_key(|claim| (claim.partition, claim.job));
        jobs.dedup_by_key(|claim| (claim.partition, claim.job));
        Ok(jobs)
    }

    /// The next word as an option's name, in upper case.
    pub fn option(&mut self) -> Option<String> {
        self.next().map(|word| shown(&word.to_ascii_uppercase()))
    }

    pub fn value(&mut self, option: &str) -> Result<&'a [u8], Refusal> {
        self.next().ok_or_else(|| format!("ERR {option} needs a value"))
    }

    pub fn number(&mut self, what: &str, min: u64, max: u64) -> Result<u64, Refusal> {
        let word = self.value(what)?;
        parse_integer(word)
            .and_then(|number| u64::try_from(number).ok())
            .filter(|number| (min..=max).contains(number))
            .ok_or_else(|| {
                format!(
                    "ERR {what} is '{}', it must be an integer from {min} to {max}",
                    shown(word)
                )
            })
    }

    pub fn block(&mut self, seen: &mut Seen) -> Result<Block, Refusal> {
        Ok(match seen.ms(self, "BLOCK", 0)? {
            0 => Block::Forever,
            ms => Block::Ms(ms),
        })
    }

    pub fn state(&mut self) -> Result<State, Refusal> {
        let name = self.value("STATE")?;
        State::ALL
            .into_iter()
            .find(|state| name.eq_ignore_ascii_case(state.name().as_bytes()))
            .ok_or_else(|| {
                format!(
                    "ERR STATE is '{}', it must be ready, delayed, leased or dead",
                    shown(name)
                )
            })
    }

    pub fn unknown(&self, option: &str) -> Refusal {
        let command = shown(&self.request.name().to_ascii_lowercase());
        format!("ERR unknown option '{option}' for '{command}'")
    }
}

/// Which options a command has had.
#[derive(Default)]
pub(in crate::queue) struct Seen(SmallVec<[String; 4]>);

impl Seen {
    pub fn once(&mut self, option: &str) -> Result<(), Refusal> {
        if self.0.iter().any(|seen| seen == option) {
            return Err(format!("ERR {option} was given twice"));
        }
        self.0.push(option.to_owned());
        Ok(())
    }

    pub fn ms(&mut self, words: &mut Words, option: &str, min: u64) -> Result<u64, Refusal> {
        self.once(option)?;
        words.number(option, min, MAX_MS)
    }
}

/// A client's bytes in an error line: text, and no more of it than names the fault.
pub(super) fn shown(bytes: &[u8]) -> String {
    const MAX: usize = 128;
    String::from_utf8_lossy(&bytes[..bytes.len().min(MAX)]).into_owned()
}

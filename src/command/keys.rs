//! Where the keys stand among a request's arguments, found by the command's key specs as Redis finds them.
//! Positions only: whose keys they are and where they go is decided by [`crate::plan`] and the topology.
//!
//! Key specs: <https://redis.io/docs/latest/develop/reference/key-specs/>

use smallvec::SmallVec;

use super::table::Entry;
use crate::resp::Request;

/// How to find some of a command's keys: where they begin, then which of the arguments from there are keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySpec {
    pub begin: Begin,
    pub find: Find,
    /// There may be keys that the spec does not find.
    pub incomplete: bool,
    /// What it finds are channels.
    pub not_key: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begin {
    /// At this argument.
    Index(usize),
    /// After this word, looked for from this argument on; from the end backwards if negative.
    Keyword { keyword: Box<str>, from: i32 },
    /// The server cannot say it.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Find {
    /// Up to `last`, counted from the beginning, or from the request's end if negative; every `step`-th.
    /// `limit` 2 and more: only the first half, third … of what is left.
    Range { last: i32, step: usize, limit: usize },
    /// The argument `at` says how many, `first` is where they begin; both counted from the beginning.
    KeyNum { at: usize, first: usize, step: usize },
    /// The server cannot say it.
    Unknown,
}

impl KeySpec {
    /// From what servers before 7.0 say: first key, last key (from the end if negative), and the step between.
    pub(super) fn from_legacy(first: usize, last: i32, step: usize) -> Self {
        let last = if last < 0 { last } else { last - first as i32 };
        Self {
            begin: Begin::Index(first),
            find: Find::Range { last, step, limit: 0 },
            incomplete: false,
            not_key: false,
        }
    }

    fn is_clear(&self) -> bool {
        !self.incomplete && self.begin != Begin::Unknown && self.find != Find::Unknown
    }
}

/// The few commands whose specs cannot describe all of their keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Finder {
    #[default]
    Specs,
    /// What the specs find is not all, and what else there is, nobody can say.
    SpecsInPart,
    /// `SORT key … [STORE key]`. The keys of `BY` and `GET` come from the list's elements.
    Sort,
    /// `MIGRATE host port key|"" db timeout … [KEYS key …]`
    Migrate,
}

impl Finder {
    pub(super) fn for_command(name: &str, specs: &[KeySpec]) -> Self {
        match name {
            _ if specs.iter().all(KeySpec::is_clear) => Self::Specs,
            "sort" => Self::Sort,
            "migrate" => Self::Migrate,
            _ => Self::SpecsInPart,
        }
    }

    /// What it finds is all that the command touches.
    pub fn is_complete(self) -> bool {
        matches!(self, Self::Specs | Self::Migrate)
    }
}

/// The request's arguments contradict its key specs (half a pair, a bad number of keys): Redis will refuse it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unclear;

/// Positions of a request's keys, in the order in which Redis names them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    // One for each key spec that applies; two are rare, three unheard of.
    ranges: SmallVec<[Range; 2]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: usize,
    last: usize,
    step: usize,
}

impl Keys {
    /// The keys of `request`, which is one of `entry`'s; its arity was checked.
    pub fn find(entry: &Entry, request: Request) -> Result<Self, Unclear> {
        let mut keys = Self::default();
        match entry.finder {
            Finder::Specs | Finder::SpecsInPart => {
                for spec in entry.keys.iter().filter(|spec| !spec.not_key) {
                    if let Some(range) = range(spec, request)? {
                        keys.ranges.push(range);
                    }
                }
            }
            Finder::Sort => {
                keys.push(1);
                if let Some(at) = keyword(
                    request,
                    2,
                    |word| match word {
                        b"LIMIT" => 2,
                        b"BY" | b"GET" => 1,
                        _ => 0,
                    },
                    b"STORE",
                ) {
                    keys.push(at + 1);
                }
            }
            Finder::Migrate => keys.ranges.push(migrated(request)?),
        }
        Ok(keys)
    }

    /// `None`: the request has no key, so that any primary can serve it.
    pub fn first(&self) -> Option<usize> {
        self.ranges.first().map(|range| range.first)
    }

    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub fn positions(&self) -> impl Iterator<Item = usize> {
        self.ranges
            .iter()
            .flat_map(|range| (range.first..=range.last).step_by(range.step))
    }

    fn push(&mut self, at: usize) {
        self.ranges.push(Range {
            first: at,
            last: at,
            step: 1,
        });
    }
}

/// `None`: the spec's keyword is not there, and so none of its keys.
fn range(spec: &KeySpec, request: Request) -> Result<Option<Range>, Unclear> {
    let Some(begin) = begin(&spec.begin, request) else {
        return Ok(None);
    };
    let (first, last, step) = match spec.find {
        Find::Range { last, step, .. } if last >= 0 => (begin, (begin + last as usize) as i64, step),
        Find::Range { last, step, limit: 0 } => (begin, request.len() as i64 + i64::from(last), step),
        Find::Range { last, step, limit } => {
            let share = request.len().saturating_sub(begin) / limit;
            (begin, (begin + share) as i64 + i64::from(last), step)
        }
        Find::KeyNum { at, first, step } => {
            let number = number_of_keys(request, begin + at)?;
            // None is not unclear: `EVAL script 0`.
            if number == 0 {
                return Ok(None);
            }
            let first = begin + first;
            (first, (first + (number - 1) * step.max(1)) as i64, step)
        }
        Find::Unknown => return Ok(None),
    };
    let last = usize::try_from(last).map_err(|_| Unclear)?;
    if last < first || last >= request.len() {
        return Err(Unclear);
    }
    Ok(Some(Range {
        first,
        last,
        step: step.max(1),
    }))
}

fn begin(begin: &Begin, request: Request) -> Option<usize> {
    match begin {
        Begin::Index(at) => Some(*at),
        Begin::Keyword { keyword, from } => {
            let is_keyword = |at: &usize| request.arg(*at).eq_ignore_ascii_case(keyword.as_bytes());
            let found = if *from >= 0 {
                (*from as usize..request.len()).find(is_keyword)
            } else {
                let from = request.len().checked_sub(from.unsigned_abs() as usize)?;
                (1..=from).rev().find(is_keyword)
            };
            // As the last word it announces nothing.
            found.map(|at| at + 1).filter(|&at| at < request.len())
        }
        Begin::Unknown => None,
    }
}

fn number_of_keys(request: Request, at: usize) -> Result<usize, Unclear> {
    if at >= request.len() {
        return Err(Unclear);
    }
    let digits = std::str::from_utf8(request.arg(at)).map_err(|_| Unclear)?;
    let number = digits.parse::<usize>().map_err(|_| Unclear)?;
    // More keys than arguments, however they stand.
    if number > request.len() {
        Err(Unclear)
    } else {
        Ok(number)
    }
}

fn migrated(request: Request) -> Result<Range, Unclear> {
    let options = |word: &[u8]| match word {
        b"AUTH" => 1,
        b"AUTH2" => 2,
        _ => 0,
    };
    match keyword(request, 6, options, b"KEYS") {
        None => Ok(Range {
            first: 3,
            last: 3,
            step: 1,
        }),
        Some(at) if request.arg(3).is_empty() => Ok(Range {
            first: at + 1,
            last: request.len() - 1,
            step: 1,
        }),
        Some(_) => Err(Unclear), // one key and several
    }
}

/// Where `wanted` stands as an option, not as another option's value, from argument `at` on and with a value behind it.
/// `values` says how many arguments belong to an option (in upper case).
fn keyword(request: Request, mut at: usize, values: impl Fn(&[u8]) -> usize, wanted: &[u8]) -> Option<usize> {
    while at + 1 < request.len() {
        let mut word = [0; 8];
        // A longer argument is none of the words, and stays so when it is cut: no word fills the buffer.
        let len = request.arg(at).len().min(word.len());
        word[..len].copy_from_slice(&request.arg(at)[..len]);
        word.make_ascii_uppercase();
        if &word[..len] == wanted {
            return Some(at);
        }
        at += 1 + values(&word[..len]);
    }
    None
}

/// The cluster's slot of a key: the CRC16 of its hash tag, or of all of it where it has none.
pub fn slot(key: &[u8]) -> u16 {
    crc16::State::<crc16::XMODEM>::calculate(hash_tag(key)) & 0x3fff
}

fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = memchr::memchr(b'{', key) else {
        return key;
    };
    let inner = &key[open + 1..];
    match memchr::memchr(b'}', inner) {
        Some(len) if len > 0 => &inner[..len],
        _ => key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Lookup, Table};
    use crate::oracle::Oracle;
    use crate::resp::OwnedRequest;

    fn keys(table: &Table, words: &[&str]) -> Result<Vec<String>, Unclear> {
        let request = OwnedRequest::from_words(words);
        let Lookup::Found(entry) = table.find(request.as_request()) else {
            panic!("{words:?} is not found");
        };
        let keys = Keys::find(entry, request.as_request())?;
        Ok(keys.positions().map(|at| words[at].to_string()).collect())
    }

    #[test]
    fn keys_stand_where_the_specs_say() {
        let table = Table::builtin();
        for (line, expected) in [
            ("get k", "k"),
            ("mset a 1 b 2", "a b"),
            ("ping", ""),
            ("eval script 2 a b c", "a b"),
            ("eval script 0 a", ""),
            ("xread count 1 streams a b 0 0", "a b"),
            ("xreadgroup group streams c streams a 0", "a"),
            ("zunionstore d 2 a b weights 1 2", "d a b"),
            ("georadius k 1 1 1 m store d", "k d"),
            ("sort k by store get x store d", "k d"),
            ("sort k by store", "k"),
            ("sort_ro k by x get y", "k"),
            ("migrate h 1 k 0 1 auth keys copy", "k"),
            ("object encoding k", "k"),
            ("memory usage k samples 1", "k"),
            ("spublish channel x", ""),
            ("qpush orders x", ""),
        ] {
            let words: Vec<_> = line.split(' ').collect();
            let expected: Vec<_> = expected.split_whitespace().map(String::from).collect();
            assert_eq!(keys(&table, &words), Ok(expected), "{line}");
        }
        assert_eq!(
            keys(
                &table,
                &["migrate", "h", "1", "", "0", "1", "auth", "keys", "keys", "a"]
            )
            .unwrap(),
            ["a"]
        );
    }

    #[test]
    fn arguments_that_contradict_the_specs_are_unclear() {
        let table = Table::builtin();
        for line in [
            "eval script x a",
            "eval script 3 a b",
            "eval script -1 a",
            "zunion 18446744073709551615 a",
            "migrate h 1 k 0 1 keys a",
        ] {
            let words: Vec<_> = line.split(' ').collect();
            assert!(keys(&table, &words).map_or(true, |keys| keys.is_empty()), "{line}");
        }
    }

    /// Arguments for every command there is, made from its key specs: keys where they say, fillers elsewhere.
    #[test]
    fn the_keys_are_those_that_redis_finds() {
        let mut redis = Oracle::start(&[]);
        redis.ask(&["HELLO", "3"]);
        let table = Table::from_answer(&redis.ask(&["COMMAND"])).unwrap();
        let mut compared = 0;
        for entry in table
            .entries()
            .iter()
            .filter(|entry| entry.has_keys() && !entry.is_queue_command())
        {
            for extra in 0..7 {
                let words = arguments_for(entry, extra);
                let words: Vec<_> = words.iter().map(String::as_str).collect();
                let asked = [&["COMMAND", "GETKEYS"], &words[..]].concat();
                let ours = match keys(&table, &words) {
                    Ok(keys) if !keys.is_empty() => Some(keys),
                    _ => None,
                };
                let theirs = strings(&redis.ask(&asked));
                assert_eq!(ours, theirs, "{words:?}");
                compared += usize::from(theirs.is_some());
            }
        }
        assert!(compared > 500, "only {compared} requests had keys");
    }

    fn arguments_for(entry: &Entry, extra: usize) -> Vec<String> {
        let mut words: Vec<String> = entry.name.split('|').map(String::from).collect();
        let len = entry.arity.unsigned_abs() as usize + if entry.arity < 0 { extra } else { 0 };
        while words.len() < len {
            words.push(format!("w{}", words.len()));
        }
        for spec in &entry.keys {
            let begin = match &spec.begin {
                Begin::Index(at) => *at,
                Begin::Keyword { keyword, from } => {
                    let at = if *from > 0 { *from as usize } else { words.len() - 2 };
                    if at >= words.len() {
                        continue;
                    }
                    words[at] = keyword.to_ascii_lowercase();
                    at + 1
                }
                Begin::Unknown => continue,
            };
            if let Find::KeyNum { at, .. } = spec.find
                && begin + at < words.len()
            {
                words[begin + at] = (extra / 2 + 1).to_string();
            }
        }
        words
    }

    /// The strings of a flat array; `None` for an error, and for an array of none.
    fn strings(reply: &[u8]) -> Option<Vec<String>> {
        let text = std::str::from_utf8(reply).unwrap();
        let lines: Vec<_> = text.split("\r\n").collect();
        let strings: Vec<_> = lines[1..].chunks_exact(2).map(|chunk| chunk[1].to_string()).collect();
        (reply[0] == b'*' && !strings.is_empty()).then_some(strings)
    }

    #[test]
    fn a_slot_is_that_of_the_hash_tag() {
        for (key, expected) in [
            ("123456789", 0x31c3),
            ("foo", 12182),
            ("{user1000}.following", slot(b"user1000")),
            ("foo{}{bar}", slot(b"foo{}{bar}")),
            ("foo{{bar}}zap", slot(b"{bar")),
            ("foo{bar}{zap}", slot(b"bar")),
            ("{open", slot(b"{open")),
        ] {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
        assert_ne!(slot(b"foo{}{bar}"), slot(b"bar"));
    }
}

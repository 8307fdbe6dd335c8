//! Reads the server's answer to `COMMAND`, as it comes on a RESP3 connection.
//! Everything stays where it lies and in its order (the order of key specs is the order of keys), so that an entry
//! can be handed on to clients byte for byte. Read once a connection, off every request's way.

use thiserror::Error;

use super::flags::Flags;
use super::keys::{Begin, Find, KeySpec};
use crate::resp::ReplyWriter;

/// What the server said is no answer to `COMMAND`: an error, half of one, or some other reply.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the server's answer to COMMAND is not a list of commands: {0}")]
pub struct BadAnswer(&'static str);

/// One command as the server describes it. Redis before 7.0 leaves out everything from `tips` on.
pub(super) struct Described<'a> {
    pub name: &'a str,
    pub arity: i32,
    pub flags: Flags,
    pub categories: Vec<&'a str>,
    pub tips: Vec<&'a str>,
    pub keys: Vec<KeySpec>,
    pub subcommands: Vec<Described<'a>>,
    /// Key specs, tips and subcommands were said, be they none.
    pub in_full: bool,
    /// The entry itself, as RESP3.
    pub raw: &'a [u8],
}

pub(super) fn read(answer: &[u8]) -> Result<Vec<Described<'_>>, BadAnswer> {
    let mut rest = answer;
    let commands = element(&mut rest, 0)?;
    if !rest.is_empty() {
        return Err(BadAnswer("there is more behind it"));
    }
    commands.list()?.iter().map(describe).collect()
}

fn describe<'a>(entry: &Element<'a>) -> Result<Described<'a>, BadAnswer> {
    let raw = entry.raw;
    let fields = entry.list()?;
    let [name, arity, flags, first, last, step, categories, more @ ..] = fields else {
        return Err(BadAnswer("a command has fewer than seven fields"));
    };
    let mut described = Described {
        name: name.text()?,
        arity: arity.number()?,
        flags: flags.words()?.into_iter().map(Flags::from_word).collect(),
        categories: categories.words()?,
        tips: Vec::new(),
        keys: Vec::new(),
        subcommands: Vec::new(),
        in_full: false,
        raw,
    };
    if let [tips, keys, subcommands, ..] = more {
        described.tips = tips.words()?;
        described.keys = keys.list()?.iter().map(key_spec).collect::<Result<_, _>>()?;
        described.subcommands = subcommands.list()?.iter().map(describe).collect::<Result<_, _>>()?;
        described.in_full = true;
    } else if first.number::<i64>()? > 0 {
        described.keys = vec![KeySpec::from_legacy(first.number()?, last.number()?, step.number()?)];
    }
    Ok(described)
}

fn key_spec(spec: &Element) -> Result<KeySpec, BadAnswer> {
    let flags = spec.field("flags")?.words()?;
    let begin = spec.field("begin_search")?;
    let find = spec.field("find_keys")?;
    let (begin_spec, find_spec) = (begin.field("spec")?, find.field("spec")?);
    Ok(KeySpec {
        begin: match begin.field("type")?.text()? {
            "index" => Begin::Index(begin_spec.field("index")?.number()?),
            "keyword" => Begin::Keyword {
                keyword: begin_spec.field("keyword")?.text()?.into(),
                from: begin_spec.field("startfrom")?.number()?,
            },
            _ => Begin::Unknown,
        },
        find: match find.field("type")?.text()? {
            "range" => Find::Range {
                last: find_spec.field("lastkey")?.number()?,
                step: find_spec.field("keystep")?.number()?,
                limit: find_spec.field("limit")?.number()?,
            },
            "keynum" => Find::KeyNum {
                at: find_spec.field("keynumidx")?.number()?,
                first: find_spec.field("firstkey")?.number()?,
                step: find_spec.field("keystep")?.number()?,
            },
            _ => Find::Unknown,
        },
        incomplete: flags.contains(&"incomplete"),
        not_key: flags.contains(&"not_key"),
    })
}

/// One RESP element, its elements within, and the bytes that it was read from.
struct Element<'a> {
    raw: &'a [u8],
    value: Value<'a>,
}

enum Value<'a> {
    Text(&'a str),
    Number(i64),
    List(Vec<Element<'a>>),
    Map(Vec<(Element<'a>, Element<'a>)>),
}

impl<'a> Element<'a> {
    fn text(&self) -> Result<&'a str, BadAnswer> {
        match self.value {
            Value::Text(text) => Ok(text),
            _ => Err(BadAnswer("a field that should be a text is not")),
        }
    }

    fn number<N: TryFrom<i64>>(&self) -> Result<N, BadAnswer> {
        match self.value {
            Value::Number(number) => N::try_from(number).map_err(|_| BadAnswer("a number is out of range")),
            _ => Err(BadAnswer("a field that should be a number is not")),
        }
    }

    fn list(&self) -> Result<&[Element<'a>], BadAnswer> {
        match &self.value {
            Value::List(elements) => Ok(elements),
            _ => Err(BadAnswer("a field that should be a list is not")),
        }
    }

    fn words(&self) -> Result<Vec<&'a str>, BadAnswer> {
        self.list()?.iter().map(Element::text).collect()
    }

    fn field(&self, name: &str) -> Result<&Element<'a>, BadAnswer> {
        let Value::Map(pairs) = &self.value else {
            return Err(BadAnswer("a field that should be a map is not"));
        };
        pairs
            .iter()
            .find(|(key, _)| key.text() == Ok(name))
            .map(|(_, value)| value)
            .ok_or(BadAnswer("a key spec lacks a field"))
    }
}

// An answer nests list, command, subcommands, command, key specs, spec, search, its spec: more is somebody's joke.
const DEPTH: u32 = 16;

fn element<'a>(rest: &mut &'a [u8], depth: u32) -> Result<Element<'a>, BadAnswer> {
    if depth == DEPTH {
        return Err(BadAnswer("it is nested too deep"));
    }
    let start = *rest;
    let (kind, line) = header(rest)?;
    let value = match kind {
        b'+' => Value::Text(line),
        b':' => Value::Number(number(line)?),
        b'$' => Value::Text(bulk(rest, number(line)?)?),
        b'*' | b'~' => Value::List(repeat(number(line)?, || element(rest, depth + 1))?),
        b'%' => {
            let pair = || Ok((element(rest, depth + 1)?, element(rest, depth + 1)?));
            Value::Map(repeat(number(line)?, pair)?)
        }
        b'-' => return Err(BadAnswer("it is an error")),
        _ => return Err(BadAnswer("an element is of no kind that belongs there")),
    };
    let raw = &start[..start.len() - rest.len()];
    Ok(Element { raw, value })
}

fn repeat<T>(times: i64, mut read: impl FnMut() -> Result<T, BadAnswer>) -> Result<Vec<T>, BadAnswer> {
    // Not reserved ahead: how many there are is the other side's word.
    let mut elements = Vec::new();
    for _ in 0..times {
        elements.push(read()?);
    }
    Ok(elements)
}

fn header<'a>(rest: &mut &'a [u8]) -> Result<(u8, &'a str), BadAnswer> {
    let end = memchr::memmem::find(rest, b"\r\n").ok_or(BadAnswer("it ends early"))?;
    let (&kind, line) = rest[..end].split_first().ok_or(BadAnswer("an element has no kind"))?;
    *rest = &rest[end + 2..];
    Ok((kind, text(line)?))
}

fn bulk<'a>(rest: &mut &'a [u8], len: i64) -> Result<&'a str, BadAnswer> {
    let len = usize::try_from(len).map_err(|_| BadAnswer("a text has no length"))?;
    let bytes = rest.get(..len).ok_or(BadAnswer("it ends early"))?;
    *rest = rest[len..].strip_prefix(b"\r\n").ok_or(BadAnswer("it ends early"))?;
    text(bytes)
}

fn text(bytes: &[u8]) -> Result<&str, BadAnswer> {
    std::str::from_utf8(bytes).map_err(|_| BadAnswer("a text is not UTF-8"))
}

fn number(line: &str) -> Result<i64, BadAnswer> {
    line.parse().map_err(|_| BadAnswer("a number is none"))
}

/// An entry as a RESP2 client gets it: sets are arrays, maps are arrays of twice as many. An entry holds nothing else
/// that RESP2 lacks.
pub(super) fn write_resp2(raw: &[u8], reply: &mut ReplyWriter) {
    let mut rest = raw;
    while let Some(&kind) = rest.first() {
        let start = rest;
        let Ok((_, line)) = header(&mut rest) else { return };
        let len: usize = line.parse().unwrap_or_default();
        match kind {
            b'~' => reply.array(len),
            b'%' => reply.array(len * 2),
            b'$' => {
                rest = rest.get(len + 2..).unwrap_or_default();
                reply.raw(&start[..start.len() - rest.len()]);
            }
            _ => reply.raw(&start[..start.len() - rest.len()]),
        }
    }
}

//! A reply as it came over the wire, in RESP2 or RESP3: every type kept apart, both nulls too, and maps in their order,
//! because two servers agree only if they send the same bytes. Shown on one line, as the transcripts write it.
//! Independent of the proxy's own reader, and strict: what is not RESP is an error, never a guess.

use std::fmt;

#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    NullBulk,
    NullArray,
    Null,
    Double(String),
    Boolean(bool),
    BigNumber(String),
    Verbatim(Vec<u8>),
    Array(Vec<Reply>),
    Set(Vec<Reply>),
    Map(Vec<(Reply, Reply)>),
    Push(Vec<Reply>),
}

/// What a call came to, short enough to assert on.
impl Reply {
    /// An error whose text begins with `prefix`.
    pub fn is_error(&self, prefix: &str) -> bool {
        matches!(self, Reply::Error(text) if text.starts_with(prefix))
    }

    /// RESP3's null or one of RESP2's two.
    pub fn is_null(&self) -> bool {
        matches!(self, Reply::Null | Reply::NullBulk | Reply::NullArray)
    }

    #[track_caller]
    pub fn integer(&self) -> i64 {
        match self {
            Reply::Integer(number) => *number,
            other => panic!("an integer was expected, not {other}"),
        }
    }

    #[track_caller]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Reply::Bulk(bytes) => bytes,
            Reply::Simple(text) => text.as_bytes(),
            other => panic!("a string was expected, not {other}"),
        }
    }

    #[track_caller]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }

    #[track_caller]
    pub fn items(&self) -> &[Reply] {
        match self {
            Reply::Array(items) | Reply::Set(items) | Reply::Push(items) => items,
            other => panic!("an array was expected, not {other}"),
        }
    }

    /// The value under `name` in a map, or in the flat array that RESP2 has for it.
    #[track_caller]
    pub fn field(&self, name: &str) -> Reply {
        let is_name = |key: &Reply| matches!(key, Reply::Bulk(_) | Reply::Simple(_)) && key.bytes() == name.as_bytes();
        let found = match self {
            Reply::Map(pairs) => pairs.iter().find(|(key, _)| is_name(key)).map(|(_, value)| value),
            Reply::Array(items) => items
                .chunks(2)
                .find(|pair| is_name(&pair[0]))
                .and_then(|pair| pair.get(1)),
            other => panic!("a map was expected, not {other}"),
        };
        found.unwrap_or_else(|| panic!("no field {name} in {self}")).clone()
    }
}

/// Reads one reply: how long it is and what it says; `None` while bytes are missing.
pub fn decode(bytes: &[u8]) -> Result<Option<(usize, Reply)>, String> {
    let mut cursor = Cursor { bytes, at: 0 };
    match cursor.reply() {
        Ok(reply) => Ok(Some((cursor.at, reply))),
        Err(Stop::Short) => Ok(None),
        Err(Stop::Malformed(what)) => Err(format!("{what} at byte {}", cursor.at)),
    }
}

enum Stop {
    Short,
    Malformed(String),
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn reply(&mut self) -> Result<Reply, Stop> {
        let kind = *self.bytes.get(self.at).ok_or(Stop::Short)?;
        let line = self.line()?;
        Ok(match kind {
            b'+' => Reply::Simple(line.into()),
            b'-' => Reply::Error(line.into()),
            b':' => Reply::Integer(number(line)?),
            b',' => Reply::Double(line.into()),
            b'(' => Reply::BigNumber(line.into()),
            b'#' => Reply::Boolean(match line {
                "t" => true,
                "f" => false,
                _ => return Err(malformed("neither #t nor #f", line)),
            }),
            b'_' if line.is_empty() => Reply::Null,
            b'$' if line == "-1" => Reply::NullBulk,
            b'*' if line == "-1" => Reply::NullArray,
            b'$' => Reply::Bulk(self.body(line)?),
            b'=' => Reply::Verbatim(self.body(line)?),
            b'*' => Reply::Array(self.items(line)?),
            b'~' => Reply::Set(self.items(line)?),
            b'>' => Reply::Push(self.items(line)?),
            b'%' => Reply::Map(
                (0..count(line)?)
                    .map(|_| Ok((self.reply()?, self.reply()?)))
                    .collect::<Result<_, _>>()?,
            ),
            _ => return Err(malformed("no RESP type", line)),
        })
    }

    /// The rest of a line, after its first byte.
    fn line(&mut self) -> Result<&'a str, Stop> {
        let rest = &self.bytes[self.at + 1..];
        let length = rest.windows(2).position(|pair| pair == b"\r\n").ok_or(Stop::Short)?;
        self.at += length + 3;
        std::str::from_utf8(&rest[..length]).map_err(|_| malformed("a line that is no text", ""))
    }

    fn body(&mut self, line: &str) -> Result<Vec<u8>, Stop> {
        let length = count(line)?;
        let body = self.bytes.get(self.at..self.at + length + 2).ok_or(Stop::Short)?;
        if &body[length..] != b"\r\n" {
            return Err(malformed("a string that does not end where it says", line));
        }
        self.at += length + 2;
        Ok(body[..length].to_vec())
    }

    fn items(&mut self, line: &str) -> Result<Vec<Reply>, Stop> {
        (0..count(line)?).map(|_| self.reply()).collect()
    }
}

fn number(line: &str) -> Result<i64, Stop> {
    line.parse().map_err(|_| malformed("no number", line))
}

fn count(line: &str) -> Result<usize, Stop> {
    line.parse().map_err(|_| malformed("no length", line))
}

fn malformed(what: &str, line: &str) -> Stop {
    Stop::Malformed(format!("{what}: {line:?}"))
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reply::Simple(text) => write!(f, "+{text}"),
            Reply::Error(text) => write!(f, "-{text}"),
            Reply::Integer(number) => write!(f, ":{number}"),
            Reply::Bulk(bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
            Reply::NullBulk => write!(f, "$-1"),
            Reply::NullArray => write!(f, "*-1"),
            Reply::Null => write!(f, "_"),
            Reply::Double(text) => write!(f, ",{text}"),
            Reply::Boolean(truth) => write!(f, "#{}", if *truth { "t" } else { "f" }),
            Reply::BigNumber(text) => write!(f, "({text}"),
            Reply::Verbatim(bytes) => write!(f, "=\"{}\"", bytes.escape_ascii()),
            Reply::Array(items) => list(f, "[", items, "]"),
            Reply::Set(items) => list(f, "~[", items, "]"),
            Reply::Push(items) => list(f, ">[", items, "]"),
            Reply::Map(pairs) => {
                let pairs: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}: {value}")).collect();
                write!(f, "{{{}}}", pairs.join(", "))
            }
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, open: &str, items: &[Reply], close: &str) -> fmt::Result {
    let items: Vec<String> = items.iter().map(Reply::to_string).collect();
    write!(f, "{open}{}{close}", items.join(", "))
}

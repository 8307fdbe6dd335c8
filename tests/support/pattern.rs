//! What a transcript expects of a reply, and whether a reply is that. One notation for RESP2 and RESP3:
//!
//! | written | matches |
//! | --- | --- |
//! | `+OK`, `-ERR no such*` | a status; an error, where `*` is any text |
//! | `:1`, `"a\r\n"`, `word` | an integer; a string; a string without blanks |
//! | `null` | RESP3's null and both of RESP2's |
//! | `[a, :1]`, `[a, ...]` | an array (or set); one that begins so |
//! | `{a: :1}`, `{a: :1, ...}` | a map, or its flat array in RESP2, in any order; one that has at least these fields |
//! | `,1.5` `#t` `="txt:a"` | a double, a boolean, a verbatim string |
//! | `<id>` | any string; the same again where the name comes again, in requests too |
//! | `*` | anything |
//! | `closed` | no reply: the server closes the connection |

use std::collections::HashMap;

use super::reply::Reply;

/// What `<name>` stands for, once it was seen.
pub type Captures = HashMap<String, Vec<u8>>;

#[derive(Clone, Debug)]
pub enum Pattern {
    Anything,
    Closed,
    Null,
    Capture(String),
    Status(String),
    Error(String),
    Integer(i64),
    Text(Vec<u8>),
    Double(String),
    Boolean(bool),
    Verbatim(Vec<u8>),
    Items(Vec<Pattern>, Open),
    Fields(Vec<(Pattern, Pattern)>, Open),
}

/// Whether more may follow than is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Open {
    Yes,
    No,
}

impl Pattern {
    /// Reads the notation above; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Pattern, String> {
        // A status and an error are the rest of the line: they stand alone.
        if let Some(status) = text.strip_prefix('+') {
            return Ok(Pattern::Status(status.into()));
        }
        if let Some(error) = text.strip_prefix('-') {
            return Ok(Pattern::Error(error.into()));
        }
        let mut parser = Parser { rest: text.trim() };
        let pattern = parser.pattern()?;
        if parser.rest.is_empty() {
            Ok(pattern)
        } else {
            Err(format!("left over: {:?}", parser.rest))
        }
    }

    /// Whether it fixes every byte, so that two servers may be compared byte by byte.
    pub fn is_exact(&self) -> bool {
        match self {
            Pattern::Anything | Pattern::Capture(_) => false,
            Pattern::Error(text) => !text.contains('*'),
            Pattern::Items(items, open) => *open == Open::No && items.iter().all(Pattern::is_exact),
            Pattern::Fields(fields, open) => *open == Open::No && fields.iter().all(|(_, value)| value.is_exact()),
            _ => true,
        }
    }

    pub fn matches(&self, reply: &Reply, captures: &mut Captures) -> bool {
        match (self, reply) {
            (Pattern::Anything, _) => true,
            (Pattern::Null, reply) => reply.is_null(),
            (Pattern::Capture(name), Reply::Bulk(bytes)) => {
                captures.entry(name.clone()).or_insert_with(|| bytes.clone()) == bytes
            }
            (Pattern::Status(expected), Reply::Simple(text)) => expected == text,
            (Pattern::Error(expected), Reply::Error(text)) => glob(expected, text),
            (Pattern::Integer(expected), Reply::Integer(number)) => expected == number,
            (Pattern::Text(expected), Reply::Bulk(bytes)) => expected == bytes,
            (Pattern::Text(expected), Reply::Simple(text)) => expected == text.as_bytes(),
            (Pattern::Double(expected), Reply::Double(text)) => expected == text,
            (Pattern::Boolean(expected), Reply::Boolean(truth)) => expected == truth,
            (Pattern::Verbatim(expected), Reply::Verbatim(bytes)) => expected == bytes,
            (Pattern::Items(expected, open), Reply::Array(items) | Reply::Set(items) | Reply::Push(items)) => {
                let enough = expected.len() == items.len() || (*open == Open::Yes && expected.len() < items.len());
                enough
                    && expected
                        .iter()
                        .zip(items)
                        .all(|(expected, item)| expected.matches(item, captures))
            }
            (Pattern::Fields(expected, open), Reply::Map(pairs)) => {
                let pairs: Vec<_> = pairs.iter().map(|(key, value)| (key, value)).collect();
                fields_match(expected, *open, &pairs, captures)
            }
            (Pattern::Fields(expected, open), Reply::Array(flat)) if flat.len() % 2 == 0 => {
                let pairs: Vec<_> = flat.chunks(2).map(|pair| (&pair[0], &pair[1])).collect();
                fields_match(expected, *open, &pairs, captures)
            }
            _ => false,
        }
    }
}

fn fields_match(
    expected: &[(Pattern, Pattern)],
    open: Open,
    pairs: &[(&Reply, &Reply)],
    captures: &mut Captures,
) -> bool {
    let enough = expected.len() == pairs.len() || (open == Open::Yes && expected.len() < pairs.len());
    enough
        && expected.iter().all(|(key, value)| {
            let found = pairs.iter().find(|(name, _)| key.matches(name, &mut Captures::new()));
            found.is_some_and(|(_, found)| value.matches(found, captures))
        })
}

/// `*` is any text; everything else is itself.
fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, after)) => text.strip_prefix(start).is_some_and(|text| {
            text.char_indices()
                .map(|(at, _)| at)
                .chain([text.len()])
                .any(|at| glob(after, &text[at..]))
        }),
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn pattern(&mut self) -> Result<Pattern, String> {
        let first = self.rest.chars().next().ok_or("nothing is written")?;
        Ok(match first {
            '[' => {
                let (items, open) = self.list(']', |parser| parser.pattern())?;
                Pattern::Items(items, open)
            }
            '{' => {
                let (fields, open) = self.list('}', |parser| {
                    let key = parser.pattern()?;
                    parser.expect(":")?;
                    Ok((key, parser.pattern()?))
                })?;
                Pattern::Fields(fields, open)
            }
            '"' => Pattern::Text(self.quoted()?),
            '=' => {
                self.expect("=")?;
                Pattern::Verbatim(self.quoted()?)
            }
            ':' => {
                self.expect(":")?;
                let word = self.word();
                Pattern::Integer(word.parse().map_err(|_| format!("no integer: {word:?}"))?)
            }
            ',' => {
                self.expect(",")?;
                Pattern::Double(self.word().into())
            }
            _ => match self.word() {
                "*" => Pattern::Anything,
                "null" => Pattern::Null,
                "closed" => Pattern::Closed,
                "#t" => Pattern::Boolean(true),
                "#f" => Pattern::Boolean(false),
                word => match word.strip_prefix('<').and_then(|name| name.strip_suffix('>')) {
                    Some(name) => Pattern::Capture(name.into()),
                    None => Pattern::Text(word.into()),
                },
            },
        })
    }

    /// From the opening bracket to the closing one; `...` as the last entry leaves it open.
    fn list<T>(
        &mut self,
        close: char,
        mut entry: impl FnMut(&mut Self) -> Result<T, String>,
    ) -> Result<(Vec<T>, Open), String> {
        self.rest = self.rest[1..].trim_start();
        let (mut entries, mut open) = (Vec::new(), Open::No);
        while !self.rest.starts_with(close) {
            if self.rest.starts_with("...") {
                self.expect("...")?;
                open = Open::Yes;
                break;
            }
            entries.push(entry(self)?);
            if !self.rest.starts_with(close) {
                self.expect(",")?;
            }
        }
        self.expect(close.encode_utf8(&mut [0; 4]))?;
        Ok((entries, open))
    }

    fn expect(&mut self, text: &str) -> Result<(), String> {
        let after = self
            .rest
            .strip_prefix(text)
            .ok_or_else(|| format!("{text:?} expected at {:?}", self.rest))?;
        self.rest = after.trim_start();
        Ok(())
    }

    fn word(&mut self) -> &'a str {
        let end = self.rest.find([',', ']', '}', ':', ' ']).unwrap_or(self.rest.len());
        let (word, after) = self.rest.split_at(end);
        self.rest = after.trim_start();
        word
    }

    fn quoted(&mut self) -> Result<Vec<u8>, String> {
        let text = self.rest.strip_prefix('"').ok_or("a quoted string expected")?;
        let (bytes, after) = super::words::unquote(text).ok_or_else(|| format!("unbalanced quotes: {text:?}"))?;
        self.rest = after.trim_start();
        Ok(bytes)
    }
}

#[test]
fn one_notation_fits_both_protocols() {
    let fits = |pattern: &str, reply: Reply| Pattern::parse(pattern).unwrap().matches(&reply, &mut Captures::new());
    let bulk = |text: &str| Reply::Bulk(text.into());
    assert!(fits("null", Reply::Null) && fits("null", Reply::NullArray) && !fits("null", bulk("")));
    assert!(fits("{a: :1}", Reply::Array(vec![bulk("a"), Reply::Integer(1)])));
    assert!(fits(
        "{a: :1, ...}",
        Reply::Map(vec![(bulk("b"), Reply::Null), (bulk("a"), Reply::Integer(1))])
    ));
    assert!(!fits(
        "{a: :1}",
        Reply::Map(vec![(bulk("b"), Reply::Null), (bulk("a"), Reply::Integer(1))])
    ));
    assert!(fits(
        "-ERR *'foo'*",
        Reply::Error("ERR unknown command 'foo', with args".into())
    ));
    assert!(fits(
        r#"[<x>, "a b", <x>]"#,
        Reply::Array(vec![bulk("1"), bulk("a b"), bulk("1")])
    ));
    assert!(!fits("[<x>, <x>]", Reply::Array(vec![bulk("1"), bulk("2")])));
}

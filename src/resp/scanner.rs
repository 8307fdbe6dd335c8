//! Finds the requests in what a client sends: where each ends and where its arguments stand.
//!
//! The bytes stay where they are, and a scan that ran out of input goes on where it stopped, so a request costs the same
//! however many reads it took to arrive. This file decides what Redis's `networking.c` decides (`processMultibulkBuffer`,
//! `processInlineBuffer`), with the same words for the same faults; it knows no command.

use thiserror::Error;

use super::inline;
use super::request::{OwnedRequest, Span};

/// Redis waits this long for the end of a line (`PROTO_INLINE_MAX_SIZE`), bytes.
const MAX_LINE: usize = 64 * 1024;

/// What a client may send. `Limits::unauthenticated` is Redis's own for those who have not said who they are.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Arguments of one request.
    pub arguments: usize,
    /// Bytes of one argument.
    pub bulk: usize,
    /// Bytes of one request, its framing included. Below 4 GiB, as spans are 32 bits wide.
    pub request: usize,
    /// Whose limits these are decides the error's words.
    pub authenticated: bool,
}

impl Limits {
    pub fn new(arguments: usize, request: usize) -> Self {
        Self {
            arguments,
            bulk: request,
            request: request.min(u32::MAX as usize),
            authenticated: true,
        }
    }

    /// 10 arguments of 16 KiB at most.
    pub fn unauthenticated() -> Self {
        Self {
            arguments: 10,
            bulk: 16 * 1024,
            request: 16 * 1024,
            authenticated: false,
        }
    }
}

/// A fault after which no byte of the connection can be trusted: the error is sent, then the connection is closed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ProtocolError {
    #[error("ERR Protocol error: invalid multibulk length")]
    MultibulkLength,
    #[error("ERR Protocol error: unauthenticated multibulk length")]
    UnauthenticatedMultibulkLength,
    #[error("ERR Protocol error: invalid bulk length")]
    BulkLength,
    #[error("ERR Protocol error: unauthenticated bulk length")]
    UnauthenticatedBulkLength,
    #[error("ERR Protocol error: expected '$', got '{}'", printable(*.0))]
    NotABulk(u8),
    #[error("ERR Protocol error: too big mbulk count string")]
    LongMultibulkHeader,
    #[error("ERR Protocol error: too big bulk count string")]
    LongBulkHeader,
    #[error("ERR Protocol error: too big inline request")]
    LongInline,
    #[error("ERR Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
}

/// The byte as a character of an error line; Redis sends all but line breaks raw, which is no text when the client
/// spoke TLS to us.
fn printable(byte: u8) -> char {
    match byte {
        b'\r' | b'\n' => ' ',
        b' '..=b'~' => byte as char,
        _ => '?',
    }
}

/// What a scan found at the start of its input.
#[derive(Debug, PartialEq, Eq)]
pub enum Scan {
    /// Not all here yet. `missing`: at least so many bytes more, for sizing a buffer; 0 when that is not known.
    Incomplete { missing: usize },
    /// A request of so many bytes; its arguments are [`Scanner::spans`].
    Request { len: usize },
    /// An inline command, rendered as RESP: its line had so many bytes.
    Inline { len: usize, request: OwnedRequest },
    /// Bytes that ask for nothing (`*0`, an empty line); they get no reply.
    Nothing { len: usize },
}

/// The scan of one request. All offsets count from the request's first byte.
#[derive(Debug, Default)]
pub struct Scanner {
    /// Everything before this is understood.
    position: usize,
    /// From `position` to here there is no line's end.
    searched: usize,
    /// Arguments still to come; 0 while the multibulk header is.
    arguments_left: usize,
    /// The length of the argument whose header has been read.
    bulk: Option<usize>,
    spans: Vec<Span>,
}

impl Scanner {
    /// Looks for one request at the start of `input`. After `Incomplete`, call it with the same bytes and more behind
    /// them; after anything else the next call begins a new request.
    pub fn scan(&mut self, input: &[u8], limits: &Limits) -> Result<Scan, ProtocolError> {
        if self.arguments_left == 0 {
            match input.first() {
                None => return Ok(Scan::Incomplete { missing: 0 }),
                Some(b'*') => {}
                Some(_) => return self.scan_inline(input),
            }
            let Some(count) = self.header(input, ProtocolError::LongMultibulkHeader)? else {
                return Ok(Scan::Incomplete { missing: 0 });
            };
            let Some(count) = count else {
                return Err(ProtocolError::MultibulkLength);
            };
            if count <= 0 {
                return Ok(Scan::Nothing { len: self.finish() });
            }
            if count as u64 > limits.arguments as u64 {
                return Err(match limits.authenticated {
                    true => ProtocolError::MultibulkLength,
                    false => ProtocolError::UnauthenticatedMultibulkLength,
                });
            }
            self.arguments_left = count as usize;
            self.spans.clear();
        }
        self.scan_arguments(input, limits)
    }

    /// The arguments of the request that the last scan found.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    fn scan_arguments(&mut self, input: &[u8], limits: &Limits) -> Result<Scan, ProtocolError> {
        while self.arguments_left > 0 {
            let len = match self.bulk {
                Some(len) => len,
                None => {
                    match input.get(self.position) {
                        None => return Ok(Scan::Incomplete { missing: 0 }),
                        Some(b'$') => {}
                        // Redis looks at the byte only once its line is here; a line that never ends is the other error.
                        Some(&byte) => {
                            return match self.line_end(input, ProtocolError::LongBulkHeader)? {
                                None => Ok(Scan::Incomplete { missing: 0 }),
                                Some(_) => Err(ProtocolError::NotABulk(byte)),
                            };
                        }
                    }
                    let Some(len) = self.header(input, ProtocolError::LongBulkHeader)? else {
                        return Ok(Scan::Incomplete { missing: 0 });
                    };
                    self.checked_bulk_len(len, limits)?
                }
            };
            let end = self.position + len;
            if input.len() < end + 2 {
                self.bulk = Some(len);
                return Ok(Scan::Incomplete {
                    missing: end + 2 - input.len(),
                });
            }
            self.bulk = None;
            self.spans.push(Span {
                start: self.position as u32,
                end: end as u32,
            });
            self.position = end + 2; // Redis does not look at these two bytes either
            self.arguments_left -= 1;
        }
        Ok(Scan::Request { len: self.finish() })
    }

    fn checked_bulk_len(&self, len: Option<i64>, limits: &Limits) -> Result<usize, ProtocolError> {
        let len = len
            .and_then(|len| usize::try_from(len).ok())
            .ok_or(ProtocolError::BulkLength)?;
        if len > limits.bulk || self.position + len + 2 > limits.request {
            return Err(match limits.authenticated {
                true => ProtocolError::BulkLength,
                false => ProtocolError::UnauthenticatedBulkLength,
            });
        }
        Ok(len)
    }

    fn scan_inline(&mut self, input: &[u8]) -> Result<Scan, ProtocolError> {
        let Some(newline) = memchr::memchr(b'\n', &input[self.searched..]) else {
            self.searched = input.len();
            return match input.len() > MAX_LINE {
                true => Err(ProtocolError::LongInline),
                false => Ok(Scan::Incomplete { missing: 0 }),
            };
        };
        let newline = self.searched + newline;
        if newline > MAX_LINE {
            return Err(ProtocolError::LongInline);
        }
        self.position = newline + 1;
        let len = self.finish();
        let line = &input[..newline];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let words = inline::split(line).ok_or(ProtocolError::UnbalancedQuotes)?;
        Ok(match words.is_empty() {
            true => Scan::Nothing { len },
            false => Scan::Inline {
                len,
                request: OwnedRequest::from_words(&words),
            },
        })
    }

    /// Reads the line at `position`: one byte of kind, then a number. `None`: the line is not all here.
    /// `Some(None)`: what stands there is no number.
    fn header(&mut self, input: &[u8], too_long: ProtocolError) -> Result<Option<Option<i64>>, ProtocolError> {
        let Some(end) = self.line_end(input, too_long)? else {
            return Ok(None);
        };
        let number = parse_integer(&input[self.position + 1..end]);
        self.position = end + 2;
        self.searched = self.position;
        Ok(Some(number))
    }

    /// Where the line at `position` has its `\r`, if the byte behind that is here too.
    fn line_end(&mut self, input: &[u8], too_long: ProtocolError) -> Result<Option<usize>, ProtocolError> {
        let from = self.searched.max(self.position);
        // Headers are a few bytes long: this beats a call of memchr.
        let found = input[from..].iter().position(|&byte| byte == b'\r');
        let end = found.map_or(input.len(), |offset| from + offset);
        self.searched = end;
        match end - self.position > MAX_LINE {
            true => Err(too_long),
            false => Ok((end + 1 < input.len()).then_some(end)),
        }
    }

    fn finish(&mut self) -> usize {
        let len = self.position;
        self.position = 0;
        self.searched = 0;
        len
    }
}

/// A decimal integer as Redis takes it (`string2ll`): no sign but `-`, no leading zero, nothing around it.
pub fn parse_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'0'] => return Some(0),
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if !matches!(digits.first(), Some(b'1'..=b'9')) || digits.len() > 19 {
        return None;
    }
    let mut magnitude: u64 = 0;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        magnitude = magnitude * 10 + u64::from(digit - b'0'); // 19 digits fit
    }
    match negative {
        true => 0i64.checked_sub_unsigned(magnitude),
        false => i64::try_from(magnitude).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        arguments: 1024,
        bulk: 1 << 20,
        request: 1 << 21,
        authenticated: true,
    };

    /// All requests in `input`, which arrives in pieces that end at `cuts`.
    fn requests(input: &[u8], cuts: &[usize]) -> Result<Vec<Vec<Vec<u8>>>, ProtocolError> {
        let mut scanner = Scanner::default();
        let mut found = Vec::new();
        let mut start = 0;
        for &end in cuts.iter().chain([&input.len()]) {
            loop {
                let words = match scanner.scan(&input[start..end], &LIMITS)? {
                    Scan::Incomplete { .. } => break,
                    Scan::Nothing { len } => {
                        start += len;
                        continue;
                    }
                    Scan::Request { len } => {
                        let frame = &input[start..start + len];
                        start += len;
                        scanner
                            .spans()
                            .iter()
                            .map(|s| frame[s.start as usize..s.end as usize].to_vec())
                            .collect()
                    }
                    Scan::Inline { len, request } => {
                        start += len;
                        request.as_request().args().map(<[u8]>::to_vec).collect()
                    }
                };
                found.push(words);
            }
        }
        Ok(found)
    }

    fn words(words: &[&str]) -> Vec<Vec<u8>> {
        words.iter().map(|word| word.as_bytes().to_vec()).collect()
    }

    #[test]
    fn a_request_is_the_same_wherever_it_is_cut() {
        let input = b"*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\nPING \"a b\"\r\n*0\r\n*1\r\n$0\r\n\r\n";
        let whole = requests(input, &[]).unwrap();
        assert_eq!(
            whole,
            [words(&["GET", "a\r\nb"]), words(&["PING", "a b"]), words(&[""])]
        );
        for cut in 0..input.len() {
            assert_eq!(requests(input, &[cut]).unwrap(), whole, "cut at {cut}");
        }
        let every_byte: Vec<usize> = (0..input.len()).collect();
        assert_eq!(requests(input, &every_byte).unwrap(), whole);
    }

    #[test]
    fn faults_are_named_in_the_words_of_redis() {
        let long = |head: &str| format!("{head}{}", "1".repeat(MAX_LINE + 1));
        for (input, error) in [
            ("*x\r\n", "ERR Protocol error: invalid multibulk length"),
            ("*1025\r\n", "ERR Protocol error: invalid multibulk length"),
            (
                "*99999999999999999999\r\n",
                "ERR Protocol error: invalid multibulk length",
            ),
            ("*1\r\n:1\r\n", "ERR Protocol error: expected '$', got ':'"),
            ("*1\r\n*1\r\n", "ERR Protocol error: expected '$', got '*'"),
            ("*1\r\n$-1\r\n", "ERR Protocol error: invalid bulk length"),
            ("*1\r\n$1048577\r\n", "ERR Protocol error: invalid bulk length"),
            ("*1\r\n$007\r\n", "ERR Protocol error: invalid bulk length"),
            ("PING \"a\r\n", "ERR Protocol error: unbalanced quotes in request"),
            ("PING 'a'b\r\n", "ERR Protocol error: unbalanced quotes in request"),
            (&long("*"), "ERR Protocol error: too big mbulk count string"),
            (&long("*1\r\n$"), "ERR Protocol error: too big bulk count string"),
            (&long("x"), "ERR Protocol error: too big inline request"),
        ] {
            let found = requests(input.as_bytes(), &[]).unwrap_err();
            assert_eq!(found.to_string(), error, "for {:.40}", input);
        }
    }

    #[test]
    fn a_line_is_too_long_whether_or_not_its_end_is_here() {
        for head in ["*", "*1\r\n$", "x"] {
            let input = format!("{head}{}\r\n", "1".repeat(MAX_LINE + 1)).into_bytes();
            assert_eq!(requests(&input, &[]), requests(&input, &[input.len() - 2]), "{head:?}");
        }
    }

    #[test]
    fn strangers_have_limits_of_their_own() {
        let strict = Limits::unauthenticated();
        let fault = |input: &[u8]| Scanner::default().scan(input, &strict).unwrap_err().to_string();
        assert_eq!(
            fault(b"*11\r\n"),
            "ERR Protocol error: unauthenticated multibulk length"
        );
        assert_eq!(
            fault(b"*1\r\n$16385\r\n"),
            "ERR Protocol error: unauthenticated bulk length"
        );
    }

    #[test]
    fn integers_are_read_as_redis_reads_them() {
        for (text, number) in [
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("-0", None),
            ("01", None),
            ("+1", None),
            ("", None),
            ("-", None),
            ("1 ", None),
        ] {
            assert_eq!(parse_integer(text.as_bytes()), number, "{text:?}");
        }
    }
}

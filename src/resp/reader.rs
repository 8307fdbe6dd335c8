//! Takes a reply of Redis's apart: one whole frame, element by element, RESP2 or RESP3.
//! Strings are slices of the frame, never copies. What the elements mean is the caller's to know: a script's reply has a
//! shape that is written above the script.

use bytes::Bytes;
use thiserror::Error;

use super::scanner::parse_integer;

/// A reply that is not what its request promises. Only a Redis that is none, or a fault of ours, sends one.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("a reply of Redis is not as expected: {0}")]
pub struct BadReply(pub &'static str);

/// One element. After an aggregate of n come its elements: n of an array or a set, 2n of a map.
#[derive(Clone, Debug, PartialEq)]
pub enum Element {
    Simple(Bytes),
    Error(Bytes),
    Integer(i64),
    /// A bulk or verbatim string.
    Bulk(Bytes),
    Null,
    Boolean(bool),
    Double(f64),
    Array(usize),
    Map(usize),
}

/// Where in the frame we are.
#[derive(Debug)]
pub struct Reader {
    frame: Bytes,
    position: usize,
}

impl Reader {
    pub fn new(frame: Bytes) -> Self {
        Self { frame, position: 0 }
    }

    pub fn element(&mut self) -> Result<Element, BadReply> {
        let (kind, line) = self.line()?;
        let number = || parse_integer(&line).ok_or(BadReply("not a number"));
        Ok(match kind {
            b'+' => Element::Simple(line),
            b'-' => Element::Error(line),
            b':' => Element::Integer(number()?),
            b'$' => match number()? {
                ..0 => Element::Null,
                len => Element::Bulk(self.string(len as usize)?),
            },
            b'=' => {
                let text = self.string(number()? as usize)?;
                Element::Bulk(text.slice(4.min(text.len())..)) // behind "txt:"
            }
            b'!' => Element::Error(self.string(number()? as usize)?),
            b'_' => Element::Null,
            b'#' => Element::Boolean(line.as_ref() == b"t"),
            b',' => {
                let text = std::str::from_utf8(&line).ok();
                Element::Double(
                    text.and_then(|text| text.parse().ok())
                        .ok_or(BadReply("not a double"))?,
                )
            }
            b'*' | b'~' | b'>' => match number()? {
                ..0 => Element::Null,
                len => Element::Array(len as usize),
            },
            b'%' => Element::Map(number()?.max(0) as usize),
            _ => return Err(BadReply("an element of unknown kind")),
        })
    }

    pub fn integer(&mut self) -> Result<i64, BadReply> {
        match self.element()? {
            Element::Integer(value) => Ok(value),
            _ => Err(BadReply("an integer was due")),
        }
    }

    /// Null: `None`.
    pub fn integer_or_null(&mut self) -> Result<Option<i64>, BadReply> {
        match self.element()? {
            Element::Integer(value) => Ok(Some(value)),
            Element::Null => Ok(None),
            _ => Err(BadReply("an integer or null was due")),
        }
    }

    pub fn bulk(&mut self) -> Result<Bytes, BadReply> {
        self.bulk_or_null()?.ok_or(BadReply("a string was due"))
    }

    /// Null: `None`.
    pub fn bulk_or_null(&mut self) -> Result<Option<Bytes>, BadReply> {
        match self.element()? {
            Element::Bulk(bytes) | Element::Simple(bytes) => Ok(Some(bytes)),
            Element::Null => Ok(None),
            _ => Err(BadReply("a string or null was due")),
        }
    }

    /// How many elements follow. Null: 0.
    pub fn array(&mut self) -> Result<usize, BadReply> {
        match self.element()? {
            Element::Array(len) => Ok(len),
            Element::Null => Ok(0),
            _ => Err(BadReply("an array was due")),
        }
    }

    fn line(&mut self) -> Result<(u8, Bytes), BadReply> {
        let rest = &self.frame[self.position..];
        let end = memchr::memchr(b'\r', rest).ok_or(BadReply("cut short"))?;
        if end == 0 || rest.len() < end + 2 {
            return Err(BadReply("cut short"));
        }
        let kind = rest[0];
        let line = self.frame.slice(self.position + 1..self.position + end);
        self.position += end + 2;
        Ok((kind, line))
    }

    fn string(&mut self, len: usize) -> Result<Bytes, BadReply> {
        let end = self.position.checked_add(len).ok_or(BadReply("cut short"))?;
        if self.frame.len() < end.saturating_add(2) {
            return Err(BadReply("cut short"));
        }
        let string = self.frame.slice(self.position..end);
        self.position = end + 2;
        Ok(string)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements(frame: &'static str) -> Vec<Element> {
        let mut reader = Reader::new(Bytes::from_static(frame.as_bytes()));
        std::iter::from_fn(|| reader.element().ok()).collect()
    }

    #[test]
    fn both_protocols_are_read() {
        assert_eq!(
            elements("*2\r\n$-1\r\n$3\r\na\r\n\r\n:-7\r\n+OK\r\n-ERR no\r\n"),
            [
                Element::Array(2),
                Element::Null,
                Element::Bulk(Bytes::from_static(b"a\r\n")),
                Element::Integer(-7),
                Element::Simple(Bytes::from_static(b"OK")),
                Element::Error(Bytes::from_static(b"ERR no")),
            ]
        );
        assert_eq!(
            elements("%1\r\n_\r\n#t\r\n,1.5\r\n=6\r\ntxt:hi\r\n"),
            [
                Element::Map(1),
                Element::Null,
                Element::Boolean(true),
                Element::Double(1.5),
                Element::Bulk(Bytes::from_static(b"hi")),
            ]
        );
    }

    #[test]
    fn a_reply_cut_anywhere_is_an_error_and_no_panic() {
        let frame = b"$10\r\n0123456789\r\n";
        for end in 0..frame.len() {
            assert!(Reader::new(Bytes::from_static(&frame[..end])).element().is_err());
        }
    }
}

//! Renders the replies that the proxy makes itself, in the protocol of the client that asked.
//! One call here is one RESP element; a caller that opens an array or a map of n writes its n elements next.

use bytes::{BufMut, BytesMut};

use super::Protocol;

/// Writes replies at the end of a buffer. Each method says what a RESP2 client gets where the two protocols differ.
pub struct ReplyWriter<'a> {
    out: &'a mut BytesMut,
    protocol: Protocol,
}

impl<'a> ReplyWriter<'a> {
    pub fn new(out: &'a mut BytesMut, protocol: Protocol) -> Self {
        Self { out, protocol }
    }

    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// `+OK`
    pub fn ok(&mut self) {
        self.out.put_slice(b"+OK\r\n");
    }

    /// `+text`. The text must hold no line break.
    pub fn simple(&mut self, text: &str) {
        self.line(b'+', text.as_bytes());
    }

    /// `-text`, which begins with the error's code. Line breaks become spaces, as in Redis, so that no value that
    /// a client sent can end the line early; the value itself may be any bytes.
    pub fn error(&mut self, text: impl AsRef<[u8]>) {
        self.out.put_u8(b'-');
        self.out.extend(
            text.as_ref()
                .iter()
                .map(|&byte| if byte == b'\r' || byte == b'\n' { b' ' } else { byte }),
        );
        self.out.put_slice(b"\r\n");
    }

    pub fn integer(&mut self, value: i64) {
        self.header(b':', value);
    }

    pub fn bulk(&mut self, bytes: &[u8]) {
        self.header(b'$', bytes.len() as i64);
        self.out.put_slice(bytes);
        self.out.put_slice(b"\r\n");
    }

    /// A text for people (`INFO`, `CLIENT LIST`): a verbatim string in RESP3, a bulk string in RESP2.
    pub fn verbatim(&mut self, text: &str) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(text.as_bytes()),
            Protocol::Resp3 => {
                self.header(b'=', text.len() as i64 + 4);
                self.out.put_slice(b"txt:");
                self.out.put_slice(text.as_bytes());
                self.out.put_slice(b"\r\n");
            }
        }
    }

    /// RESP2: the null bulk string, `$-1`.
    pub fn null(&mut self) {
        match self.protocol {
            Protocol::Resp2 => self.out.put_slice(b"$-1\r\n"),
            Protocol::Resp3 => self.out.put_slice(b"_\r\n"),
        }
    }

    /// Nothing, where an array would have come. RESP2: the null array, `*-1`.
    pub fn null_array(&mut self) {
        match self.protocol {
            Protocol::Resp2 => self.out.put_slice(b"*-1\r\n"),
            Protocol::Resp3 => self.out.put_slice(b"_\r\n"),
        }
    }

    /// RESP2: the integer 1 or 0.
    pub fn boolean(&mut self, value: bool) {
        match self.protocol {
            Protocol::Resp2 => self.integer(i64::from(value)),
            Protocol::Resp3 => self.out.put_slice(if value { b"#t\r\n" } else { b"#f\r\n" }),
        }
    }

    /// Opens an array; its `len` elements follow.
    pub fn array(&mut self, len: usize) {
        self.header(b'*', len as i64);
    }

    /// Opens a map; its `pairs` keys and values follow in turn. RESP2: the flat array of twice as many.
    pub fn map(&mut self, pairs: usize) {
        match self.protocol {
            Protocol::Resp2 => self.header(b'*', pairs as i64 * 2),
            Protocol::Resp3 => self.header(b'%', pairs as i64),
        }
    }

    /// Opens a set; its `len` elements follow. RESP2: an array.
    pub fn set(&mut self, len: usize) {
        match self.protocol {
            Protocol::Resp2 => self.array(len),
            Protocol::Resp3 => self.header(b'~', len as i64),
        }
    }

    /// Elements that are RESP already, as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.put_slice(bytes);
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        self.out.put_u8(kind);
        self.out.put_slice(text);
        self.out.put_slice(b"\r\n");
    }

    fn header(&mut self, kind: u8, value: i64) {
        self.line(kind, itoa::Buffer::new().format(value).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(protocol: Protocol, write: impl Fn(&mut ReplyWriter)) -> String {
        let mut out = BytesMut::new();
        write(&mut ReplyWriter::new(&mut out, protocol));
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn what_resp2_lacks_comes_as_redis_sends_it() {
        let reply = |w: &mut ReplyWriter| {
            w.map(1);
            w.bulk(b"k");
            w.null();
            w.null_array();
            w.set(0);
            w.boolean(true);
            w.verbatim("hi");
        };
        assert_eq!(
            written(Protocol::Resp2, reply),
            "*2\r\n$1\r\nk\r\n$-1\r\n*-1\r\n*0\r\n:1\r\n$2\r\nhi\r\n"
        );
        assert_eq!(
            written(Protocol::Resp3, reply),
            "%1\r\n$1\r\nk\r\n_\r\n_\r\n~0\r\n#t\r\n=6\r\ntxt:hi\r\n"
        );
    }

    #[test]
    fn a_line_break_in_an_error_cannot_end_it() {
        let reply = |w: &mut ReplyWriter| w.error("ERR bad name 'a\r\n+OK'");
        assert_eq!(written(Protocol::Resp2, reply), "-ERR bad name 'a  +OK'\r\n");
    }
}

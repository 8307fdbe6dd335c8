//! Finds the end of each reply in what Redis sends, without looking into it.
//! A reply is kept together with its attributes; a push frame is told apart, as it answers nothing.
//! Resumes where it stopped, like the scanner of requests; what a reply says is [`super::reader`]'s.

use thiserror::Error;

use super::scanner::parse_integer;

#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("not RESP: a reply begins with byte {0:#04x}")]
pub struct NotResp(pub u8);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Answers the oldest request that waits; so many bytes.
    Reply(usize),
    /// Out of band (a message of a subscription); so many bytes.
    Push(usize),
}

/// The scan of one frame. All offsets count from the frame's first byte.
#[derive(Debug, Default)]
pub struct FrameScanner {
    position: usize,
    /// Elements still to come. An element that holds n others adds n: depth needs no stack.
    left: u64,
}

impl FrameScanner {
    /// Looks for one frame at the start of `input`; `None`: not all here, call again with more behind the same bytes.
    pub fn scan(&mut self, input: &[u8]) -> Result<Option<Frame>, NotResp> {
        let Some(&first) = input.first() else { return Ok(None) };
        if self.position == 0 {
            self.left = 1;
        }
        while self.left > 0 {
            let Some(end) = line_end(input, self.position) else {
                return Ok(None);
            };
            let kind = input[self.position];
            let number = || parse_integer(&input[self.position + 1..end]).ok_or(NotResp(kind));
            let mut next = end + 2;
            let holds = match kind {
                b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => 0,
                b'$' | b'=' | b'!' => {
                    if let Ok(len) = usize::try_from(number()?) {
                        next = next.saturating_add(len).saturating_add(2);
                        if input.len() < next {
                            return Ok(None);
                        }
                    }
                    0
                }
                b'*' | b'~' | b'>' => number()?.max(0) as u64,
                b'%' => (number()?.max(0) as u64).saturating_mul(2),
                b'|' => (number()?.max(0) as u64).saturating_mul(2).saturating_add(1), // and the reply that it belongs to
                other => return Err(NotResp(other)),
            };
            self.position = next;
            self.left = (self.left - 1).saturating_add(holds);
        }
        let len = std::mem::take(&mut self.position);
        Ok(Some(match first {
            b'>' => Frame::Push(len),
            _ => Frame::Reply(len),
        }))
    }
}

fn line_end(input: &[u8], from: usize) -> Option<usize> {
    let end = from + memchr::memchr(b'\r', input.get(from..)?)?;
    (end + 1 < input.len()).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_reply_ends_where_it_ends_however_it_is_cut() {
        for reply in [
            "+OK\r\n",
            "-ERR x\r\n",
            ":1\r\n",
            "$-1\r\n",
            "$0\r\n\r\n",
            "$3\r\na\rb\r\n",
            "*-1\r\n",
            "*0\r\n",
            "*2\r\n*1\r\n:1\r\n$1\r\nx\r\n",
            "%1\r\n+k\r\n*1\r\n_\r\n",
            "~1\r\n#t\r\n",
            "|1\r\n+ttl\r\n:9\r\n%1\r\n+k\r\n,1.5\r\n",
            "=6\r\ntxt:hi\r\n",
            "(12345678901234567890\r\n",
        ] {
            let input = format!("{reply}+NEXT\r\n");
            let mut scanner = FrameScanner::default();
            for cut in 0..reply.len() {
                assert_eq!(
                    scanner.scan(&input.as_bytes()[..cut]),
                    Ok(None),
                    "{reply:?} cut at {cut}"
                );
            }
            let len = reply.len();
            assert_eq!(scanner.scan(input.as_bytes()), Ok(Some(Frame::Reply(len))), "{reply:?}");
        }
    }

    #[test]
    fn a_push_frame_answers_nothing() {
        let mut scanner = FrameScanner::default();
        let message = b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n";
        assert_eq!(scanner.scan(message), Ok(Some(Frame::Push(message.len()))));
    }

    #[test]
    fn what_is_no_resp_is_refused() {
        assert_eq!(FrameScanner::default().scan(b"HTTP/1.1 200\r\n"), Err(NotResp(b'H')));
        assert_eq!(FrameScanner::default().scan(b"*x\r\n"), Err(NotResp(b'*')));
    }
}

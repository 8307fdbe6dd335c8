//! One client connection of the load generator: write a request, wait for the whole reply.
//! It finds where a reply ends and no more: what is measured is the server, and the generator shares its machine.

use std::io;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub struct Wire {
    stream: TcpStream,
    unread: BytesMut,
}

impl Wire {
    pub async fn connect(address: &str) -> io::Result<Wire> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Wire {
            stream,
            unread: BytesMut::with_capacity(1024),
        })
    }

    /// One request in flight: sends it, and returns the bytes of the one RESP reply it gets.
    pub async fn call(&mut self, request: &[u8]) -> io::Result<BytesMut> {
        self.call_for(request, |bytes| resp_length(bytes, 0)).await
    }

    /// The same in beanstalkd's protocol: a line, and a body if the line announces one.
    pub async fn call_beanstalkd(&mut self, request: &[u8]) -> io::Result<BytesMut> {
        self.call_for(request, beanstalkd_length).await
    }

    async fn call_for(&mut self, request: &[u8], length: fn(&[u8]) -> Option<usize>) -> io::Result<BytesMut> {
        self.stream.write_all(request).await?;
        loop {
            if let Some(length) = length(&self.unread) {
                return Ok(self.unread.split_to(length));
            }
            self.unread.reserve(1024);
            if self.stream.read_buf(&mut self.unread).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// Where the RESP2 reply that starts at `at` ends; `None` while it is not whole.
fn resp_length(bytes: &[u8], at: usize) -> Option<usize> {
    let (kind, number, after) = resp_line(bytes, at)?;
    match (kind, usize::try_from(number)) {
        (b'$', Ok(length)) => Some(after + length + 2).filter(|end| *end <= bytes.len()),
        (b'*', Ok(count)) => (0..count).try_fold(after, |at, _| resp_length(bytes, at)),
        _ => Some(after),
    }
}

/// The type of a line, the number in it (0 if there is none) and where the next line starts.
fn resp_line(bytes: &[u8], at: usize) -> Option<(u8, i64, usize)> {
    let line = bytes.get(at..)?;
    let end = memchr::memchr(b'\r', line).filter(|end| line.len() > end + 1)?;
    let number = std::str::from_utf8(&line[1..end])
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    Some((line[0], number, at + end + 2))
}

fn beanstalkd_length(bytes: &[u8]) -> Option<usize> {
    let end = memchr::memchr(b'\r', bytes).filter(|end| bytes.len() > end + 1)?;
    let line = &bytes[..end];
    let body = if line.starts_with(b"RESERVED ") {
        number_after_last_space(line) + 2
    } else {
        0
    };
    Some(end + 2 + body).filter(|end| *end <= bytes.len())
}

fn number_after_last_space(line: &[u8]) -> usize {
    let start = memchr::memrchr(b' ', line).map_or(0, |space| space + 1);
    std::str::from_utf8(&line[start..])
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// The `n`-th bulk string of a reply, however deep it stands: in a job it is queue, receipt, payload;
/// in a stream's entry stream, id, field, value.
pub fn nth_bulk(reply: &BytesMut, n: usize) -> Option<BytesMut> {
    let (mut at, mut seen) = (0, 0);
    while let Some((kind, number, after)) = resp_line(reply, at) {
        at = after;
        if let (b'$', Ok(length)) = (kind, usize::try_from(number)) {
            if seen == n {
                let mut bulk = reply.clone();
                bulk.truncate(after + length);
                bulk.advance(after);
                return Some(bulk);
            }
            seen += 1;
            at += length + 2;
        }
    }
    None
}

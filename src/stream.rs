//! A socket to a client or to Redis, TCP (bare or with TLS) or Unix, read and written without waiting.
//!
//! Both sides of the proxy try first and ask to be woken only when the socket was not ready, so that a turn that reads a
//! thousand requests costs a thousand reads and not one future. No buffers (but what TLS itself needs), no protocol.

mod tls;

use std::io;
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

pub use tls::TlsStream;

#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream>),
    Unix(UnixStream),
}

/// What is there to be read, at most `buffer` full. A read that filled less than that has emptied the socket, so it is
/// taken for not ready until the kernel says otherwise: that saves the read that would only find this out, which is
/// one of three system calls of a small request. (Readiness is edge-triggered: what comes after the read is told anew.)
fn read_tcp(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let read = stream.try_read(buffer)?;
    if 0 < read && read < buffer.len() {
        let _ = stream.try_io(Interest::READABLE, emptied);
    }
    Ok(read)
}

/// As [`read_tcp`].
fn read_unix(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<usize> {
    let read = stream.try_read(buffer)?;
    if 0 < read && read < buffer.len() {
        let _ = stream.try_io(Interest::READABLE, emptied);
    }
    Ok(read)
}

fn emptied() -> io::Result<()> {
    Err(io::ErrorKind::WouldBlock.into())
}

impl Stream {
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => read_tcp(stream, buffer),
            Self::Tls(stream) => stream.try_read(buffer),
            Self::Unix(stream) => read_unix(stream, buffer),
        }
    }

    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Tls(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
        }
    }

    /// Bytes that count as written have not reached the socket: to be waited for until it is writable.
    pub fn is_behind(&self) -> bool {
        match self {
            Self::Tls(stream) => stream.is_behind(),
            Self::Tcp(_) | Self::Unix(_) => false,
        }
    }

    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Tls(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
        }
    }

    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_write_ready(cx),
            Self::Tls(stream) => stream.poll_write_ready(cx),
            Self::Unix(stream) => stream.poll_write_ready(cx),
        }
    }

    /// The TCP socket under it.
    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Tls(stream) => Some(stream.socket()),
            Self::Unix(_) => None,
        }
    }

    /// The peer's address as `CLIENT LIST` shows it: `host:port`, or the socket's path and `:0`.
    pub fn peer(&self) -> String {
        match self.tcp() {
            Some(stream) => stream
                .peer_addr()
                .map_or_else(|_| "?:0".into(), |addr| addr.to_string()),
            None => self.local(),
        }
    }

    /// Our own side's address, in the same form.
    pub fn local(&self) -> String {
        match self {
            Self::Unix(stream) => {
                let path = stream
                    .local_addr()
                    .ok()
                    .and_then(|addr| Some(addr.as_pathname()?.display().to_string()));
                format!("{}:0", path.unwrap_or_default())
            }
            Self::Tcp(_) | Self::Tls(_) => {
                let address = self.tcp().and_then(|stream| stream.local_addr().ok());
                address.map_or_else(|| "?:0".into(), |addr| addr.to_string())
            }
        }
    }

    /// Whether the other end is on this machine, which protected mode lets in.
    pub fn is_local(&self) -> bool {
        self.tcp().is_none_or(|stream| {
            stream
                .peer_addr()
                .is_ok_and(|addr| addr.ip().to_canonical().is_loopback())
        })
    }
}

//! A socket to a client or to Redis, TCP or Unix, read and written without waiting.
//!
//! Both sides of the proxy try first and ask to be woken only when the socket was not ready, so that a turn that reads a
//! thousand requests costs a thousand reads and not one future. No buffers, no protocol.

use std::io::{self, IoSlice};
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// What is there to be read, at most `buffer` full. A read that filled less than that has emptied the socket, so it is
    /// taken for not ready until the kernel says otherwise: that saves the read that would only find this out, which is
    /// one of three system calls of a small request. (Readiness is edge-triggered: what comes after the read is told anew.)
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match self {
            Self::Tcp(stream) => stream.try_read(buffer),
            Self::Unix(stream) => stream.try_read(buffer),
        }?;
        if 0 < read && read < buffer.len() {
            let emptied = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            let _ = match self {
                Self::Tcp(stream) => stream.try_io(Interest::READABLE, emptied),
                Self::Unix(stream) => stream.try_io(Interest::READABLE, emptied),
            };
        }
        Ok(read)
    }

    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
        }
    }

    pub fn try_write_vectored(&self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write_vectored(bytes),
            Self::Unix(stream) => stream.try_write_vectored(bytes),
        }
    }

    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_read_ready(cx),
            Self::Unix(stream) => stream.poll_read_ready(cx),
        }
    }

    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => stream.poll_write_ready(cx),
            Self::Unix(stream) => stream.poll_write_ready(cx),
        }
    }

    /// The peer's address as `CLIENT LIST` shows it: `host:port`, or the socket's path and `:0`.
    pub fn peer(&self) -> String {
        match self {
            Self::Tcp(stream) => stream
                .peer_addr()
                .map_or_else(|_| "?:0".into(), |addr| addr.to_string()),
            Self::Unix(_) => self.local(),
        }
    }

    /// Our own side's address, in the same form.
    pub fn local(&self) -> String {
        match self {
            Self::Tcp(stream) => stream
                .local_addr()
                .map_or_else(|_| "?:0".into(), |addr| addr.to_string()),
            Self::Unix(stream) => {
                let path = stream
                    .local_addr()
                    .ok()
                    .and_then(|addr| Some(addr.as_pathname()?.display().to_string()));
                format!("{}:0", path.unwrap_or_default())
            }
        }
    }

    /// Whether the other end is on this machine, which protected mode lets in.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream
                .peer_addr()
                .is_ok_and(|addr| addr.ip().to_canonical().is_loopback()),
            Self::Unix(_) => true,
        }
    }
}

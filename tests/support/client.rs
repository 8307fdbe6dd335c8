//! A client that hides nothing: it writes the bytes it is told and reads whole replies off a blocking socket.
//! Every read has a deadline, so that a reply that never comes is a failure with a name and not a hanging test.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::reply::{Reply, decode};
use super::{PATIENCE, words};

pub struct Client {
    stream: Stream,
    unread: Vec<u8>,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Client {
    pub fn connect(address: &str) -> io::Result<Client> {
        let address = address.to_socket_addrs()?.next().ok_or(ErrorKind::AddrNotAvailable)?;
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        Client::over(Stream::Tcp(stream))
    }

    pub fn connect_unix(path: &Path) -> io::Result<Client> {
        Client::over(Stream::Unix(UnixStream::connect(path)?))
    }

    fn over(stream: Stream) -> io::Result<Client> {
        stream.set_timeouts(PATIENCE)?;
        Ok(Client {
            stream,
            unread: Vec::new(),
        })
    }

    /// Speaks RESP3 from here on; the server's greeting is what comes back.
    pub fn hello3(&mut self) -> Reply {
        self.call(&["HELLO", "3"])
    }

    /// One command, one reply: `client.call(&["QPUSH", "orders", "hello"])`.
    #[track_caller]
    pub fn call<W: AsRef<[u8]>>(&mut self, words: &[W]) -> Reply {
        self.try_call(words).unwrap_or_else(|error| panic!("no reply: {error}"))
    }

    pub fn try_call<W: AsRef<[u8]>>(&mut self, words: &[W]) -> io::Result<Reply> {
        self.try_send(words)?;
        self.try_receive()
    }

    /// One command written as a line, as redis-cli would take it: `client.run("QPOP orders COUNT 2")`.
    #[track_caller]
    pub fn run(&mut self, line: &str) -> Reply {
        self.call(&words::split(line))
    }

    #[track_caller]
    pub fn send<W: AsRef<[u8]>>(&mut self, words: &[W]) {
        self.try_send(words)
            .unwrap_or_else(|error| panic!("the request cannot be written: {error}"));
    }

    pub fn try_send<W: AsRef<[u8]>>(&mut self, words: &[W]) -> io::Result<()> {
        self.try_send_bytes(&encode(words))
    }

    #[track_caller]
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.try_send_bytes(bytes)
            .unwrap_or_else(|error| panic!("the bytes cannot be written: {error}"));
    }

    pub fn try_send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    #[track_caller]
    pub fn receive(&mut self) -> Reply {
        self.try_receive().unwrap_or_else(|error| panic!("no reply: {error}"))
    }

    /// The next reply. `UnexpectedEof`: the server closed the connection first; `TimedOut`: nothing came in time.
    pub fn try_receive(&mut self) -> io::Result<Reply> {
        loop {
            let decoded = decode(&self.unread).map_err(|what| io::Error::new(ErrorKind::InvalidData, what))?;
            if let Some((length, reply)) = decoded {
                self.unread.drain(..length);
                return Ok(reply);
            }
            self.read_more()?;
        }
    }

    /// Whether nothing comes within `quiet`: the one way to see that a reply is NOT there.
    #[track_caller]
    pub fn hears_nothing_for(&mut self, quiet: Duration) -> bool {
        self.stream.set_timeouts(quiet).expect("a socket takes a time-out");
        let heard = self.try_receive();
        self.stream.set_timeouts(PATIENCE).expect("a socket takes a time-out");
        match heard {
            Err(error) if error.kind() == ErrorKind::TimedOut => true,
            Err(error) => panic!("the connection ended: {error}"),
            Ok(_) => false,
        }
    }

    /// Whether the server closes the connection, with nothing more to say.
    pub fn is_closed(&mut self) -> bool {
        match self.try_receive() {
            Ok(_) => false,
            Err(error) => matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset),
        }
    }

    fn read_more(&mut self) -> io::Result<()> {
        let mut chunk = [0; 64 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => {
                self.unread.extend_from_slice(&chunk[..length]);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(ErrorKind::TimedOut.into()),
            Err(error) => Err(error),
        }
    }
}

/// A command as RESP.
pub fn encode<W: AsRef<[u8]>>(words: &[W]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        let word = word.as_ref();
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

impl Stream {
    fn set_timeouts(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream
                .set_read_timeout(Some(timeout))
                .and(stream.set_write_timeout(Some(PATIENCE))),
            Stream::Unix(stream) => stream
                .set_read_timeout(Some(timeout))
                .and(stream.set_write_timeout(Some(PATIENCE))),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

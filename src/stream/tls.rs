//! TLS over a TCP socket, behind the same tries and polls as a bare socket. It runs the protocol; whom to trust is decided
//! by whoever makes the session ([`crate::upstream::tls`]).
//!
//! A session keeps bytes of its own, so readiness is not the kernel's alone:
//!   1. What is decrypted and not yet read makes the stream readable, whatever the kernel says.
//!   2. What is encrypted and not yet taken by the socket makes it `is_behind`. It counts as written (it cannot be taken
//!      back), but takes no more, and is writable again only when all of that is gone.
//!   3. So whoever has written asks `is_behind`, and if it is, waits until it is writable, as after a write that took less
//!      than it was given. Otherwise the last bytes of a request might stay here for ever.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice, Read, Write};
use std::task::{Context, Poll};

use rustls::Connection;
use tokio::net::TcpStream;

#[derive(Debug)]
pub struct TlsStream {
    socket: TcpStream,
    session: RefCell<Connection>,
}

impl TlsStream {
    /// Returns when both sides have agreed. A client whose certificate the server does not want hears that only later.
    pub async fn handshake(socket: TcpStream, session: impl Into<Connection>) -> io::Result<Self> {
        let session = RefCell::new(session.into());
        let stream = Self { socket, session };
        loop {
            poll_fn(|cx| stream.poll_write_ready(cx)).await?;
            if !stream.session.borrow().is_handshaking() {
                return Ok(stream);
            }
            poll_fn(|cx| stream.socket.poll_read_ready(cx)).await?;
            match stream.receive() {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
    }

    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.borrow_mut().reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
            self.receive()?; // at the end of the stream the reader says how it ended
        }
    }

    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let session = &mut *self.session.borrow_mut();
        flush(session, &self.socket)?;
        let taken = session.writer().write(bytes)?;
        match flush(session, &self.socket) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    pub fn is_behind(&self) -> bool {
        self.session.borrow().wants_write()
    }

    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.session.borrow_mut().process_new_packets() {
            Ok(state) if state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed() => {
                self.socket.poll_read_ready(cx)
            }
            Ok(_) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(broken(error))),
        }
    }

    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let session = &mut *self.session.borrow_mut();
        loop {
            match flush(session, &self.socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                flushed => return Poll::Ready(flushed),
            }
            std::task::ready!(self.socket.poll_write_ready(cx))?;
        }
    }

    /// Some bytes from the socket into the session. 0: there will be no more.
    fn receive(&self) -> io::Result<usize> {
        let session = &mut *self.session.borrow_mut();
        let read = session.read_tls(&mut Socket(&self.socket))?;
        let understood = session.process_new_packets();
        // The session's own words: its part of the handshake, or why it ends. What does not go now goes before what is
        // written next.
        let _ = flush(session, &self.socket);
        understood.map(|_| read).map_err(broken)
    }
}

fn flush(session: &mut Connection, socket: &TcpStream) -> io::Result<()> {
    while session.wants_write() {
        session.write_tls(&mut Socket(socket))?;
    }
    Ok(())
}

fn broken(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// The socket as the session reads and writes it.
struct Socket<'a>(&'a TcpStream);

impl Read for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        super::read_tcp(self.0, buffer)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
    use tokio::net::TcpListener;

    use super::*;

    /// Both ends of one connection.
    async fn pair() -> (TlsStream, TlsStream) {
        let certificate = CertificateDer::from_pem_file("tests/certificates/ec.pem").expect("a certificate");
        let key = PrivateKeyDer::from_pem_file("tests/certificates/ec.key").expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).expect("a root");
        let client = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("they fit");
        let name = "localhost".try_into().expect("a name");
        let client = ClientConnection::new(Arc::new(client), name).expect("a session");
        let server = ServerConnection::new(Arc::new(server)).expect("a session");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (near, far) = (near.expect("connected"), far.expect("accepted").0);
        let (near, far) = tokio::join!(TlsStream::handshake(near, client), TlsStream::handshake(far, server));
        (near.expect("agreed"), far.expect("agreed"))
    }

    async fn readable(stream: &TlsStream) {
        poll_fn(|cx| stream.poll_read_ready(cx)).await.expect("readable");
    }

    #[tokio::test]
    async fn what_is_decrypted_and_unread_makes_the_stream_readable() {
        let (near, far) = pair().await;
        assert_eq!(near.try_write(&[7; 1000]).expect("written"), 1000);
        for _ in 0..1000 {
            readable(&far).await; // the kernel has said so once, for the first byte
            let mut byte = [0];
            match far.try_read(&mut byte) {
                Ok(n) => assert_eq!((n, byte), (1, [7])),
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[tokio::test]
    async fn a_stream_that_is_behind_is_writable_when_all_of_it_has_gone() {
        let (near, far) = pair().await;
        let mut written = 0;
        while !near.is_behind() {
            written += near.try_write(&[1; 64 * 1024]).expect("it is not behind");
        }
        let more = near.try_write(&[1; 10]).expect_err("it is behind");
        assert_eq!(more.kind(), io::ErrorKind::WouldBlock);
        let mut read = 0;
        let writing = async {
            poll_fn(|cx| near.poll_write_ready(cx)).await.expect("writable");
            assert!(!near.is_behind());
        };
        let reading = async {
            let mut buffer = vec![0; 64 * 1024];
            while read < written {
                readable(&far).await;
                match far.try_read(&mut buffer) {
                    Ok(n) => read += n,
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            }
        };
        tokio::join!(writing, reading);
        assert_eq!(read, written);
    }
}

//! One connection to Redis from its first byte until it may be used: greeted, let in, known to be a primary that is ready.
//! What is sent over it then is a [`super::pipe`]'s.

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use thiserror::Error;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::config::{Config, Endpoint};
use crate::resp::frame::{Frame, FrameScanner};
use crate::resp::{OwnedRequest, Protocol};
use crate::script::Scripts;
use crate::secret::Secret;
use crate::stream::Stream;
use crate::upstream::tls::Tls;

/// Why there is no connection. Its text may be shown to clients: it names no host.
#[derive(Debug, Error)]
pub enum LinkError {
    #[error("no connection to Redis: {0}")]
    Connect(io::Error),
    /// Why is for the operator alone ([`LinkError::in_full`]): it may name hosts.
    #[error("no TLS with Redis, the proxy's log says why")]
    Tls(io::Error),
    /// Why is for the operator alone too: it names the file.
    #[error("the password for Redis cannot be read, the proxy's log says why")]
    Password(String),
    #[error("Redis did not answer within {0:?}")]
    Silent(Duration),
    #[error("the connection to Redis was lost: {0}")]
    Lost(io::Error),
    /// Its error line.
    #[error("Redis refused: {0}")]
    Refused(String),
    #[error("READONLY the Redis behind the proxy is a replica")]
    Replica,
    #[error("what answers is no Redis")]
    NotRedis,
    /// Sentinels or a cluster have named another one.
    #[error("another Redis is the primary now")]
    Moved,
    /// It owns nothing any more, and owes nothing.
    #[error("nothing is asked of this Redis any more")]
    Unneeded,
    #[error("it is not known which Redis is the primary")]
    NoPrimary,
}

impl LinkError {
    /// For the log and not for clients.
    pub fn in_full(&self) -> String {
        match self {
            Self::Tls(error) => format!("no TLS with Redis: {error}"),
            Self::Password(problem) => format!("the password for Redis cannot be read: {problem}"),
            other => other.to_string(),
        }
    }
}

/// What a pipe is for: replies in which protocol, keys of which database, and whether its requests wait for replicas: then
/// nothing else goes over it, as WAIT holds up all that comes behind it. Of those that wait there are several, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PipeKind {
    pub protocol: Protocol,
    pub database: u32,
    pub waits: Option<u8>,
}

/// What is asked of a new connection before it is used.
#[derive(Clone, Debug)]
pub struct Greeting<'a> {
    pub kind: PipeKind,
    /// For `CLIENT LIST` on the Redis itself.
    pub name: &'a str,
    /// Loaded before any call needs them.
    pub scripts: Option<&'a Scripts>,
    /// Listened to.
    pub channels: &'a [String],
}

/// Connects and greets. Returns the stream, ready for requests.
pub async fn connect(endpoint: &Endpoint, config: &Config, greeting: &Greeting<'_>) -> Result<Stream, LinkError> {
    let upstream = &config.upstream;
    let stream = match timeout(upstream.connect_timeout, open(endpoint, upstream.tls.as_deref())).await {
        Ok(stream) => stream?,
        Err(_) => return Err(LinkError::Silent(upstream.connect_timeout)),
    };
    match timeout(upstream.response_timeout, greet(&stream, config, greeting)).await {
        Ok(greeted) => greeted.map(|()| stream),
        Err(_) => Err(LinkError::Silent(upstream.response_timeout)),
    }
}

/// A connection over which a node may be asked about itself: let in, and no more. It may be a replica, or not ready.
pub async fn enter(endpoint: &Endpoint, config: &Config) -> Result<Stream, LinkError> {
    let stream = open(endpoint, config.upstream.tls.as_deref()).await?;
    if let Some(words) = letting_in(config, Protocol::Resp2)? {
        let reply = call(&stream, &words).await?;
        check(&words, &reply)?;
    }
    Ok(stream)
}

/// A connection over which no command was sent yet.
pub async fn open(endpoint: &Endpoint, tls: Option<&Tls>) -> Result<Stream, LinkError> {
    let (host, port) = match endpoint {
        Endpoint::Tcp { host, port } => (host.as_str(), *port),
        Endpoint::Unix(path) => {
            let stream = UnixStream::connect(path).await;
            return stream.map(Stream::Unix).map_err(LinkError::Connect);
        }
    };
    let stream = open_tcp(host, port).await.map_err(LinkError::Connect)?;
    match tls {
        Some(tls) => tls.over(stream, host).await.map_err(LinkError::Tls),
        None => Ok(Stream::Tcp(stream)),
    }
}

async fn open_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new().with_time(Duration::from_secs(15));
    socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

async fn greet(stream: &Stream, config: &Config, greeting: &Greeting<'_>) -> Result<(), LinkError> {
    for words in introductions(config, greeting)? {
        let reply = call(stream, &words).await?;
        check(&words, &reply)?;
    }
    Ok(())
}

/// What a connection begins with, if anything.
fn letting_in(config: &Config, protocol: Protocol) -> Result<Option<Vec<String>>, LinkError> {
    let words = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
    let credentials = config.upstream.credentials.as_ref();
    let user = credentials.and_then(|credentials| credentials.username.as_deref());
    let password = credentials.map(|credentials| credentials.password.read()).transpose();
    let password = password.map_err(LinkError::Password)?;
    Ok(match (protocol, password.as_deref().map(Secret::expose), user) {
        (Protocol::Resp3, Some(password), user) => words(&["HELLO", "3", "AUTH", user.unwrap_or("default"), password]),
        (Protocol::Resp3, None, _) => words(&["HELLO", "3"]),
        (Protocol::Resp2, Some(password), Some(user)) => words(&["AUTH", user, password]),
        (Protocol::Resp2, Some(password), None) => words(&["AUTH", password]),
        (Protocol::Resp2, None, _) => None,
    })
}

/// In their order; each is answered before the next is sent.
fn introductions(config: &Config, greeting: &Greeting<'_>) -> Result<Vec<Vec<String>>, LinkError> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let mut all = Vec::new();
    all.extend(letting_in(config, greeting.kind.protocol)?);
    all.push(words(&["PING"]));
    all.push(words(&["ROLE"]));
    all.push(words(&["CLIENT", "SETNAME", greeting.name]));
    if greeting.kind.database != 0 {
        all.push(words(&["SELECT", &greeting.kind.database.to_string()]));
    }
    if let Some(scripts) = greeting.scripts {
        all.extend(
            scripts
                .hot()
                .iter()
                .map(|script| words(&["SCRIPT", "LOAD", &script.source])),
        );
    }
    all.extend(greeting.channels.iter().map(|channel| words(&["SUBSCRIBE", channel])));
    Ok(all)
}

fn check(words: &[String], reply: &[u8]) -> Result<(), LinkError> {
    let refused = || {
        let line = reply.strip_prefix(b"-").unwrap_or(reply);
        LinkError::Refused(String::from_utf8_lossy(line.trim_ascii_end()).into_owned())
    };
    match (words[0].as_str(), reply.first()) {
        // Rights may be lacking for these two, and nothing hangs on them.
        ("CLIENT" | "ROLE", Some(b'-')) => Ok(()),
        ("ROLE", _) if memchr::memmem::find(reply, b"slave").is_some_and(|at| at < 12) => Err(LinkError::Replica),
        (_, Some(b'-')) => Err(refused()),
        _ => Ok(()),
    }
}

/// One request and its reply, on a stream that nobody else uses.
pub async fn call(stream: &Stream, words: &[String]) -> Result<Bytes, LinkError> {
    write(stream, words).await?;
    Frames::new(stream).next().await
}

/// The same, for what is told to people: an error, ours or one that was replied, as its text.
pub async fn ask(stream: &Stream, words: &[&str]) -> Result<Bytes, String> {
    let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
    let reply = call(stream, &words).await.map_err(|error| error.in_full())?;
    match reply.strip_prefix(b"-") {
        Some(error) => Err(String::from_utf8_lossy(error.trim_ascii_end()).into_owned()),
        None => Ok(reply),
    }
}

async fn write(stream: &Stream, words: &[String]) -> Result<(), LinkError> {
    let request = OwnedRequest::from_words(words);
    let mut unsent = request.as_request().raw();
    while !unsent.is_empty() || stream.is_behind() {
        poll_fn(|cx| stream.poll_write_ready(cx))
            .await
            .map_err(LinkError::Lost)?;
        match stream.try_write(unsent) {
            Ok(n) => unsent = &unsent[n..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(LinkError::Lost(error)),
        }
    }
    Ok(())
}

/// What comes over a stream that nobody else reads, one reply or message after another.
pub struct Frames<'s> {
    stream: &'s Stream,
    input: BytesMut,
    scanner: FrameScanner,
}

impl<'s> Frames<'s> {
    fn new(stream: &'s Stream) -> Self {
        Self {
            stream,
            input: BytesMut::with_capacity(4096),
            scanner: FrameScanner::default(),
        }
    }

    /// From a subscription on: the words' reply is the first of them.
    pub async fn of(stream: &'s Stream, words: &[String]) -> Result<Self, LinkError> {
        write(stream, words).await?;
        Ok(Self::new(stream))
    }

    /// Cancel safe.
    pub async fn next(&mut self) -> Result<Bytes, LinkError> {
        loop {
            match self.scanner.scan(&self.input).map_err(|_| LinkError::NotRedis)? {
                Some(Frame::Reply(len) | Frame::Push(len)) => return Ok(self.input.split_to(len).freeze()),
                None => self.read().await?,
            }
        }
    }

    async fn read(&mut self) -> Result<(), LinkError> {
        poll_fn(|cx| self.stream.poll_read_ready(cx))
            .await
            .map_err(LinkError::Lost)?;
        let mut chunk = [0; 16 * 1024];
        match self.stream.try_read(&mut chunk) {
            Ok(0) => Err(LinkError::Lost(io::ErrorKind::UnexpectedEof.into())),
            Ok(n) => {
                self.input.extend_from_slice(&chunk[..n]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(LinkError::Lost(error)),
        }
    }
}

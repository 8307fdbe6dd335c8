//! What a client told us of itself, and what we remember of it from one request to the next.
//! Small, as ten thousand idle clients have one each: what few clients set is boxed.
//! No socket and no buffers here, those are the client's; nothing is sent from here.

use std::net::SocketAddr;
use std::time::Instant;

use crate::command::CommandId;
use crate::resp::Protocol;

#[derive(Debug)]
pub struct Session {
    pub id: u64,
    pub peer: Peer,
    pub protocol: Protocol,
    /// `None`: it must authenticate first.
    pub user: Option<UserId>,
    pub database: u32,
    pub reply: ReplyMode,
    pub no_evict: bool,
    pub no_touch: bool,
    pub since: Instant,
    /// Its last request, and which command that was.
    pub active: Instant,
    pub command: Option<CommandId>,
    pub requests: u64,
    names: Option<Box<Names>>,
}

/// Who is connected. A unix socket has a path, but its clients have none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    // Boxed: a session is moved more often than its addresses are read.
    Tcp(Box<Addresses>),
    Unix(std::sync::Arc<str>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub client: SocketAddr,
    pub listener: SocketAddr,
}

impl Peer {
    pub fn tcp(client: SocketAddr, listener: SocketAddr) -> Self {
        Self::Tcp(Box::new(Addresses { client, listener }))
    }

    /// As `CLIENT LIST` writes it: `ip:port`, or the socket's path and `:0`.
    pub fn addr(&self) -> String {
        match self {
            Self::Tcp(addresses) => addresses.client.to_string(),
            Self::Unix(path) => format!("{path}:0"),
        }
    }

    /// The address that the client connected to.
    pub fn laddr(&self) -> String {
        match self {
            Self::Tcp(addresses) => addresses.listener.to_string(),
            Self::Unix(path) => format!("{path}:0"),
        }
    }

    pub fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }
}

/// `CLIENT REPLY`: whether the client wants replies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplyMode {
    #[default]
    On,
    Off,
    /// `SKIP` is being served.
    SkipNext,
    /// The request after it.
    Skip,
}

/// The texts that a client gave for `CLIENT LIST`; empty until then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub name: Box<str>,
    pub lib_name: Box<str>,
    pub lib_ver: Box<str>,
}

static NO_NAMES: std::sync::LazyLock<Names> = std::sync::LazyLock::new(Names::default);

impl Session {
    /// A new connection. Where no password is asked for, it is the default user's from the start.
    pub fn new(id: u64, peer: Peer, users: &Users, now: Instant) -> Self {
        Self {
            id,
            peer,
            protocol: Protocol::Resp2,
            user: users.first(),
            database: 0,
            reply: ReplyMode::On,
            no_evict: false,
            no_touch: false,
            since: now,
            active: now,
            command: None,
            requests: 0,
            names: None,
        }
    }

    pub fn names(&self) -> &Names {
        self.names.as_deref().unwrap_or(&NO_NAMES)
    }

    pub fn names_mut(&mut self) -> &mut Names {
        self.names.get_or_insert_default()
    }

    /// A request came; what it was is known when it was planned.
    pub fn begin(&mut self, command: Option<CommandId>, now: Instant) {
        self.command = command;
        self.active = now;
        self.requests += 1;
    }

    /// Whether the reply to the request just served is not to be sent. To be asked once a request, after it was
    /// planned and, if it is ours to answer, answered: `CLIENT REPLY ON` itself has a reply again.
    pub fn mutes_reply(&mut self) -> bool {
        match self.reply {
            ReplyMode::On => false,
            ReplyMode::Off => true,
            ReplyMode::SkipNext => {
                self.reply = ReplyMode::Skip;
                true
            }
            ReplyMode::Skip => {
                self.reply = ReplyMode::On;
                true
            }
        }
    }

    /// `RESET`: as a new connection is. What the library said of itself stays, and so does the client's id.
    pub fn reset(&mut self, users: &Users) {
        self.protocol = Protocol::Resp2;
        self.user = users.first();
        self.database = 0;
        self.reply = ReplyMode::On;
        self.no_evict = false;
        self.no_touch = false;
        if let Some(names) = &mut self.names {
            names.name = Box::default();
        }
    }
}

/// Who may connect, and by which password. One snapshot for all clients.
#[derive(Clone, Debug)]
pub struct Users {
    users: Vec<User>,
}

#[derive(Clone, Debug)]
pub struct User {
    pub name: Box<str>,
    /// SHA-256 of the password.
    pub password: [u8; 32],
}

/// Which of the [`Users`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserId(u16);

impl Users {
    /// The user that a client is without saying so.
    pub const DEFAULT: &str = "default";

    /// None: everybody is the default user, and no password is asked for.
    pub fn new(users: Vec<User>) -> Self {
        Self { users }
    }

    /// No password is asked for.
    pub fn are_open(&self) -> bool {
        self.users.is_empty()
    }

    pub fn named(&self, name: &[u8]) -> Option<UserId> {
        if self.are_open() {
            return (name == Self::DEFAULT.as_bytes()).then_some(UserId(0));
        }
        let index = self.users.iter().position(|user| user.name.as_bytes() == name)?;
        u16::try_from(index).ok().map(UserId)
    }

    pub fn name(&self, id: UserId) -> &str {
        self.users
            .get(usize::from(id.0))
            .map_or(Self::DEFAULT, |user| &user.name)
    }

    /// The user whose password this is.
    pub fn authenticate(&self, name: &[u8], password: &[u8]) -> Option<UserId> {
        use sha2::{Digest, Sha256};
        if self.are_open() {
            return self.named(name);
        }
        let given: [u8; 32] = Sha256::digest(password).into();
        let id = self.named(name)?;
        // All bytes are compared, so that the time it takes says nothing of where they differ.
        let differ = given
            .iter()
            .zip(&self.users[usize::from(id.0)].password)
            .fold(0, |differ, (a, b)| differ | (a ^ b));
        (std::hint::black_box(differ) == 0).then_some(id)
    }

    fn first(&self) -> Option<UserId> {
        self.are_open().then_some(UserId(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_small() {
        assert!(size_of::<Session>() <= 128, "{} bytes", size_of::<Session>());
    }

    #[test]
    fn a_skipped_reply_is_that_of_the_next_request() {
        let users = Users::new(Vec::new());
        let mut session = Session::new(1, Peer::Unix("/s".into()), &users, Instant::now());
        assert!(!session.mutes_reply());
        session.reply = ReplyMode::SkipNext;
        assert_eq!([(); 3].map(|()| session.mutes_reply()), [true, true, false]);
        session.reply = ReplyMode::Off;
        assert_eq!([(); 3].map(|()| session.mutes_reply()), [true, true, true]);
    }

    #[test]
    fn only_its_password_lets_a_user_in() {
        use sha2::{Digest, Sha256};
        let user = |name: &str, password: &str| User {
            name: name.into(),
            password: Sha256::digest(password).into(),
        };
        let users = Users::new(vec![user("default", "secret"), user("ann", "other")]);
        assert_eq!(users.authenticate(b"default", b"secret"), users.named(b"default"));
        assert_eq!(
            users.authenticate(b"ann", b"other").map(|id| users.name(id)),
            Some("ann")
        );
        for (name, password) in [("ann", "secret"), ("ann", ""), ("bob", "other"), ("default", "Secret")] {
            assert_eq!(
                users.authenticate(name.as_bytes(), password.as_bytes()),
                None,
                "{name} {password}"
            );
        }
        assert_eq!(
            Users::new(Vec::new()).authenticate(b"default", b"anything"),
            Some(UserId(0))
        );
        assert_eq!(Users::new(Vec::new()).authenticate(b"ann", b"anything"), None);
    }
}

//! `CLIENT`: what the proxy knows of its clients. They are the proxy's clients, not Redis's, which sees only our pipes.
//! `LIST` and `KILL` reach over all workers: here is what was asked and how it is written, not who is asked.

use super::{Effect, Facts, SYNTAX_ERROR, help_lines, integer};
use crate::resp::{Protocol, ReplyWriter, Request};
use crate::session::{Peer, ReplyMode, Session, UserId, Users};

/// What a client holds at this moment, in bytes. Not all of it is the session's, so it is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Buffers {
    /// Read and not yet served.
    pub query: usize,
    /// Replies that its socket did not take yet.
    pub output: usize,
    /// All of it, the session included.
    pub memory: usize,
    /// A blocked pop.
    pub blocked: bool,
}

/// Which clients `CLIENT LIST` or `CLIENT KILL` means: those to whom all of this applies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Empty: any.
    ids: Vec<u64>,
    addr: Option<Box<[u8]>>,
    laddr: Option<Box<[u8]>>,
    user: Option<UserId>,
    kind: Option<Kind>,
    /// The one that asked, when it spares itself.
    not: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Normal,
    /// Replication and subscriptions: no client of ours.
    Other,
}

/// Which of its two replies `CLIENT KILL` has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillForm {
    /// `CLIENT KILL addr` → OK or an error.
    Address,
    /// `CLIENT KILL option value …` → how many.
    Options,
}

impl Filter {
    pub fn fits(&self, session: &Session) -> bool {
        let is = |wanted: &Option<Box<[u8]>>, actual: fn(&Peer) -> String| {
            wanted
                .as_deref()
                .is_none_or(|wanted| wanted == actual(&session.peer).as_bytes())
        };
        (self.ids.is_empty() || self.ids.contains(&session.id))
            && self.not != Some(session.id)
            && self.kind != Some(Kind::Other)
            && (self.user.is_none() || self.user == session.user)
            && is(&self.addr, Peer::addr)
            && is(&self.laddr, Peer::laddr)
    }
}

/// `CLIENT LIST [TYPE type] [ID id …]`
pub(super) fn list(request: Request, reply: &mut ReplyWriter) -> Effect {
    match list_filter(request) {
        Ok(filter) => Effect::ListClients(filter),
        Err(error) => {
            reply.error(error);
            Effect::None
        }
    }
}

fn list_filter(request: Request) -> Result<Filter, Vec<u8>> {
    let is = |word: &[u8]| request.arg(2).eq_ignore_ascii_case(word);
    match request.len() {
        2 => Ok(Filter::default()),
        4 if is(b"TYPE") => Ok(Filter {
            kind: Some(kind(request.arg(3))?),
            ..Filter::default()
        }),
        4.. if is(b"ID") => {
            let ids = request
                .args()
                .skip(3)
                .map(|id| integer(id).ok_or("ERR Invalid client ID"));
            // A negative one is nobody's; nobody's too, as ids count from 1, is the 0 that stands for it.
            let ids = ids.map(|id| id.map(|id| u64::try_from(id).unwrap_or_default()));
            Ok(Filter {
                ids: ids.collect::<Result<_, _>>()?,
                ..Filter::default()
            })
        }
        _ => Err(SYNTAX_ERROR.into()),
    }
}

/// `CLIENT KILL addr`,
/// `CLIENT KILL [ID id] [TYPE type] [USER name] [ADDR addr] [LADDR addr] [SKIPME yes|no] …`
pub(super) fn kill(request: Request, session: &Session, users: &Users, reply: &mut ReplyWriter) -> Effect {
    if request.len() == 3 {
        let filter = Filter {
            addr: Some(request.arg(2).into()),
            ..Filter::default()
        };
        return Effect::KillClients(filter, KillForm::Address);
    }
    match kill_filter(request, session, users) {
        Ok(filter) => Effect::KillClients(filter, KillForm::Options),
        Err(error) => {
            reply.error(error);
            Effect::None
        }
    }
}

fn kill_filter(request: Request, session: &Session, users: &Users) -> Result<Filter, Vec<u8>> {
    if request.len() < 4 || !request.len().is_multiple_of(2) {
        return Err(SYNTAX_ERROR.into());
    }
    let mut filter = Filter {
        not: Some(session.id),
        ..Filter::default()
    };
    for at in (2..request.len()).step_by(2) {
        let (option, value) = (request.arg(at), request.arg(at + 1));
        let is = |word: &[u8]| option.eq_ignore_ascii_case(word);
        match () {
            () if is(b"ID") => {
                let id = integer(value).filter(|id| *id > 0);
                filter.ids = vec![id.ok_or("ERR client-id should be greater than 0")? as u64];
            }
            () if is(b"TYPE") => filter.kind = Some(kind(value)?),
            () if is(b"ADDR") => filter.addr = Some(value.into()),
            () if is(b"LADDR") => filter.laddr = Some(value.into()),
            () if is(b"USER") => {
                let user = users.named(value);
                filter.user = Some(user.ok_or_else(|| [b"ERR No such user '", value, b"'"].concat())?);
            }
            () if is(b"SKIPME") && value.eq_ignore_ascii_case(b"yes") => filter.not = Some(session.id),
            () if is(b"SKIPME") && value.eq_ignore_ascii_case(b"no") => filter.not = None,
            () => return Err(SYNTAX_ERROR.into()),
        }
    }
    Ok(filter)
}

fn kind(word: &[u8]) -> Result<Kind, Vec<u8>> {
    let is = |known: &str| word.eq_ignore_ascii_case(known.as_bytes());
    match () {
        () if is("normal") => Ok(Kind::Normal),
        () if is("master") || is("slave") || is("replica") || is("pubsub") => Ok(Kind::Other),
        () => Err([b"ERR Unknown client type '", word, b"'"].concat()),
    }
}

/// The lines of all workers, in the order in which the clients came.
pub fn write_list(mut lines: Vec<(u64, String)>, reply: &mut ReplyWriter) {
    lines.sort_unstable_by_key(|(id, _)| *id);
    reply.verbatim(&lines.into_iter().map(|(_, line)| line).collect::<String>());
}

pub fn write_killed(killed: usize, form: KillForm, reply: &mut ReplyWriter) {
    match form {
        KillForm::Options => reply.integer(killed as i64),
        KillForm::Address if killed == 0 => reply.error("ERR No such client"),
        KillForm::Address => reply.ok(),
    }
}

/// A client's line in `CLIENT LIST`, with its id. Fields that only a Redis has are there, and empty.
pub fn line(session: &Session, buffers: Buffers, facts: &Facts) -> (u64, String) {
    let seconds = |since| facts.now.saturating_duration_since(since).as_secs();
    let names = session.names();
    let resp = match session.protocol {
        Protocol::Resp2 => 2,
        Protocol::Resp3 => 3,
    };
    let line = format!(
        "id={} addr={} laddr={} fd=-1 name={} age={} idle={} flags={} db={} sub=0 psub=0 ssub=0 multi=-1 qbuf={} \
         qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl={} oll=0 omem=0 tot-mem={} events=r cmd={} user={} \
         redir=-1 resp={resp} lib-name={} lib-ver={}\n",
        session.id,
        session.peer.addr(),
        session.peer.laddr(),
        names.name,
        seconds(session.since),
        seconds(session.active),
        flags(session, buffers),
        session.database,
        buffers.query,
        buffers.output,
        buffers.memory,
        session
            .command
            .map_or("NULL", |command| &facts.table.entry(command).name),
        session.user.map_or(Users::DEFAULT, |user| facts.users.name(user)),
        names.lib_name,
        names.lib_ver,
    );
    (session.id, line)
}

fn flags(session: &Session, buffers: Buffers) -> String {
    let flags = [
        (buffers.blocked, 'b'),
        (session.peer.is_unix(), 'U'),
        (session.no_evict, 'e'),
        (session.no_touch, 'T'),
    ];
    let set: String = flags
        .iter()
        .filter(|(is_set, _)| *is_set)
        .map(|(_, flag)| flag)
        .collect();
    if set.is_empty() { "N".into() } else { set }
}

pub(super) fn info(session: &Session, facts: &Facts, reply: &mut ReplyWriter) {
    reply.verbatim(&line(session, facts.buffers, facts).1);
}

pub(super) fn name(session: &Session, reply: &mut ReplyWriter) {
    match &*session.names().name {
        "" => reply.null(),
        name => reply.bulk(name.as_bytes()),
    }
}

/// `CLIENT SETNAME name`; an empty one takes it away.
pub(super) fn set_name(request: Request, session: &mut Session, reply: &mut ReplyWriter) {
    match rename(session, request.arg(2)) {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

pub(super) fn rename(session: &mut Session, name: &[u8]) -> Result<(), &'static str> {
    let name = printable(name).ok_or("ERR Client names cannot contain spaces, newlines or special characters.")?;
    session.names_mut().name = name;
    Ok(())
}

/// `CLIENT SETINFO LIB-NAME|LIB-VER value`
pub(super) fn set_info(request: Request, session: &mut Session, reply: &mut ReplyWriter) {
    let (option, value) = (request.arg(2), request.arg(3));
    let is = |word: &[u8]| option.eq_ignore_ascii_case(word);
    if !is(b"LIB-NAME") && !is(b"LIB-VER") {
        return reply.error([b"ERR Unrecognized option '", option, b"'"].concat());
    }
    let Some(value) = printable(value) else {
        return reply.error(
            [
                b"ERR ",
                option,
                b" cannot contain spaces, newlines or special characters.",
            ]
            .concat(),
        );
    };
    match is(b"LIB-NAME") {
        true => session.names_mut().lib_name = value,
        false => session.names_mut().lib_ver = value,
    }
    reply.ok();
}

/// A text that cannot break a line of `CLIENT LIST`.
fn printable(text: &[u8]) -> Option<Box<str>> {
    let is_printable = text.iter().all(u8::is_ascii_graphic);
    let text = std::str::from_utf8(text).ok()?;
    is_printable.then(|| text.into())
}

/// `CLIENT NO-EVICT ON|OFF`, `CLIENT NO-TOUCH ON|OFF`: kept for `CLIENT LIST`. What they ask of Redis would be asked
/// of a connection that many clients share.
pub(super) fn switch(request: Request, is_on: &mut bool, reply: &mut ReplyWriter) {
    let is = |word: &[u8]| request.arg(2).eq_ignore_ascii_case(word);
    match () {
        () if is(b"ON") => *is_on = true,
        () if is(b"OFF") => *is_on = false,
        () => return reply.error(SYNTAX_ERROR),
    }
    reply.ok();
}

/// `CLIENT REPLY ON|OFF|SKIP`: only `ON` has a reply.
pub(super) fn reply_mode(request: Request, session: &mut Session, reply: &mut ReplyWriter) {
    let is = |word: &[u8]| request.arg(2).eq_ignore_ascii_case(word);
    match () {
        () if is(b"ON") => {
            session.reply = ReplyMode::On;
            reply.ok();
        }
        () if is(b"OFF") => session.reply = ReplyMode::Off,
        () if is(b"SKIP") && session.reply != ReplyMode::Off => session.reply = ReplyMode::SkipNext,
        () if is(b"SKIP") => {}
        () => reply.error(SYNTAX_ERROR),
    }
}

pub(super) fn help(reply: &mut ReplyWriter) {
    help_lines("CLIENT", &HELP, reply);
}

const HELP: [&str; 33] = [
    "GETNAME",
    "    Return the name of the current connection.",
    "ID",
    "    Return the ID of the current connection.",
    "INFO",
    "    Return information about the current client connection.",
    "KILL <ip:port>",
    "    Kill connection made from <ip:port>.",
    "KILL <option> <value> [<option> <value> [...]]",
    "    Kill connections. Options are:",
    "    * ADDR (<ip:port>|<unixsocket>:0)",
    "      Kill connections made from the specified address",
    "    * LADDR (<ip:port>|<unixsocket>:0)",
    "      Kill connections made to specified local address",
    "    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB)",
    "      Kill connections by type.",
    "    * USER <username>",
    "      Kill connections authenticated by <username>.",
    "    * SKIPME (YES|NO)",
    "      Skip killing current connection (default: yes).",
    "    * ID <client-id>",
    "      Kill connections by client id.",
    "LIST [options ...]",
    "    Return information about the proxy's client connections. Options:",
    "    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB), ID <client-id> [<client-id> ...]",
    "NO-EVICT (ON|OFF), NO-TOUCH (ON|OFF)",
    "    Remembered, and without effect on the connections that the proxy shares among its clients.",
    "REPLY (ON|OFF|SKIP)",
    "    Control the replies sent to the current connection.",
    "SETINFO (LIB-NAME|LIB-VER) <value>",
    "    Say which library the current connection is made by.",
    "SETNAME <name>",
    "    Assign the name <name> to the current connection.",
];

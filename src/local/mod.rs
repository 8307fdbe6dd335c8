//! The replies that the proxy makes itself, a file a family. Byte for byte Redis's, where Redis has the command.
//! Pure: what needs more than this client's session and a snapshot of facts (other workers' clients, counters)
//! is handed back as an [`Effect`], with the functions that render its reply.

pub mod client;
pub mod command;
mod connection;
mod hello;
pub mod info;
#[cfg(test)]
mod tests;

use std::time::Instant;

use crate::command::{Local, Table};
use crate::resp::{ReplyWriter, Request};
use crate::session::{Session, Users};

/// What replies are made from, besides the session.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'f> {
    pub table: &'f Table,
    pub users: &'f Users,
    /// The version of the Redis behind us, which clients take ours to be.
    pub redis_version: &'f str,
    /// Of a cluster there is one database only.
    pub cluster: bool,
    pub databases: u32,
    pub now: Instant,
    /// The asking client's.
    pub buffers: client::Buffers,
}

/// What is left to do for a local command. Only [`Effect::None`] and [`Effect::Close`] have written their reply.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    None,
    /// `QUIT`: close once the reply is written.
    Close,
    /// `INFO`: reply by [`info::write`].
    Info(info::Sections),
    /// `CLIENT LIST`: each worker makes a [`client::line`] of each client that fits, then reply by [`client::write_list`].
    ListClients(client::Filter),
    /// `CLIENT KILL`: each worker closes the clients that fit, then reply by [`client::write_killed`].
    /// The asking client may be among them: it gets this reply first.
    KillClients(client::Filter, client::KillForm),
}

/// Answers a request that was planned as `local`; its arity was checked.
pub fn reply(
    local: Local,
    request: Request,
    session: &mut Session,
    facts: &Facts,
    out: &mut bytes::BytesMut,
) -> Effect {
    // HELLO answers in the protocol that it asked for.
    if local == Local::Hello {
        hello::hello(request, session, facts, out);
        return Effect::None;
    }
    let reply = &mut ReplyWriter::new(out, session.protocol);
    match local {
        Local::Hello => {}
        Local::Auth => connection::auth(request, session, facts.users, reply),
        Local::Echo => reply.bulk(request.arg(1)),
        Local::Ping => connection::ping(request, reply),
        Local::Quit => {
            reply.ok();
            return Effect::Close;
        }
        Local::Reset => connection::reset(session, facts.users, reply),
        Local::Select => connection::select(request, session, facts, reply),
        Local::AclWhoAmI => connection::whoami(session, facts.users, reply),
        Local::Info => return Effect::Info(info::Sections::asked(request)),
        Local::ClientKill => return client::kill(request, session, facts.users, reply),
        Local::ClientList => return client::list(request, reply),
        Local::ClientGetName => client::name(session, reply),
        Local::ClientHelp => client::help(reply),
        Local::ClientId => reply.integer(session.id as i64),
        Local::ClientInfo => client::info(session, facts, reply),
        Local::ClientNoEvict => client::switch(request, &mut session.no_evict, reply),
        Local::ClientNoTouch => client::switch(request, &mut session.no_touch, reply),
        Local::ClientReply => client::reply_mode(request, session, reply),
        Local::ClientSetInfo => client::set_info(request, session, reply),
        Local::ClientSetName => client::set_name(request, session, reply),
        Local::Command => command::all(facts.table, reply),
        Local::CommandCount => command::count(facts.table, reply),
        Local::CommandDocs => command::docs(request, reply),
        Local::CommandGetKeys | Local::CommandGetKeysAndFlags => command::keys(request, facts.table, reply),
        Local::CommandHelp => command::help(reply),
        Local::CommandInfo => command::info(request, facts.table, reply),
        Local::CommandList => command::list(request, facts.table, reply),
    }
    Effect::None
}

/// Redis's `string2ll`: no sign but `-`, no zero in front, no space.
fn integer(argument: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(argument).ok()?;
    let number: i64 = text.parse().ok()?;
    (itoa::Buffer::new().format(number) == text).then_some(number)
}

const SYNTAX_ERROR: &str = "ERR syntax error";

/// Redis's help is a list of lines, the first and the last the same for every container.
fn help_lines(container: &str, lines: &[&str], reply: &mut ReplyWriter) {
    reply.array(lines.len() + 3);
    reply.simple(&format!(
        "{container} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
    ));
    for line in lines {
        reply.simple(line);
    }
    reply.simple("HELP");
    reply.simple("    Prints this help.");
}

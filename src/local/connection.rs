//! `AUTH`, `PING`, `RESET`, `SELECT`: this one connection, as the client sees it. Upstream connections know nothing of it:
//! a request goes to a pipe of its client's database.

use super::{Facts, SYNTAX_ERROR, integer};
use crate::resp::{ReplyWriter, Request};
use crate::session::{Session, Users};

pub(super) const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";

/// `AUTH password`, `AUTH username password`
pub(super) fn auth(request: Request, session: &mut Session, users: &Users, reply: &mut ReplyWriter) {
    let (name, password) = match request.len() {
        2 if users.are_open() => {
            return reply.error(
                "ERR AUTH <password> called without any password configured for the default user. \
                 Are you sure your configuration is correct?",
            );
        }
        2 => (Users::DEFAULT.as_bytes(), request.arg(1)),
        3 => (request.arg(1), request.arg(2)),
        _ => return reply.error(SYNTAX_ERROR),
    };
    match users.authenticate(name, password) {
        Some(user) => {
            session.user = Some(user);
            reply.ok();
        }
        // Who was authenticated before stays so.
        None => reply.error(WRONG_PASSWORD),
    }
}

/// `PING [message]`
pub(super) fn ping(request: Request, reply: &mut ReplyWriter) {
    match request.len() {
        1 => reply.simple("PONG"),
        2 => reply.bulk(request.arg(1)),
        _ => reply.error("ERR wrong number of arguments for 'ping' command"),
    }
}

pub(super) fn reset(session: &mut Session, users: &Users, reply: &mut ReplyWriter) {
    session.reset(users);
    reply.simple("RESET");
}

/// `SELECT index`
pub(super) fn select(request: Request, session: &mut Session, facts: &Facts, reply: &mut ReplyWriter) {
    let Some(index) = integer(request.arg(1)) else {
        return reply.error("ERR value is not an integer or out of range");
    };
    // Redis wants a C int first of all.
    let Ok(index) = i32::try_from(index) else {
        return reply.error("ERR value is out of range, value must between -2147483648 and 2147483647");
    };
    match u32::try_from(index) {
        Ok(0) => {}
        _ if facts.cluster => return reply.error("ERR SELECT is not allowed in cluster mode"),
        Ok(index) if index < facts.databases => {}
        _ => return reply.error("ERR DB index is out of range"),
    }
    session.database = index as u32;
    reply.ok();
}

/// `ACL WHOAMI`: the proxy's user, not the one that the proxy is to Redis.
pub(super) fn whoami(session: &Session, users: &Users, reply: &mut ReplyWriter) {
    reply.bulk(session.user.map_or(Users::DEFAULT, |user| users.name(user)).as_bytes());
}

//! `HELLO`: the protocol, and with it, for clients that save a round trip, who they are and what they are called.

use bytes::BytesMut;

use super::{Facts, client, connection, integer};
use crate::resp::{Protocol, ReplyWriter, Request};
use crate::session::Session;

/// `HELLO [2|3 [AUTH username password] [SETNAME name]]`
/// As in Redis, what was done before an option that fails stays done.
pub(super) fn hello(request: Request, session: &mut Session, facts: &Facts, out: &mut BytesMut) {
    let asked = match protocol(request) {
        Ok(asked) => asked.unwrap_or(session.protocol),
        Err(error) => return ReplyWriter::new(out, session.protocol).error(error),
    };
    if let Err(error) = options(request, session, facts) {
        return ReplyWriter::new(out, session.protocol).error(error);
    }
    session.protocol = asked;
    write(session, facts, &mut ReplyWriter::new(out, asked));
}

fn protocol(request: Request) -> Result<Option<Protocol>, &'static str> {
    if request.len() == 1 {
        return Ok(None);
    }
    match integer(request.arg(1)) {
        None => Err("ERR Protocol version is not an integer or out of range"),
        Some(2) => Ok(Some(Protocol::Resp2)),
        Some(3) => Ok(Some(Protocol::Resp3)),
        Some(_) => Err("NOPROTO unsupported protocol version"),
    }
}

fn options(request: Request, session: &mut Session, facts: &Facts) -> Result<(), Vec<u8>> {
    let mut at = 2;
    while at < request.len() {
        let option = request.arg(at);
        let values = request.len() - at - 1;
        if option.eq_ignore_ascii_case(b"AUTH") && values >= 2 {
            let user = facts.users.authenticate(request.arg(at + 1), request.arg(at + 2));
            session.user = Some(user.ok_or(connection::WRONG_PASSWORD)?);
            at += 3;
        } else if option.eq_ignore_ascii_case(b"SETNAME") && values >= 1 {
            client::rename(session, request.arg(at + 1))?;
            at += 2;
        } else {
            return Err([b"ERR Syntax error in HELLO option '", option, b"'"].concat());
        }
    }
    match session.user {
        Some(_) => Ok(()),
        None => Err(NOT_AUTHENTICATED.into()),
    }
}

const NOT_AUTHENTICATED: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the \
    HELLO AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol \
    version at the same time";

/// Whatever is behind us, to the client it is one primary that has everything.
fn write(session: &Session, facts: &Facts, reply: &mut ReplyWriter) {
    reply.map(7);
    for (field, value) in [("server", "redis"), ("version", facts.redis_version)] {
        reply.bulk(field.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"proto");
    reply.integer(match session.protocol {
        Protocol::Resp2 => 2,
        Protocol::Resp3 => 3,
    });
    reply.bulk(b"id");
    reply.integer(session.id as i64);
    for (field, value) in [("mode", "standalone"), ("role", "master")] {
        reply.bulk(field.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"modules");
    reply.array(0);
}

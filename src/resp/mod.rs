//! RESP2 and RESP3 over bytes: what Redis and its clients say to each other.
//! Pure: no tokio, no I/O, no clock.
//!
//! - [`writer`] renders the replies that we make ourselves.
//!
//! Protocol: <https://redis.io/docs/latest/develop/reference/protocol-spec/>

pub mod writer;

pub use writer::ReplyWriter;

/// The protocol that a client chose with `HELLO`; RESP2 until then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    #[default]
    Resp2,
    Resp3,
}

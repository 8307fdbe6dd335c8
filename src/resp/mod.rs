//! RESP2 and RESP3 over bytes: what Redis and its clients say to each other.
//! Pure: no tokio, no I/O, no clock.
//!
//! - [`scanner`] finds the requests in what a client sends, [`request`] is one of them,
//!   [`inline`] what people type.
//! - [`writer`] renders the replies that we make ourselves.
//! - [`frame`] finds the replies in what Redis sends, [`reader`] takes one apart.
//!
//! Protocol: <https://redis.io/docs/latest/develop/reference/protocol-spec/>

pub mod frame;
mod inline;
pub mod reader;
pub mod request;
pub mod scanner;
pub mod writer;

pub use reader::Reader;
pub use request::{OwnedRequest, Request};
pub use writer::ReplyWriter;

/// The protocol that a client chose with `HELLO`; RESP2 until then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    #[default]
    Resp2,
    Resp3,
}

//! The life of a client, as its worker keeps it. What a request comes to is planned in [`crate::plan`].
//!
//! - [`replies`]: its replies, in the order of its requests.
//! - [`bound`]: the jobs that go back when its connection closes.

pub mod bound;
pub mod replies;

//! The life of a client, as its worker keeps it. What a request comes to is planned in [`crate::plan`].
//!
//! - [`replies`]: its replies, in the order of its requests.

pub mod replies;

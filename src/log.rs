//! The proxy's log: where `tracing`'s events go, from the first line to the last. Set up once, before anything else.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// To standard error. RUST_LOG wins over `log.level`; what it says wrongly is left out.
pub fn init(log: Log) {
    let filter = EnvFilter::builder()
        .with_default_directive(log.level.into())
        .from_env_lossy();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    match log.format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
}

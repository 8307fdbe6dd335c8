//! Arguments → configuration → serve → exit code. Nothing else happens here.

use std::env;
use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use millrace::cli::{Arguments, Command};
use millrace::config::{Config, Layers, Source};
use millrace::log;
use millrace::upstream::embedded::Embedded;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("millrace: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let layers = Layers::read(arguments.config.as_deref(), env::vars_os())?;
    let config = layers.config()?;
    match arguments.command() {
        Command::Check => check(&layers),
        Command::Serve => {
            log::init(config.log);
            serve(config)
        }
    }
}

fn check(layers: &Layers) -> anyhow::Result<()> {
    let sources: String = layers.sources().iter().map(|source| format!(", {source}")).collect();
    let shown = format!("# the defaults{sources}\n{}", layers.effective()?);
    std::io::stdout()
        .write_all(shown.as_bytes())
        .context("print the configuration")
}

fn serve(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let embedded = match &config.upstream.source {
            Source::Embedded(settings) => Some(Embedded::start(settings).await?),
            Source::Single(_) => None,
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if let Some(embedded) = embedded {
            embedded.stop().await;
        }
        Ok(())
    })
}

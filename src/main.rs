//! Arguments → configuration → serve → exit code. Nothing else happens here.

use std::env;
use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use millrace::cli::{Arguments, Command};
use millrace::config::{Config, Layers};
use millrace::log;

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
    runtime.block_on(millrace::serve::serve(config))
}

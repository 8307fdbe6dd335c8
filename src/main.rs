//! Arguments → configuration → serve, check or examine → exit code. Nothing else happens here.

use std::env;
use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use millrace::cli::{Arguments, Command};
use millrace::config::{Config, Layers};
use millrace::{doctor, log, upstream};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("millrace: {error:#}");
            match arguments.command() {
                Command::Doctor => ExitCode::from(2), // 1 is what the doctor's findings say
                Command::Serve | Command::Check => ExitCode::FAILURE,
            }
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let layers = Layers::read(arguments.config.as_deref(), env::vars_os())?;
    let config = layers.config()?;
    match arguments.command() {
        Command::Check => check(&layers),
        Command::Doctor => examine(&config),
        Command::Serve => {
            log::init(config.log);
            serve(config)
        }
    }
}

fn check(layers: &Layers) -> anyhow::Result<ExitCode> {
    let sources: String = layers.sources().iter().map(|source| format!(", {source}")).collect();
    let shown = format!("# the defaults{sources}\n{}", layers.effective()?);
    print(&shown)?;
    Ok(ExitCode::SUCCESS)
}

fn examine(config: &Config) -> anyhow::Result<ExitCode> {
    let topology = upstream::find(config)?;
    let report = runtime()?
        .block_on(doctor::examine(config, topology))
        .map_err(anyhow::Error::msg)?;
    print(&report.to_string())?;
    Ok(match report.dangers().next() {
        None => ExitCode::SUCCESS,
        Some(_) => ExitCode::FAILURE,
    })
}

fn serve(config: Config) -> anyhow::Result<ExitCode> {
    runtime()?.block_on(millrace::serve::serve(config))?;
    Ok(ExitCode::SUCCESS)
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("print")
}

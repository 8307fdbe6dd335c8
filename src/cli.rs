//! The command line: which command, which file. Values are the configuration's matter; there is no flag for any.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// A Redis proxy that is also a job queue.
#[derive(Debug, Parser)]
#[command(name = "millrace", version)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    /// The configuration file [default: ./proxy.toml if there is one, else built-in defaults]
    #[arg(long, short, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Serve clients until SIGTERM or Ctrl-C (what happens without a command)
    Serve,
    /// Print the configuration as it would take effect, secrets hidden, or say what is wrong with it
    Check,
    /// Ask the Redis behind the proxy whether it is one that keeps jobs. Exit status 0: nothing endangers them; 1: see what
    /// is printed; 2: it could not be asked
    Doctor,
}

impl Arguments {
    pub fn command(&self) -> Command {
        self.command.unwrap_or(Command::Serve)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn serving_is_what_happens_without_a_command() {
        let parse = |words: &str| Arguments::try_parse_from(words.split(' ')).expect("a command line");
        assert_eq!(parse("millrace").command(), Command::Serve);
        assert_eq!(parse("millrace --config a.toml").config, Some("a.toml".into()));
        let check = parse("millrace check --config a.toml");
        assert_eq!((check.command(), check.config), (Command::Check, Some("a.toml".into())));
        <Arguments as CommandFactory>::command().debug_assert();
    }
}

//! Defaults, file, environment: laid over each other, key by key, with the place each value came from. A value of the
//! wrong type or a key that does not exist is refused here; what a value may be is decided later, in `validate`, which
//! asks this file for the place to blame.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::file::File;
use super::{Config, environment};

/// A key of the configuration: `upstream.mode`, `queues."email-*".lease`, `auth.users[0].name`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(pub Vec<String>);

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Line(PathBuf, usize),
    File(PathBuf),
    Variable(String),
    Default,
}

/// Why there is no configuration: the place, the key, and what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    pub place: Place,
    pub key: Key,
    pub problem: String,
}

/// The three layers as one, and what is needed to say where each key stands.
#[derive(Debug)]
pub struct Layers {
    pub(super) merged: File,
    path: Option<PathBuf>,
    text: String,
    variables: BTreeMap<Key, String>,
}

const DEFAULT_FILE: &str = "proxy.toml";

impl Layers {
    /// Without a file named, `proxy.toml` of the working directory is taken if there is one.
    pub fn read(
        file: Option<&Path>,
        environment: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let path = match file {
            Some(file) => Some(file.to_owned()),
            None => Some(PathBuf::from(DEFAULT_FILE)).filter(|file| file.exists()),
        };
        let text = match &path {
            Some(path) => fs::read_to_string(path).map_err(|error| ConfigError {
                place: Place::File(path.clone()),
                key: Key::default(),
                problem: format!("cannot be read: {error}"),
            })?,
            None => String::new(),
        };
        Self::lay(path, text, environment)
    }

    /// As [`read`](Self::read), with the file's text given.
    pub fn lay(
        path: Option<PathBuf>,
        text: String,
        environment: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let mut layers = Self {
            merged: File::default(),
            path,
            text,
            variables: BTreeMap::new(),
        };
        let mut table = Table::try_from(&layers.merged).map_err(|error| layers.bug(&error))?;
        overlay(&mut table, layers.parse_file()?);
        for setting in environment::settings(environment)? {
            setting.displace_rival(&mut table);
            overlay(&mut table, setting.table());
            layers.variables.insert(setting.key, setting.variable);
        }
        layers.merged = File::deserialize(table).map_err(|error| layers.bug(&error))?;
        Ok(layers)
    }

    pub fn config(&self) -> Result<Config, ConfigError> {
        super::validate::config(self)
    }

    /// The configuration as it took effect, in the file's own form, with secrets hidden.
    pub fn effective(&self) -> Result<String, ConfigError> {
        toml::to_string(&self.merged).map_err(|error| self.bug(&error))
    }

    /// The file that was read, if any, and the environment's variables that were heeded.
    pub fn sources(&self) -> Vec<String> {
        let variables: BTreeSet<&String> = self.variables.values().collect();
        let file = self.path.iter().map(|path| path.display().to_string());
        file.chain(variables.into_iter().cloned()).collect()
    }

    /// An error about a key's value, with the place where the value stands.
    pub(super) fn refuse(&self, key: &[&str], problem: impl Into<String>) -> ConfigError {
        let key = Key::new(key);
        ConfigError {
            place: self.place(&key),
            key,
            problem: problem.into(),
        }
    }

    /// The file alone, so that what is wrong with its types is reported with its line.
    fn parse_file(&self) -> Result<Table, ConfigError> {
        let Err(error) = toml::from_str::<File>(&self.text) else {
            return toml::from_str(&self.text).map_err(|error| self.bug(&error));
        };
        let span = error.span().unwrap_or_default();
        Err(ConfigError {
            place: self.at(&span),
            key: self.key_at(&span),
            problem: in_our_words(error.message()),
        })
    }

    fn place(&self, key: &Key) -> Place {
        let variable = self.variables.iter().find(|(set, _)| key.0.starts_with(&set.0));
        if let Some((_, variable)) = variable {
            return Place::Variable(variable.clone());
        }
        let mut span = None;
        self.walk(&mut |path, at| {
            if key.0 == path {
                span = Some(at.clone());
            }
        });
        span.map_or(Place::Default, |span| self.at(&span))
    }

    fn at(&self, span: &Range<usize>) -> Place {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        self.path.clone().map_or(Place::Default, |path| Place::Line(path, line))
    }

    /// The innermost key that the span lies in.
    fn key_at(&self, span: &Range<usize>) -> Key {
        let mut found = (usize::MAX, Key::default());
        self.walk(&mut |path, at| {
            if at.contains(&span.start) && at.len() < found.0 {
                found = (at.len(), Key(path.to_vec()));
            }
        });
        found.1
    }

    /// Shows every key of the file, with the places of its name and of its value.
    fn walk(&self, see: &mut dyn FnMut(&[String], &Range<usize>)) {
        if let Ok(table) = DeTable::parse(&self.text) {
            walk_table(table.get_ref(), &mut Vec::new(), see);
        }
    }

    /// Values that were read, and cannot be written or read again: never, as the tests of the units show.
    fn bug(&self, error: &dyn fmt::Display) -> ConfigError {
        ConfigError {
            place: Place::Default,
            key: Key::default(),
            problem: format!("not representable: {error}"),
        }
    }
}

fn walk_table(table: &DeTable<'_>, path: &mut Vec<String>, see: &mut dyn FnMut(&[String], &Range<usize>)) {
    for (name, value) in table {
        path.push(name.get_ref().to_string());
        walk_value(value, path, see);
        // After the value: of the two places of a key its name is the one to point at.
        see(path, &name.span());
        path.pop();
    }
}

fn walk_value(value: &Spanned<DeValue<'_>>, path: &mut Vec<String>, see: &mut dyn FnMut(&[String], &Range<usize>)) {
    see(path, &value.span());
    match value.get_ref() {
        DeValue::Table(table) => walk_table(table, path, see),
        DeValue::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                path.push(format!("[{index}]"));
                walk_value(value, path, see);
                path.pop();
            }
        }
        _ => {}
    }
}

/// Tables are merged, anything else is replaced.
fn overlay(below: &mut Table, above: Table) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => overlay(below, above),
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}

/// serde speaks of fields and variants; whoever writes a file, of keys and values.
pub(super) fn in_our_words(message: &str) -> String {
    let words = [
        ("unknown field", "unknown key"),
        ("missing field", "missing key"),
        ("unknown variant", "unknown value"),
    ];
    let reworded = words
        .iter()
        .find_map(|(theirs, ours)| Some(format!("{ours}{}", message.strip_prefix(theirs)?)));
    reworded.unwrap_or_else(|| message.to_owned())
}

impl Key {
    pub fn new(path: &[&str]) -> Self {
        Self(path.iter().map(|&step| step.to_owned()).collect())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            let bare = !step.is_empty()
                && step
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
            let dot = if index == 0 || step.starts_with('[') { "" } else { "." };
            match step.starts_with('[') || bare {
                true => write!(f, "{dot}{step}")?,
                false => write!(f, "{dot}{step:?}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Line(file, line) => write!(f, "{}:{line}: ", file.display())?,
            Place::File(file) => write!(f, "{}: ", file.display())?,
            Place::Variable(name) => write!(f, "environment variable {name}: ")?,
            Place::Default => {}
        }
        if !self.key.0.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.problem)
    }
}

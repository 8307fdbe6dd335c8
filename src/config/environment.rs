//! What the environment says of the configuration: `MILLRACE_<SECTION>__<KEY>` for every key, and the `REDIS_…` names
//! that deployments already use. Both win over the file; of the two, `MILLRACE_…` wins.

use std::ffi::OsString;

use serde::Deserialize;
use toml::{Table, Value};

use super::file::File;
use super::layers::{ConfigError, Key, Place, in_our_words};

/// One key that a variable sets.
#[derive(Debug)]
pub struct Setting {
    pub key: Key,
    pub variable: String,
    value: Value,
}

const OURS: &str = "MILLRACE_";

/// In the order in which they are to be laid over each other.
pub fn settings(environment: impl Iterator<Item = (OsString, OsString)>) -> Result<Vec<Setting>, ConfigError> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for (name, value) in environment {
        let Some(name) = name.to_str() else { continue };
        // A name without `__` is nobody's key: Kubernetes makes MILLRACE_PORT and others for a service called millrace.
        let own = name.strip_prefix(OURS).filter(|key| key.contains("__"));
        if own.is_none() && !name.starts_with("REDIS_") {
            continue;
        }
        let text = value.into_string();
        match own {
            Some(key) => ours.push((key_of(key), name.to_owned(), text.map_err(|_| not_text(name))?)),
            None => theirs.push((name.to_owned(), text.unwrap_or_default())),
        }
    }
    ours.sort();
    let mode_is_ours = ours.iter().any(|(key, ..)| *key == Key::new(&["upstream", "mode"]));
    let redis = redis_names(&theirs, mode_is_ours).into_iter();
    redis
        .chain(ours)
        .map(|(key, variable, text)| Setting::parse(key, variable, &text))
        .collect()
}

/// `UPSTREAM__CONNECT_TIMEOUT` → `upstream.connect_timeout`; `QUEUES__LEASE` → `queues."*".lease`. A pattern in the
/// middle stays as it is written, since the names of queues tell upper from lower case.
fn key_of(name: &str) -> Key {
    let mut steps: Vec<String> = name.split("__").map(str::to_ascii_lowercase).collect();
    if steps[0] == "queues" {
        match steps.len() {
            2 => steps.insert(1, "*".to_owned()),
            _ => steps[1] = name.split("__").nth(1).unwrap_or_default().to_owned(),
        }
    }
    Key(steps)
}

/// The names that deployments already use, as keys of ours. What is empty counts as not set: compose files and charts
/// write `REDIS_PASSWORD=` for "none".
fn redis_names(variables: &[(String, String)], mode_is_ours: bool) -> Vec<(Key, String, String)> {
    let of = |name: &str| {
        let found = variables
            .iter()
            .find(|(variable, value)| variable == name && !value.is_empty());
        found.map(|(_, value)| value.as_str())
    };
    let host = of("REDIS_HOST");
    // Kubernetes sets REDIS_PORT=tcp://… for any service called redis: that is not about us.
    let port = of("REDIS_PORT").filter(|port| !port.starts_with("tcp://"));
    let mut settings = Vec::new();
    let mut set = |key: &str, variable: &str, value: &str| {
        settings.push((Key::new(&["upstream", key]), variable.to_owned(), value.to_owned()));
    };

    // A mode that nobody names follows from what is named.
    let implied = [
        ("cluster", "REDIS_CLUSTER_NODES", of("REDIS_CLUSTER_NODES")),
        ("sentinel", "REDIS_SENTINEL_HOSTS", of("REDIS_SENTINEL_HOSTS")),
        ("sentinel", "REDIS_SENTINEL_SERVICE", of("REDIS_SENTINEL_SERVICE")),
        ("single", "REDIS_HOST", host),
        ("single", "REDIS_PORT", port),
    ];
    match of("REDIS_MODE") {
        _ if mode_is_ours => {}
        Some("standalone") => set("mode", "REDIS_MODE", "single"),
        Some(mode) => set("mode", "REDIS_MODE", mode),
        None => {
            if let Some((mode, variable, _)) = implied.iter().find(|(.., value)| value.is_some()) {
                set("mode", variable, mode);
            }
        }
    }
    if host.is_some() || port.is_some() {
        let bare = host.unwrap_or("127.0.0.1");
        let host_in_brackets = if bare.contains(':') && !bare.starts_with('[') {
            format!("[{bare}]")
        } else {
            bare.to_owned()
        };
        let variable = if host.is_some() { "REDIS_HOST" } else { "REDIS_PORT" };
        set(
            "address",
            variable,
            &format!("{host_in_brackets}:{}", port.unwrap_or("6379")),
        );
    }
    let renamed = [
        ("password", "REDIS_PASSWORD"),
        ("master", "REDIS_SENTINEL_SERVICE"),
        ("sentinels", "REDIS_SENTINEL_HOSTS"),
        ("seeds", "REDIS_CLUSTER_NODES"),
    ];
    for (key, variable) in renamed {
        if let Some(value) = of(variable) {
            set(key, variable, value);
        }
    }
    settings
}

impl Setting {
    /// A variable is text, its key wants a string, a number or a list. The text itself is tried first (a password of
    /// digits is a password), then what it means in TOML, then a list with commas.
    fn parse(key: Key, variable: String, text: &str) -> Result<Self, ConfigError> {
        let list = || {
            Value::Array(
                text.split(',')
                    .map(|item| Value::String(item.trim().to_owned()))
                    .collect(),
            )
        };
        let mut setting = Self {
            key,
            variable,
            value: Value::String(text.to_owned()),
        };
        let Err(mut error) = setting.check() else {
            return Ok(setting);
        };
        let as_toml = toml::from_str::<Table>(&format!("value = {text}"))
            .ok()
            .and_then(|mut table| table.remove("value"));
        if let Some(value) = as_toml {
            setting.value = value;
            match setting.check() {
                Ok(()) => return Ok(setting),
                Err(other) => error = other,
            }
        }
        setting.value = list();
        match setting.check() {
            Ok(()) => Ok(setting),
            Err(_) => {
                let problem = in_our_words(error.message());
                Err(ConfigError {
                    place: Place::Variable(setting.variable),
                    key: setting.key,
                    problem,
                })
            }
        }
    }

    /// Whether a file that holds this key alone would be one.
    fn check(&self) -> Result<(), toml::de::Error> {
        File::deserialize(self.table()).map(|_| ())
    }

    /// A password from the environment also wins over a password file named in the file, and the other way round.
    pub fn displace_rival(&self, table: &mut Table) {
        let rival = match self.key.0.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["upstream", "password"] => "password_file",
            ["upstream", "password_file"] => "password",
            _ => return,
        };
        if let Some(Value::Table(upstream)) = table.get_mut("upstream") {
            upstream.remove(rival);
        }
    }

    pub fn table(&self) -> Table {
        let value = self.key.0.iter().rev().fold(self.value.clone(), |value, step| {
            Value::Table(Table::from_iter([(step.clone(), value)]))
        });
        match value {
            Value::Table(table) => table,
            _ => Table::new(), // only if the key had no step, and `split` gives at least one
        }
    }
}

fn not_text(variable: &str) -> ConfigError {
    let problem = "expected text in UTF-8".to_owned();
    ConfigError {
        place: Place::Variable(variable.to_owned()),
        key: Key::default(),
        problem,
    }
}

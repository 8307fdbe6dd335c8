//! A value that must never be shown: passwords and tokens of the configuration. It prints as `***` wherever it is
//! printed (logs, errors, `millrace check`); only who calls `expose` sees it. It does not guard memory against dumps.
//! And a [`Password`], which may stand in a file of its own that changes while the proxy runs.

use std::borrow::Cow;
use std::path::PathBuf;
use std::{fmt, fs};

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The value itself: for the wire, never for people.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Password {
    Written(Secret),
    /// One line break at the end of the file is not part of it.
    File(PathBuf),
}

impl Password {
    /// As it is now; else what is wrong with its file.
    pub fn read(&self) -> Result<Cow<'_, Secret>, String> {
        let path = match self {
            Self::Written(secret) => return Ok(Cow::Borrowed(secret)),
            Self::File(path) => path,
        };
        let text = fs::read_to_string(path)
            .map_err(|error| format!("expected a file that can be read: {}: {error}", path.display()))?;
        let line = text
            .strip_suffix('\n')
            .map(|line| line.strip_suffix('\r').unwrap_or(line));
        match line.unwrap_or(&text) {
            "" => Err(format!("expected a password in {}, found nothing", path.display())),
            password => Ok(Cow::Owned(Secret::new(password))),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_string(Text)
    }
}

struct Text;

impl Visitor<'_> for Text {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string in quotes")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Secret, E> {
        Ok(Secret::new(text))
    }

    // serde's own words would quote the value: a password of digits only, written without its quotes.
    fn visit_i64<E: Error>(self, _: i64) -> Result<Secret, E> {
        Err(E::invalid_type(Unexpected::Other("number"), &self))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Secret, E> {
        Err(E::invalid_type(Unexpected::Other("number"), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?}"), "*** ***");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn a_secret_of_the_wrong_type_is_not_quoted_in_the_error() {
        let error = toml::Value::Integer(12345)
            .try_into::<Secret>()
            .expect_err("not a string");
        assert!(!error.to_string().contains("12345"), "{error}");
    }
}

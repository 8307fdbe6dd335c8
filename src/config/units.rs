//! The values of the file that are more than a number or a string: durations, sizes, rates, addresses. Each is parsed
//! where it stands, so that a wrong one is reported with its line, and is written back in the same notation.
//! Whether a value is in range is not decided here: that is `validate`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Error, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const PERIOD_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];
const SIZE_UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const RATE_UNITS: [(&str, u64); 3] = [("s", 1), ("m", 60), ("h", 3_600)];

/// A duration: "250ms", "30s", "5m", "1h", "30d".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Period(pub Duration);

/// A number of bytes: "64KiB", "512MiB", "1GiB", or a plain whole number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size(pub u64);

/// A whole number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count(pub u64);

/// So many a second, minute or hour: "100/s". Empty is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate(pub Option<(u64, Duration)>);

/// One "IP:port", or a list of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses(pub Vec<SocketAddr>);

/// One "IP:port"; empty is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OptionalAddress(pub Option<SocketAddr>);

/// Where a Redis is reached: "host:port", or the path of a unix socket ("/path", "unix:/path").
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

// ---- text to value --------------------------------------------------------------------------------------------------

/// "30s" with its table of units → 30 and what one unit is worth.
fn number_and_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().ok()?;
    let unit = text[digits..].trim_start();
    let worth = match unit {
        "" if number == 0 => 1, // nothing is nothing in every unit
        _ => units.iter().find(|(name, _)| *name == unit)?.1,
    };
    number.checked_mul(worth)
}

/// The greatest unit that leaves no remainder: 90 s is "90s", 3600 s is "1h".
fn in_greatest_unit(value: u64, units: &[(&str, u64)]) -> (u64, String) {
    let fits = |(_, worth): &&(&str, u64)| value.is_multiple_of(*worth);
    let (name, worth) = units.iter().find(fits).copied().unwrap_or(("", 1));
    (value / worth, name.to_owned())
}

impl Period {
    fn parse(text: &str) -> Option<Self> {
        number_and_unit(text, &PERIOD_UNITS).map(|millis| Self(Duration::from_millis(millis)))
    }
}

impl Size {
    fn parse(text: &str) -> Option<Self> {
        let plain = text.parse().ok();
        plain.or_else(|| number_and_unit(text, &SIZE_UNITS)).map(Self)
    }
}

impl Rate {
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self(None));
        }
        let (number, unit) = text.split_once('/')?;
        let (_, seconds) = RATE_UNITS.iter().find(|(name, _)| *name == unit.trim())?;
        let number = number.trim().parse().ok().filter(|&number| number > 0)?;
        Some(Self(Some((number, Duration::from_secs(*seconds)))))
    }
}

impl OptionalAddress {
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            Some(Self(None))
        } else {
            text.parse().ok().map(|address| Self(Some(address)))
        }
    }
}

impl Endpoint {
    pub fn local(port: u16) -> Self {
        Self::Tcp {
            host: "127.0.0.1".to_owned(),
            port,
        }
    }
}

impl FromStr for Endpoint {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let path = text
            .strip_prefix("unix:")
            .or_else(|| text.starts_with('/').then_some(text));
        if let Some(path) = path {
            return if path.is_empty() {
                Err(())
            } else {
                Ok(Self::Unix(PathBuf::from(path)))
            };
        }
        let (host, port) = text.rsplit_once(':').ok_or(())?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        // "::1:6379" could be read in two ways, so an IPv6 address needs its brackets.
        if bare.is_none() && host.contains(':') {
            return Err(());
        }
        let host = bare.unwrap_or(host);
        let port = port.parse().ok().filter(|&port| port != 0).ok_or(())?;
        if host.is_empty() || host.contains(char::is_whitespace) {
            return Err(());
        }
        Ok(Self::Tcp {
            host: host.to_owned(),
            port,
        })
    }
}

// ---- value to text --------------------------------------------------------------------------------------------------

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_zero() {
            return f.write_str("0s");
        }
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let (number, unit) = in_greatest_unit(millis, &PERIOD_UNITS);
        write!(f, "{number}{unit}")
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match in_greatest_unit(self.0, &SIZE_UNITS) {
            (0, _) => f.write_str("0"),
            (number, unit) => write!(f, "{number}{unit}"),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((number, per)) = self.0 else { return Ok(()) };
        let unit = RATE_UNITS.iter().find(|(_, seconds)| *seconds == per.as_secs());
        write!(f, "{number}/{}", unit.map_or("s", |(name, _)| name))
    }
}

impl fmt::Display for OptionalAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |address| address.fmt(f))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

// ---- serde ----------------------------------------------------------------------------------------------------------

/// A value written as a string, or (where `whole` allows it) as a whole number.
struct Notation<T> {
    expected: &'static str,
    text: fn(&str) -> Option<T>,
    whole: fn(u64) -> Option<T>,
}

impl<T> Visitor<'_> for Notation<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.text)(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        let value = u64::try_from(number).ok().and_then(self.whole);
        value.ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        (self.whole)(number).ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
    }
}

macro_rules! notation {
    ($type:ty, $expected:literal, $text:expr, $whole:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Notation {
                    expected: $expected,
                    text: $text,
                    whole: $whole,
                })
            }
        }
    };
}

notation!(
    Period,
    r#"a duration such as "250ms", "30s", "5m", "1h" or "30d""#,
    Period::parse,
    |_| None
);
notation!(
    Size,
    r#"a size such as "64KiB", "512MiB" or a number of bytes"#,
    Size::parse,
    |bytes| Some(Size(bytes))
);
notation!(Count, "a whole number, 0 or more", |_| None, |number| Some(Count(
    number
)));
notation!(
    Rate,
    r#"a rate such as "100/s", "5000/m" or "1000/h", or "" for no bound"#,
    Rate::parse,
    |_| None
);
notation!(
    OptionalAddress,
    r#""IP:port", such as "127.0.0.1:9380", or "" for none"#,
    OptionalAddress::parse,
    |_| None
);
notation!(
    Endpoint,
    r#""host:port" or the path of a unix socket"#,
    |text| text.parse().ok(),
    |_| None
);

impl Serialize for Count {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

macro_rules! written_as_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}

written_as_text!(Period, Size, Rate, OptionalAddress, Endpoint);

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMore;

        impl<'de> Visitor<'de> for OneOrMore {
            type Value = Addresses;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(r#""IP:port", such as "127.0.0.1:6380" or "[::1]:6380", or a list of them"#)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Addresses, E> {
                let address = text
                    .parse()
                    .map_err(|_| E::invalid_value(Unexpected::Str(text), &self))?;
                Ok(Addresses(vec![address]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Addresses, A::Error> {
                let mut addresses = Vec::new();
                while let Some(text) = list.next_element::<String>()? {
                    let address = text.parse();
                    addresses.push(address.map_err(|_| A::Error::invalid_value(Unexpected::Str(&text), &self))?);
                }
                Ok(Addresses(addresses))
            }
        }

        deserializer.deserialize_any(OneOrMore)
    }
}

impl Serialize for Addresses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => serializer.collect_str(one),
            more => serializer.collect_seq(more.iter().map(ToString::to_string)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_sizes_and_rates_are_read_and_written_in_one_notation() {
        for (text, millis) in [
            ("0s", 0),
            ("250ms", 250),
            ("30s", 30_000),
            ("90m", 5_400_000),
            ("30d", 2_592_000_000),
        ] {
            let period = Period::parse(text).expect(text);
            assert_eq!(period.0.as_millis(), millis);
            assert_eq!(period.to_string(), text);
        }
        for (text, bytes) in [
            ("0", 0),
            ("64KiB", 65_536),
            ("512MiB", 512 << 20),
            ("3GiB", 3 << 30),
            ("17B", 17),
        ] {
            assert_eq!(Size::parse(text), Some(Size(bytes)));
            assert_eq!(Size(bytes).to_string(), text);
        }
        assert_eq!(Size::parse("4096"), Some(Size(4096)));
        for text in ["", "100/s", "5000/m", "7/h"] {
            assert_eq!(Rate::parse(text).expect(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_no_duration_size_or_rate_is_refused() {
        for text in [
            "",
            "s",
            "30",
            "-1s",
            "1.5s",
            "1 fortnight",
            "30S",
            "18446744073709551615d",
        ] {
            assert_eq!(Period::parse(text), None, "{text}");
        }
        for text in ["", "KiB", "1kb", "-1", "99999999999GiB"] {
            assert_eq!(Size::parse(text), None, "{text}");
        }
        for text in ["100", "/s", "0/s", "1/d", "a/s"] {
            assert_eq!(Rate::parse(text), None, "{text}");
        }
    }

    #[test]
    fn an_endpoint_is_a_host_and_port_or_a_socket_path() {
        let tcp = |host: &str, port| {
            Ok(Endpoint::Tcp {
                host: host.to_owned(),
                port,
            })
        };
        assert_eq!("redis.internal:6379".parse(), tcp("redis.internal", 6379));
        assert_eq!("[::1]:6379".parse(), tcp("::1", 6379));
        assert_eq!("/run/redis.sock".parse(), Ok(Endpoint::Unix("/run/redis.sock".into())));
        assert_eq!("unix:redis.sock".parse(), Ok(Endpoint::Unix("redis.sock".into())));
        for text in [
            "",
            "redis",
            ":6379",
            "::1:6379",
            "redis:0",
            "redis:65536",
            "unix:",
            "a b:1",
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(()), "{text}");
        }
    }
}

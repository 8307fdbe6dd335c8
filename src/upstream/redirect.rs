//! The errors by which a node of a cluster says that a request was not executed there: where to go, or to come again.

use crate::config::Endpoint;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redirect {
    /// The slot is another node's.
    Moved { slot: u16, to: Address },
    /// The slot is on its way to another node, and this key is there already: this one request goes there, with ASKING.
    Ask { to: Address },
    /// Keys of the slot are on their way, or nobody serves it for now.
    Later,
}

/// As a node names another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// `None`: the same host as the node that said it.
    pub host: Option<String>,
    pub port: u16,
}

impl Redirect {
    /// `None`: the reply is another.
    pub fn read(reply: &[u8]) -> Option<Self> {
        let line = reply.strip_prefix(b"-")?;
        if line.starts_with(b"TRYAGAIN ") || line.starts_with(b"CLUSTERDOWN ") {
            return Some(Self::Later);
        }
        if !line.starts_with(b"MOVED ") && !line.starts_with(b"ASK ") {
            return None;
        }
        let line = std::str::from_utf8(line.trim_ascii_end()).ok()?;
        let mut words = line.split(' ');
        let (code, slot, to) = (words.next()?, words.next()?, words.next()?);
        let slot: u16 = slot
            .parse()
            .ok()
            .filter(|slot| usize::from(*slot) < super::topology::SLOTS)?;
        let to = Address::parse(to)?;
        Some(match code {
            "MOVED" => Self::Moved { slot, to },
            _ => Self::Ask { to },
        })
    }
}

impl Address {
    /// `host:port`; an IPv6 address stands there as it is, with or without brackets.
    fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        Some(Self::new(host, port.parse().ok()?))
    }

    pub fn new(host: &str, port: u16) -> Self {
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        // A node that was told to announce a name and has none says `?`.
        let host = Some(bare)
            .filter(|host| !host.is_empty() && *host != "?")
            .map(str::to_owned);
        Self { host, port }
    }

    /// Where that is, by the word of the node at `teller`.
    pub fn seen_from(&self, teller: &Endpoint) -> Option<Endpoint> {
        let host = match (&self.host, teller) {
            (Some(host), _) => host.clone(),
            (None, Endpoint::Tcp { host, .. }) => host.clone(),
            (None, Endpoint::Unix(_)) => return None,
        };
        (self.port != 0).then_some(Endpoint::Tcp { host, port: self.port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Option<Endpoint> {
        let host = host.to_owned();
        Some(Endpoint::Tcp { host, port })
    }

    #[test]
    fn a_redirect_names_its_node_in_each_notation() {
        let teller = tcp("10.0.0.1", 7000).unwrap();
        for (line, slot, to) in [
            ("-MOVED 0 10.0.0.2:7001\r\n", 0, tcp("10.0.0.2", 7001)),
            ("-MOVED 16383 :7001\r\n", 16383, tcp("10.0.0.1", 7001)),
            ("-MOVED 5 ?:7001\r\n", 5, tcp("10.0.0.1", 7001)),
            ("-MOVED 5 fd00::2:7001\r\n", 5, tcp("fd00::2", 7001)),
            ("-MOVED 5 [fd00::2]:7001\r\n", 5, tcp("fd00::2", 7001)),
            (
                "-MOVED 5 node-2.redis.internal:7001\r\n",
                5,
                tcp("node-2.redis.internal", 7001),
            ),
            ("-MOVED 5 10.0.0.2:0\r\n", 5, None),
        ] {
            let Some(Redirect::Moved {
                slot: told,
                to: address,
            }) = Redirect::read(line.as_bytes())
            else {
                panic!("{line}");
            };
            assert_eq!((told, address.seen_from(&teller)), (slot, to), "{line}");
        }
        let asked = Redirect::read(b"-ASK 5 10.0.0.2:7001\r\n");
        assert!(matches!(asked, Some(Redirect::Ask { to }) if to.port == 7001));
        assert_eq!(Redirect::read(b"-TRYAGAIN Multiple keys\r\n"), Some(Redirect::Later));
        assert_eq!(
            Redirect::read(b"-CLUSTERDOWN Hash slot not served\r\n"),
            Some(Redirect::Later)
        );
    }

    #[test]
    fn other_errors_are_the_clients() {
        for line in [
            "-ERR MOVED 1 a:1\r\n",
            "-MOVED\r\n",
            "-MOVED 16384 a:1\r\n",
            "-MOVED 1 a:x\r\n",
            "-ASKING\r\n",
            "+OK\r\n",
        ] {
            assert_eq!(Redirect::read(line.as_bytes()), None, "{line}");
        }
    }
}

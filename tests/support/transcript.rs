//! A transcript: what clients say to a server and what they must hear, as a text that reads like a session.
//!
//! ```text
//! # a comment
//! > LPUSH q a                 a client says a command
//! < :1                        and hears this (the notation: pattern.rs)
//! <2 :1                       …in RESP2 only        <3 :1   …in RESP3 only
//! <? :1                       …from Redis          <! :2   …and from the proxy: unlike on purpose, a comment says why
//! >> "*1\r\n$-5\r\n"          a client says these bytes
//! b> QPOP q BLOCK 5000        another client; it may hear its reply any number of lines later
//! b< [q, <receipt>, a, :1]
//! ```
//! A client connects when it first speaks, and again after it was `closed`.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::pattern::{Captures, Pattern};
use super::{Client, Reply, words};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Protocol {
    Resp2,
    Resp3,
}

/// Whom a transcript is played to.
#[derive(Clone, Copy, PartialEq)]
pub enum Role {
    /// Redis itself: is the transcript true?
    Oracle,
    Proxy,
}

pub struct Transcript {
    path: PathBuf,
    lines: Vec<(usize, Line)>,
}

enum Line {
    Says {
        client: String,
        command: String,
    },
    SaysBytes {
        client: String,
        bytes: Vec<u8>,
    },
    Hears {
        client: String,
        only: Option<Protocol>,
        role: Option<Role>,
        pattern: Pattern,
    },
}

/// What was heard, in order; `None` where the connection was closed.
pub type Heard = Vec<Option<Reply>>;

impl Transcript {
    /// Every `.txt` of a directory, by name.
    pub fn all_in(directory: &str) -> Vec<Transcript> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
        let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a directory entry").path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
        paths.sort();
        assert!(!paths.is_empty(), "no transcripts in {}", directory.display());
        paths.iter().map(|path| Transcript::read(path)).collect()
    }

    fn read(path: &Path) -> Transcript {
        let text = fs::read_to_string(path).expect("a transcript can be read");
        let mut lines = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            if !line.trim().is_empty() && !line.starts_with('#') {
                let parsed = parse(line).unwrap_or_else(|what| panic!("{}:{number}: {what}", path.display()));
                lines.push((number, parsed));
            }
        }
        Transcript {
            path: path.into(),
            lines,
        }
    }

    /// Plays it to the server at `address`. Every reply must be what is written, and, where `oracle` holds what Redis
    /// said and the transcript leaves nothing open, the very same bytes.
    pub fn play(&self, address: &str, protocol: Protocol, role: Role, oracle: Option<&Heard>) -> Heard {
        let mut clients: HashMap<&str, Client> = HashMap::new();
        let mut captures = Captures::new();
        let mut heard = Heard::new();
        for (number, line) in &self.lines {
            let place = format!("{}:{number} ({protocol:?})", self.path.display());
            match line {
                Line::Says { client, command } => {
                    let words = words::split(command)
                        .into_iter()
                        .map(|word| substitute(word, &captures, &place));
                    speaking(&mut clients, client, address, protocol).send(&words.collect::<Vec<_>>());
                }
                Line::SaysBytes { client, bytes } => {
                    speaking(&mut clients, client, address, protocol).send_bytes(bytes);
                }
                Line::Hears { only, role: whose, .. }
                    if only.is_some_and(|only| only != protocol) || whose.is_some_and(|whose| whose != role) => {}
                Line::Hears {
                    client,
                    pattern,
                    role: whose,
                    ..
                } => {
                    let connection = clients
                        .get_mut(client.as_str())
                        .unwrap_or_else(|| panic!("{place}: never spoke"));
                    let reply = next_reply(connection, &place);
                    check(pattern, reply.as_ref(), &mut captures, &place);
                    if reply.is_none() {
                        clients.remove(client.as_str());
                    }
                    let said = oracle.and_then(|oracle| oracle.get(heard.len()));
                    if let Some(said) = said.filter(|_| whose.is_none() && pattern.is_exact()) {
                        assert_eq!(&reply, said, "{place}: not what Redis said");
                    }
                    heard.push(reply);
                }
            }
        }
        heard
    }
}

fn check(pattern: &Pattern, reply: Option<&Reply>, captures: &mut Captures, place: &str) {
    let Some(reply) = reply else {
        assert!(
            matches!(pattern, Pattern::Closed),
            "{place}: the connection was closed, expected {pattern:?}"
        );
        return;
    };
    assert!(
        pattern.matches(reply, captures),
        "{place}: heard {reply}, expected {pattern:?}, known {captures:?}"
    );
}

/// The client of that name, greeted in the protocol of the play when it is new.
fn speaking<'a, 'b>(
    clients: &'b mut HashMap<&'a str, Client>,
    name: &'a str,
    address: &str,
    protocol: Protocol,
) -> &'b mut Client {
    clients.entry(name).or_insert_with(|| {
        let mut client = Client::connect(address).expect("the server accepts connections");
        if protocol == Protocol::Resp3 {
            client.hello3();
        }
        client
    })
}

fn next_reply(client: &mut Client, place: &str) -> Option<Reply> {
    match client.try_receive() {
        Ok(reply) => Some(reply),
        Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => None,
        Err(error) => panic!("{place}: no reply: {error}"),
    }
}

/// `<name>` in a command becomes what it stood for in a reply.
fn substitute(word: Vec<u8>, captures: &Captures, place: &str) -> Vec<u8> {
    let name = word
        .strip_prefix(b"<")
        .and_then(|word| word.strip_suffix(b">"))
        .and_then(|n| std::str::from_utf8(n).ok());
    match name {
        None => word,
        Some(name) => captures
            .get(name)
            .unwrap_or_else(|| panic!("{place}: <{name}> was never heard"))
            .clone(),
    }
}

fn parse(line: &str) -> Result<Line, String> {
    let sign = line.find(['>', '<']).ok_or("neither > nor <")?;
    let client = line[..sign].to_owned();
    if let Some(rest) = line[sign..].strip_prefix(">>") {
        let bytes = words::split(rest).concat();
        return Ok(Line::SaysBytes { client, bytes });
    }
    if let Some(rest) = line[sign..].strip_prefix('>') {
        return Ok(Line::Says {
            client,
            command: rest.trim().into(),
        });
    }
    let (mark, text) = line[sign + 1..].split_once(' ').ok_or("nothing is expected")?;
    let (only, role) = match mark {
        "" => (None, None),
        "2" => (Some(Protocol::Resp2), None),
        "3" => (Some(Protocol::Resp3), None),
        "!" => (None, Some(Role::Proxy)),
        "?" => (None, Some(Role::Oracle)),
        _ => return Err(format!("<{mark} means nothing")),
    };
    Ok(Line::Hears {
        client,
        only,
        role,
        pattern: Pattern::parse(text)?,
    })
}

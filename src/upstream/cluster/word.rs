//! What one node of a cluster says: asked of it, and read. Whether it can be believed is not judged here
//! ([`super::believed`]).

use std::collections::HashSet;

use bytes::Bytes;

use crate::config::{Config, Endpoint};
use crate::resp::reader::{BadReply, Element, Reader};
use crate::upstream::link;
use crate::upstream::redirect::Address;
use crate::upstream::topology::{SLOTS, Shard};

/// What one node says.
#[derive(Clone, Debug)]
pub struct Word {
    /// Of the last election.
    pub epoch: u64,
    pub is_ok: bool,
    /// First slot, last slot, who serves them.
    pub ranges: Vec<(u16, u16, Shard)>,
    /// Of these the primary is down.
    pub failed: Vec<(u16, u16)>,
    /// Names that stay with a node for life.
    pub ids: HashSet<String>,
}

/// All that it knows of the slots. `Err`: why it says nothing, for the log.
pub async fn ask(node: &Endpoint, config: &Config) -> Result<Word, String> {
    let stream = link::enter(node, config).await.map_err(|error| error.in_full())?;
    let slots = link::ask(&stream, &["CLUSTER", "SLOTS"]).await?;
    // After the slots, never before: the map is of this election or a later one.
    let info = link::ask(&stream, &["CLUSTER", "INFO"]).await?;
    let (epoch, is_ok) = read_epoch(&info)?;
    let failed = match memchr::memmem::find(&info, b"cluster_slots_fail:0\r").is_some() {
        true => Vec::new(),
        false => read_failed(&link::ask(&stream, &["CLUSTER", "NODES"]).await?),
    };
    let (ranges, ids) =
        read_slots(slots, node).map_err(|error| format!("its CLUSTER SLOTS is not understood: {error}"))?;
    Ok(Word {
        epoch,
        is_ok,
        ranges,
        failed,
        ids,
    })
}

/// The number of the last election that it knows of, and nothing else: a reply of a few bytes.
pub async fn ask_epoch(node: &Endpoint, config: &Config) -> Result<u64, String> {
    let stream = link::enter(node, config).await.map_err(|error| error.in_full())?;
    Ok(read_epoch(&link::ask(&stream, &["CLUSTER", "INFO"]).await?)?.0)
}

/// The number of the last election, and whether the cluster serves.
fn read_epoch(info: &[u8]) -> Result<(u64, bool), String> {
    let info = String::from_utf8_lossy(info);
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let epoch = field("cluster_current_epoch").and_then(|epoch| epoch.trim().parse().ok());
    let epoch = epoch.ok_or_else(|| "what answers is no node of a cluster".to_owned())?;
    Ok((epoch, field("cluster_state").is_some_and(|state| state.trim() == "ok")))
}

/// The slots of primaries that are taken for dead, out of CLUSTER NODES: a line a node, words with a space between, the third
/// its flags, from the ninth on its slots.
fn read_failed(nodes: &[u8]) -> Vec<(u16, u16)> {
    let text = String::from_utf8_lossy(nodes);
    let lines = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let is_dead = |words: &Vec<&str>| {
        let mut flags = words.get(2).into_iter().flat_map(|flags| flags.split(','));
        words.len() > 8 && flags.clone().any(|flag| flag == "master") && flags.any(|flag| flag == "fail")
    };
    let range = |word: &str| {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        Some((first.parse().ok()?, last.parse().ok()?)) // not so those on their way: [1->-id]
    };
    let dead = lines.filter(is_dead);
    dead.flat_map(|words| words[8..].iter().filter_map(|word| range(word)).collect::<Vec<_>>())
        .collect()
}

type Slots = (Vec<(u16, u16, Shard)>, HashSet<String>);

/// Each range: first slot, last slot, its primary, its replicas; each node: host, port, id, and since 7.0 more.
fn read_slots(reply: Bytes, teller: &Endpoint) -> Result<Slots, BadReply> {
    let mut reader = Reader::new(reply);
    let (mut ranges, mut ids) = (Vec::new(), HashSet::new());
    for _ in 0..reader.array()? {
        let len = reader.array()?;
        let (first, last) = (slot(reader.integer()?)?, slot(reader.integer()?)?);
        let mut nodes = Vec::new();
        for _ in 2..len {
            nodes.extend(read_node(&mut reader, teller, &mut ids)?);
        }
        let mut nodes = nodes.into_iter();
        if let Some(primary) = nodes.next() {
            let replicas = nodes.collect();
            ranges.push((first, last, Shard { primary, replicas }));
        }
    }
    Ok((ranges, ids))
}

/// `None`: it says of itself no port at which it could be reached.
fn read_node(reader: &mut Reader, teller: &Endpoint, ids: &mut HashSet<String>) -> Result<Option<Endpoint>, BadReply> {
    let len = reader.array()?;
    let host = reader.bulk_or_null()?.unwrap_or_default();
    let port = u16::try_from(reader.integer()?).map_err(|_| BadReply("no port"))?;
    if len > 2 {
        ids.insert(String::from_utf8_lossy(&reader.bulk()?).into_owned());
    }
    for _ in 3..len {
        skip(reader)?;
    }
    Ok(Address::new(&String::from_utf8_lossy(&host), port).seen_from(teller))
}

fn skip(reader: &mut Reader) -> Result<(), BadReply> {
    let parts = match reader.element()? {
        Element::Array(parts) => parts,
        Element::Map(pairs) => 2 * pairs,
        _ => 0,
    };
    (0..parts).try_for_each(|_| skip(reader))
}

fn slot(number: i64) -> Result<u16, BadReply> {
    let slot = u16::try_from(number).ok().filter(|slot| usize::from(*slot) < SLOTS);
    slot.ok_or(BadReply("no slot"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slots_of_dead_primaries_are_known() {
        let nodes = "$9\r\na 1:1@2 master - 0 0 1 connected 0-5 [7->-b]\nb 1:2@3 master,fail - 0 0 2 connected 6-9 11 [12-<-a]\n\
                     c 1:3@4 slave,fail b 0 0 2 connected\nd 1:4@5 master,fail? - 0 0 3 connected 20\n\r\n";
        assert_eq!(read_failed(nodes.as_bytes()), [(6, 9), (11, 11)]);
    }

    #[test]
    fn nodes_are_read_as_each_version_tells_of_them() {
        let teller = Endpoint::Tcp {
            host: "10.0.0.9".into(),
            port: 7000,
        };
        // Of one range a node that has no name for itself; of the other one a host name, 7.0's metadata, and a replica.
        let reply = "*2\r\n*3\r\n:0\r\n:0\r\n*3\r\n$0\r\n\r\n:7000\r\n$1\r\na\r\n\
                     *4\r\n:1\r\n:16383\r\n*4\r\n$2\r\nr1\r\n:7001\r\n$1\r\nb\r\n*2\r\n$2\r\nip\r\n$8\r\n10.0.0.2\r\n\
                     *3\r\n$-1\r\n:7002\r\n$1\r\nc\r\n";
        let (ranges, ids) = read_slots(Bytes::from_static(reply.as_bytes()), &teller).expect("it is understood");
        let told: Vec<_> = ranges
            .iter()
            .map(|(first, last, shard)| {
                let replicas: Vec<_> = shard.replicas.iter().map(Endpoint::to_string).collect();
                (*first, *last, shard.primary.to_string(), replicas)
            })
            .collect();
        let second = (1, 16383, "r1:7001".to_owned(), vec!["10.0.0.9:7002".to_owned()]);
        assert_eq!(told, [(0, 0, "10.0.0.9:7000".to_owned(), vec![]), second]);
        assert_eq!(ids.len(), 3);
        let wrong = "*1\r\n*3\r\n:0\r\n:16384\r\n*3\r\n$0\r\n\r\n:7000\r\n$1\r\na\r\n";
        assert!(read_slots(Bytes::from_static(wrong.as_bytes()), &teller).is_err());
    }
}

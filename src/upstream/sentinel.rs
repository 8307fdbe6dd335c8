//! Sentinel mode: who the primary is, by the word of the sentinels. It carries no request.
//!
//! 1. In each round every sentinel that is known is asked, side by side, and what the latest election came to is believed.
//!    So an old primary that comes back and a sentinel that was cut off are not, whatever they say. In a hurry a round ends
//!    soon after the last that has something to say: one may have gone with the machine of the primary.
//! 2. A sentinel that knows the master names the others, and they are asked from then on too.
//! 3. A round each second; as soon as a worker doubts the primary, one at once and then ten a second for a while. So too
//!    when a sentinel tells of an event (`+promoted-slave`, `+sdown` …): events are only a reason to ask, as one may be missed.
//!
//! Whether the primary says that it is one is seen by each connection to it (`ROLE`, [`super::link`]).

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::link::{self, Frames, LinkError};
use super::topology::{Snapshot, Topology, Watcher};
use crate::config::{Endpoint, Sentinels};
use crate::resp::reader::{Element, Reader};
use crate::stream::Stream;

const CALM: Duration = Duration::from_secs(1);
const HURRY: Duration = Duration::from_millis(100);
/// After a doubt. Sentinels take longer to elect a primary, but then connections fail, which is a doubt again.
const HURRY_FOR: Duration = Duration::from_secs(5);
/// While in a hurry, a sentinel that answers nothing (it may be on the machine that died) holds up a round for no longer.
const HURRY_PATIENCE: Duration = Duration::from_millis(250);
/// And for no longer than this when another one has answered.
const HURRY_REST: Duration = Duration::from_millis(50);
/// `+promoted-slave` is told by the sentinel that leads an election, as soon as it names the new primary; `+switch-master` by
/// the others when they have heard of it, and by itself when the replicas follow. Of an election that an operator ordered
/// there is no other word.
const EVENTS: &[&str] = &[
    "+promoted-slave",
    "+switch-master",
    "+sdown",
    "-sdown",
    "+odown",
    "-odown",
];
/// Sentinels remembered beside the configured ones; a sane set has 3 to 7.
pub const MAX_LEARNED: usize = 32;

/// What one sentinel says of the master.
#[derive(Debug)]
pub struct Word {
    pub primary: Endpoint,
    pub epoch: u64,
    /// How many sentinels must see the primary down.
    pub quorum: usize,
    pub others: Vec<Endpoint>,
    /// Those that are up.
    pub replicas: Vec<Endpoint>,
}

/// Asks until the thread ends; the process's end ends it.
pub async fn watch(settings: Sentinels, connect_timeout: Duration, watcher: Watcher) {
    let mut learned = Vec::new();
    let mut hurry_until = Instant::now();
    let mut complaint = String::new();
    let heard = Rc::new(Notify::new());
    let mut listened_to = 0;
    loop {
        for sentinel in settings.endpoints.iter().chain(&learned).skip(listened_to) {
            tokio::task::spawn_local(listen(sentinel.clone(), settings.clone(), heard.clone()));
            listened_to += 1;
        }
        let (pause, patience, rest) = match Instant::now() < hurry_until {
            true => (HURRY, connect_timeout.min(HURRY_PATIENCE), HURRY_REST),
            false => (CALM, connect_timeout, connect_timeout),
        };
        let answers = ask_all(&settings, &learned, patience, rest).await;
        for (_, word) in &answers {
            learn(&settings, &mut learned, word);
        }
        conclude(&watcher, answers, &mut complaint);
        tokio::select! {
            () = sleep(pause) => {}
            () = heard.notified() => hurry_until = Instant::now() + HURRY_FOR,
            _ = watcher.doubted() => {
                // Many doubt, one after another, and again while it lasts: the first is heeded at once.
                if Instant::now() < hurry_until {
                    sleep(HURRY).await;
                }
                hurry_until = Instant::now() + HURRY_FOR;
            }
        }
    }
}

/// Hears what one sentinel tells of the primary, as long as the process runs.
async fn listen(sentinel: Endpoint, settings: Sentinels, heard: Rc<Notify>) {
    loop {
        // Why it cannot be heard is what it cannot be asked for, and that is said by those who ask.
        let _ = hear(&sentinel, &settings, &heard).await;
        sleep(CALM).await;
    }
}

async fn hear(sentinel: &Endpoint, settings: &Sentinels, heard: &Notify) -> Result<(), String> {
    let lost = |error: LinkError| error.in_full();
    let stream = enter(sentinel, settings).await?;
    let words: Vec<_> = ["SUBSCRIBE"]
        .iter()
        .chain(EVENTS)
        .map(|word| (*word).to_owned())
        .collect();
    let mut frames = Frames::of(&stream, &words).await.map_err(lost)?;
    loop {
        let event = frames.next().await.map_err(lost)?;
        let is_of_ours = memchr::memmem::find(&event, settings.master.as_bytes()).is_some();
        if is_of_ours && event.starts_with(b"*3\r\n$7\r\nmessage\r\n") {
            heard.notify_one();
        }
    }
}

type Answers = Vec<(Endpoint, Result<Word, String>)>;

/// Each is given `patience`, and when one has answered, the others `rest` for each further answer.
async fn ask_all(settings: &Sentinels, learned: &[Endpoint], patience: Duration, rest: Duration) -> Answers {
    let mut asking = JoinSet::new();
    for sentinel in settings.endpoints.iter().chain(learned) {
        let (sentinel, settings) = (sentinel.clone(), settings.clone());
        asking.spawn_local(async move {
            let word = match timeout(patience, ask(&sentinel, &settings)).await {
                Ok(word) => word,
                Err(_) => Err("it does not answer".to_owned()),
            };
            (sentinel, word)
        });
    }
    let mut answers = Answers::new();
    let mut wait = patience * 2; // they end by themselves before that
    while let Ok(Some(answer)) = timeout(wait, asking.join_next()).await {
        answers.extend(answer);
        if answers.iter().any(|(_, word)| word.is_ok()) {
            wait = rest;
        }
    }
    answers
}

fn learn(settings: &Sentinels, learned: &mut Vec<Endpoint>, word: &Result<Word, String>) {
    for other in word.iter().flat_map(|word| &word.others) {
        let is_known = settings.endpoints.contains(other) || learned.contains(other);
        if !is_known && learned.len() < MAX_LEARNED {
            learned.push(other.clone());
        }
    }
}

/// The latest election's word is published. Without any that is as late as what is known, that stays.
fn conclude(watcher: &Watcher, answers: Answers, complaint: &mut String) {
    let known = watcher.snapshot();
    let is_unknown = known.shards().is_empty();
    let mut complaints = Vec::new();
    let mut latest: Option<Word> = None;
    for (sentinel, word) in answers {
        match word {
            Ok(word) if latest.as_ref().is_none_or(|latest| word.epoch > latest.epoch) => latest = Some(word),
            Ok(_) => {}
            Err(said) => complaints.push(format!("{sentinel}: {said}")),
        }
    }
    complaints.sort_unstable();
    let told = complaints.join("; ");
    match latest {
        Some(word) if is_unknown || word.epoch > known.epoch => {
            let (primary, epoch) = (word.primary, word.epoch);
            info!(%primary, epoch, "the sentinels named the primary");
            watcher.publish(Snapshot::whole(primary, word.replicas, epoch));
        }
        Some(word) if word.epoch == known.epoch && known.first_primary() == Some(&word.primary) => {
            watcher.publish(Snapshot::whole(word.primary, word.replicas, word.epoch));
        }
        Some(_) => {}
        None if is_unknown => {
            watcher.publish(Snapshot::unknown(format!("no sentinel names the primary: {told}")));
        }
        None => {}
    }
    if *complaint != told {
        if !told.is_empty() {
            warn!(said = told, "not every sentinel can be asked");
        }
        *complaint = told;
    }
}

/// A connection that is let in.
async fn enter(sentinel: &Endpoint, settings: &Sentinels) -> Result<Stream, String> {
    let lost = |error: LinkError| error.in_full();
    let stream = link::open(sentinel, settings.tls.as_deref()).await.map_err(lost)?;
    if let Some(credentials) = &settings.credentials {
        let password = credentials.password.read()?;
        let password = password.expose();
        match &credentials.username {
            Some(user) => link::ask(&stream, &["AUTH", user, password]).await?,
            None => link::ask(&stream, &["AUTH", password]).await?,
        };
    }
    Ok(stream)
}

pub async fn ask(sentinel: &Endpoint, settings: &Sentinels) -> Result<Word, String> {
    let stream = enter(sentinel, settings).await?;
    let about = async |what: &str| link::ask(&stream, &["SENTINEL", what, &settings.master]).await;
    let master = about("MASTER").await?;
    // After the epoch, never before: the leader of an election takes the new epoch and the new address in one step, so
    // what is asked in this order is never an old address with a new epoch, which would be believed for ever.
    let primary = about("GET-MASTER-ADDR-BY-NAME").await?;
    let others = about("SENTINELS").await?;
    // As it is called since 5.0; before that nobody reads from replicas.
    let replicas = about("REPLICAS").await.unwrap_or(Bytes::from_static(b"*0\r\n"));
    word(master, primary, others, replicas).ok_or_else(|| "what answers is no sentinel".to_owned())
}

fn word(master: Bytes, primary: Bytes, others: Bytes, replicas: Bytes) -> Option<Word> {
    let master = fields(&mut Reader::new(master))?;
    // `SENTINEL MASTER` gives the old address until the election is wholly over, this one from the promotion on.
    let mut reader = Reader::new(primary);
    let (Element::Array(2), Element::Bulk(host), Element::Bulk(port)) =
        (reader.element().ok()?, reader.element().ok()?, reader.element().ok()?)
    else {
        return None;
    };
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let primary = vec![("ip".to_owned(), text(&host)), ("port".to_owned(), text(&port))];
    let primary = endpoint(&primary)?;
    let others = servers(others)?.iter().map(endpoint).collect::<Option<_>>()?;
    let follows = |replica: &Fields| !field(replica, "flags").is_some_and(|flags| flags.contains("down"));
    let replicas = servers(replicas)?.into_iter().filter(follows);
    let mut replicas: Vec<_> = replicas.filter_map(|replica| endpoint(&replica)).collect();
    replicas.retain(|replica| *replica != primary);
    replicas.sort_by_key(Endpoint::to_string); // each sentinel has an order of its own
    Some(Word {
        primary,
        epoch: field(&master, "config-epoch")?.parse().ok()?,
        quorum: field(&master, "quorum")?.parse().ok()?,
        others,
        replicas,
    })
}

fn servers(reply: Bytes) -> Option<Vec<Fields>> {
    let mut reader = Reader::new(reply);
    let Element::Array(count) = reader.element().ok()? else {
        return None;
    };
    (0..count).map(|_| fields(&mut reader)).collect()
}

type Fields = Vec<(String, String)>;

/// A flat array of names and values.
fn fields(reader: &mut Reader) -> Option<Fields> {
    let Element::Array(count) = reader.element().ok()? else {
        return None;
    };
    let mut text = || match reader.element().ok()? {
        Element::Bulk(text) => Some(String::from_utf8_lossy(&text).into_owned()),
        _ => None,
    };
    (0..count / 2).map(|_| Some((text()?, text()?))).collect()
}

fn field<'a>(fields: &'a Fields, name: &str) -> Option<&'a str> {
    let found = fields.iter().find(|(field, _)| field == name);
    found.map(|(_, value)| value.as_str())
}

fn endpoint(fields: &Fields) -> Option<Endpoint> {
    Some(Endpoint::Tcp {
        host: field(fields, "ip").filter(|host| !host.is_empty())?.to_owned(),
        port: field(fields, "port")?.parse().ok().filter(|port| *port != 0)?,
    })
}

/// Starts the watcher on a thread of its own, so that no worker waits for a sentinel.
pub fn start(settings: Sentinels, connect_timeout: Duration) -> std::io::Result<Topology> {
    let (topology, watcher) = Topology::watched(Snapshot::unknown("no sentinel has answered yet"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new()
        .name("sentinel".to_owned())
        .spawn(move || LocalSet::new().block_on(&runtime, watch(settings, connect_timeout, watcher)))?;
    Ok(topology)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(port: u16, epoch: u64) -> (Endpoint, Result<Word, String>) {
        let word = Word {
            primary: Endpoint::local(port),
            epoch,
            quorum: 2,
            others: Vec::new(),
            replicas: Vec::new(),
        };
        (Endpoint::local(1), Ok(word))
    }

    #[test]
    fn the_latest_election_is_believed_and_never_an_earlier_one() {
        let (topology, watcher) = Topology::watched(Snapshot::unknown(""));
        let mut complaint = String::new();
        let mut hear = |answers| {
            conclude(&watcher, answers, &mut complaint);
            topology.snapshot().first_primary().cloned()
        };
        assert_eq!(hear(vec![says(7, 0)]), Some(Endpoint::local(7)), "epoch 0 is one too");
        assert_eq!(hear(vec![says(8, 3), says(7, 2)]), Some(Endpoint::local(8)));
        assert_eq!(hear(vec![says(7, 2)]), Some(Endpoint::local(8)));
        let silent = || (Endpoint::local(1), Err("no answer".to_owned()));
        assert_eq!(hear(vec![silent()]), Some(Endpoint::local(8)));
    }

    #[test]
    fn what_each_sentinel_said_is_the_reason_why_no_primary_is_known() {
        let (topology, watcher) = Topology::watched(Snapshot::unknown(""));
        let refused = (Endpoint::local(1), Err("ERR No such master with that name".to_owned()));
        conclude(&watcher, vec![refused], &mut String::new());
        let reason = topology.snapshot().trouble.clone();
        assert!(reason.contains("127.0.0.1:1: ERR No such master"), "{reason}");
    }
}

//! Sentinel mode: who the primary is, by the word of the sentinels. It carries no request.
//!
//! 1. Every sentinel that is known is asked again and again, none waits for another, and of what each said last the latest
//!    election's word is believed. So an old primary that comes back and a sentinel that was cut off are not, whatever they say;
//!    one that is gone, with the machine of the primary perhaps, holds up nobody, and one that takes its time is heard out.
//!    An earlier election's word is believed only when most sentinels, and all that answer, keep to it: the master was set up
//!    anew (`SENTINEL REMOVE`, `SENTINEL MONITOR`), and its elections are counted from 0 again.
//! 2. A sentinel that knows the master names the others, and they are asked from then on too.
//! 3. Each once a second; as soon as a worker doubts the primary, at once and then ten times a second for a while. So too
//!    when a sentinel tells of an event (`+promoted-slave`, `+sdown` …): events are only a reason to ask, as one may be missed.
//!
//! Whether the primary says that it is one is seen by each connection to it (`ROLE`, [`super::link`]).

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::{LocalSet, spawn_local};
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
/// So long must all keep to an earlier election's word. Who holds an election tells the others within two seconds.
const ANEW: Duration = Duration::from_secs(10);
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

/// Until when all are in a hurry. A change of it, and not each prolongation, is a reason to ask at once.
type Hurry = watch::Sender<Instant>;

/// Asks until the thread ends; the process's end ends it.
pub async fn watch(settings: Sentinels, patience: Duration, watcher: Watcher) {
    let mut witnesses = Witnesses::new(&settings.endpoints);
    let settings = Rc::new(settings);
    let hurry = Rc::new(Hurry::new(Instant::now()));
    let (say, mut said) = mpsc::channel(1);
    let mut asked = 0;
    loop {
        for (number, witness) in witnesses.all.iter().enumerate().skip(asked) {
            let sentinel = &witness.sentinel;
            spawn_local(listen(sentinel.clone(), settings.clone(), hurry.clone()));
            let question = Question {
                sentinel: sentinel.clone(),
                settings: settings.clone(),
                patience,
            };
            spawn_local(question.repeat(number, hurry.subscribe(), say.clone()));
        }
        asked = witnesses.all.len();
        tokio::select! {
            Some((number, word)) = said.recv() => {
                witnesses.hear(number, word);
                witnesses.conclude(&watcher, Instant::now());
            }
            _ = watcher.doubted() => {
                let now = Instant::now();
                // Many doubt, one after another, and again while it lasts: the first is heeded at once.
                hurry.send_if_modified(|until| std::mem::replace(until, now + HURRY_FOR) < now);
            }
        }
    }
}

/// What one sentinel is asked.
struct Question {
    sentinel: Endpoint,
    settings: Rc<Sentinels>,
    patience: Duration,
}

impl Question {
    async fn repeat(self, number: usize, mut hurry: watch::Receiver<Instant>, say: mpsc::Sender<(usize, Said)>) {
        loop {
            hurry.mark_unchanged(); // what is doubted from here on is a reason to ask again
            let word = match timeout(self.patience, ask(&self.sentinel, &self.settings)).await {
                Ok(word) => word,
                Err(_) => Err("it does not answer".to_owned()),
            };
            if say.send((number, word)).await.is_err() {
                return;
            }
            let pause = match Instant::now() < *hurry.borrow() {
                true => HURRY,
                false => CALM,
            };
            tokio::select! {
                () = sleep(pause) => {}
                _ = hurry.changed() => {}
            }
        }
    }
}

/// Hears what one sentinel tells of the primary, as long as the process runs.
async fn listen(sentinel: Endpoint, settings: Rc<Sentinels>, hurry: Rc<Hurry>) {
    loop {
        // Why it cannot be heard is what it cannot be asked for, and that is said by those who ask.
        let _ = hear(&sentinel, &settings, &hurry).await;
        sleep(CALM).await;
    }
}

async fn hear(sentinel: &Endpoint, settings: &Sentinels, hurry: &Hurry) -> Result<(), String> {
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
            hurry.send_replace(Instant::now() + HURRY_FOR);
        }
    }
}

type Said = Result<Word, String>;

/// All sentinels that are known, those of the configuration first.
struct Witnesses {
    all: Vec<Witness>,
    most: usize,
    complaint: String,
    /// Whom most of them, and all that answer, take for the primary by an earlier election than is known, and since when.
    earlier: Option<(Endpoint, Instant)>,
}

struct Witness {
    sentinel: Endpoint,
    /// At last; `None`: it was not heard yet.
    said: Option<Said>,
}

impl Witnesses {
    fn new(configured: &[Endpoint]) -> Self {
        Self {
            all: configured.iter().cloned().map(Witness::new).collect(),
            most: configured.len() + MAX_LEARNED,
            complaint: String::new(),
            earlier: None,
        }
    }

    fn hear(&mut self, number: usize, said: Said) {
        for other in said.iter().flat_map(|word| &word.others) {
            let is_known = self.all.iter().any(|witness| witness.sentinel == *other);
            if !is_known && self.all.len() < self.most {
                self.all.push(Witness::new(other.clone()));
            }
        }
        self.all[number].said = Some(said);
    }

    /// The latest election's word is published. Without any that is as late as what is known, that stays.
    fn conclude(&mut self, watcher: &Watcher, now: Instant) {
        let known = watcher.snapshot();
        let is_unknown = known.shards().is_empty();
        if is_unknown && self.all.iter().any(|witness| witness.said.is_none()) {
            return; // the first to answer may have been cut off
        }
        let is_anew = self.is_anew(&known, now);
        let told = self.complaints();
        match self.latest() {
            Some(word) if is_unknown || is_anew || word.epoch > known.epoch => {
                info!(primary = %word.primary, epoch = word.epoch, "the sentinels named the primary");
                watcher.publish(word.snapshot());
            }
            Some(word) if word.epoch == known.epoch && known.first_primary() == Some(&word.primary) => {
                watcher.publish(word.snapshot());
            }
            Some(_) => {}
            None if is_unknown => {
                watcher.publish(Snapshot::unknown(format!("no sentinel names the primary: {told}")));
            }
            None => {}
        }
        if self.complaint != told {
            if !told.is_empty() {
                warn!(said = told, "not every sentinel can be asked");
            }
            self.complaint = told;
        }
    }

    /// The latest election's word, by the first of those that give it.
    fn latest(&self) -> Option<&Word> {
        let words = self.all.iter().rev().filter_map(Witness::word);
        words.max_by_key(|word| word.epoch)
    }

    /// They have kept to an earlier election's primary for so long that it is no sentinel that was cut off.
    fn is_anew(&mut self, known: &Snapshot, now: Instant) -> bool {
        let earlier = self.latest().filter(|latest| {
            let answers = || self.all.iter().filter_map(Witness::word);
            latest.epoch < known.epoch
                && answers().all(|word| word.primary == latest.primary)
                && 2 * answers().count() > self.all.len()
        });
        let primary = earlier.map(|word| word.primary.clone());
        self.earlier = primary.map(|primary| match self.earlier.take() {
            Some((before, since)) if before == primary => (primary, since),
            _ => (primary, now),
        });
        matches!(self.earlier, Some((_, since)) if now >= since + ANEW)
    }

    fn complaints(&self) -> String {
        let complaints = self.all.iter().filter_map(|witness| match &witness.said {
            Some(Err(said)) => Some(format!("{}: {said}", witness.sentinel)),
            Some(Ok(_)) | None => None,
        });
        complaints.collect::<Vec<_>>().join("; ")
    }
}

impl Witness {
    fn new(sentinel: Endpoint) -> Self {
        Self { sentinel, said: None }
    }

    fn word(&self) -> Option<&Word> {
        self.said.as_ref()?.as_ref().ok()
    }
}

impl Word {
    fn snapshot(&self) -> Snapshot {
        Snapshot::whole(self.primary.clone(), self.replicas.clone(), self.epoch)
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

    fn says(port: u16, epoch: u64) -> Said {
        Ok(Word {
            primary: Endpoint::local(port),
            epoch,
            quorum: 2,
            others: Vec::new(),
            replicas: Vec::new(),
        })
    }

    #[test]
    fn the_latest_election_is_believed_and_never_an_earlier_one() {
        let (topology, watcher) = Topology::watched(Snapshot::unknown(""));
        let mut witnesses = Witnesses::new(&[1, 2].map(Endpoint::local));
        let mut hear = |number, said| {
            witnesses.hear(number, said);
            witnesses.conclude(&watcher, Instant::now());
            topology.snapshot().first_primary().cloned()
        };
        assert_eq!(
            hear(0, says(7, 0)),
            None,
            "it may have been cut off: the other one knows"
        );
        assert_eq!(hear(1, says(7, 0)), Some(Endpoint::local(7)), "epoch 0 is one too");
        assert_eq!(
            hear(1, says(8, 3)),
            Some(Endpoint::local(8)),
            "before the other has heard"
        );
        assert_eq!(hear(0, says(7, 2)), Some(Endpoint::local(8)));
        assert_eq!(hear(1, Err("no answer".to_owned())), Some(Endpoint::local(8)));
    }

    #[test]
    fn an_earlier_election_is_believed_when_most_and_all_who_answer_keep_to_it() {
        let (topology, watcher) = Topology::watched(Snapshot::unknown(""));
        let mut witnesses = Witnesses::new(&[1, 2, 3].map(Endpoint::local));
        let start = Instant::now();
        let mut hear = |seconds, said: [Said; 3]| {
            for (number, said) in said.into_iter().enumerate() {
                witnesses.hear(number, said);
            }
            witnesses.conclude(&watcher, start + Duration::from_secs(seconds));
            topology.snapshot().first_primary().cloned().unwrap()
        };
        let gone = || Err("no answer".to_owned());
        let [elected, other] = [7, 8].map(Endpoint::local);
        assert_eq!(hear(0, [says(7, 5), says(7, 5), says(7, 5)]), elected);
        assert_eq!(
            hear(100, [says(8, 0), says(8, 0), says(7, 5)]),
            elected,
            "one knows better"
        );
        assert_eq!(hear(200, [says(8, 0), gone(), gone()]), elected);
        assert_eq!(
            hear(300, [says(8, 0), gone(), gone()]),
            elected,
            "the others may know better"
        );
        assert_eq!(hear(400, [says(8, 0), says(8, 0), gone()]), elected);
        assert_eq!(
            hear(409, [says(8, 0), says(9, 0), gone()]),
            elected,
            "they are not of one mind"
        );
        assert_eq!(hear(410, [says(8, 0), says(8, 0), gone()]), elected, "since now");
        assert_eq!(hear(419, [says(8, 0), says(8, 0), gone()]), elected);
        assert_eq!(hear(420, [says(8, 0), says(8, 0), gone()]), other);
        assert_eq!(
            hear(421, [says(8, 0), says(9, 1), gone()]),
            Endpoint::local(9),
            "counted from there"
        );
    }

    #[test]
    fn what_each_sentinel_said_is_the_reason_why_no_primary_is_known() {
        let (topology, watcher) = Topology::watched(Snapshot::unknown(""));
        let mut witnesses = Witnesses::new(&[Endpoint::local(1)]);
        witnesses.hear(0, Err("ERR No such master with that name".to_owned()));
        witnesses.conclude(&watcher, Instant::now());
        let reason = topology.snapshot().trouble.clone();
        assert!(reason.contains("127.0.0.1:1: ERR No such master"), "{reason}");
    }

    #[test]
    fn so_many_sentinels_are_learned_and_no_more() {
        let mut witnesses = Witnesses::new(&[Endpoint::local(1)]);
        let others = (1..=1000).map(Endpoint::local).collect();
        let word = says(7, 0).map(|word| Word { others, ..word });
        witnesses.hear(0, word);
        assert_eq!(witnesses.all.len(), 1 + MAX_LEARNED);
    }
}

//! Over how many partitions a queue spreads, where they are, and which one a job belongs to.
//!
//! A queue has *allocated* partitions, of which the first few are *active*: they take new jobs. An allocated one that is not
//! active is popped from, waited on and looked into like the others, so that a queue can shrink with jobs in it and nothing
//! has to be moved. Only QDROP ends an allocation.
//!
//! A partition is one hash tag, and so one slot of a cluster. Where its plain tag would put it on a primary that has more of
//! the queue's partitions than another, a salt in the tag puts it on that other one. Partition 0 has none: it is
//! where a proxy that knows nothing of a queue begins, and learns of the others.
//!
//! Jobs of a group, or with one unique key, are always in one partition, also while the queue grows. So it is chosen by a hash
//! over a number that never changes as long as the queue has such jobs: as many partitions as it had when it first had several.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::Arc;

use super::operation::{JobOptions, QueueName};
use crate::command::keys::slot;

/// Partitions of one queue, at most: each is asked before a pop says that there is nothing.
pub const MOST: u16 = 64;
/// Salts that are tried for one partition. Of evenly spread slots one in as many as there are primaries fits.
const SALTS: u16 = 10_000;
/// A primary counts if it owns so small a part of an even share of the slots: then a salt is surely found.
const ENOUGH: usize = 16;

/// Where one partition of a queue is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub number: u16,
    pub salt: Option<u16>,
}

impl Place {
    /// What stands between the braces of its keys.
    pub fn tag(self, queue: &QueueName) -> String {
        match self.salt {
            None => format!("{queue}/{}", self.number),
            Some(salt) => format!("{queue}/{}.{salt}", self.number),
        }
    }

    pub fn slot(self, queue: &QueueName) -> u16 {
        slot(self.tag(queue).as_bytes())
    }
}

/// The partitions of a queue that has, or had, more than one. Kept among its settings' overrides as text: how many are
/// active, over how many groups and keys are hashed, and the salts of the partitions from 1 on, a dash where there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spread {
    active: u16,
    /// `None`, written `*`: the script that stores it decides, see `configure.lua`.
    hashed: Option<u16>,
    salts: Vec<Option<u16>>,
}

impl Spread {
    pub fn parse(text: &[u8]) -> Option<Self> {
        Self::proposed(std::str::from_utf8(text).ok()?).filter(|spread| spread.hashed.is_some())
    }

    /// One that is to be stored.
    pub fn proposed(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let active = words.next()?.parse().ok()?;
        let hashed = match words.next()? {
            "*" => None,
            hashed => Some(hashed.parse().ok()?),
        };
        let salt = |word: &str| match word {
            "-" => Some(None),
            salt => salt.parse().ok().map(Some),
        };
        let salts: Vec<_> = words.map(salt).collect::<Option<_>>()?;
        if salts.len() >= usize::from(MOST) {
            return None;
        }
        let spread = Self { active, hashed, salts };
        let allocated = 1..=spread.allocated();
        let sound = allocated.contains(&active) && hashed.is_none_or(|hashed| allocated.contains(&hashed));
        sound.then_some(spread)
    }

    /// That of a queue that has one partition so far.
    fn of_one() -> Self {
        Self {
            active: 1,
            hashed: None,
            salts: Vec::new(),
        }
    }

    pub fn active(&self) -> u16 {
        self.active
    }

    pub fn allocated(&self) -> u16 {
        self.salts.len() as u16 + 1
    }

    pub fn places(&self) -> impl Iterator<Item = Place> {
        let salts = std::iter::once(None).chain(self.salts.iter().copied());
        (0..).zip(salts).map(|(number, salt)| Place { number, salt })
    }

    /// Partitions that may get a job: those that are active, and those where groups and keys are.
    pub fn receiving(&self) -> u16 {
        self.active.max(self.hashed.unwrap_or(1))
    }

    /// Where jobs with these options must go. `None`: anywhere.
    pub fn partition_of(&self, options: &JobOptions) -> Option<u16> {
        let unique = options.unique.as_ref().map(|unique| &unique.key);
        let key = options.group.as_ref().or(unique);
        key.map(|key| self.home_of(key))
    }

    /// The partition that a group, or a unique key, belongs to by its name.
    pub fn home_of(&self, key: &[u8]) -> u16 {
        hash(key) % self.hashed.unwrap_or(1)
    }

    /// The home of a unique key that has to be lent to the partition where a job with these options must go.
    pub fn lender(&self, options: &JobOptions) -> Option<u16> {
        let home = self.home_of(&options.unique.as_ref()?.key);
        (self.partition_of(options) != Some(home)).then_some(home)
    }

    /// `current` with the partitions that `found`, of the same queue, has more. One that uses all that it knows of uses these
    /// too. `None`: there are none more, or those known are in other places.
    pub fn joined(current: Option<&Self>, found: &Self) -> Option<Self> {
        let known = current.map_or(&[][..], |spread| &spread.salts);
        if found.salts.len() == known.len() || !found.salts.starts_with(known) {
            return None;
        }
        let kept = current.filter(|spread| spread.active < spread.allocated());
        Some(Self {
            active: kept.map_or(found.active, Self::active),
            hashed: current.map_or(found.hashed, |spread| spread.hashed),
            salts: found.salts.clone(),
        })
    }

    /// The same queue with so many active partitions, which are allocated as far as they are not.
    pub fn resized(current: Option<&Self>, active: u16, queue: &QueueName, primaries: &Primaries) -> Self {
        let mut spread = current.cloned().unwrap_or_else(Self::of_one);
        spread.active = active;
        if spread.allocated() == 1 {
            // There may be no group and no key yet. What is in Redis decides.
            spread.hashed = None;
        }
        while spread.allocated() < active {
            let place = primaries.place_for(spread.allocated(), &spread, queue);
            spread.salts.push(place.salt);
        }
        spread
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.active)?;
        match self.hashed {
            Some(hashed) => write!(f, "{hashed}")?,
            None => f.write_char('*')?,
        }
        for salt in &self.salts {
            match salt {
                Some(salt) => write!(f, " {salt}")?,
                None => f.write_str(" -")?,
            }
        }
        Ok(())
    }
}

/// Which primary owns which slot, as far as it matters here.
#[derive(Clone, Debug)]
pub struct Primaries {
    /// Those that own slots enough for partitions to be placed there.
    count: u16,
    /// By slot, the number of its primary, if that is one of those; `None`: one primary owns them all.
    owners: Option<Arc<[Option<u16>]>>,
}

impl Primaries {
    pub fn one() -> Self {
        Self { count: 1, owners: None }
    }

    /// `owners`: for each slot the number of its primary, if it has one. A primary that is about to get its slots, or to lose
    /// them, counts as long as it has enough.
    pub fn of_cluster(owners: &[Option<u16>]) -> Self {
        let mut owned = BTreeMap::<u16, usize>::new();
        owners
            .iter()
            .flatten()
            .for_each(|owner| *owned.entry(*owner).or_default() += 1);
        let enough = owners.len() / owned.len().max(1) / ENOUGH;
        owned.retain(|_, slots| *slots >= enough);
        let numbers: BTreeMap<u16, u16> = owned.into_keys().zip(0..).collect();
        let number = |owner: &Option<u16>| owner.and_then(|owner| numbers.get(&owner).copied());
        Self {
            count: (numbers.len() as u16).max(1),
            owners: Some(owners.iter().map(number).collect()),
        }
    }

    pub fn count(&self) -> u16 {
        self.count
    }

    /// The number of the slot's primary, if it has one.
    pub fn owner(&self, slot: u16) -> Option<usize> {
        match &self.owners {
            None => Some(0),
            Some(owners) => (*owners.get(usize::from(slot))?).map(usize::from),
        }
    }

    /// On the primary that has the fewest of the queue's partitions.
    fn place_for(&self, number: u16, spread: &Spread, queue: &QueueName) -> Place {
        let mut taken = vec![0; usize::from(self.count)];
        for owner in spread.places().filter_map(|place| self.owner(place.slot(queue))) {
            taken[owner] += 1;
        }
        let fewest = taken.iter().min().copied().unwrap_or(0);
        let fits = |place: &Place| {
            self.owner(place.slot(queue))
                .is_some_and(|owner| taken[owner] == fewest)
        };
        let plain = Place { number, salt: None };
        let salted = (0..SALTS).map(|salt| Place {
            number,
            salt: Some(salt),
        });
        std::iter::once(plain).chain(salted).find(fits).unwrap_or(plain)
    }
}

/// Fixed for ever: all proxies must come to the same partition.
fn hash(bytes: &[u8]) -> u16 {
    crc16::State::<crc16::XMODEM>::calculate(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> QueueName {
        QueueName::new(b"orders").unwrap()
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        for text in ["1 1", "3 3 - -", "1 3 - 17", "5 1 0 1 2 65535"] {
            assert_eq!(Spread::parse(text.as_bytes()).unwrap().to_string(), text);
        }
        for text in [
            "",
            "1",
            "0 1",
            "2 1",
            "1 2",
            "3 * - -",
            "1 1 ",
            "1 1 x",
            "2 2 70000",
            "-1 1",
            "1 1 --",
        ] {
            assert_eq!(Spread::parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(Spread::parse(format!("1 1{}", " -".repeat(64)).as_bytes()), None);
    }

    #[test]
    fn a_queue_that_grows_keeps_its_places_and_where_its_groups_are() {
        let one = Primaries::one();
        let first = Spread::resized(None, 3, &queue(), &one);
        assert_eq!(first.to_string(), "3 * - -", "the script decides");
        let stored = Spread::parse(b"3 3 - -").unwrap();
        let shrunk = Spread::resized(Some(&stored), 1, &queue(), &one);
        assert_eq!(shrunk.to_string(), "1 3 - -");
        assert_eq!((shrunk.allocated(), shrunk.receiving()), (3, 3));
        let grown = Spread::resized(Some(&shrunk), 4, &queue(), &one);
        assert_eq!(grown.to_string(), "4 3 - - -");
        let options = JobOptions {
            group: Some("tenant".into()),
            ..JobOptions::default()
        };
        assert_eq!(stored.partition_of(&options), grown.partition_of(&options));
    }

    #[test]
    fn partitions_are_dealt_out_evenly_over_the_primaries() {
        // As redis-cli cuts the slots, and as many reshardings leave them.
        const SLOTS: u16 = 16384;
        let cut: Vec<_> = (0..SLOTS).map(|slot| Some(slot / 5462)).collect();
        let scattered: Vec<_> = (0..SLOTS).map(|slot| Some(slot % 7 % 3)).collect();
        // One slot has no owner, and one is the first of a primary that comes.
        let mut moving = cut.clone();
        (moving[7], moving[9000]) = (None, Some(3));
        for owners in [cut, scattered, moving] {
            let primaries = Primaries::of_cluster(&owners);
            for name in ["orders", "a", "mail:eu"] {
                let queue = QueueName::new(name.as_bytes()).unwrap();
                let spread = Spread::resized(None, 9, &queue, &primaries);
                let mut taken = [0; 3];
                for place in spread.places() {
                    taken[primaries.owner(place.slot(&queue)).expect("it has an owner")] += 1;
                }
                assert_eq!(taken, [3; 3], "{name}: {spread}");
                assert_eq!(spread.places().next(), Some(Place::default()));
            }
        }
    }

    #[test]
    fn partitions_that_were_forgotten_are_joined_again_where_they_are() {
        let joined = |current: Option<&str>, found: &str| {
            let current = current.and_then(|text| Spread::parse(text.as_bytes()));
            let found = Spread::parse(found.as_bytes()).unwrap();
            Spread::joined(current.as_ref(), &found).map(|spread| spread.to_string())
        };
        assert_eq!(joined(None, "3 3 - 7").as_deref(), Some("3 3 - 7"));
        assert_eq!(
            joined(Some("2 1 -"), "3 3 - 7").as_deref(),
            Some("3 1 - 7"),
            "it uses all that it knows of"
        );
        assert_eq!(joined(Some("1 1 -"), "3 3 - 7").as_deref(), Some("1 1 - 7"));
        assert_eq!(joined(Some("3 3 - 7"), "3 3 - 7"), None);
        assert_eq!(joined(Some("3 3 - 7"), "2 2 -"), None);
        assert_eq!(joined(Some("2 2 5"), "3 3 - 7"), None, "in another place");
    }

    #[test]
    fn a_salt_stands_behind_the_number() {
        let place = Place {
            number: 1,
            salt: Some(7),
        };
        assert_eq!(place.tag(&queue()), "orders/1.7");
    }
}

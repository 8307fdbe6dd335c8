//! The flags that `COMMAND` gives a command, as bits. Words that are not here matter to nobody in the proxy;
//! clients get them all the same, as the server's own entry is kept ([`super::table::Entry::write`]).

use std::ops::BitOr;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u32);

impl Flags {
    pub const WRITE: Self = Self(1);
    pub const READONLY: Self = Self(1 << 1);
    pub const DENYOOM: Self = Self(1 << 2);
    pub const ADMIN: Self = Self(1 << 3);
    pub const PUBSUB: Self = Self(1 << 4);
    pub const NOSCRIPT: Self = Self(1 << 5);
    pub const BLOCKING: Self = Self(1 << 6);
    pub const LOADING: Self = Self(1 << 7);
    pub const STALE: Self = Self(1 << 8);
    pub const FAST: Self = Self(1 << 9);
    pub const NO_AUTH: Self = Self(1 << 10);
    pub const MAY_REPLICATE: Self = Self(1 << 11);
    pub const NO_MANDATORY_KEYS: Self = Self(1 << 12);
    pub const MOVABLEKEYS: Self = Self(1 << 13);
    pub const NO_MULTI: Self = Self(1 << 14);

    const WORDS: [(&'static str, Self); 15] = [
        ("write", Self::WRITE),
        ("readonly", Self::READONLY),
        ("denyoom", Self::DENYOOM),
        ("admin", Self::ADMIN),
        ("pubsub", Self::PUBSUB),
        ("noscript", Self::NOSCRIPT),
        ("blocking", Self::BLOCKING),
        ("loading", Self::LOADING),
        ("stale", Self::STALE),
        ("fast", Self::FAST),
        ("no_auth", Self::NO_AUTH),
        ("may_replicate", Self::MAY_REPLICATE),
        ("no_mandatory_keys", Self::NO_MANDATORY_KEYS),
        ("movablekeys", Self::MOVABLEKEYS),
        ("no_multi", Self::NO_MULTI),
    ];

    /// No flag for a word that is not known.
    pub fn from_word(word: &str) -> Self {
        Self::WORDS
            .iter()
            .find(|(known, _)| *known == word)
            .map_or(Self::default(), |(_, flag)| *flag)
    }

    /// All of `flags` are set.
    pub fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl FromIterator<Flags> for Flags {
    fn from_iter<I: IntoIterator<Item = Flags>>(flags: I) -> Self {
        flags.into_iter().fold(Self::default(), BitOr::bitor)
    }
}

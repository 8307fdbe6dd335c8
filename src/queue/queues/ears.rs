//! In a cluster each lane where somebody waits has a channel of its own, on which it is called: a sharded one, which only the
//! nodes of its slot carry. Whoever has the connections subscribes to it; here is remembered where each lane stands with that.
//!
//! What is said before a subscription is confirmed, or after it was lost, nobody hears. So with each confirmation the lane is
//! asked once more.

use std::time::{Duration, Instant};

use super::Queues;
use crate::queue::lane::{Ear, LaneKey};
use crate::queue::operation::QueueName;
use crate::script::Channels;

/// A parked pop whose wake-up was lost is found by this: every so often one queue is asked again. Slow, as a wake-up is lost
/// only with both workers, the one that called and the one that was called.
const SAFETY_POLL: Duration = Duration::from_secs(5);
/// Where the server has no sharded channels (before 7.0), each lane where somebody waits is asked so often.
const DEAF_POLL: Duration = Duration::from_millis(500);
/// Channels of lanes that are forgotten stay subscribed to until there are so many, and then all are given up together.
const LEFT: usize = 4096;

pub(super) struct Ears {
    channels: Channels,
    /// Lanes that want their channel to be subscribed to.
    wanting: Vec<LaneKey>,
    left: usize,
    is_deaf: bool,
}

/// A subscription that a lane wants.
pub struct Wanted {
    pub lane: LaneKey,
    pub slot: u16,
    pub channel: String,
}

impl Ears {
    pub fn new(is_cluster: bool) -> Self {
        Self {
            channels: if is_cluster { Channels::Sharded } else { Channels::One },
            wanting: Vec::new(),
            left: 0,
            is_deaf: false,
        }
    }

    pub fn channels(&self) -> Channels {
        self.channels
    }

    pub fn is_deaf(&self) -> bool {
        self.is_deaf
    }

    /// So many lanes were forgotten.
    pub fn leave(&mut self, lanes: usize) {
        self.left += if self.channels == Channels::Sharded { lanes } else { 0 };
    }
}

impl Queues {
    /// Somebody waits in this lane.
    pub(super) fn want_ear(&mut self, key: LaneKey) {
        let lane = &mut self.lanes[key as usize];
        if lane.ear == Ear::None && lane.partition.channel.is_some() {
            lane.ear = Ear::Wanted;
            self.ears.wanting.push(key);
        }
    }

    pub fn wants_ears(&self) -> bool {
        !self.ears.wanting.is_empty()
    }

    /// Each is to be told then: [`Self::asked_ear`], or [`Self::still_wants_ear`].
    pub fn take_wanted(&mut self) -> Vec<Wanted> {
        let wanting = std::mem::take(&mut self.ears.wanting);
        let wanted = wanting.into_iter().filter_map(|lane| {
            let known = self.lanes.get(lane as usize).filter(|known| known.ear == Ear::Wanted)?;
            Some(Wanted {
                lane,
                slot: known.partition.slot,
                channel: known.partition.channel.clone()?,
            })
        });
        wanted.collect()
    }

    /// Over this connection.
    pub fn asked_ear(&mut self, key: LaneKey, pipe: usize) {
        if let Some(lane) = self.lanes.get_mut(key as usize) {
            lane.ear = Ear::Asked(pipe);
        }
    }

    pub fn still_wants_ear(&mut self, key: LaneKey) {
        if let Some(lane) = self.lanes.get_mut(key as usize) {
            lane.ear = Ear::Wanted;
            self.ears.wanting.push(key);
        }
    }

    /// The subscription is confirmed.
    pub fn hears(&mut self, key: LaneKey, pipe: usize, now: Instant) {
        let Some(lane) = self
            .lanes
            .get_mut(key as usize)
            .filter(|lane| lane.ear == Ear::Asked(pipe))
        else {
            return;
        };
        lane.ear = Ear::Hears(pipe);
        lane.registered = false;
        let is_crontab = lane.queue == QueueName::of_crontab();
        self.ears.is_deaf = false;
        self.list(key);
        if let (true, Some(crons)) = (is_crontab, &mut self.crons) {
            crons.changed(now);
        }
        for (_, job) in self.awaiting.jobs().into_iter().filter(|(lane, _)| *lane == key) {
            self.ask_again(key, job, now);
        }
    }

    /// The server will not have it.
    pub fn refused_ear(&mut self, key: LaneKey) {
        if let Some(lane) = self.lanes.get_mut(key as usize) {
            lane.ear = Ear::Refused;
        }
        self.ears.is_deaf = true;
    }

    /// What was subscribed to in slots, and over connections, that `is_lost` says of, is not any more.
    pub fn lose_ears(&mut self, is_lost: impl Fn(u16, usize) -> bool) {
        let mut again = Vec::new();
        let crontab = QueueName::of_crontab();
        for (key, lane) in &mut self.lanes {
            let (Ear::Asked(pipe) | Ear::Hears(pipe)) = lane.ear else {
                continue;
            };
            if is_lost(lane.partition.slot, pipe) {
                lane.ear = Ear::None;
                let is_waited_in = lane.parked.live() > 0 || self.awaiting.awaits(key as LaneKey);
                if is_waited_in || lane.queue == crontab {
                    again.push(key as LaneKey);
                }
            }
        }
        again.into_iter().for_each(|key| self.want_ear(key));
    }

    /// Too many channels are subscribed to in which nobody is interested any more.
    pub fn has_left_ears(&mut self) -> bool {
        let has = self.ears.left > LEFT;
        if has {
            self.ears.left = 0;
        }
        has
    }

    pub(super) fn poll_pause(&self) -> Duration {
        if self.ears.is_deaf { DEAF_POLL } else { SAFETY_POLL }
    }
}

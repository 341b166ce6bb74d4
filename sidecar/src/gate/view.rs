//! Decides nothing: how the gate stands, for status and metrics. Pure.

use std::time::Duration;

use crds::config::FailurePolicy;
use crds::status::Protection;

use super::slot::State;
use super::{Gate, GateCounts, Gated, HeldEvent, UNUSABLE_FOR, Unusable, protection};
use crate::claim::SessionId;
use crate::clock::Time;

impl Gate {
    /// What could be promised for a delivery that starts now; `covers` if this sidecar has every partition of its topics.
    #[must_use]
    pub fn protection(&self, covers: bool, now: Time) -> Protection {
        let gated = match self.sessions.current(now) {
            Some(_) if self.breaker.is_open() => Gated::Memory,
            Some(_) if self.is_degraded(now) => Gated::Degraded,
            Some(_) => Gated::Store,
            None => Gated::Memory,
        };
        protection(gated, covers)
    }

    /// The session under which claims are made now.
    #[must_use]
    pub fn session(&self, now: Time) -> Option<SessionId> {
        self.sessions.current(now)
    }

    /// The store counts as away, since then.
    #[must_use]
    pub const fn away_since(&self) -> Option<Time> {
        self.away_since
    }

    /// The store has lost data, at that time; `None` once a TTL has passed.
    #[must_use]
    pub fn data_lost(&self, now: Time) -> Option<Time> {
        self.data_lost.filter(|(_, until)| now < *until).map(|(since, _)| since)
    }

    /// A key that could not be used, if that was seen lately.
    #[must_use]
    pub fn unusable(&self, now: Time) -> Option<&Unusable> {
        self.unusable.as_ref().filter(|unusable| now.since(unusable.seen) < UNUSABLE_FOR)
    }

    /// What happens while the store is away.
    #[must_use]
    pub const fn policy(&self) -> FailurePolicy {
        self.config.policy
    }

    /// The last store error in words.
    #[must_use]
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// What was counted.
    #[must_use]
    pub const fn counts(&self) -> &GateCounts {
        &self.counts
    }

    /// Ids that wait to be written back, and how many gave way to newer ones.
    #[must_use]
    pub fn write_back(&self) -> (usize, u64) {
        (self.write_back.len(), self.write_back.overflow())
    }

    /// Events that wait for another session's claim.
    #[must_use]
    pub fn held(&self) -> usize {
        self.slots.iter().filter(|(_, slot)| matches!(slot.state, State::Held)).count()
    }

    /// The event that another session has had for longest, as far as this sidecar has waited for it.
    #[must_use]
    pub fn longest_held(&self) -> Option<HeldEvent> {
        let held = self.slots.iter().filter_map(|(_, slot)| slot.held.map(|(since, holder)| (since, holder, slot)));
        held.min_by_key(|(since, ..)| *since).map(|(since, holder, slot)| HeldEvent {
            key: slot.key.text().clone(),
            since,
            holder,
        })
    }

    /// How many events wait because the value under their key is not ours.
    #[must_use]
    pub fn foreign(&self) -> usize {
        self.slots.iter().filter(|(_, slot)| matches!(slot.state, State::Foreign)).count()
    }

    /// The sidecar's own memory holds every event that it has settled and that still has to be remembered.
    #[must_use]
    pub fn remembers_all(&self, now: Time) -> bool {
        self.recent.is_whole(now)
    }

    /// How long a session lives.
    #[must_use]
    pub const fn session_ttl(&self) -> Duration {
        self.config.session_ttl
    }

    /// How many settled ids are remembered.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.recent.len()
    }
}

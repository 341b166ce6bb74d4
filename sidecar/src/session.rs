//! Decides under which session claims are made: opens, renews, replaces and ends sessions. Pure: it asks for store operations.
//!
//! # Guarantees
//! - [`Sessions::current`] names a session only while its last confirmed renewal, counted from when it was *sent*, is
//!   younger than its TTL.
//! - A replaced session is renewed while a delivery or completion made under it is unsettled, then ended; a session id is
//!   never used again.
//! - Wherever a key is gone before its time, also one that is only to be ended, that is told as [`News::DataLost`], and before
//!   the [`News::Opened`] of the session that follows, where the store answers in the order it is asked.
//! - A store that comes back empty is told so too where no session was left to be missed: a *mark* of long life stands beside the
//!   sessions, and is looked at whenever one is opened.
//! - No session is opened that could not do everything: [`Demand::Prove`] asks first.
//! - [`Demand::Save`] comes before the [`Demand::Open`] whose id it names, so that a successor can end what it finds.
//!
//! # Assumptions
//! - Every demand but `Save` is answered by [`Sessions::answered`]; renewals never create a key.

use std::collections::VecDeque;
use std::time::Duration;

use crate::claim::SessionId;
use crate::clock::Time;
use crate::store::{Reply, StoreError};

/// What the sessions ask of the outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Write down that these sessions may exist, before anything else.
    Save(Vec<SessionId>),
    /// Ask, in the round trip that opens it, for everything that a session will need and that changes nothing.
    Prove(SessionId),
    /// Create the session's key.
    Open(SessionId),
    /// Set the key's TTL anew, only if it exists.
    Renew(SessionId),
    /// Delete the key.
    End(SessionId),
    /// Create the mark with this session's id for its value, or tell the value it has.
    Mark(SessionId),
    /// Set the mark's TTL anew, only if it has this value.
    KeepMark(SessionId),
}

/// What an answer to a demand means for everybody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Nothing to tell.
    Nothing,
    /// A new session is open: claims can be made.
    Opened,
    /// The key of a session in use, or the mark, was gone before its time: the store has lost data.
    DataLost,
}

/// How long the mark lives. Who was away for longer than that learns nothing from it, and need not: few TTLs are longer.
pub const MARK_TTL: Duration = Duration::from_secs(30 * 86_400);
/// How often its TTL is set anew.
const MARK_EVERY: Duration = Duration::from_secs(3_600);

/// What is known of the mark: a key that every sidecar with the same session prefix shares, and whose value only the store
/// keeps. Another value means that the store was empty in between.
#[derive(Debug)]
struct Mark {
    /// Its value, and when it was last confirmed.
    known: Option<(SessionId, Time)>,
    /// When to look next; `None` while asked.
    due: Option<Time>,
    asked: Time,
}

/// How many of its own sessions a sidecar remembers. An older one's claims look like a stranger's, which is only slower.
const REMEMBERED: usize = 1_000;

#[derive(Debug)]
struct Life {
    id: SessionId,
    /// When the last confirmed renewal (or the opening) was sent.
    renewed: Time,
    /// When a renewal is due.
    due: Time,
    /// A renewal is on its way since.
    asked: Option<Time>,
    /// Deliveries and completions under way that were made under it.
    unsettled: usize,
}

/// A session that is to be ended.
#[derive(Clone, Copy, Debug)]
struct End {
    id: SessionId,
    /// When to ask next; `None` while asked.
    at: Option<Time>,
    /// Until then its key exists, unless the store has lost data; `None` where that is not known.
    exists_until: Option<Time>,
}

/// All sessions of one sidecar: the current one, those replaced and not yet ended, and a predecessor's.
#[derive(Debug)]
pub struct Sessions {
    ttl: Duration,
    current: Option<Life>,
    opening: Option<(SessionId, Time)>,
    /// No session is opened before.
    open_at: Time,
    replaced: Vec<Life>,
    ending: Vec<End>,
    known: VecDeque<SessionId>,
    mark: Mark,
    closing: bool,
}

impl Sessions {
    /// Sessions of that TTL. `inherited` are those of a predecessor in the same pod: they are ended first.
    #[must_use]
    pub fn new(ttl: Duration, inherited: Vec<SessionId>, now: Time) -> Self {
        Self {
            ttl,
            current: None,
            opening: None,
            open_at: now,
            replaced: Vec::new(),
            ending: inherited.iter().map(|id| End { id: *id, at: Some(now), exists_until: None }).collect(),
            known: inherited.into(),
            mark: Mark { known: None, due: Some(now), asked: now },
            closing: false,
        }
    }

    /// The session under which a claim can be made, or a delivery started, now.
    #[must_use]
    pub fn current(&self, now: Time) -> Option<SessionId> {
        self.current.as_ref().filter(|life| self.alive(life, now)).map(|life| life.id)
    }

    /// Is there a session that was opened, and not given up since?
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.current.is_some()
    }

    /// Is this the session that was opened last, and not given up since?
    #[must_use]
    pub fn is_current(&self, id: SessionId) -> bool {
        self.current.as_ref().is_some_and(|life| life.id == id)
    }

    /// Is this a session of this sidecar, or of its predecessor?
    #[must_use]
    pub fn is_mine(&self, id: SessionId) -> bool {
        self.known.contains(&id)
    }

    /// How long a session lives after its last renewal.
    #[must_use]
    pub const fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Gives up the current session: claims are made only under a new one. Without effect while none is open.
    pub fn rotate(&mut self) {
        if let Some(mut life) = self.current.take() {
            // Whether the store still has it tells whether the store has lost data: that is to be known first.
            life.due = Time::default();
            self.replaced.push(life);
        }
        // The reply of an opening on its way would bring a session that is as suspect as the one given up.
        self.opening = None;
    }

    /// No session is opened before that moment.
    pub fn open_not_before(&mut self, at: Time) {
        self.open_at = at;
    }

    /// A delivery starts under that session: it is kept alive until as many [`Sessions::unhold`].
    pub fn hold(&mut self, id: SessionId) {
        if let Some(life) = self.life(id) {
            life.unsettled += 1;
        }
    }

    /// What was held is settled.
    pub fn unhold(&mut self, id: SessionId) {
        if let Some(life) = self.life(id) {
            life.unsettled = life.unsettled.saturating_sub(1);
        }
    }

    /// Ends everything: no session is opened any more.
    pub fn close(&mut self) {
        self.closing = true;
        self.rotate();
    }

    /// Nothing is left to end.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closing && self.replaced.is_empty() && self.ending.is_empty()
    }

    /// What is due. `fresh` gives an id that was never used.
    pub fn poll(&mut self, now: Time, fresh: impl FnOnce() -> SessionId, demands: &mut Vec<Demand>) {
        self.replace_expired(now);
        self.end_settled(now);
        let third = self.ttl / 3;
        // What becomes of the old sessions is asked in the same round trip: if the store has lost data, the new one's claims
        // must know.
        let opens = self.current.is_none() && self.opening.is_none() && !self.closing && now >= self.open_at;
        for life in self.current.iter_mut().chain(&mut self.replaced) {
            if life.asked.is_none() && (opens || now >= life.due) {
                life.asked = Some(now);
                life.due = now + third;
                demands.push(Demand::Renew(life.id));
            }
        }
        for end in &mut self.ending {
            if end.at.is_some_and(|at| opens || now >= at) {
                end.at = None;
                demands.push(Demand::End(end.id));
            }
        }
        let opened = opens.then(fresh);
        if let Some(id) = opened.or(self.current.as_ref().map(|life| life.id)).filter(|_| !self.closing)
            && self.mark.due.is_some_and(|due| opens || now >= due)
        {
            self.mark.due = None;
            self.mark.asked = now;
            demands.push(self.mark.known.map_or(Demand::Mark(id), |(value, _)| Demand::KeepMark(value)));
        }
        if let Some(id) = opened {
            self.opening = Some((id, now));
            if self.known.len() >= REMEMBERED {
                self.known.pop_front();
            }
            self.known.push_back(id);
            demands.extend([Demand::Save(self.existing()), Demand::Prove(id), Demand::Open(id)]);
        }
    }

    /// Takes the answer to a demand.
    pub fn answered(&mut self, demand: &Demand, reply: &Result<Reply, StoreError>, now: Time) -> News {
        match demand {
            Demand::Save(_) => News::Nothing,
            Demand::Prove(id) => self.proved(*id, reply, now),
            Demand::Open(id) => self.opened(*id, reply, now),
            Demand::Renew(id) => self.renewed(*id, reply, now),
            Demand::End(id) => self.ended(*id, reply, now),
            Demand::Mark(_) | Demand::KeepMark(_) => self.marked(demand, reply, now),
        }
    }

    fn marked(&mut self, demand: &Demand, reply: &Result<Reply, StoreError>, now: Time) -> News {
        let retry = now + self.retry_after();
        match (demand, reply) {
            (Demand::Mark(value), Ok(Reply::Applied)) => {
                self.mark.known = Some((*value, self.mark.asked));
                self.mark.due = Some(now + MARK_EVERY);
            }
            (Demand::Mark(_), Ok(Reply::Present(value))) => {
                // Its TTL is set anew as soon as its value is known.
                self.mark.known = std::str::from_utf8(value).ok().and_then(SessionId::parse).map(|value| (value, now));
                self.mark.due = Some(if self.mark.known.is_some() { now } else { now + MARK_EVERY });
            }
            (Demand::KeepMark(value), Ok(Reply::Applied)) => {
                self.mark.known = Some((*value, self.mark.asked));
                self.mark.due = Some(now + MARK_EVERY);
            }
            (Demand::KeepMark(value), Ok(_)) => {
                let confirmed = self.mark.known.take().map_or(now, |(_, confirmed)| confirmed);
                self.mark.due = Some(now);
                if now.since(confirmed) < MARK_TTL {
                    // The next one must have another value, or who knew the last one would not see that there was a loss.
                    if self.is_current(*value) {
                        self.rotate();
                    }
                    return News::DataLost;
                }
            }
            _ => self.mark.due = Some(retry),
        }
        News::Nothing
    }

    /// When [`Sessions::poll`] has something to do next, if that is known.
    #[must_use]
    pub fn next_due(&self) -> Option<Time> {
        let renewals =
            self.current.iter().chain(&self.replaced).filter(|life| life.asked.is_none()).map(|life| life.due);
        let endings = self.ending.iter().filter_map(|end| end.at);
        let opening = (self.current.is_none() && self.opening.is_none() && !self.closing).then_some(self.open_at);
        // While no session can be opened the store is away: the mark is looked at with the next one.
        let mark = self.mark.due.filter(|_| self.current.is_some() && !self.closing);
        renewals.chain(endings).chain(opening).chain(mark).min()
    }

    /// Sessions that may exist in the store: what a successor has to end.
    #[must_use]
    pub fn existing(&self) -> Vec<SessionId> {
        let lives = self.current.iter().chain(&self.replaced).map(|life| life.id);
        let opening = self.opening.iter().map(|(id, _)| *id);
        lives.chain(opening).chain(self.ending.iter().map(|end| end.id)).collect()
    }

    /// A store that takes no scripts would take claims, and no release and no take-over ever after: it opens no session.
    fn proved(&mut self, id: SessionId, reply: &Result<Reply, StoreError>, now: Time) -> News {
        // A key of another type is told by the script itself: it ran.
        if !matches!(reply, Ok(_) | Err(StoreError::WrongType(_)))
            && self.opening.take_if(|(opening, _)| *opening == id).is_some()
        {
            self.open_at = self.open_at.max(now + self.retry_after());
        }
        News::Nothing
    }

    fn opened(&mut self, id: SessionId, reply: &Result<Reply, StoreError>, now: Time) -> News {
        let Some((_, asked)) = self.opening.take_if(|(opening, _)| *opening == id) else { return News::Nothing };
        if matches!(reply, Ok(Reply::Applied)) && now.since(asked) < self.ttl {
            self.current = Some(Life { id, renewed: asked, due: asked + self.ttl / 3, asked: None, unsettled: 0 });
            return News::Opened;
        }
        // The key may exist or come to exist yet. Nothing was claimed under it, so it need not be ended: its TTL does that. An
        // outage would leave one behind each second.
        self.open_at = self.open_at.max(now + self.retry_after());
        News::Nothing
    }

    fn renewed(&mut self, id: SessionId, reply: &Result<Reply, StoreError>, now: Time) -> News {
        let (ttl, retry) = (self.ttl, self.retry_after());
        let Some(life) = self.life(id) else { return News::Nothing };
        let asked = life.asked.take().unwrap_or(now);
        match reply {
            Ok(Reply::Applied) => life.renewed = life.renewed.max(asked),
            Ok(_) => {
                // By now, not by when it was asked: the request may have been a while on its way.
                let before_its_time = now.since(life.renewed) < ttl;
                self.forget(id);
                if before_its_time {
                    return News::DataLost;
                }
            }
            Err(_) => life.due = now + retry,
        }
        News::Nothing
    }

    fn retry_after(&self) -> Duration {
        (self.ttl / 30).min(Duration::from_millis(300))
    }

    fn ended(&mut self, id: SessionId, reply: &Result<Reply, StoreError>, now: Time) -> News {
        let Some(place) = self.ending.iter().position(|end| end.id == id) else { return News::Nothing };
        match reply {
            Ok(reply) => {
                let end = self.ending.remove(place);
                let gone_early = *reply == Reply::Refused && end.exists_until.is_some_and(|until| now < until);
                if gone_early { News::DataLost } else { News::Nothing }
            }
            Err(error) => {
                let end = &mut self.ending[place];
                end.at = Some(now + self.ttl / 10);
                // The next request may find that this one was applied.
                end.exists_until.take_if(|_| matches!(error, StoreError::Unanswered(_)));
                News::Nothing
            }
        }
    }

    fn replace_expired(&mut self, now: Time) {
        if self.current.as_ref().is_some_and(|life| !self.alive(life, now)) {
            self.rotate();
        }
    }

    fn end_settled(&mut self, now: Time) {
        let (ending, ttl) = (&mut self.ending, self.ttl);
        self.replaced.retain(|life| {
            if life.unsettled == 0 {
                ending.push(End { id: life.id, at: Some(now), exists_until: Some(life.renewed + ttl) });
            }
            life.unsettled > 0
        });
    }

    fn alive(&self, life: &Life, now: Time) -> bool {
        now.since(life.renewed) < self.ttl
    }

    fn life(&mut self, id: SessionId) -> Option<&mut Life> {
        self.current.iter_mut().chain(&mut self.replaced).find(|life| life.id == id)
    }

    fn forget(&mut self, id: SessionId) {
        self.current.take_if(|life| life.id == id);
        self.replaced.retain(|life| life.id != id);
    }
}

#[cfg(test)]
mod tests;

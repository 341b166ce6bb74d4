//! Decides what the store's answers mean for the slots they were asked for. Pure.

use std::sync::Arc;
use std::time::Duration;

use super::memory::Unwritten;
use super::slot::{Asked, State};
use super::{Gate, Kind, REMEMBERED_DEAD, Suspect, Token, Unusable, Verdict};
use crate::claim::{self, Claim, ClaimRequest, Decision, Owner, SessionId};
use crate::clock::Time;
use crate::session::{Demand, News};
use crate::store::{Op, Reply, StoreError};
use crds::config::FailurePolicy;

/// First and longest pause between two looks at a held event.
const HELD: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// First and longest pause between two looks at a value that is not ours.
const FOREIGN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// First and longest pause after an operation that the store did not take.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

type Answer = Result<Reply, StoreError>;

impl Gate {
    /// Takes the answers of one round trip.
    pub fn answered(&mut self, answers: Vec<(Token, Answer)>, now: Time) {
        self.count_errors(&answers, now);
        for (token, answer) in answers {
            match token {
                Token::Claim(at) => self.claim_answered(at, &answer, now),
                Token::Ask(at) => self.ask_answered(at, &answer, now),
                Token::TakeOver(at) => self.take_over_answered(at, &answer, now),
                Token::Complete(at) => self.complete_answered(at, &answer, now),
                Token::Release(at) => self.release_answered(at, &answer, now),
                // It is said again with the next copy that is refused.
                Token::Keep(_) => {}
                Token::WriteBack(unwritten) => self.write_back_answered(*unwritten, &answer, now),
                Token::Session(demand) => self.session_answered(&demand, &answer, now),
            }
        }
    }

    /// One round trip is one error for the breaker, however many operations it carried.
    fn count_errors(&mut self, answers: &[(Token, Answer)], now: Time) {
        let (mut failed, mut answered) = (false, false);
        for (_, answer) in answers {
            let count = match answer {
                Ok(_) => {
                    answered = true;
                    continue;
                }
                Err(StoreError::WrongType(_)) => {
                    self.counts.errors_wrong_type += 1;
                    continue;
                }
                Err(StoreError::Unanswered(_)) => &mut self.counts.errors_unanswered,
                Err(StoreError::NotSent(_)) => &mut self.counts.errors_not_sent,
                Err(StoreError::Refused(_)) => &mut self.counts.errors_refused,
            };
            *count += 1;
            failed = true;
        }
        if failed {
            let mut errors = answers.iter().filter_map(|(token, answer)| match answer {
                Err(StoreError::WrongType(_)) | Ok(_) => None,
                Err(error) => Some((token, error)),
            });
            self.last_error = errors.clone().next().map(|(_, error)| error.to_string());
            if let Some(suspect) = errors.find_map(|(token, _)| self.subject(token)) {
                self.suspect = Some(suspect);
            }
            if self.breaker.failed(now) {
                self.store_went_away(now);
            }
        } else if answered {
            if self.suspect.is_some() && answers.iter().any(|(token, answer)| answer.is_ok() && self.is_suspect(token))
            {
                self.suspect = None;
            }
            self.breaker.answered(self.suspect.is_none(), now);
        }
    }

    fn is_suspect(&self, token: &Token) -> bool {
        self.suspect.is_some() && self.suspect == self.subject(token)
    }

    /// What an operation was about. A session key is only ever asked for once more under another name: it proves nothing.
    fn subject(&self, token: &Token) -> Option<Suspect> {
        let of = |at: &usize, kind| self.slots.get(*at).map(|slot| Suspect { key: slot.key.text().clone(), kind });
        match token {
            Token::Claim(at) | Token::Complete(at) => of(at, Kind::Plain),
            Token::TakeOver(at) | Token::Release(at) => of(at, Kind::Script),
            Token::Keep(key) => Some(Suspect { key: key.text().clone(), kind: Kind::Script }),
            Token::Ask(at) => match self.slots.get(*at)?.state {
                State::Asking { holder, .. } => Some(Suspect { key: self.session_key(holder), kind: Kind::Question }),
                _ => None,
            },
            Token::WriteBack(unwritten) => Some(Suspect { key: unwritten.key.text().clone(), kind: Kind::Plain }),
            Token::Session(_) => None,
        }
    }

    fn session_key(&self, session: SessionId) -> Arc<str> {
        format!("{}{session}", self.config.session_prefix).into()
    }

    fn store_went_away(&mut self, now: Time) {
        self.away_since = Some(now);
        self.counts.sessions_lost += u64::from(self.sessions.current(now).is_some());
        // The store may come back empty, or with claims that we don't know: a new session starts from what it says then.
        self.sessions.rotate();
        self.sessions.open_not_before(now + super::breaker::Breaker::PROBE_EVERY);
        if self.config.policy == FailurePolicy::Open {
            self.restart_parked(now);
            let waiting: Vec<usize> =
                self.slots.iter().filter(|(_, slot)| slot.busy() && slot.timer.is_some()).map(|(at, _)| at).collect();
            for at in waiting {
                self.slots[at].timer = None;
                self.fire(at, now);
            }
        }
    }

    fn claim_answered(&mut self, at: usize, answer: &Answer, now: Time) {
        let State::Claiming(asked) = self.slots[at].state else { return };
        let reply = match answer {
            Ok(reply) => reply,
            Err(error) => return self.claim_failed(at, asked.session, error, now),
        };
        if self.is_void(asked) && !self.says_done(reply) {
            return self.claim_anew(at, now);
        }
        let decision = self.decide(at, asked, reply, |session| self.owner_of(session));
        self.follow(at, decision, asked, reply, now);
    }

    fn follow(&mut self, at: usize, decision: Decision, asked: Asked, reply: &Reply, now: Time) {
        let Reply::Present(seen) = reply else {
            return match decision {
                Decision::Deliver(claim) => {
                    self.counts.claims_first += 1;
                    self.grant(at, claim, now);
                }
                _ => self.hold(at, State::Held, HELD, now),
            };
        };
        match decision {
            Decision::Deliver(claim) => self.grant(at, claim, now),
            Decision::Duplicate(done) => self.resolve_done(at, done),
            Decision::Held => {
                self.counts.claims_held += 1;
                if let claim::Stored::Claimed { session, .. } = claim::Stored::parse(seen, &self.config.done_values) {
                    let slot = &mut self.slots[at];
                    let since = slot.held.filter(|(_, holder)| *holder == session).map_or(now, |(since, _)| since);
                    slot.held = Some((since, session));
                }
                self.hold(at, State::Held, HELD, now);
            }
            Decision::Foreign => {
                self.counts.claims_foreign += 1;
                self.slots[at].held = None;
                self.mark_unusable(at, "its value is not the gate's, and not one of doneValues", now);
                self.hold(at, State::Foreign, FOREIGN, now);
            }
            Decision::Ask(holder) => {
                let key = self.session_key(holder);
                self.slots[at].state = State::Asking { asked, seen: seen.clone(), holder };
                self.ops.push((Token::Ask(at), Op::Exists { key }));
            }
            Decision::TakeOver { attempt } => self.take_over(at, Asked { attempt, ..asked }, seen.clone()),
        }
    }

    fn take_over(&mut self, at: usize, asked: Asked, seen: bytes::Bytes) {
        let slot = &mut self.slots[at];
        let value = claim::claim_value(asked.session, asked.attempt);
        let (key, ttl) = (slot.key.text().clone(), slot.terms.claim_ttl);
        slot.state = State::TakingOver(asked);
        self.ops.push((Token::TakeOver(at), Op::CompareAndSet { key, expect: seen, value, ttl }));
    }

    fn ask_answered(&mut self, at: usize, answer: &Answer, now: Time) {
        let State::Asking { asked, seen, holder } = self.slots[at].state.clone() else { return };
        if answer.is_err() {
            // A question that was not answered changed nothing: it can be asked again.
            return self.claim_later(at, now);
        }
        if self.is_void(asked) {
            return self.claim_anew(at, now);
        }
        let owner = if matches!(answer, Ok(Reply::Applied)) { Owner::Alive } else { Owner::Dead };
        if owner == Owner::Dead {
            if self.dead.len() >= REMEMBERED_DEAD {
                self.dead.clear();
            }
            self.dead.insert(holder);
        }
        let reply = Reply::Present(seen);
        let decision = self.decide(at, asked, &reply, |_| owner);
        self.follow(at, decision, asked, &reply, now);
    }

    fn decide(&self, at: usize, asked: Asked, reply: &Reply, owner: impl FnOnce(SessionId) -> Owner) -> Decision {
        let Asked { session, attempt, sent_at } = asked;
        let request = ClaimRequest { key: &self.slots[at].key, session, attempt, sent_at };
        claim::decide(reply, request, &self.config.done_values, owner)
    }

    fn take_over_answered(&mut self, at: usize, answer: &Answer, now: Time) {
        let State::TakingOver(asked) = self.slots[at].state else { return };
        match answer {
            Err(error) => self.claim_failed(at, asked.session, error, now),
            Ok(Reply::Applied) if !self.is_void(asked) => {
                self.counts.claims_taken_over += 1;
                let key = self.slots[at].key.clone();
                let Asked { session, attempt, sent_at } = asked;
                let claim: Claim = ClaimRequest { key: &key, session, attempt, sent_at }.granted();
                self.grant(at, claim, now);
            }
            // Another was quicker, or the session is over: look again.
            Ok(_) => self.claim_anew(at, now),
        }
    }

    fn complete_answered(&mut self, at: usize, answer: &Answer, now: Time) {
        if answer.is_ok() {
            return self.finish_done(at, now);
        }
        let State::Completing { tries, .. } = &mut self.slots[at].state else { return };
        // To say that it is done is true at any time, so it can be said again.
        let pause = growing(RETRY, *tries);
        *tries = tries.saturating_add(1);
        if self.breaker.is_open() && self.config.policy == FailurePolicy::Open {
            return self.write_done(at, now);
        }
        self.set_timer(at, now + pause);
    }

    fn release_answered(&mut self, at: usize, answer: &Answer, now: Time) {
        let State::Releasing { session, tries, .. } = &mut self.slots[at].state else { return };
        let session = *session;
        match answer {
            // It may still be on its way: nothing is claimed again under this session.
            Err(StoreError::Unanswered(_)) => self.give_up_session(session),
            // It surely was not applied, so it can be said again; the other claims of the session stand.
            Err(StoreError::NotSent(_) | StoreError::Refused(_))
                if self.sessions.is_current(session) && !self.breaker.is_open() =>
            {
                let pause = growing(RETRY, *tries);
                *tries = tries.saturating_add(1);
                return self.set_timer(at, now + pause);
            }
            // A wrong type, or the session is over: the next claim finds what is there.
            Err(_) | Ok(_) => {}
        }
        self.claim_anew(at, now);
    }

    fn write_back_answered(&mut self, unwritten: Unwritten, answer: &Answer, now: Time) {
        self.writing = self.writing.saturating_sub(1);
        match answer {
            Ok(_) => self.write_back.written(&unwritten),
            Err(_) => {
                self.write_back.failed(unwritten);
                self.write_at = now + RETRY.1;
            }
        }
    }

    fn session_answered(&mut self, demand: &Demand, answer: &Answer, now: Time) {
        let opening = matches!(demand, Demand::Open(_));
        match self.sessions.answered(demand, answer, now) {
            News::Nothing if opening && self.breaker.is_open() => {
                self.sessions.open_not_before(now + super::breaker::Breaker::PROBE_EVERY);
            }
            News::Nothing => {}
            News::Opened => {
                self.counts.sessions_opened += 1;
                if self.breaker.probed() {
                    self.away_since = None;
                    self.write_at = now;
                }
                (self.suspect, self.last_error) = (None, None);
                self.verdicts.push_back(Verdict::SessionChanged);
                self.restart_parked(now);
            }
            News::DataLost => {
                self.counts.sessions_lost += u64::from(!matches!(demand, Demand::KeepMark(_)));
                self.data_lost = Some((now, now + self.config.longest_ttl));
            }
        }
        if matches!(demand, Demand::End(_)) && answer.is_ok() {
            self.save = Some(self.sessions.existing());
        }
    }

    /// A claim or take-over got an error instead of an answer.
    fn claim_failed(&mut self, at: usize, session: SessionId, error: &StoreError, now: Time) {
        match error {
            StoreError::Unanswered(_) => {
                self.give_up_session(session);
                self.claim_anew(at, now);
            }
            StoreError::WrongType(_) => self.wrong_type(at, now),
            StoreError::NotSent(_) | StoreError::Refused(_) => self.claim_later(at, now),
        }
    }

    /// The store did not take it: the next try waits a little.
    fn claim_later(&mut self, at: usize, now: Time) {
        let slot = &mut self.slots[at];
        let pause = growing(RETRY, slot.polls);
        slot.polls = slot.polls.saturating_add(1);
        slot.not_before = slot.not_before.max(now + pause);
        self.claim_anew(at, now);
    }

    fn wrong_type(&mut self, at: usize, now: Time) {
        self.mark_unusable(at, "it holds another type than a string", now);
        if self.config.policy == FailurePolicy::Closed {
            return self.hold(at, State::Foreign, FOREIGN, now);
        }
        let slot = &mut self.slots[at];
        slot.unusable = true;
        let claim = Claim::unguarded(slot.key.clone(), slot.floor.saturating_add(1), now);
        self.grant(at, claim, now);
    }

    fn mark_unusable(&mut self, at: usize, why: &'static str, now: Time) {
        let key = self.slots[at].key.text();
        // Of several keys one is named, and that one as long as it is seen.
        if self.unusable(now).is_none_or(|named| named.key == *key) {
            self.unusable = Some(Unusable { key: key.clone(), why, seen: now });
        }
    }

    /// Nothing is on its way for the slot any more: its owner claims again, or the next one does, or nobody.
    pub(super) fn claim_anew(&mut self, at: usize, now: Time) {
        self.slots[at].state = State::Idle;
        self.after_idle(at, now);
    }

    fn give_up_session(&mut self, session: SessionId) {
        if self.sessions.is_current(session) {
            self.counts.sessions_lost += 1;
            self.sessions.rotate();
        }
    }

    /// A claim is void when its session was replaced while it was on its way.
    fn is_void(&self, asked: Asked) -> bool {
        !self.sessions.is_current(asked.session)
    }

    /// Done is true under any session.
    fn says_done(&self, reply: &Reply) -> bool {
        let Reply::Present(value) = reply else { return false };
        matches!(claim::Stored::parse(value, &self.config.done_values), claim::Stored::Done(_))
    }

    fn owner_of(&self, session: SessionId) -> Owner {
        if self.sessions.is_mine(session) {
            Owner::Mine
        } else if self.dead.contains(&session) {
            Owner::Dead
        } else {
            Owner::Unknown
        }
    }

    /// The event waits for another: look again later, or not at all if nobody here wants it any more.
    fn hold(&mut self, at: usize, state: State, (first, longest): (Duration, Duration), now: Time) {
        let slot = &mut self.slots[at];
        slot.state = state;
        if slot.owner.is_none() {
            return self.promote_if_free(at, now);
        }
        let pause = growing((first, longest), slot.polls);
        slot.polls = slot.polls.saturating_add(1);
        // Spread the looks of several sidecars at one event.
        let spread = u32::try_from(slot.key.digest() >> (slot.polls % 64) & 0xff).unwrap_or(0);
        let due = now + pause + pause * spread / 1_024;
        self.set_timer(at, due);
        self.reconsider(at);
    }
}

fn growing((first, longest): (Duration, Duration), tries: u32) -> Duration {
    first.saturating_mul(1 << tries.min(16)).min(longest)
}

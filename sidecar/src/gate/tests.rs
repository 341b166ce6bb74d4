//! Scenarios of the gate, one for each clause of its protocol, against a store that is a map and is answered by hand.

use super::*;
use crate::claim::{KeyPrefix, claim_value, done_value, released_value};
use crate::event_id::EventId;
use crate::store::{Reply, StoreError};

const TTL: Duration = Duration::from_secs(86_400);
const SESSION_TTL: Duration = Duration::from_secs(9);

type Answer = Result<Reply, StoreError>;

fn session(n: u128) -> SessionId {
    SessionId::new(Uuid::from_u128(n))
}

fn key(n: u8) -> Key {
    KeyPrefix::render("k:", "g", "t", "").key(&EventId([n; 32]))
}

fn fp(n: u8) -> Option<Fingerprint> {
    Some(Fingerprint([n; 4]))
}

fn unanswered() -> Answer {
    Err(StoreError::Unanswered("time-out".into()))
}

/// A gate with sessions 1, 2, 3 …, a clock and a store.
struct Rig {
    gate: Gate,
    now: Time,
    store: HashMap<String, Bytes>,
    wrong_type: HashSet<String>,
    /// Every operation that was asked for.
    asked: Vec<Op>,
    verdicts: Vec<Verdict>,
}

impl Rig {
    fn new(policy: FailurePolicy) -> Self {
        Self::with(policy, &[])
    }

    fn with(policy: FailurePolicy, inherited: &[SessionId]) -> Self {
        let config = GateConfig {
            policy,
            session_prefix: "s:".into(),
            session_ttl: SESSION_TTL,
            done_values: vec!["processed".into()],
            longest_ttl: TTL,
        };
        let mut given = 0;
        let fresh = move || {
            given += 1;
            session(given)
        };
        let now = Time::at(Duration::from_secs(1_000));
        let (store, wrong_type) = (HashMap::new(), HashSet::new());
        let gate = Gate::new(config, inherited.to_vec(), fresh, now);
        Self { gate, now, store, wrong_type, asked: Vec::new(), verdicts: Vec::new() }
    }

    /// With session 1 open.
    fn open(policy: FailurePolicy) -> Self {
        let mut rig = Self::new(policy);
        rig.settle_down();
        assert_eq!(rig.gate.session(rig.now), Some(session(1)));
        rig.drop_verdicts();
        rig.asked.clear();
        rig
    }

    fn apply(&mut self, op: &Op) -> Answer {
        let key = op.key().to_string();
        if self.wrong_type.contains(&key) && !matches!(op, Op::Set { .. } | Op::Delete { .. } | Op::Exists { .. }) {
            return Err(StoreError::WrongType(op.key().clone()));
        }
        let there = self.store.get(&key).cloned();
        let write = match op {
            Op::SetIfAbsent { value, .. } => match there {
                Some(found) => return Ok(Reply::Present(found)),
                None => Some(value),
            },
            Op::SetIfPresent { value, .. } => there.map(|_| value),
            Op::CompareAndSet { expect, value, .. } => (there.as_ref() == Some(expect)).then_some(value),
            Op::Set { value, .. } => Some(value),
            Op::Exists { .. } => return Ok(if there.is_some() { Reply::Applied } else { Reply::Refused }),
            Op::Delete { .. } => {
                self.store.remove(&key);
                return Ok(if there.is_some() { Reply::Applied } else { Reply::Refused });
            }
            Op::CompareAndDelete { expect, .. } => {
                let same = there.as_ref() == Some(expect);
                self.store.retain(|at, _| !same || *at != key);
                return Ok(if same { Reply::Applied } else { Reply::Refused });
            }
        };
        let Some(value) = write else { return Ok(Reply::Refused) };
        self.wrong_type.remove(&key);
        self.store.insert(key, value.clone());
        Ok(Reply::Applied)
    }

    /// What is asked now, without an answer yet.
    fn sent(&mut self) -> Vec<(Token, Op)> {
        self.gate.poll(self.now);
        let ops = self.gate.take_ops();
        self.asked.extend(ops.iter().map(|(_, op)| op.clone()));
        self.gate.take_save();
        self.collect();
        ops
    }

    fn collect(&mut self) {
        while let Some(verdict) = self.gate.next_verdict() {
            self.verdicts.push(verdict);
        }
    }

    fn answer(&mut self, answers: Vec<(Token, Answer)>) {
        self.gate.answered(answers, self.now);
        self.collect();
    }

    /// Answers what was sent, truly.
    fn reply(&mut self, ops: Vec<(Token, Op)>) {
        let answers = ops.into_iter().map(|(token, op)| (token, self.apply(&op))).collect();
        self.answer(answers);
    }

    /// The requests arrive, their replies do not.
    fn lose_replies(&mut self, ops: Vec<(Token, Op)>) {
        let answers = ops
            .into_iter()
            .map(|(token, op)| {
                let _applied = self.apply(&op);
                (token, unanswered())
            })
            .collect();
        self.answer(answers);
    }

    /// Round trips until nothing is asked any more.
    fn settle_down(&mut self) {
        for _ in 0..20 {
            let ops = self.sent();
            if ops.is_empty() {
                return;
            }
            self.reply(ops);
        }
        panic!("it does not come to rest");
    }

    /// So many round trips in a row fail.
    fn fail(&mut self, times: usize) {
        for _ in 0..times {
            let ops = self.sent();
            assert!(!ops.is_empty(), "nothing was asked that could fail");
            let answers = ops.into_iter().map(|(token, _)| (token, Err(StoreError::NotSent("refused".into())))).collect();
            self.answer(answers);
            self.pass(400);
        }
    }

    fn go_away(&mut self) {
        self.pass(3_000);
        self.fail(5);
        assert!(self.gate.away_since().is_some(), "the breaker is open");
        self.drop_verdicts();
        self.asked.clear();
    }

    fn pass(&mut self, millis: u64) {
        self.now = self.now + Duration::from_millis(millis);
    }

    /// Renews the session on the way.
    fn pass_alive(&mut self, secs: u64) {
        for _ in 0..secs {
            self.pass(1_000);
            let ops = self.sent();
            self.reply(ops);
        }
    }

    fn request(&mut self, ticket: Ticket, n: u8) {
        self.request_of(ticket, n, None);
    }

    fn request_of(&mut self, ticket: Ticket, n: u8, fingerprint: Option<Fingerprint>) {
        self.gate.request(ticket, &key(n), fingerprint, Terms::new(TTL), self.now);
        self.collect();
    }

    fn granted(&mut self, ticket: Ticket) -> Option<Claim> {
        let at = self.verdicts.iter().position(|v| matches!(v, Verdict::Granted(t, _) if *t == ticket))?;
        match self.verdicts.remove(at) {
            Verdict::Granted(_, claim) => Some(claim),
            _ => None,
        }
    }

    fn started(&mut self, ticket: Ticket) -> Started {
        let claim = self.granted(ticket).expect("granted");
        self.gate.start(claim, self.now).expect("may start")
    }

    fn is_duplicate(&self, ticket: Ticket) -> bool {
        self.verdicts.iter().any(|v| matches!(v, Verdict::Duplicate { ticket: t, .. } if *t == ticket))
    }

    fn is_settled(&self, ticket: Ticket) -> bool {
        self.verdicts.contains(&Verdict::Settled(ticket))
    }

    /// Drops what was told so far; claims among it would be lost.
    fn drop_verdicts(&mut self) {
        self.collect();
        self.verdicts.retain(|verdict| matches!(verdict, Verdict::Granted(..)));
    }

    fn stored(&self, n: u8) -> Option<&Bytes> {
        self.store.get(&**key(n).text())
    }

    fn put(&mut self, n: u8, value: impl Into<Bytes>) {
        self.store.insert(key(n).text().to_string(), value.into());
    }

    fn put_session(&mut self, n: u128) {
        self.store.insert(format!("s:{}", session(n)), "1".into());
    }

    /// Operations on this event's key so far.
    fn asked_of(&self, n: u8) -> Vec<&Op> {
        self.asked.iter().filter(|op| **op.key() == **key(n).text()).collect()
    }

    fn complete(&mut self, claim: Claim) {
        self.gate.complete(claim, None, self.now);
        self.collect();
    }

    fn release(&mut self, claim: Claim, sent: bool, again: Option<Time>) {
        self.gate.release(claim, sent, again, self.now);
        self.collect();
    }
}

mod claims {
    use super::*;

    #[test]
    fn a_free_event_is_claimed_in_one_round_trip_and_settled_in_another() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.request(1, 1);
        let ops = rig.sent();
        assert_eq!(ops.len(), 1);
        rig.reply(ops);
        assert_eq!(rig.stored(1), Some(&claim_value(session(1), 1)));
        let started = rig.started(1);
        assert_eq!((started.claim.attempt(), started.gated), (1, Gated::Store));
        rig.complete(started.claim);
        assert!(!rig.is_settled(1), "only after the reply");
        rig.settle_down();
        assert!(rig.is_settled(1));
        assert_eq!(rig.stored(1), Some(&done_value(None)));
        assert!(rig.gate.is_idle());
    }

    #[test]
    fn nothing_is_claimed_before_a_session_is_open() {
        let mut rig = Rig::new(FailurePolicy::Open);
        rig.request(1, 1);
        assert_eq!(rig.gate.stance(1, &key(1)), Stance::Parked);
        let ops = rig.sent();
        assert!(rig.asked_of(1).is_empty());
        rig.reply(ops);
        rig.settle_down();
        assert!(rig.granted(1).is_some());
    }

    #[test]
    fn a_done_event_is_a_duplicate_also_by_a_named_value() {
        for value in ["1", "1:00000000", "processed"] {
            let mut rig = Rig::open(FailurePolicy::Open);
            rig.put(1, value);
            rig.request(1, 1);
            rig.settle_down();
            assert!(rig.is_duplicate(1), "{value}");
            assert_eq!(rig.stored(1).unwrap(), value);
        }
    }

    #[test]
    fn a_duplicate_of_another_envelope_is_suspect() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.put(1, done_value(fp(1)));
        for (ticket, own) in [(1, fp(1)), (2, fp(2)), (3, None)] {
            rig.request_of(ticket, 1, own);
            rig.settle_down();
            assert!(rig.verdicts.contains(&Verdict::Duplicate { ticket, suspect: own == fp(2) }), "{own:?}");
        }
    }

    #[test]
    fn duplicates_in_one_sidecar_are_told_suspects_too() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.request_of(1, 1, fp(1));
        rig.request_of(2, 1, fp(2));
        rig.request_of(3, 1, fp(1));
        rig.settle_down();
        let claim = rig.started(1).claim;
        rig.gate.complete(claim, fp(1), rig.now);
        rig.settle_down();
        assert!(rig.verdicts.contains(&Verdict::Duplicate { ticket: 2, suspect: true }));
        assert!(rig.verdicts.contains(&Verdict::Duplicate { ticket: 3, suspect: false }));
        assert_eq!(rig.stored(1), Some(&done_value(fp(1))));
    }

    #[test]
    fn a_released_event_is_taken_over_with_the_next_attempt() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.put(1, released_value(4));
        rig.request(1, 1);
        rig.settle_down();
        assert_eq!(rig.granted(1).unwrap().attempt(), 5);
        assert_eq!(rig.stored(1), Some(&claim_value(session(1), 5)));
    }

    #[test]
    fn a_dead_sessions_event_is_taken_over_with_the_next_attempt() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.put(1, claim_value(session(77), 2));
        rig.put(2, claim_value(session(77), 1));
        rig.request(1, 1);
        rig.settle_down();
        assert_eq!(rig.granted(1).unwrap().attempt(), 3);
        rig.request(2, 2);
        rig.settle_down();
        assert_eq!(rig.granted(2).unwrap().attempt(), 2);
        let questions = rig.asked.iter().filter(|op| matches!(op, Op::Exists { .. })).count();
        assert_eq!(questions, 1, "a session is asked for once");
    }

    #[test]
    fn a_predecessors_event_is_taken_over_at_once() {
        let mut rig = Rig::with(FailurePolicy::Open, &[session(91)]);
        rig.put_session(91);
        rig.put(1, claim_value(session(91), 1));
        rig.settle_down();
        assert!(!rig.store.contains_key(&format!("s:{}", session(91))), "its session is ended");
        rig.request(1, 1);
        rig.settle_down();
        assert_eq!(rig.granted(1).unwrap().attempt(), 2);
    }

    #[test]
    fn a_living_sessions_event_is_held_and_looked_at_with_growing_pauses() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.put(1, claim_value(session(77), 1));
        rig.put_session(77);
        rig.request(1, 1);
        let mut looks = Vec::new();
        for millis in 0..5_000 {
            let ops = rig.sent();
            if ops.iter().any(|(token, _)| matches!(token, Token::Claim(_))) {
                looks.push(millis);
            }
            rig.reply(ops);
            rig.settle_down();
            assert!(rig.granted(1).is_none() && !rig.is_duplicate(1), "never skipped, never delivered");
            assert_eq!(rig.gate.stance(1, &key(1)), Stance::Held);
            rig.pass(1);
        }
        let pauses: Vec<u64> = looks.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(pauses[0] <= 30 && pauses.last().unwrap() >= &400, "{pauses:?}");
        assert!(pauses.len() < 20, "{pauses:?}");
        rig.store.remove(&format!("s:{}", session(77)));
        rig.pass(700);
        rig.settle_down();
        assert_eq!(rig.granted(1).unwrap().attempt(), 2);
    }

    #[test]
    fn a_take_over_that_another_was_quicker_with_is_looked_at_again() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.put(1, released_value(1));
        rig.request(1, 1);
        let ops = rig.sent();
        rig.reply(ops);
        let take_over = rig.sent();
        rig.put(1, claim_value(session(77), 2));
        rig.put_session(77);
        rig.reply(take_over);
        rig.settle_down();
        assert!(rig.granted(1).is_none());
        assert_eq!(rig.gate.stance(1, &key(1)), Stance::Held);
    }

    #[test]
    fn a_value_that_is_not_ours_is_held_and_reported() {
        for policy in [FailurePolicy::Open, FailurePolicy::Closed] {
            let mut rig = Rig::open(policy);
            rig.put(1, "processing");
            rig.request(1, 1);
            rig.settle_down();
            assert_eq!(rig.gate.stance(1, &key(1)), Stance::Foreign);
            assert!(rig.granted(1).is_none() && !rig.is_duplicate(1));
            assert_eq!(rig.gate.unusable(rig.now).unwrap().key, *key(1).text());
            assert_eq!(rig.stored(1).unwrap(), "processing");
            rig.store.clear();
            rig.put_session(1);
            rig.pass(2_000);
            rig.settle_down();
            assert_eq!(rig.granted(1).unwrap().attempt(), 1, "once its TTL has ended");
        }
    }

    #[test]
    fn a_key_of_another_type_goes_by_the_failure_policy() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.wrong_type.insert(key(1).text().to_string());
        rig.request(1, 1);
        rig.settle_down();
        let started = rig.started(1);
        assert_eq!((started.gated, started.claim.session()), (Gated::Memory, None));
        assert_eq!(rig.gate.unusable(rig.now).unwrap().key, *key(1).text());
        rig.complete(started.claim);
        rig.settle_down();
        assert_eq!(rig.stored(1), Some(&done_value(None)), "done is written whatever is there");

        let mut rig = Rig::open(FailurePolicy::Closed);
        rig.wrong_type.insert(key(1).text().to_string());
        rig.request(1, 1);
        rig.settle_down();
        assert!(rig.granted(1).is_none());
        assert_eq!(rig.gate.stance(1, &key(1)), Stance::Foreign);
        assert!(rig.gate.away_since().is_none(), "it concerns that key alone");
    }
}

mod reserve {
    use super::*;

    #[test]
    fn a_second_record_waits_and_is_a_duplicate_once_the_first_is_done() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.request(1, 1);
        rig.request(2, 1);
        rig.settle_down();
        assert_eq!(rig.asked_of(1).len(), 1, "one claim for both");
        assert_eq!(rig.gate.stance(2, &key(1)), Stance::Reserved);
        let started = rig.started(1);
        assert_eq!(rig.gate.stance(2, &key(1)), Stance::Moving);
        assert!(rig.granted(2).is_none());
        rig.complete(started.claim);
        assert!(!rig.is_duplicate(2), "only after the reply");
        rig.settle_down();
        assert!(rig.is_settled(1) && rig.is_duplicate(2));
    }

    #[test]
    fn a_second_record_is_next_when_the_first_is_withdrawn() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.put(1, claim_value(session(77), 1));
        rig.put_session(77);
        rig.request(1, 1);
        rig.request(2, 1);
        rig.settle_down();
        rig.gate.withdraw(1, &key(1), rig.now);
        assert_eq!(rig.gate.stance(2, &key(1)), Stance::Claiming);
        rig.store.remove(&format!("s:{}", session(77)));
        rig.settle_down();
        rig.pass(100);
        rig.settle_down();
        assert!(rig.granted(1).is_none());
        assert_eq!(rig.granted(2).unwrap().attempt(), 2);
    }

    #[test]
    fn a_withdrawn_waiter_is_told_nothing_any_more() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.request(1, 1);
        rig.request(2, 1);
        rig.request(3, 1);
        rig.gate.withdraw(2, &key(1), rig.now);
        rig.settle_down();
        let claim = rig.started(1).claim;
        rig.complete(claim);
        rig.settle_down();
        assert!(!rig.is_duplicate(2) && rig.is_duplicate(3));
    }

    #[test]
    fn a_claim_given_back_goes_to_a_waiter_without_the_store() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.request(1, 1);
        rig.request(2, 1);
        rig.settle_down();
        let claim = rig.granted(1).unwrap();
        let before = rig.asked.len();
        rig.gate.give_back(claim, rig.now);
        rig.settle_down();
        assert_eq!(rig.granted(2).unwrap().attempt(), 1);
        assert_eq!(rig.asked.len(), before);
    }

    #[test]
    fn a_claim_given_back_that_nobody_wants_is_released_as_not_sent() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.request(1, 1);
        rig.settle_down();
        let claim = rig.granted(1).unwrap();
        rig.gate.give_back(claim, rig.now);
        rig.settle_down();
        assert_eq!(rig.stored(1), None);
        assert!(rig.gate.is_idle());
    }

    #[test]
    fn a_claim_withdrawn_on_the_wire_is_released_on_arrival() {
        for (there, left) in [(None, None), (Some(released_value(2)), Some(released_value(2)))] {
            let mut rig = Rig::open(FailurePolicy::Open);
            if let Some(value) = there {
                rig.put(1, value);
            }
            rig.request(1, 1);
            let ops = rig.sent();
            rig.gate.withdraw(1, &key(1), rig.now);
            rig.reply(ops);
            rig.settle_down();
            assert!(rig.granted(1).is_none());
            assert_eq!(rig.stored(1), left.as_ref());
            assert!(rig.gate.is_idle());
        }
    }

    #[test]
    fn a_claim_withdrawn_on_the_wire_goes_to_whoever_asks_meanwhile() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.request(1, 1);
        let ops = rig.sent();
        rig.gate.withdraw(1, &key(1), rig.now);
        rig.request(2, 1);
        assert!(rig.sent().is_empty(), "one operation at a time");
        rig.reply(ops);
        rig.settle_down();
        assert_eq!(rig.granted(2).unwrap().attempt(), 1);
        assert_eq!(rig.asked_of(1).len(), 1);
    }

    #[test]
    fn backing_off_belongs_to_the_event() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.request(1, 1);
        rig.request(2, 1);
        rig.settle_down();
        let claim = rig.started(1).claim;
        let later = rig.now + Duration::from_secs(5);
        rig.release(claim, true, Some(later));
        rig.settle_down();
        assert_eq!(rig.stored(1), Some(&released_value(1)));
        assert_eq!(rig.gate.stance(1, &key(1)), Stance::BackingOff);
        assert_eq!(rig.gate.stance(2, &key(1)), Stance::Reserved);
        rig.gate.withdraw(1, &key(1), rig.now);
        rig.pass_alive(4);
        assert!(rig.granted(2).is_none(), "its duplicate waits too");
        assert_eq!(rig.gate.stance(2, &key(1)), Stance::BackingOff);
        rig.pass_alive(2);
        rig.settle_down();
        assert_eq!(rig.granted(2).unwrap().attempt(), 2);
    }

    #[test]
    fn waiters_are_told_when_the_outcome_stalls_or_fails() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.request(1, 1);
        rig.request(2, 1);
        rig.settle_down();
        let claim = rig.started(1).claim;
        rig.drop_verdicts();
        rig.gate.stall(&claim);
        rig.collect();
        assert!(rig.verdicts.contains(&Verdict::Reconsider(2)));
        assert_eq!(rig.gate.stance(2, &key(1)), Stance::Reserved);
        rig.complete(claim);
        rig.settle_down();
        assert!(rig.is_duplicate(2));
    }
}

mod releases {
    use super::*;

    #[test]
    fn a_failed_delivery_comes_back_with_the_next_attempt() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.request(1, 1);
        for attempt in 1..4 {
            rig.settle_down();
            let claim = rig.started(1).claim;
            assert_eq!(claim.attempt(), attempt);
            assert_eq!(rig.gate.requests(&claim), attempt - 1);
            rig.release(claim, true, Some(rig.now));
        }
        rig.settle_down();
        assert_eq!(rig.stored(1), Some(&claim_value(session(1), 4)));
    }

    #[test]
    fn what_was_not_sent_comes_back_with_the_same_attempt() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.request(1, 1);
        for _ in 0..3 {
            rig.settle_down();
            let claim = rig.started(1).claim;
            assert_eq!((claim.attempt(), rig.gate.requests(&claim)), (1, 0));
            rig.release(claim, false, Some(rig.now));
        }
    }

    #[test]
    fn nothing_is_claimed_again_before_its_release_is_confirmed() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.request(1, 1);
        rig.settle_down();
        let claim = rig.started(1).claim;
        rig.release(claim, true, Some(rig.now));
        let release = rig.sent();
        assert_eq!(release.len(), 1);
        rig.pass(1_000);
        assert!(rig.sent().is_empty());
        rig.reply(release);
        rig.settle_down();
        assert_eq!(rig.granted(1).unwrap().attempt(), 2);
    }

    #[test]
    fn a_claim_older_than_half_its_ttl_is_not_started() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.request(1, 1);
        rig.request(2, 2);
        rig.settle_down();
        let half = TTL.as_secs() / 2;
        let young = rig.granted(1).unwrap();
        let old = rig.granted(2).unwrap();
        // Straight to the moment, with the session renewed there.
        rig.pass(1_000 * half);
        rig.gate.sessions = Sessions::new(SESSION_TTL, Vec::new(), rig.now);
        let mut demands = Vec::new();
        rig.gate.sessions.poll(rig.now, || session(1), &mut demands);
        rig.gate.sessions.answered(&Demand::Open(session(1)), &Ok(Reply::Applied), rig.now);
        assert!(rig.gate.start(young, rig.now).is_some());
        rig.pass(1);
        assert!(rig.gate.start(old, rig.now).is_none());
        rig.settle_down();
        let again = rig.granted(2).expect("claimed anew");
        assert_eq!(again.attempt(), 1, "it was not sent");
        assert!(rig.gate.start(again, rig.now).is_some());
    }
}

mod lost_replies {
    use super::*;

    #[test]
    fn of_a_claim_replace_the_session_and_raise_the_attempt() {
        for arrived in [true, false] {
            let mut rig = Rig::open(FailurePolicy::Open);
            rig.request(1, 1);
            let ops = rig.sent();
            if arrived {
                rig.lose_replies(ops);
            } else {
                rig.answer(ops.into_iter().map(|(token, _)| (token, unanswered())).collect());
            }
            assert_eq!(rig.gate.session(rig.now), None, "never again under that session");
            assert_eq!(rig.gate.stance(1, &key(1)), Stance::Parked);
            rig.settle_down();
            assert_eq!(rig.gate.session(rig.now), Some(session(2)));
            assert!(!rig.store.contains_key(&format!("s:{}", session(1))), "the old one is ended");
            assert_eq!(rig.granted(1).unwrap().attempt(), if arrived { 2 } else { 1 });
            let claims = rig.asked_of(1).into_iter().filter(|op| matches!(op, Op::SetIfAbsent { value, .. } if *value == claim_value(session(1), 1)));
            assert_eq!(claims.count(), 1, "not repeated under the old session");
        }
    }

    #[test]
    fn of_a_take_over_replace_the_session_and_raise_the_attempt() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.put(1, released_value(3));
        rig.request(1, 1);
        let ops = rig.sent();
        rig.reply(ops);
        let take_over = rig.sent();
        assert!(matches!(&take_over[..], [(Token::TakeOver(_), _)]));
        rig.lose_replies(take_over);
        assert_eq!(rig.gate.session(rig.now), None);
        rig.settle_down();
        let claim = rig.granted(1).unwrap();
        assert_eq!((claim.session(), claim.attempt()), (Some(session(2)), 5));
    }

    #[test]
    fn of_a_release_stop_claims_until_there_is_a_new_session() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.request(1, 1);
        rig.settle_down();
        let claim = rig.started(1).claim;
        rig.release(claim, true, Some(rig.now));
        let release = rig.sent();
        assert_eq!(release.len(), 1);
        // It is still on its way when the sidecar gives up waiting.
        rig.answer(release.iter().map(|(token, _)| (token.clone(), unanswered())).collect());
        assert_eq!(rig.gate.session(rig.now), None);
        rig.settle_down();
        let claim = rig.granted(1).unwrap();
        assert_eq!((claim.session(), claim.attempt()), (Some(session(2)), 2));
        for (_, op) in &release {
            assert_eq!(rig.apply(op), Ok(Reply::Refused), "the late release does not free the live claim");
        }
        assert_eq!(rig.stored(1), Some(&claim_value(session(2), 2)));
    }

    #[test]
    fn of_an_error_that_was_an_answer_the_session_is_kept() {
        for error in [StoreError::NotSent("refused".into()), StoreError::Refused("OOM".into())] {
            let mut rig = Rig::open(FailurePolicy::Open);
            rig.request(1, 1);
            let ops = rig.sent();
            rig.answer(ops.into_iter().map(|(token, _)| (token, Err(error.clone()))).collect());
            assert_eq!(rig.gate.session(rig.now), Some(session(1)));
            assert!(rig.sent().is_empty(), "not at once");
            rig.pass(60);
            rig.settle_down();
            assert_eq!(rig.granted(1).unwrap().attempt(), 1);
        }
    }

    #[test]
    fn of_a_question_change_nothing_but_are_not_asked_again_at_once() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.put(1, claim_value(session(77), 1));
        rig.request(1, 1);
        for _ in 0..3 {
            let ops = rig.sent();
            rig.reply(ops);
            let question = rig.sent();
            assert!(matches!(&question[..], [(Token::Ask(_), _)]), "{question:?}");
            rig.answer(question.into_iter().map(|(token, _)| (token, Err(StoreError::Refused("NOPERM".into())))).collect());
            assert!(rig.sent().is_empty(), "else it turns as fast as the network does");
            rig.pass(1_000);
        }
        assert_eq!(rig.gate.session(rig.now), Some(session(1)));
        rig.settle_down();
        assert_eq!(rig.granted(1).unwrap().attempt(), 2);
    }

    #[test]
    fn of_a_completion_are_repeated_and_hold_the_offset() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.request(1, 1);
        rig.settle_down();
        let claim = rig.started(1).claim;
        rig.complete(claim);
        let done = rig.sent();
        rig.answer(done.into_iter().map(|(token, _)| (token, unanswered())).collect());
        assert!(!rig.is_settled(1));
        rig.pass(60);
        rig.settle_down();
        assert!(rig.is_settled(1));
        assert_eq!(rig.stored(1), Some(&done_value(None)));
    }

    #[test]
    fn other_claims_of_the_old_session_are_void() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.request(1, 1);
        rig.settle_down();
        let void = rig.granted(1).unwrap();
        rig.request(2, 2);
        let ops = rig.sent();
        rig.lose_replies(ops);
        assert!(rig.gate.start(void, rig.now).is_none());
        rig.settle_down();
        let claim = rig.granted(1).unwrap();
        assert_eq!((claim.session(), claim.attempt()), (Some(session(2)), 2));
    }

    #[test]
    fn a_claim_answered_after_its_session_was_replaced_is_not_used() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.request(1, 1);
        let late = rig.sent();
        rig.request(2, 2);
        let lost = rig.sent();
        rig.lose_replies(lost);
        rig.reply(late);
        assert!(rig.granted(1).is_none());
        rig.settle_down();
        assert_eq!(rig.granted(1).unwrap().session(), Some(session(2)));
    }

    #[test]
    fn but_done_is_true_under_any_session() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.put(1, "1");
        rig.request(1, 1);
        let late = rig.sent();
        rig.go_away();
        rig.reply(late);
        assert!(rig.is_duplicate(1), "the store said so before it went");
        assert!(rig.granted(1).is_none());
    }

    #[test]
    fn a_delivery_or_completion_keeps_its_session_alive_until_it_is_settled() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.request(1, 1);
        rig.settle_down();
        let claim = rig.started(1).claim;
        rig.request(2, 2);
        let ops = rig.sent();
        rig.lose_replies(ops);
        rig.settle_down();
        let old = format!("s:{}", session(1));
        rig.pass_alive(30);
        assert!(rig.store.contains_key(&old), "while it is delivered");
        let renewals = rig.asked.iter().filter(|op| matches!(op, Op::SetIfPresent { key, .. } if **key == *old)).count();
        assert!(renewals >= 9, "{renewals}");
        rig.complete(claim);
        let mut done = rig.sent();
        done.retain(|(token, _)| matches!(token, Token::Complete(_)));
        rig.answer(done.into_iter().map(|(token, _)| (token, Err(StoreError::Refused("LOADING".into())))).collect());
        assert!(rig.store.contains_key(&old), "while it is not settled");
        rig.pass_alive(2);
        rig.settle_down();
        assert!(rig.is_settled(1));
        assert!(!rig.store.contains_key(&old));
    }
}

mod sessions {
    use super::*;

    #[test]
    fn nothing_is_started_under_a_session_that_ran_out() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.request(1, 1);
        rig.settle_down();
        let claim = rig.granted(1).unwrap();
        rig.pass(u64::try_from(SESSION_TTL.as_millis()).unwrap());
        assert!(rig.gate.start(claim, rig.now).is_none());
        rig.settle_down();
        let claim = rig.granted(1).unwrap();
        assert_eq!((claim.session(), claim.attempt()), (Some(session(2)), 2));
    }

    #[test]
    fn lost_data_degrades_protection_for_one_ttl() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.request(1, 1);
        rig.settle_down();
        let claim = rig.started(1).claim;
        rig.complete(claim);
        rig.settle_down();
        rig.store.clear();
        rig.pass(3_000);
        rig.settle_down();
        assert_eq!(rig.gate.data_lost(rig.now), Some(rig.now));
        rig.request(2, 1);
        rig.request(3, 3);
        rig.settle_down();
        assert!(rig.is_duplicate(2), "the sidecar's own memory stands in");
        let started = rig.started(3);
        assert_eq!((started.gated, started.claim.session()), (Gated::Degraded, Some(session(2))));
        assert_eq!(rig.gate.protection(true, rig.now), Protection::Local);
        let since = rig.now;
        rig.now = since + TTL;
        assert_eq!(rig.gate.data_lost(rig.now), None);
    }

    #[test]
    fn close_ends_every_session() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.gate.close();
        rig.settle_down();
        assert!(rig.gate.is_closed());
        assert!(rig.store.is_empty());
        rig.request(1, 1);
        rig.pass(60_000);
        rig.settle_down();
        assert!(rig.granted(1).is_none());
    }
}

mod store_away {
    use super::*;

    #[test]
    fn the_breaker_opens_after_five_failed_round_trips() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.pass(3_000);
        for n in 0..4 {
            rig.request(usize::from(n), n);
        }
        rig.fail(4);
        assert!(rig.gate.away_since().is_none(), "round trips count, not operations");
        rig.fail(1);
        assert_eq!(rig.gate.away_since().map(|at| rig.now.since(at)), Some(Duration::from_millis(400)));
        // Their last pause ends.
        rig.pass(1_000);
        rig.sent();
        for n in 0..4 {
            let started = rig.started(n);
            assert_eq!((started.gated, started.claim.session(), started.claim.attempt()), (Gated::Memory, None, 1));
        }
    }

    #[test]
    fn open_delivers_what_it_does_not_remember_and_writes_back() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.request(1, 1);
        rig.settle_down();
        let claim = rig.started(1).claim;
        rig.complete(claim);
        rig.settle_down();
        rig.go_away();
        rig.request(2, 1);
        rig.collect();
        assert!(rig.is_duplicate(2), "settled here before");
        rig.request(3, 3);
        let started = rig.started(3);
        assert_eq!(started.gated, Gated::Memory);
        assert!(rig.asked_of(3).is_empty(), "no wait for the store");
        rig.complete(started.claim);
        assert!(rig.is_settled(3), "it is queued");
        assert_eq!(rig.gate.write_back().0, 1);
        rig.request(4, 3);
        assert!(rig.is_duplicate(4), "what waits to be written counts as done");
        assert_eq!(rig.stored(3), None);
        rig.pass(1_000);
        rig.settle_down();
        assert!(rig.gate.away_since().is_none());
        assert_eq!(rig.stored(3), Some(&done_value(None)));
        assert_eq!(rig.gate.write_back(), (0, 0));
    }

    #[test]
    fn what_is_written_back_counts_as_done_until_it_is() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.go_away();
        rig.request(1, 1);
        let claim = rig.started(1).claim;
        rig.complete(claim);
        // Forgotten by the memory, as after 100,000 others.
        rig.gate.recent = RecentIds::new(1);
        rig.pass(1_000);
        let probe = rig.sent();
        rig.reply(probe);
        let writing = rig.sent();
        assert!(writing.iter().any(|(token, _)| matches!(token, Token::WriteBack(_))));
        rig.request(2, 1);
        assert!(rig.is_duplicate(2), "also on the wire");
        rig.answer(writing.into_iter().map(|(token, _)| (token, unanswered())).collect());
        assert_eq!(rig.gate.write_back().0, 1);
        rig.pass(1_000);
        rig.settle_down();
        assert_eq!(rig.stored(1), Some(&done_value(None)));
    }

    #[test]
    fn a_completion_under_way_is_queued_when_the_breaker_opens() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.request(1, 1);
        rig.request(2, 1);
        rig.settle_down();
        let claim = rig.started(1).claim;
        rig.complete(claim);
        rig.fail(4);
        assert!(!rig.is_settled(1));
        rig.pass(3_000);
        rig.fail(1);
        assert!(rig.is_settled(1) && rig.is_duplicate(2));
        rig.pass(1_000);
        rig.settle_down();
        assert_eq!(rig.stored(1), Some(&done_value(None)));
    }

    #[test]
    fn the_written_back_ttl_counts_from_completion() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.go_away();
        rig.request(1, 1);
        let claim = rig.started(1).claim;
        rig.complete(claim);
        let completed = rig.now;
        rig.pass(10_000);
        rig.settle_down();
        let ttls: Vec<Duration> = rig.asked_of(1).iter().filter_map(|op| match op {
            Op::Set { ttl, .. } => Some(*ttl),
            _ => None,
        }).collect();
        assert_eq!(ttls, [TTL - rig.now.since(completed)]);
    }

    #[test]
    fn every_delivery_says_so_also_of_an_event_claimed_before() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.request(1, 1);
        rig.settle_down();
        let claim = rig.granted(1).unwrap();
        rig.go_away();
        let started = rig.gate.start(claim, rig.now).unwrap();
        assert_eq!(started.gated, Gated::Memory);
        assert_eq!(rig.gate.protection(true, rig.now), Protection::Local);
        assert_eq!(rig.gate.protection(false, rig.now), Protection::None);
    }

    #[test]
    fn closed_waits_for_the_store_and_loses_no_completion() {
        let mut rig = Rig::open(FailurePolicy::Closed);
        rig.request(1, 1);
        rig.request(2, 2);
        rig.settle_down();
        let under_way = rig.started(1).claim;
        let claimed = rig.granted(2).unwrap();
        rig.go_away();
        assert!(rig.gate.start(claimed, rig.now).is_none(), "claimed before, not started now");
        rig.request(3, 3);
        rig.complete(under_way);
        for _ in 0..20 {
            let ops = rig.sent();
            rig.answer(ops.into_iter().map(|(token, _)| (token, unanswered())).collect());
            assert!(rig.granted(2).is_none() && rig.granted(3).is_none() && !rig.is_settled(1));
            rig.pass(500);
        }
        assert_eq!(rig.gate.stance(3, &key(3)), Stance::Parked);
        rig.pass(1_000);
        rig.settle_down();
        rig.pass(1_000);
        rig.settle_down();
        assert!(rig.is_settled(1));
        assert_eq!(rig.granted(3).unwrap().attempt(), 1);
        assert_eq!(rig.granted(2).unwrap().attempt(), 2);
    }

    #[test]
    fn one_probe_a_second_and_a_new_session_when_it_is_answered() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.go_away();
        let mut probes = 0;
        for _ in 0..100 {
            let ops = rig.sent();
            probes += ops.iter().filter(|(_, op)| matches!(op, Op::SetIfAbsent { .. })).count();
            rig.answer(ops.into_iter().map(|(token, _)| (token, unanswered())).collect());
            rig.pass(100);
        }
        assert!((8..=11).contains(&probes), "{probes}");
        rig.pass(1_000);
        rig.settle_down();
        let open = rig.gate.session(rig.now).expect("a session");
        assert_ne!(open, session(1));
        assert!(rig.verdicts.contains(&Verdict::SessionChanged));
        rig.request(1, 1);
        rig.settle_down();
        assert_eq!(rig.started(1).gated, Gated::Store);
    }

    #[test]
    fn a_delivery_without_the_store_that_fails_comes_again_with_the_next_attempt() {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.go_away();
        rig.request(1, 1);
        let claim = rig.started(1).claim;
        rig.release(claim, true, Some(rig.now));
        let claim = rig.started(1).claim;
        assert_eq!((claim.attempt(), claim.session()), (2, None));
        rig.pass(1_000);
        let probe = rig.sent();
        rig.reply(probe);
        rig.release(claim, true, Some(rig.now));
        rig.settle_down();
        let claim = rig.granted(1).unwrap();
        assert_eq!((claim.attempt(), claim.session().is_some()), (3, true));
    }
}

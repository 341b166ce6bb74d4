//! Scenarios of the gate, one for each clause of its protocol, against a store that is a map and is answered by hand.

use bytes::Bytes;
use crds::status::Protection;

use super::*;
use crate::claim::{KeyPrefix, claim_value, done_value, released_value};
use crate::event_id::EventId;
use crate::store::{Reply, StoreError};

mod claims;
mod lost_replies;
mod releases;
mod reserve;
mod sessions;
mod store_away;

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
    /// The server refuses these.
    refuses: fn(&Op) -> bool,
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
        Self { gate, now, store, wrong_type, refuses: |_| false, asked: Vec::new(), verdicts: Vec::new() }
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
        if (self.refuses)(op) {
            return Err(StoreError::Refused("NOPERM".into()));
        }
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
            let answers =
                ops.into_iter().map(|(token, _)| (token, Err(StoreError::NotSent("refused".into())))).collect();
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

    /// Lives so long with the store as it is.
    fn live(&mut self, millis: u64) {
        for _ in 0..millis / 10 {
            self.pass(10);
            let ops = self.sent();
            self.reply(ops);
        }
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
        let wanted = Wanted { fingerprint, terms: Terms::new(TTL), past: Past::default() };
        self.gate.request(ticket, &key(n), wanted, self.now);
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
        self.gate.release(claim, sent, again.unwrap_or(self.now), again.is_some(), self.now);
        self.collect();
    }
}

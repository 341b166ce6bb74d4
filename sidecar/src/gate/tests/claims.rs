//! Tests of claims: what is found under a key, and what follows.

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
fn of_several_foreign_values_one_is_named_and_all_are_counted() {
    let mut rig = Rig::open(FailurePolicy::Open);
    for n in 1..=3 {
        rig.put(n, "processing");
        rig.request(usize::from(n), n);
    }
    rig.settle_down();
    let named = rig.gate.unusable(rig.now).unwrap().key.clone();
    for _ in 0..100 {
        rig.pass_alive(1);
        assert_eq!(rig.gate.unusable(rig.now).unwrap().key, named);
    }
    rig.settle_down();
    assert_eq!(rig.gate.foreign(), 3);
    rig.store.remove(&*named);
    rig.pass_alive(80);
    assert_ne!(rig.gate.unusable(rig.now).unwrap().key, named, "the next one's turn");
}

#[test]
fn who_holds_an_event_and_since_when_is_known_until_it_is_free() {
    let mut rig = Rig::open(FailurePolicy::Open);
    rig.put(1, claim_value(session(77), 1));
    rig.put_session(77);
    rig.request(1, 1);
    rig.settle_down();
    let since = rig.now;
    rig.pass_alive(30);
    let held = rig.gate.longest_held().unwrap();
    assert_eq!((held.key, held.since, held.holder), (key(1).text().clone(), since, session(77)));
    rig.store.remove(&format!("s:{}", session(77)));
    rig.pass_alive(2);
    rig.settle_down();
    assert!(rig.granted(1).is_some());
    assert_eq!(rig.gate.longest_held(), None);
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

//! Tests of requests whose reply does not come.

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
        let claims = rig
            .asked_of(1)
            .into_iter()
            .filter(|op| matches!(op, Op::SetIfAbsent { value, .. } if *value == claim_value(session(1), 1)));
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
fn nor_is_a_take_over() {
    let mut rig = Rig::open(FailurePolicy::Open);
    rig.put(1, released_value(1));
    rig.request(1, 1);
    let ops = rig.sent();
    rig.reply(ops);
    let late = rig.sent();
    assert!(matches!(&late[..], [(Token::TakeOver(_), _)]));
    rig.request(2, 2);
    let lost = rig.sent();
    rig.lose_replies(lost);
    rig.reply(late);
    assert!(rig.granted(1).is_none());
    rig.settle_down();
    let claim = rig.granted(1).unwrap();
    assert_eq!((claim.session(), claim.attempt()), (Some(session(2)), 3));
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

#[test]
fn a_claim_that_a_failover_brings_back_holds_nobody_up() {
    let mut rig = Rig::open(FailurePolicy::Open);
    rig.request(1, 1);
    rig.settle_down();
    let claim = rig.started(1).claim;
    rig.complete(claim);
    rig.settle_down();
    assert!(rig.is_settled(1));
    // The server that takes over has not heard of `done`, and the session of the claim lives.
    rig.put(1, claim_value(session(1), 1));
    rig.gate.store_changed();
    rig.settle_down();
    assert!(!rig.store.contains_key(&format!("s:{}", session(1))), "void everywhere");
    assert_eq!(rig.gate.session(rig.now), Some(session(2)));
    rig.request(2, 1);
    rig.settle_down();
    assert_eq!(rig.granted(2).unwrap().attempt(), 2, "the app is told");
}

#[test]
fn a_delivery_under_way_keeps_its_session_alive_when_another_server_answers() {
    let mut rig = Rig::open(FailurePolicy::Open);
    rig.request(1, 1);
    rig.settle_down();
    let claim = rig.started(1).claim;
    rig.gate.store_changed();
    rig.settle_down();
    assert!(rig.store.contains_key(&format!("s:{}", session(1))));
    rig.complete(claim);
    rig.settle_down();
    assert_eq!(rig.stored(1), Some(&done_value(None)));
    assert!(!rig.store.contains_key(&format!("s:{}", session(1))));
}

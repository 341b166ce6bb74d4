//! Tests of releases: what comes again, when, and with which attempt.

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

/// Surely not applied: the claim stands, and what others hold under the session is as good as before.
#[test]
fn a_release_that_the_store_did_not_take_is_said_again() {
    let mut rig = Rig::open(FailurePolicy::Open);
    rig.request(1, 1);
    rig.request(2, 2);
    rig.settle_down();
    let failed = rig.started(1).claim;
    let other = rig.granted(2).unwrap();
    rig.release(failed, true, Some(rig.now));
    for _ in 0..3 {
        let ops = rig.sent();
        let [(Token::Release(_), _)] = &ops[..] else { panic!("{ops:?}") };
        rig.answer(ops.into_iter().map(|(token, _)| (token, Err(StoreError::Refused("OOM".into())))).collect());
        assert!(rig.sent().is_empty(), "not at once");
        rig.pass(1_000);
    }
    assert_eq!(rig.gate.session(rig.now), Some(session(1)), "no reason to give it up");
    rig.settle_down();
    assert_eq!(rig.started(1).claim.attempt(), 2);
    assert!(rig.gate.start(other, rig.now).is_some());
}

#[test]
fn what_was_sent_from_here_is_remembered_beyond_a_withdrawal() {
    let mut rig = Rig::open(FailurePolicy::Open);
    let past = Past { attempt: 3, not_before: rig.now + Duration::from_secs(5) };
    rig.gate.request_again(1, &key(1), None, Terms::new(TTL), past, rig.now);
    rig.settle_down();
    assert!(rig.granted(1).is_none(), "it backs off");
    rig.pass(5_000);
    rig.settle_down();
    assert_eq!(rig.started(1).claim.attempt(), 4, "the store knows nothing of it");
}

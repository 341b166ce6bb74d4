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

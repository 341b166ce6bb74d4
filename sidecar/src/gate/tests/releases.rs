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
fn a_refused_release_is_repeated_and_voids_no_other_claim() {
    for error in [StoreError::Refused("OOM".into()), StoreError::NotSent("refused".into())] {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.request(1, 1);
        rig.request(2, 2);
        rig.settle_down();
        let failed = rig.started(1).claim;
        rig.release(failed, true, Some(rig.now));
        let release = rig.sent();
        rig.answer(release.into_iter().map(|(token, _)| (token, Err(error.clone()))).collect());
        assert_eq!(rig.gate.session(rig.now), Some(session(1)), "it surely was not applied: {error:?}");
        assert!(rig.sent().is_empty(), "not at once");
        assert_eq!(rig.gate.stance(1, &key(1)), Stance::BackingOff);
        rig.pass(60);
        rig.settle_down();
        let claim = rig.granted(1).unwrap();
        assert_eq!((claim.session(), claim.attempt()), (Some(session(1)), 2));
        assert_eq!(rig.started(2).claim.session(), Some(session(1)));
    }
}

#[test]
fn a_refused_release_that_nobody_waits_for_is_repeated_too() {
    let mut rig = Rig::open(FailurePolicy::Open);
    rig.request(1, 1);
    rig.settle_down();
    let failed = rig.started(1).claim;
    rig.release(failed, true, None);
    let release = rig.sent();
    rig.answer(release.into_iter().map(|(token, _)| (token, Err(StoreError::Refused("OOM".into())))).collect());
    assert!(!rig.gate.is_idle());
    rig.pass(60);
    rig.settle_down();
    assert_eq!(rig.stored(1), Some(&released_value(1)));
    assert!(rig.gate.is_idle());
}

#[test]
fn that_it_may_have_happened_outlives_the_claim() {
    let mut rig = Rig::open(FailurePolicy::Open);
    rig.request(1, 1);
    rig.settle_down();
    let failed = rig.started(1).claim;
    rig.release(failed, true, None);
    rig.settle_down();
    let released = rig.asked_of(1).into_iter().find_map(|op| match op {
        Op::CompareAndSet { ttl, .. } => Some(*ttl),
        _ => None,
    });
    assert_eq!(released, Some(Duration::from_secs(7 * 86_400)));
}

#[test]
fn a_claim_that_waits_for_its_copy_lives_on() {
    let mut rig = Rig::open(FailurePolicy::Open);
    rig.request(1, 1);
    rig.settle_down();
    let claim = rig.started(1).claim;
    rig.asked.clear();
    rig.gate.stall(&claim);
    let keep = rig.sent();
    let Some((_, Op::CompareAndSet { ttl, expect, value, .. })) = keep.first() else { panic!("{keep:?}") };
    assert_eq!((*ttl, expect), (TTL, value), "nothing but its TTL changes");
    // Neither its loss nor its coming late means anything.
    rig.answer(keep.iter().map(|(token, _)| (token.clone(), unanswered())).collect());
    assert_eq!(rig.gate.session(rig.now), Some(session(1)));
    rig.complete(claim);
    rig.settle_down();
    rig.reply(keep);
    assert_eq!(rig.stored(1), Some(&done_value(None)));
}

#[test]
fn a_claim_older_than_half_its_ttl_is_not_started() {
    let mut rig = Rig::open(FailurePolicy::Open);
    let terms = Terms::new(Duration::from_secs(1));
    for n in 1..=2 {
        rig.gate.request(usize::from(n), &key(n), Wanted { fingerprint: None, terms, past: Past::default() }, rig.now);
    }
    rig.settle_down();
    let young = rig.granted(1).unwrap();
    let old = rig.granted(2).unwrap();
    rig.pass_alive(terms.claim_ttl.as_secs() / 2);
    assert_eq!(rig.gate.session(rig.now), Some(session(1)), "renewed on the way");
    assert!(rig.gate.start(young, rig.now).is_some());
    rig.pass(1);
    assert!(rig.gate.start(old, rig.now).is_none());
    rig.settle_down();
    let again = rig.granted(2).expect("claimed anew");
    assert_eq!(again.attempt(), 1, "it was not sent");
    assert!(rig.gate.start(again, rig.now).is_some());
}

#[test]
fn what_was_sent_from_here_is_remembered_beyond_a_withdrawal() {
    let mut rig = Rig::open(FailurePolicy::Open);
    let past = Past { attempt: 3, not_before: rig.now + Duration::from_secs(5) };
    rig.gate.request(1, &key(1), Wanted { fingerprint: None, terms: Terms::new(TTL), past }, rig.now);
    rig.settle_down();
    assert!(rig.granted(1).is_none(), "it backs off");
    rig.pass(5_000);
    rig.settle_down();
    assert_eq!(rig.started(1).claim.attempt(), 4, "the store knows nothing of it");
}

//! Tests of what the end of a session means for claims.

use super::*;
use crate::session::Demand;

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
fn a_renewal_does_not_wait_behind_claims() {
    let mut rig = Rig::open(FailurePolicy::Open);
    rig.pass(3_000);
    rig.request(1, 1);
    rig.gate.poll(rig.now);
    let first = rig.gate.take_session_ops();
    assert!(matches!(&first[..], [(Token::Session(Demand::Renew(_)), _)]), "{first:?}");
    let rest = rig.gate.take_ops();
    assert!(matches!(&rest[..], [(Token::Claim(_), _)]), "{rest:?}");
}

#[test]
fn what_was_asked_for_while_a_renewal_was_late_goes_on_once_that_is_confirmed() {
    let mut rig = Rig::open(FailurePolicy::Open);
    rig.now = rig.now + (SESSION_TTL - Duration::from_secs(1));
    let renewal = rig.sent();
    assert!(matches!(&renewal[..], [(Token::Session(Demand::Renew(_)), _)]), "{renewal:?}");
    rig.pass(1_500);
    rig.request(1, 1);
    assert_eq!(rig.gate.stance(1, &key(1)), Stance::Parked, "the session has run out, as far as is known");
    rig.reply(renewal);
    rig.settle_down();
    assert_eq!(rig.granted(1).unwrap().session(), Some(session(1)), "and it has not, as the answer tells");
}

#[test]
fn close_ends_every_session() {
    let mut rig = Rig::open(FailurePolicy::Open);
    rig.gate.close();
    rig.settle_down();
    assert!(rig.gate.is_closed());
    assert_eq!(rig.store.keys().collect::<Vec<_>>(), ["s:mark"]);
    rig.request(1, 1);
    rig.pass(60_000);
    rig.settle_down();
    assert!(rig.granted(1).is_none());
}

#[test]
fn a_store_that_comes_back_empty_after_the_session_ran_out_has_lost_data() {
    for empty in [false, true] {
        let mut rig = Rig::open(FailurePolicy::Open);
        rig.request(1, 1);
        rig.settle_down();
        let claim = rig.started(1).claim;
        rig.complete(claim);
        rig.settle_down();
        rig.go_away();
        rig.pass(60_000);
        rig.store.retain(|key, _| !empty && !key.contains("-"));
        rig.settle_down();
        assert!(rig.gate.away_since().is_none());
        assert_eq!(rig.gate.data_lost(rig.now), empty.then_some(rig.now));
        rig.request(2, 2);
        rig.settle_down();
        assert_eq!(rig.started(2).gated, if empty { Gated::Degraded } else { Gated::Store });
    }
}

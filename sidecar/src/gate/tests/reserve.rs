//! Tests of *reserve*: one owner for a key in this sidecar, and waiters behind.

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
    assert!(rig.is_duplicate(2), "the outcome is known, and the first record holds its offset until the reply");
    rig.request(3, 1);
    assert!(rig.is_duplicate(3), "as for whoever comes before the reply");
    assert!(!rig.is_settled(1));
    rig.settle_down();
    assert!(rig.is_settled(1));
    assert_eq!(rig.asked_of(1).len(), 2, "one claim, one completion");
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
fn also_when_its_record_leaves() {
    let mut rig = Rig::open(FailurePolicy::Open);
    rig.request(1, 1);
    rig.request(2, 1);
    rig.settle_down();
    let claim = rig.started(1).claim;
    let later = rig.now + Duration::from_secs(5);
    rig.gate.release(claim, true, later, false, rig.now);
    rig.settle_down();
    rig.pass_alive(4);
    assert!(rig.granted(2).is_none());
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

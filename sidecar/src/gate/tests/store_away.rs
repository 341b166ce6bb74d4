//! Tests of the time while the store is away.

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
fn a_completion_between_two_tries_is_queued_at_once_too() {
    let mut rig = Rig::open(FailurePolicy::Open);
    rig.request(1, 1);
    rig.settle_down();
    let claim = rig.started(1).claim;
    rig.complete(claim);
    for n in 1..=5 {
        assert!(!rig.is_settled(1));
        rig.request(10 + usize::from(n), 10 + n);
        let ops = rig.sent();
        rig.answer(ops.into_iter().map(|(token, _)| (token, Err(StoreError::NotSent("refused".into())))).collect());
    }
    assert!(rig.is_settled(1));
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
    let ttls: Vec<Duration> = rig
        .asked_of(1)
        .iter()
        .filter_map(|op| match op {
            Op::Set { ttl, .. } => Some(*ttl),
            _ => None,
        })
        .collect();
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

/// Everything that is a script.
fn is_script(op: &Op) -> bool {
    matches!(op, Op::CompareAndSet { .. } | Op::CompareAndDelete { .. })
}

#[test]
fn a_store_that_refuses_scripts_counts_as_away() {
    let mut rig = Rig::new(FailurePolicy::Open);
    rig.refuses = is_script;
    rig.put(1, released_value(1));
    rig.put(2, claim_value(session(77), 1));
    rig.request(1, 1);
    rig.request(2, 2);
    rig.live(5_000);
    assert!(rig.gate.away_since().is_some(), "else what must be taken over waits until its key ends");
    assert_eq!(rig.gate.session(rig.now), None);
    assert!(rig.gate.last_error().unwrap().contains("NOPERM"));
    for ticket in [1, 2] {
        assert_eq!(rig.started(ticket).gated, Gated::Memory);
    }
    rig.refuses = |_| false;
    rig.live(1_500);
    assert!(rig.gate.away_since().is_none() && rig.gate.last_error().is_none());
}

#[test]
fn also_one_that_begins_to_refuse_them_while_a_session_lives() {
    for policy in [FailurePolicy::Open, FailurePolicy::Closed] {
        let mut rig = Rig::open(policy);
        rig.request(1, 1);
        rig.settle_down();
        rig.refuses = is_script;
        let failed = rig.started(1).claim;
        rig.release(failed, true, Some(rig.now));
        let mut n = 2;
        // Claims and completions go on meanwhile, and are answered.
        for _ in 0..300 {
            rig.live(10);
            if let Some(claim) = rig.granted(usize::from(n) - 1).filter(|_| n > 2)
                && let Some(started) = rig.gate.start(claim, rig.now)
            {
                rig.complete(started.claim);
            }
            rig.request(usize::from(n), n);
            n = n.saturating_add(1).min(250);
            if rig.gate.away_since().is_some() {
                break;
            }
        }
        assert!(rig.gate.away_since().is_some(), "{policy:?}");
        rig.live(5_000);
        assert!(rig.gate.away_since().is_some(), "it does not close as long as scripts are refused");
        rig.refuses = |_| false;
        rig.live(3_000);
        assert!(rig.gate.away_since().is_none());
        if policy == FailurePolicy::Closed {
            assert_eq!(rig.granted(1).unwrap().attempt(), 2);
        }
    }
}

#[test]
fn one_dead_node_of_a_cluster_keeps_the_breaker_open() {
    let mut rig = Rig::open(FailurePolicy::Open);
    // The node that serves the keys of even events is dead; whose session keys lie elsewhere.
    rig.refuses = |op| [2, 4, 6].iter().any(|n| **op.key() == **key(*n).text());
    for n in 1..=6 {
        rig.request(usize::from(n), n);
    }
    rig.live(5_000);
    let away = rig.gate.away_since().expect("the breaker is open");
    rig.live(10_000);
    assert_eq!(rig.gate.away_since(), Some(away), "a session on a living node says nothing of the dead one");
    rig.refuses = |_| false;
    rig.live(1_500);
    assert!(rig.gate.away_since().is_none());
}

#[test]
fn single_errors_far_apart_do_not_open_the_breaker() {
    let mut rig = Rig::open(FailurePolicy::Open);
    for n in 0..20 {
        rig.request(1, n);
        let ops = rig.sent();
        rig.answer(ops.into_iter().map(|(token, _)| (token, Err(StoreError::NotSent("refused".into())))).collect());
        rig.gate.withdraw(1, &key(n), rig.now);
        rig.pass_alive(12);
    }
    assert!(rig.gate.away_since().is_none());
}

//! Decides whether the pipeline keeps its promises under random faults: whole sidecars in simulated time, with a broker, a store
//! and an app that fail as a seed says. Nothing is lost, commits pass no unsettled record, attempts grow, nothing stalls.
//!
//! A failing seed is printed; `SIMULATION_SEED=<seed>` runs it alone, `SIMULATION_RUNS=<n>` sets how many are tried.
#![allow(missing_docs, clippy::unwrap_used)]

mod simulation {
    pub(super) mod broker;
    pub(super) mod store;
    pub(super) mod world;
}

use crds::config::{FailurePolicy, Ordering};
use simulation::world::{Faults, Plan, Seen, World};

fn runs() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("SIMULATION_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("SIMULATION_RUNS").unwrap_or(150)).collect(),
    }
}

fn simulate(plan: Plan) -> Seen {
    let mut seen = Seen::default();
    for seed in runs() {
        let mut world = World::new(plan, seed);
        if let Err(broken) = world.run() {
            panic!("seed {seed} of {plan:?}: {broken}\n{}", world.tail());
        }
        seen += world.seen;
    }
    seen
}

/// All runs together must have come to what they are about; a few may not.
fn reached(counts: &[u64]) {
    assert!(runs().len() < 50 || counts.iter().all(|count| *count > 0), "never happened: {counts:?}");
}

const CALM: Plan = Plan {
    sidecars: 2,
    partitions: 4,
    events: 60,
    ordering: Ordering::Partition,
    batch: 1,
    policy: FailurePolicy::Open,
    faults: Faults {
        store: false,
        outage: false,
        crash: false,
        rebalance: false,
        app: false,
        app_down: false,
        copies: false,
        drain: false,
        restart: false,
        flush: false,
        scripts: false,
        weekend: false,
        pause: false,
    },
    reject: false,
    copy: false,
    max_attempts: None,
};

const EVERYTHING: Faults =
    Faults { store: true, crash: true, rebalance: true, app: true, app_down: true, ..CALM.faults };

#[test]
fn without_faults_every_event_has_one_effect() {
    for ordering in [Ordering::Partition, Ordering::Key, Ordering::Unordered] {
        for batch in [1, 8] {
            simulate(Plan { ordering, batch, reject: true, ..CALM });
        }
    }
}

#[test]
fn a_failing_app_sees_growing_attempts() {
    for ordering in [Ordering::Partition, Ordering::Key, Ordering::Unordered] {
        for batch in [1, 8] {
            simulate(Plan { ordering, batch, faults: Faults { app: true, ..CALM.faults }, reject: true, ..CALM });
        }
    }
}

#[test]
fn rebalances_lose_and_repeat_nothing() {
    simulate(Plan { sidecars: 3, faults: Faults { rebalance: true, ..CALM.faults }, ..CALM });
}

#[test]
fn lost_and_late_replies_neither_hide_an_event_nor_free_a_live_claim() {
    simulate(Plan { faults: Faults { store: true, app: true, ..CALM.faults }, ..CALM });
}

#[test]
fn crashes_lose_nothing_and_repeat_only_with_a_higher_attempt() {
    simulate(Plan { sidecars: 3, faults: Faults { crash: true, ..CALM.faults }, ..CALM });
}

#[test]
fn all_faults_together_in_every_ordering() {
    for ordering in [Ordering::Partition, Ordering::Key, Ordering::Unordered] {
        for batch in [1, 4] {
            simulate(Plan { sidecars: 3, ordering, batch, faults: EVERYTHING, reject: true, ..CALM });
        }
    }
}

#[test]
fn an_outage_of_the_store_loses_nothing() {
    for policy in [FailurePolicy::Open, FailurePolicy::Closed] {
        let faults = Faults { outage: true, ..EVERYTHING };
        simulate(Plan { sidecars: 2, policy, faults, ..CALM });
        simulate(Plan { sidecars: 2, policy, faults: Faults { outage: true, ..CALM.faults }, ..CALM });
    }
}

#[test]
fn no_offset_passes_before_its_copy_is_acknowledged() {
    let faults = Faults { copies: true, rebalance: true, ..CALM.faults };
    for ordering in [Ordering::Partition, Ordering::Key, Ordering::Unordered] {
        let seen = simulate(Plan { ordering, faults, reject: true, copy: true, ..CALM });
        reached(&[seen.dead_letters, seen.skipped, seen.refused]);
    }
    simulate(Plan { faults: Faults { copies: true, restart: true, ..EVERYTHING }, reject: true, copy: true, ..CALM });
}

#[test]
fn only_an_event_that_always_fails_is_given_up() {
    let faults = Faults { app_down: true, ..CALM.faults };
    for (ordering, batch) in
        [(Ordering::Partition, 1), (Ordering::Partition, 8), (Ordering::Key, 1), (Ordering::Unordered, 8)]
    {
        let seen = simulate(Plan { ordering, batch, faults, copy: true, max_attempts: Some(3), ..CALM });
        reached(&[seen.exhausted]);
    }
}

#[test]
fn drains_and_graceful_ends_lose_and_repeat_nothing() {
    for (ordering, batch) in [(Ordering::Partition, 1), (Ordering::Partition, 8), (Ordering::Unordered, 1)] {
        let faults = Faults { drain: true, restart: true, rebalance: true, ..CALM.faults };
        let seen = simulate(Plan { sidecars: 3, ordering, batch, faults, ..CALM });
        reached(&[seen.drained, seen.ended]);
    }
    let faults = Faults { drain: true, restart: true, outage: true, ..EVERYTHING };
    simulate(Plan { sidecars: 3, faults, ..CALM });
}

#[test]
fn pauses_lose_and_repeat_nothing() {
    for (ordering, batch) in
        [(Ordering::Partition, 1), (Ordering::Partition, 8), (Ordering::Key, 1), (Ordering::Unordered, 8)]
    {
        let faults = Faults { pause: true, rebalance: true, ..CALM.faults };
        let seen = simulate(Plan { sidecars: 3, ordering, batch, faults, ..CALM });
        reached(&[seen.paused]);
    }
    simulate(Plan { sidecars: 3, faults: Faults { pause: true, drain: true, restart: true, ..EVERYTHING }, ..CALM });
}

#[test]
fn a_sidecar_whose_app_stays_down_leaves_the_group_and_joins_again() {
    let seen = simulate(Plan { faults: Faults { app_down: true, ..CALM.faults }, ..CALM });
    reached(&[seen.left, seen.joined_again]);
}

#[test]
fn a_store_that_forgets_everything_loses_no_event() {
    for policy in [FailurePolicy::Open, FailurePolicy::Closed] {
        let seen = simulate(Plan { policy, faults: Faults { flush: true, ..CALM.faults }, ..CALM });
        reached(&[seen.flushed]);
        simulate(Plan { policy, faults: Faults { flush: true, ..EVERYTHING }, ..CALM });
    }
}

#[test]
fn a_store_that_refuses_scripts_for_a_while_stalls_nothing() {
    for policy in [FailurePolicy::Open, FailurePolicy::Closed] {
        let faults = Faults { scripts: true, app: true, ..CALM.faults };
        let seen = simulate(Plan { policy, faults, ..CALM });
        reached(&[seen.scripts_refused]);
        simulate(Plan { policy, sidecars: 3, faults: Faults { scripts: true, ..EVERYTHING }, ..CALM });
    }
}

#[test]
fn that_an_event_may_have_happened_outlives_a_weekend() {
    for ordering in [Ordering::Partition, Ordering::Unordered] {
        simulate(Plan { ordering, faults: Faults { weekend: true, app: true, ..CALM.faults }, ..CALM });
    }
}

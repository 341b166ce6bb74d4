//! Decides what is explored: the protocol under faults, each window by itself, and the protocol with one clause taken out. Pure.

use crate::config::{ALL_WINDOWS, CROSSWISE, Clause, Config, Ordering, fault};

/// One sidecar that has both partitions.
const ALONE: Config = Config { name: "one sidecar, both partitions", sidecars: 1, owners: [0, 0], ..CROSSWISE };

/// What must break when a clause is taken out, and how it is found.
#[derive(Clone, Copy, Debug)]
pub struct Control {
    /// What is explored; `without` names the clause.
    pub config: Config,
    /// The property that fails; `None` where taking it out breaks none, which is shown by exploring everything.
    pub breaks: Option<&'static str>,
}

impl Control {
    /// The clause that is taken out, or the peer's protocol that stands in.
    #[must_use]
    pub fn name(&self) -> String {
        self.config.without.map_or_else(String::new, |clause| format!("without {clause:?}"))
    }
}

const LOSS: Option<&str> = Some("no loss");
const SECOND: Option<&str> = Some("no second effect");
const ATTEMPT: Option<&str> = Some("attempts grow");
const STUCK: Option<&str> = Some("ends well");

/// Each clause taken out, with the fewest faults that show it.
#[must_use]
pub fn controls() -> Vec<Control> {
    use fault::{AGE, CRASH, EFFECT, FAIL, FAILOVER, LAPSE, LOSE, NETWORK, REJECT, RENEWAL, REVOKE, UNREACHABLE};
    let letters = Config { dead_letters: true, ..CROSSWISE };
    let unordered = Config { ordering: Ordering::Unordered, ..CROSSWISE };
    let table: [(Clause, Config, u8, u32, Option<&'static str>); 25] = [
        (Clause::OnePhase, CROSSWISE, 1, CRASH, LOSS),
        (Clause::SkipsInProgress, CROSSWISE, 1, FAIL, LOSS),
        (Clause::DeletesWithoutCompare, CROSSWISE, 2, LAPSE | FAIL, ATTEMPT),
        (Clause::Reserve, ALONE, 0, 0, ATTEMPT),
        (Clause::ReleaseRemembers, CROSSWISE, 1, EFFECT, ATTEMPT),
        (Clause::ReleaseOnce, CROSSWISE, 1, NETWORK, ATTEMPT),
        (Clause::LostReply, CROSSWISE, 2, NETWORK | REVOKE, STUCK),
        (Clause::RenewalNeverCreates, CROSSWISE, 1, RENEWAL, ATTEMPT),
        (Clause::NothingBehindWaitingHead, CROSSWISE, 0, 0, STUCK),
        (Clause::GivenBackOnArrival, CROSSWISE, 1, REVOKE, STUCK),
        (Clause::LostGivesBack, CROSSWISE, 1, LOSE, STUCK),
        (Clause::HeldSessionLives, CROSSWISE, 1, NETWORK, SECOND),
        (Clause::TakeOverCompares, CROSSWISE, 1, FAIL, ATTEMPT),
        (Clause::LivingIsHeld, CROSSWISE, 0, 0, ATTEMPT),
        (Clause::FreshToStart, CROSSWISE, 1, LAPSE, ATTEMPT),
        (Clause::OldClaimsVoid, CROSSWISE, 1, NETWORK, ATTEMPT),
        (Clause::YoungToStart, CROSSWISE, 2, AGE, SECOND),
        (Clause::DeadLetterFirst, letters, 1, REJECT, LOSS),
        (Clause::Watermark, unordered, 0, 0, LOSS),
        (Clause::ParkedGoOn, CROSSWISE, 1, RENEWAL, STUCK),
        (Clause::FreshIds, CROSSWISE, 1, CRASH, STUCK),
        (Clause::DoneBeforeCommit, Config { instant: true, ..CROSSWISE }, 1, NETWORK, None),
        (Clause::DoneUnconditional, CROSSWISE, 1, LAPSE, None),
        (Clause::ReleaseConfirmed, CROSSWISE, 1, UNREACHABLE, STUCK),
        (Clause::ChangedStoreEnds, Config { instant: true, ..CROSSWISE }, 1, FAILOVER, STUCK),
    ];
    let control = |(clause, config, budget, faults, breaks)| Control {
        config: Config { without: Some(clause), budget, faults, ..config },
        breaks,
    };
    table.into_iter().map(control).collect()
}

/// The protocol as it is. `slice` leaves out what takes longer than a test may.
#[must_use]
pub fn protocol(slice: bool) -> Vec<Config> {
    use fault::{
        AGE, AWAY, COPY, CRASH, EFFECT, FAIL, FAILOVER, FLUSH, LAPSE, LOSE, NETWORK, REJECT, RENEWAL, REVOKE, TTL,
        UNREACHABLE,
    };
    let crosswise = |name, budget, faults| Config { name, budget, faults, ..CROSSWISE };
    let letters = |name, budget, faults| Config { name, budget, faults, dead_letters: true, ..CROSSWISE };
    let ordered = |name, ordering, batch| Config {
        name,
        budget: 1,
        faults: FAIL | EFFECT | REJECT,
        ordering,
        batch,
        ..CROSSWISE
    };
    let instant = |name, faults| Config { name, budget: 1, faults, instant: true, ..CROSSWISE };
    let three = |name, budget, faults| {
        let records: [&[u8]; 2] = [&[0, 1], &[1, 0]];
        Config { name, budget, faults, sidecars: 3, records, instant: true, ..CROSSWISE }
    };
    let mut all = vec![
        crosswise("no faults", 0, 0),
        Config { budget: 1, faults: EFFECT | UNREACHABLE, ..ALONE },
        crosswise("the app fails, hangs, rejects", 1, FAIL | EFFECT | REJECT),
        crosswise("the app is not reached", 1, UNREACHABLE),
        letters("dead letters, also refused ones", 2, REJECT | COPY),
        ordered("in batches, by partition", Ordering::Partition, 2),
        Config {
            records: [&[0, 1, 2], &[1, 0]],
            ..ordered("by key, three records in one partition", Ordering::Key, 1)
        },
        ordered("unordered", Ordering::Unordered, 1),
        crosswise("partitions revoked", 1, REVOKE),
        crosswise("a done or a claim outlives its TTL", 1, TTL | AGE),
    ];
    if !slice {
        all.extend([
            crosswise("partitions lost", 1, LOSE),
            crosswise("a sidecar dies", 1, CRASH),
            crosswise("a session ends", 1, LAPSE),
            crosswise("a renewal is late", 1, RENEWAL),
            crosswise("requests and replies lost and late", 1, NETWORK),
            instant("the store is away, policy Open", AWAY),
            instant("the store comes back empty", FLUSH),
            instant("a failover loses the last writes", FAILOVER),
            three("three sidecars, one dies", 1, CRASH),
        ]);
    }
    all
}

/// Each window: with it no promise is broken, without it a second effect comes.
#[must_use]
pub fn windows() -> Vec<(u8, Config)> {
    let window = |window, name, faults| (window, Config { name, budget: 1, faults, windows: ALL_WINDOWS, ..CROSSWISE });
    vec![
        window(1, "window 1: the effect's answer does not come", fault::EFFECT),
        window(2, "window 2: the sidecar dies after the effect and before done", fault::CRASH),
        window(3, "window 3: the store is away, policy Open", fault::AWAY),
        window(4, "window 4: the store comes back empty", fault::FLUSH),
        window(4, "window 4: a failover loses the last writes", fault::FAILOVER),
        window(5, "window 5: a duplicate later than the TTL", fault::TTL),
        window(6, "window 6: a session ends while a request is on the wire", fault::LAPSE),
    ]
}

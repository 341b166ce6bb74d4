//! Decides nothing: what a run of the model explores, and which clause of the protocol is taken out of it. Pure.

use crate::world::PARTITIONS;

/// What must wait for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordering {
    /// One queue a partition.
    Partition,
    /// One queue a record key: even offsets have one key, odd ones another.
    Key,
    /// Each record by itself.
    Unordered,
}

/// Which faults may happen. Bits, so that a run is written in one line.
pub mod fault {
    /// The app fails, with no effect.
    pub const FAIL: u32 = 1;
    /// The app's effect happens and its answer does not come: window 1.
    pub const EFFECT: u32 = 1 << 1;
    /// The app is not reached.
    pub const UNREACHABLE: u32 = 1 << 2;
    /// The app rejects.
    pub const REJECT: u32 = 1 << 3;
    /// A sidecar dies: window 2.
    pub const CRASH: u32 = 1 << 4;
    /// A partition is revoked.
    pub const REVOKE: u32 = 1 << 5;
    /// A partition is lost.
    pub const LOSE: u32 = 1 << 6;
    /// A session is not renewed in time: window 6.
    pub const LAPSE: u32 = 1 << 7;
    /// The same, with a renewal on the wire.
    pub const RENEWAL: u32 = 1 << 8;
    /// A request, or its reply, is lost or late.
    pub const NETWORK: u32 = 1 << 9;
    /// The store is away for one sidecar, policy `Open`: window 3.
    pub const AWAY: u32 = 1 << 10;
    /// The store comes back empty: window 4.
    pub const FLUSH: u32 = 1 << 11;
    /// A failover loses the last write to one key, or of all: window 4.
    pub const FAILOVER: u32 = 1 << 12;
    /// The TTL of a settled event ends: window 5.
    pub const TTL: u32 = 1 << 13;
    /// The TTL of a claim ends.
    pub const AGE: u32 = 1 << 14;
    /// The broker refuses a dead letter.
    pub const COPY: u32 = 1 << 15;
}

/// What may be taken out of the protocol, or put in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clause {
    /// Peer: one mark before the work, `SET NX EX`.
    OnePhase,
    /// Peer: what is in progress is skipped.
    SkipsInProgress,
    /// Peer: a release deletes whatever is there.
    DeletesWithoutCompare,
    /// An event's key is reserved in the sidecar's table first.
    Reserve,
    /// A release remembers the attempt instead of deleting.
    ReleaseRemembers,
    /// A release whose reply does not come is not repeated under its session.
    ReleaseOnce,
    /// A claim or take-over whose reply does not come replaces the session.
    LostReply,
    /// Renewal never creates.
    RenewalNeverCreates,
    /// Nothing is claimed behind a head that waits.
    NothingBehindWaitingHead,
    /// A claim still on the wire when it is given back is given back on arrival.
    GivenBackOnArrival,
    /// A lost partition's claims are given back.
    LostGivesBack,
    /// A replaced session is renewed while a delivery under it is unsettled.
    HeldSessionLives,
    /// A take-over compares.
    TakeOverCompares,
    /// A living session's claim is not taken over.
    LivingIsHeld,
    /// No delivery starts under a session that was not renewed in time.
    FreshToStart,
    /// After a new session, claims under the old one are made anew.
    OldClaimsVoid,
    /// No delivery starts under a claim older than half its TTL.
    YoungToStart,
    /// The dead letter is acknowledged before the event is done.
    DeadLetterFirst,
    /// Only the lowest unsettled offset is committed.
    Watermark,
    /// The watermark passes only after the reply to done.
    DoneBeforeCommit,
    /// Done is written whatever is there.
    DoneUnconditional,
    /// An event is not claimed again before its release is confirmed.
    ReleaseConfirmed,
    /// What waited for a session goes on when a late renewal is confirmed after all.
    ParkedGoOn,
    /// A session id is never used again.
    FreshIds,
    /// Where another server may have taken the store's place, the session ends.
    ChangedStoreEnds,
}

/// One exploration.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// What it is about.
    pub name: &'static str,
    /// How many sidecars.
    pub sidecars: usize,
    /// The events of each partition, by offset.
    pub records: [&'static [u8]; PARTITIONS],
    /// Whose each partition is at first.
    pub owners: [u8; PARTITIONS],
    /// What must wait for what.
    pub ordering: Ordering,
    /// Events in a request at most: 1 or 2.
    pub batch: usize,
    /// Rejected events become dead letters.
    pub dead_letters: bool,
    /// Faults in one history at most.
    pub budget: u8,
    /// Which: bits of [`fault`].
    pub faults: u32,
    /// A request that arrives is answered in the same step: fewer orders, for larger worlds.
    pub instant: bool,
    /// Windows that excuse a second effect: bit n for window n.
    pub windows: u8,
    /// What is taken out.
    pub without: Option<Clause>,
}

/// All windows.
pub const ALL_WINDOWS: u8 = u8::MAX;

/// Crosswise duplicates: two sidecars, two partitions, each event in both, in opposite order.
pub const CROSSWISE: Config = Config {
    name: "crosswise",
    sidecars: 2,
    records: [&[0, 1], &[1, 0]],
    owners: [0, 1],
    ordering: Ordering::Partition,
    batch: 1,
    dead_letters: false,
    budget: 0,
    faults: 0,
    instant: false,
    windows: ALL_WINDOWS,
    without: None,
};

impl Config {
    /// That clause is taken out.
    #[must_use]
    pub fn lacks(&self, clause: Clause) -> bool {
        self.without == Some(clause)
    }

    /// That fault may happen.
    #[must_use]
    pub const fn has(&self, fault: u32) -> bool {
        self.faults & fault != 0
    }

    /// The queue of a record within its partition.
    #[must_use]
    pub const fn queue(&self, offset: usize) -> usize {
        match self.ordering {
            Ordering::Partition => 0,
            Ordering::Key => offset % 2,
            Ordering::Unordered => offset,
        }
    }
}

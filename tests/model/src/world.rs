//! Decides nothing: everything there is in the model's small world, in as few bytes as a state can have. Pure.
//!
//! A number names a sidecar, a partition, an event, a record (partition and offset) or a session (sidecar and its life); all are
//! below the constants here.

use std::hash::{Hash, Hasher};

/// Sidecars at most.
pub const SIDECARS: usize = 3;
/// Partitions.
pub const PARTITIONS: usize = 2;
/// Records of a partition at most.
pub const RECORDS: usize = 3;
/// Events at most.
pub const EVENTS: usize = 3;
/// Slots of a sidecar: one an event; without the clause *reserve* one an event and partition.
pub const SLOTS: usize = EVENTS * PARTITIONS;
/// Late requests that are on the wire at once, at most.
pub const LATE: usize = 2;
/// Sessions of a sidecar at most, with number 0 for none.
pub const SESSIONS: u8 = 8;
/// No sidecar, no record.
pub const NOBODY: u8 = u8::MAX;
/// No session: a delivery while the store is away.
pub const UNGUARDED: u8 = u8::MAX;

/// What stands under an event's key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// Nothing.
    #[default]
    Absent,
    /// `1`
    Done,
    /// `c:<session>:<attempt>`
    Claimed(Hold),
    /// `c:-:<attempt>`
    Released(u8),
}

/// A session and an attempt: what was asked for, or what was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hold {
    /// The session, of all sidecars'; or [`UNGUARDED`].
    pub session: u8,
    /// The fencing token.
    pub attempt: u8,
}

/// A write to an event's key, on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Write {
    /// Where there is nothing.
    IfAbsent(Value),
    /// Instead of exactly that; [`Value::Absent`] deletes.
    Swap(Value, Value),
    /// Whatever is there; [`Value::Absent`] deletes.
    Always(Value),
}

/// What the store answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// It was done, or there is such a key.
    Applied,
    /// It was not, or there is none.
    Refused,
    /// This was there already.
    Present(Value),
}

/// Where a round trip is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wire {
    /// On its way to the store.
    Out,
    /// On its way back.
    Back(Answer),
}

/// How far a key has come in a sidecar: `sidecar::gate::slot::State`, without time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum State {
    /// Nobody wants it.
    #[default]
    Free,
    /// Backs off.
    Idle,
    /// Waits for a session.
    Parked,
    /// Another's.
    Held,
    /// A claim is on its way.
    Claiming(Hold, Wire),
    /// Whether the session that holds it lives is being asked.
    Asking(Hold, Hold, Wire),
    /// A take-over of the value seen is on its way.
    TakingOver(Hold, Value, Wire),
    /// May be delivered.
    Granted(Hold),
    /// With the app, in a request of that partition.
    Delivering(Hold, u8),
    /// Its dead letter is being written; true once that was refused.
    Copying(Hold, bool),
    /// The store is being told that it is done.
    Completing(Hold, Wire),
    /// A release is on its way; true if a request may have left.
    Releasing(Hold, bool, Wire),
}

/// One key in one sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    /// The record that has it.
    pub owner: u8,
    /// The highest attempt under which a request may have left here.
    pub floor: u8,
    /// Its claim is older than half its TTL.
    pub aged: bool,
    /// How far it has come.
    pub state: State,
}

/// Nobody wants that key.
pub const FREE: Slot = Slot { owner: NOBODY, floor: 0, aged: false, state: State::Free };

/// A renewal of a session that runs out meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Renewal {
    /// None is on its way.
    #[default]
    None,
    /// Of that session, on its way to the store.
    Out(u8),
    /// Of that session, on its way back; true if it was applied.
    Back(u8, bool),
}

/// One sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sidecar {
    /// It runs.
    pub up: bool,
    /// It delivers nothing, since its app is down.
    pub stopped: bool,
    /// For it the store is away.
    pub away: bool,
    /// Its session (of its own), 0 for none.
    pub session: u8,
    /// How many it has had.
    pub sessions: u8,
    /// By its clock its session still lives.
    pub fresh: bool,
    /// Another server answers than the one that it knew.
    pub changed: bool,
    /// A late renewal.
    pub renewal: Renewal,
    /// Partitions that it thinks it has, and those of them that it is giving up: bits.
    pub holds: u8,
    /// Partitions being given up.
    pub revoking: u8,
    /// Where reading began, by partition.
    pub from: [u8; PARTITIONS],
    /// Records settled, by partition: bits.
    pub settled: [u8; PARTITIONS],
    /// Records asked for at the gate, by partition: bits.
    pub wanted: [u8; PARTITIONS],
    /// Events that are done and not yet written back: bits.
    pub unwritten: u8,
    /// Events whose dead letter is written beside their completion, without the clause that one follows the other: bits.
    pub copying: u8,
    /// Its keys.
    pub slots: [Slot; SLOTS],
}

/// A sidecar that has just started.
pub const STARTED: Sidecar = Sidecar {
    up: true,
    stopped: false,
    away: false,
    session: 0,
    sessions: 0,
    fresh: false,
    changed: false,
    renewal: Renewal::None,
    holds: 0,
    revoking: 0,
    from: [0; PARTITIONS],
    settled: [0; PARTITIONS],
    wanted: [0; PARTITIONS],
    unwritten: 0,
    copying: 0,
    slots: [FREE; SLOTS],
};

/// What an all-knowing observer knows of an event, and no sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Truth {
    /// Its outcome was told to a sidecar: completed, or rejected with its dead letter written.
    pub settled: bool,
    /// Effects that it may still have: one, and one more for each window that opens.
    pub credit: u8,
    /// The highest attempt that was sent.
    pub sent: u8,
    /// The store has forgotten of it: attempts begin anew.
    pub forgotten: bool,
}

/// A promise that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Broken {
    /// A commit passed a record whose event was not settled.
    Loss,
    /// A second effect, and no window was open.
    SecondEffect,
    /// A delivery whose attempt is not above those before it.
    Attempt,
}

/// One state of everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    /// The store: what stands under the events' keys.
    pub values: [Value; EVENTS],
    /// What stood there before the last write, where a failover may lose that.
    pub before: [Value; EVENTS],
    /// Claims older than half their TTL: bits.
    pub old: u8,
    /// Session keys: bits.
    pub alive: u32,
    /// Writes that nobody waits for any more: they arrive at any time, or never.
    pub late: [Option<(u8, Write)>; LATE],
    /// The sidecars.
    pub sidecars: [Sidecar; SIDECARS],
    /// The broker: whose each partition is, and what is committed.
    pub owner: [u8; PARTITIONS],
    /// What is committed.
    pub committed: [u8; PARTITIONS],
    /// The truth of each event.
    pub truth: [Truth; EVENTS],
    /// Faults that may still happen.
    pub faults: u8,
    /// What went wrong.
    pub broken: Option<Broken>,
}

// Millions of states are hashed: what is free, or down, takes a byte or none.
impl Hash for World {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let mut bytes = Bytes { all: [0; 512], len: 0 };
        for event in 0..EVENTS {
            let Truth { settled, credit, sent, forgotten } = self.truth[event];
            bytes.value(self.values[event]);
            bytes.value(self.before[event]);
            bytes.put([u8::from(settled) | u8::from(forgotten) << 1, credit, sent]);
        }
        for late in self.late {
            bytes.late(late);
        }
        for sidecar in &self.sidecars {
            bytes.sidecar(sidecar);
        }
        bytes.put(self.owner);
        bytes.put(self.committed);
        bytes.put(self.alive.to_le_bytes());
        bytes.put([self.old, self.faults, self.broken.map_or(0, |broken| 1 + broken as u8)]);
        hasher.write(&bytes.all[..bytes.len]);
    }
}

/// A state, packed: whatever differs in the state differs here.
struct Bytes {
    all: [u8; 512],
    len: usize,
}

impl Bytes {
    fn put<const N: usize>(&mut self, bytes: [u8; N]) {
        self.all[self.len..self.len + N].copy_from_slice(&bytes);
        self.len += N;
    }

    fn value(&mut self, value: Value) {
        match value {
            Value::Absent => self.put([0]),
            Value::Done => self.put([1]),
            Value::Claimed(hold) => self.put([2, hold.session, hold.attempt]),
            Value::Released(attempt) => self.put([3, attempt]),
        }
    }

    fn wire(&mut self, wire: Wire) {
        match wire {
            Wire::Out => self.put([0]),
            Wire::Back(Answer::Applied) => self.put([1]),
            Wire::Back(Answer::Refused) => self.put([2]),
            Wire::Back(Answer::Present(value)) => {
                self.put([3]);
                self.value(value);
            }
        }
    }

    fn late(&mut self, late: Option<(u8, Write)>) {
        let Some((event, write)) = late else { return self.put([0]) };
        match write {
            Write::IfAbsent(value) => {
                self.put([1, event]);
                self.value(value);
            }
            Write::Swap(expect, value) => {
                self.put([2, event]);
                self.value(expect);
                self.value(value);
            }
            Write::Always(value) => {
                self.put([3, event]);
                self.value(value);
            }
        }
    }

    fn sidecar(&mut self, sidecar: &Sidecar) {
        let flags = [sidecar.up, sidecar.stopped, sidecar.away, sidecar.fresh, sidecar.changed];
        self.put([flags.iter().fold(0, |all, flag| all << 1 | u8::from(*flag)), sidecar.sessions]);
        if !sidecar.up {
            return;
        }
        self.put([sidecar.session, sidecar.holds, sidecar.revoking, sidecar.unwritten, sidecar.copying]);
        self.put(sidecar.from);
        self.put(sidecar.settled);
        self.put(sidecar.wanted);
        self.put(match sidecar.renewal {
            Renewal::None => [0, 0],
            Renewal::Out(session) => [1, session],
            Renewal::Back(session, applied) => [2 + u8::from(applied), session],
        });
        for slot in &sidecar.slots {
            self.slot(slot);
        }
    }

    fn slot(&mut self, slot: &Slot) {
        let (kind, hold) = match slot.state {
            State::Free => return self.put([0]),
            State::Idle => (1, None),
            State::Parked => (2, None),
            State::Held => (3, None),
            State::Claiming(hold, _) => (4, Some(hold)),
            State::Asking(hold, ..) => (5, Some(hold)),
            State::TakingOver(hold, ..) => (6, Some(hold)),
            State::Granted(hold) => (7, Some(hold)),
            State::Delivering(hold, _) => (8, Some(hold)),
            State::Copying(hold, refused) => (9 + u8::from(refused), Some(hold)),
            State::Completing(hold, _) => (11, Some(hold)),
            State::Releasing(hold, sent, _) => (12 + u8::from(sent), Some(hold)),
        };
        self.put([kind | u8::from(slot.aged) << 7, slot.owner, slot.floor]);
        if let Some(hold) = hold {
            self.put([hold.session, hold.attempt]);
        }
        match slot.state {
            State::Claiming(_, wire) | State::Completing(_, wire) | State::Releasing(_, _, wire) => self.wire(wire),
            State::Asking(_, holder, wire) => {
                self.put([holder.session, holder.attempt]);
                self.wire(wire);
            }
            State::TakingOver(_, seen, wire) => {
                self.value(seen);
                self.wire(wire);
            }
            State::Delivering(_, partition) => self.put([partition]),
            _ => {}
        }
    }
}

/// A session of all sidecars', as one number.
#[must_use]
pub const fn session_of(sidecar: usize, life: u8) -> u8 {
    sidecar as u8 * SESSIONS + life
}

/// Whose session that is.
#[must_use]
pub const fn sidecar_of(session: u8) -> usize {
    (session / SESSIONS) as usize
}

/// A record of that partition and offset, as one number.
#[must_use]
pub const fn record_at(partition: usize, offset: usize) -> u8 {
    (partition * RECORDS + offset) as u8
}

/// The partition and the offset of a record.
#[must_use]
pub const fn place_of(record: u8) -> (usize, usize) {
    (record as usize / RECORDS, record as usize % RECORDS)
}

//! Decides which faults there are, and what each can do to an event. Pure.

use sidecar::fail_point::STEPS;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// The sidecar is killed, and its container restarts.
    KillSidecar,
    /// The sidecar kills itself at a step of the way, and its container restarts.
    KillAtStep(usize),
    /// The app is killed, and its container restarts.
    KillApp,
    /// Both are killed, and another pod takes their place.
    KillPod,
    /// The sidecar is asked to end, and its container restarts.
    EndSidecar,
    /// The sidecar holds still, and goes on.
    FreezeSidecar,
    /// The app holds still, and goes on.
    FreezeApp,
    /// All sidecars are asked to end, one after another.
    RollingRestart,
    /// A further member joins the group and leaves it, again and again.
    Storm,
    /// The broker, or one of three, is killed, and started again.
    KillBroker,
    /// The broker, or one of three, holds still, and goes on.
    FreezeBroker,
    /// One sidecar is cut off from the broker.
    CutKafka,
    /// One sidecar is cut off from the broker and from Redis.
    CutBoth,
    /// One sidecar is cut off from Redis.
    CutRedis,
    /// Everything between one sidecar and Redis takes longer.
    SlowRedis,
    /// Redis is killed, and started again with what it had.
    KillRedis,
    /// Redis holds still, and goes on.
    FreezeRedis,
    /// Redis refuses writes, as a replica does.
    ReadOnly,
    /// Redis refuses writes, since its memory is full.
    OutOfMemory,
    /// Redis is empty at once.
    Flush,
    /// Redis has lost its last writes: it starts again with what it had before.
    Rollback,
    /// The sentinel makes the replica the master, as before maintenance. The old master hears of it late.
    FailOver,
    /// The master dies with writes that its replica has not, which takes its place.
    LoseMaster,
    /// The master holds still, so long that its replica may take its place, and goes on.
    FreezeMaster,
    /// Single replies of Redis are lost after the write.
    LoseReplies,
    /// Single requests to Redis are lost.
    LoseRequests,
    /// Single requests reach Redis late, when their sender has given up.
    LateRequests,
    /// The wall clock of one sidecar jumps, forth and back.
    ClockJump,
}

/// What a fault strikes. Two that strike the same do not happen at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// One pod, any.
    Pod,
    /// Every pod.
    Pods,
    /// The broker.
    Broker,
    /// Redis.
    Redis,
}

/// Windows in which a second delivery may come: the numbers are those of the README.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Window {
    /// The answer was lost, or a failure.
    Answer = 1,
    /// The sidecar died, or was drained past its bound, between effect and done.
    Death = 2,
    /// Redis was away.
    Away = 3,
    /// Redis lost acknowledged writes.
    DataLoss = 4,
    /// The session ended under a request.
    Session = 6,
}

impl Window {
    pub(crate) const ALL: [Self; 5] = [Self::Answer, Self::Death, Self::Away, Self::DataLoss, Self::Session];

    /// Its name in the table.
    pub(crate) fn name(self) -> String {
        let what = match self {
            Self::Answer => "answer lost",
            Self::Death => "sidecar died",
            Self::Away => "Redis away",
            Self::DataLoss => "Redis lost writes",
            Self::Session => "session ended",
        };
        format!("{} {what}", self as u8)
    }
}

impl Kind {
    /// All kinds; a kill at each step is one.
    pub(crate) fn all() -> Vec<Self> {
        let plain = [
            Self::KillSidecar,
            Self::KillApp,
            Self::KillPod,
            Self::EndSidecar,
            Self::FreezeSidecar,
            Self::FreezeApp,
            Self::RollingRestart,
            Self::Storm,
            Self::KillBroker,
            Self::FreezeBroker,
            Self::CutKafka,
            Self::CutBoth,
            Self::CutRedis,
            Self::SlowRedis,
            Self::KillRedis,
            Self::FreezeRedis,
            Self::ReadOnly,
            Self::OutOfMemory,
            Self::Flush,
            Self::Rollback,
            Self::FailOver,
            Self::LoseMaster,
            Self::FreezeMaster,
            Self::LoseReplies,
            Self::LoseRequests,
            Self::LateRequests,
            Self::ClockJump,
        ];
        plain.into_iter().chain((0..STEPS.len()).map(Self::KillAtStep)).collect()
    }

    /// Its name in the table.
    pub(crate) fn name(self) -> String {
        match self {
            Self::KillAtStep(step) => format!("kill at {}", STEPS[step]),
            Self::KillSidecar => "kill a sidecar".into(),
            Self::KillApp => "kill an app".into(),
            Self::KillPod => "kill a pod".into(),
            Self::EndSidecar => "end a sidecar".into(),
            Self::FreezeSidecar => "freeze a sidecar".into(),
            Self::FreezeApp => "freeze an app".into(),
            Self::RollingRestart => "rolling restart".into(),
            Self::Storm => "rebalance storm".into(),
            Self::KillBroker => "kill a broker".into(),
            Self::FreezeBroker => "freeze a broker".into(),
            Self::CutKafka => "cut off from Kafka".into(),
            Self::CutBoth => "cut off from both".into(),
            Self::CutRedis => "cut off from Redis".into(),
            Self::SlowRedis => "slow Redis".into(),
            Self::KillRedis => "kill Redis".into(),
            Self::FreezeRedis => "freeze Redis".into(),
            Self::ReadOnly => "READONLY".into(),
            Self::OutOfMemory => "OOM".into(),
            Self::Flush => "FLUSHALL".into(),
            Self::Rollback => "last writes lost".into(),
            Self::FailOver => "failover asked for".into(),
            Self::LoseMaster => "failover of a dead master".into(),
            Self::FreezeMaster => "freeze the master".into(),
            Self::LoseReplies => "lost replies".into(),
            Self::LoseRequests => "lost requests".into(),
            Self::LateRequests => "late requests".into(),
            Self::ClockJump => "clock jump".into(),
        }
    }

    /// What it strikes.
    pub(crate) const fn target(self) -> Target {
        match self {
            Self::RollingRestart => Target::Pods,
            Self::KillBroker | Self::FreezeBroker => Target::Broker,
            Self::KillRedis
            | Self::FreezeRedis
            | Self::ReadOnly
            | Self::OutOfMemory
            | Self::Flush
            | Self::Rollback
            | Self::FailOver
            | Self::LoseMaster
            | Self::FreezeMaster => Target::Redis,
            _ => Target::Pod,
        }
    }

    /// How long it lasts at least and at most, in milliseconds; a moment where both are 0. Freezes and cuts reach from below the
    /// session's TTL to beyond Kafka's session time-out.
    pub(crate) const fn span(self) -> (u64, u64) {
        match self {
            Self::FreezeSidecar | Self::CutKafka | Self::CutBoth | Self::CutRedis => (500, 7_000),
            Self::FreezeApp => (200, 4_000),
            Self::SlowRedis => (1_000, 5_000),
            Self::FreezeBroker => (300, 4_000),
            Self::KillBroker => (200, 1_500),
            Self::KillRedis | Self::FreezeRedis | Self::ReadOnly | Self::OutOfMemory => (200, 5_000),
            Self::FreezeMaster => (1_000, 6_000),
            Self::Rollback | Self::LoseMaster => (100, 1_000),
            Self::ClockJump => (1_500, 3_000),
            _ => (0, 0),
        }
    }

    /// The app does not answer in time, or at all.
    pub(crate) const fn silences_app(self) -> bool {
        matches!(self, Self::KillApp | Self::KillPod | Self::FreezeApp)
    }

    /// A sidecar ends without having settled all, or may have: also one that is drained has a bound.
    pub(crate) const fn ends_sidecar(self) -> bool {
        matches!(
            self,
            Self::KillSidecar
                | Self::KillAtStep(_)
                | Self::KillPod
                | Self::EndSidecar
                | Self::RollingRestart
                | Self::Storm
                | Self::ClockJump
        )
    }

    /// A sidecar may lose its session: it holds still, or can't renew it.
    pub(crate) const fn ends_session(self) -> bool {
        matches!(self, Self::FreezeSidecar) || self.hides_redis() && !self.loses_writes()
    }

    /// Redis may count as away for a sidecar.
    pub(crate) const fn hides_redis(self) -> bool {
        matches!(
            self,
            Self::CutRedis
                | Self::CutBoth
                | Self::SlowRedis
                | Self::KillRedis
                | Self::FreezeRedis
                | Self::ReadOnly
                | Self::OutOfMemory
                | Self::Rollback
        ) || self.fails_over()
    }

    /// Single messages between a sidecar and Redis are lost or late.
    pub(crate) const fn loses_messages(self) -> bool {
        matches!(self, Self::LoseReplies | Self::LoseRequests | Self::LateRequests)
    }

    /// Redis loses what it had acknowledged.
    pub(crate) const fn loses_writes(self) -> bool {
        matches!(self, Self::Flush | Self::Rollback) || self.fails_over()
    }

    /// Another server takes the master's place, or may.
    const fn fails_over(self) -> bool {
        matches!(self, Self::FailOver | Self::LoseMaster | Self::FreezeMaster)
    }

    /// Can happen to a master with a replica and a sentinel: these take the place of what happens to a Redis that is alone. No link is
    /// between a pod and the servers there, since the sentinel says where they are.
    pub(crate) const fn strikes_sentinel(self) -> bool {
        self.fails_over() || !self.hides_redis() && !self.loses_messages()
    }

    /// Can happen to a Redis that is alone.
    pub(crate) const fn strikes_alone(self) -> bool {
        !self.fails_over()
    }
}

//! Decides in which order the sidecar ends: drain, leave the group, end the sessions. Pure but for the wish to leave.

use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use crate::clock::Time;
use crate::pipeline::Pipeline;

/// How long leaving the group, and ending the sessions, may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How far the end has come.
#[derive(Debug, Default)]
pub(super) enum Ending {
    #[default]
    NotBegun,
    Draining,
    Drained {
        remaining: usize,
    },
    Leaving {
        remaining: usize,
        until: Time,
    },
    Closing {
        remaining: usize,
        until: Time,
    },
}

impl Ending {
    pub(super) const fn has_begun(&self) -> bool {
        !matches!(self, Self::NotBegun)
    }

    pub(super) const fn is_closing(&self) -> bool {
        matches!(self, Self::Closing { .. })
    }

    /// Begins to end, unless it has begun already.
    pub(super) fn begin(&mut self, pipeline: &mut Pipeline, now: Time) {
        if !self.has_begun() {
            *self = Self::Draining;
            pipeline.drain(true, now);
        }
    }

    pub(super) fn drained(&mut self, remaining: usize) {
        if matches!(self, Self::Draining) {
            *self = Self::Drained { remaining };
        }
    }

    /// The consumer group is left.
    pub(super) fn left(&mut self) {
        if let Self::Leaving { remaining, .. } = *self {
            *self = Self::Leaving { remaining, until: Time::default() };
        }
    }

    /// Takes the next step when it is due. With the end: how many events were not settled, if any.
    pub(super) fn step(
        &mut self,
        pipeline: &mut Pipeline,
        membership: &UnboundedSender<bool>,
        now: Time,
    ) -> Option<Result<(), usize>> {
        match *self {
            Self::Drained { remaining } => {
                let _ = membership.send(false);
                *self = Self::Leaving { remaining, until: now + PATIENCE };
            }
            Self::Leaving { remaining, until } if now >= until => {
                pipeline.gate().close();
                *self = Self::Closing { remaining, until: now + PATIENCE };
            }
            Self::Closing { remaining, until } if now >= until || pipeline.gate().is_closed() => {
                return Some(if remaining == 0 { Ok(()) } else { Err(remaining) });
            }
            _ => {}
        }
        None
    }
}

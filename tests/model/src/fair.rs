//! Decides whether a state ends well: without further faults, and with everybody getting their turn, every event is settled and every
//! offset committed. Follows two fixed schedules from the state, and remembers which states end well. Pure, but for that memory.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ahash::{AHashSet, RandomState};

use crate::action::{Action, Said};
use crate::config::Config;
use crate::model::moves;
use crate::step::{is_over, step};
use crate::world::World;

const SHARDS: usize = 64;

/// No good way is nearly as long.
const LONGEST: usize = 500;

/// Which of the two schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Schedule {
    /// The first sidecar first; late requests never arrive.
    Forward,
    /// The last sidecar first; late requests arrive when nothing else is to be done.
    Backward,
}

/// States that are known to end well, by schedule.
pub(crate) struct EndsWell {
    hasher: RandomState,
    known: [Vec<Mutex<AHashSet<u64>>>; 2],
}

impl Default for EndsWell {
    fn default() -> Self {
        let shards = || (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { hasher: RandomState::with_seeds(1, 2, 3, 4), known: [shards(), shards()] }
    }
}

impl EndsWell {
    /// Does it, by both schedules?
    pub(crate) fn check(&self, config: &Config, world: &World) -> bool {
        [Schedule::Forward, Schedule::Backward].into_iter().all(|schedule| self.follow(config, world, schedule))
    }

    fn follow(&self, config: &Config, world: &World, schedule: Schedule) -> bool {
        let mut path = Vec::new();
        let mut world = world.clone();
        loop {
            let seen = self.hasher.hash_one(&world);
            // A promise that is broken on the way is another property's business.
            if is_over(config, &world) || world.broken.is_some() || self.known(schedule, seen).contains(&seen) {
                break;
            }
            // Back where it was, or attempts grow for ever: it does not end.
            if path.contains(&seen) || path.len() > LONGEST {
                return false;
            }
            path.push(seen);
            let Some(next) = advance(config, &world, schedule) else { return false };
            world = next;
        }
        for seen in path {
            self.known(schedule, seen).insert(seen);
        }
        true
    }

    fn known(&self, schedule: Schedule, seen: u64) -> MutexGuard<'_, AHashSet<u64>> {
        let shard = usize::try_from(seen % SHARDS as u64).unwrap_or(0);
        self.known[schedule as usize][shard].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The next turn of the schedule. Who only looks again, or waits for time to pass, comes last; and then all of them at once, so that
/// nobody is passed over for ever.
fn advance(config: &Config, world: &World, schedule: Schedule) -> Option<World> {
    let mut actions = Vec::new();
    moves(config, world, &mut actions);
    let patient = |action: &Action| matches!(action, Action::Look(..) | Action::Gone(_) | Action::ForgetClaim(_));
    let usual = |action: &&Action| {
        !patient(action)
            && match action {
                Action::Late(_) => false,
                Action::Start { events, .. } => *events == 1,
                Action::Answer(_, _, said) => *said == Said::Done,
                _ => true,
            }
    };
    let chosen = match schedule {
        Schedule::Forward => actions.iter().find(usual),
        Schedule::Backward => actions.iter().rev().find(usual),
    };
    if let Some(action) = chosen {
        return Some(step(config, world, *action));
    }
    if schedule == Schedule::Backward
        && let Some(late) = actions.iter().find(|action| matches!(action, Action::Late(_)))
    {
        return Some(step(config, world, *late));
    }
    let mut next = world.clone();
    let mut moved = false;
    for action in actions.iter().filter(|action| patient(action)) {
        next = step(config, &next, *action);
        moved = true;
    }
    moved.then_some(next)
}

//! Decides whether a configuration keeps its promises, by breadth-first search over all of its states. Reads the clock, to tell how
//! long it took.

use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model};

use crate::config::Config;
use crate::model::Protocol;

/// What a search came to.
#[derive(Debug)]
pub struct Found {
    /// The property that fails, if one does.
    pub broken: Option<&'static str>,
    /// The shortest way there.
    pub way: Vec<String>,
    /// Different states.
    pub states: usize,
    /// Steps to the farthest of them.
    pub depth: usize,
    /// Every state was looked at.
    pub whole: bool,
    /// How long that took.
    pub took: Duration,
}

impl Found {
    /// Every property holds in every state.
    #[must_use]
    pub const fn is_sound(&self) -> bool {
        self.broken.is_none() && self.whole
    }
}

/// Searches until a property fails, or all states are seen. With one thread the way to a failure is a shortest one.
#[must_use]
pub fn check(config: Config, threads: usize) -> Found {
    let started = Instant::now();
    let search = Protocol::new(config).checker().threads(threads).finish_when(HasDiscoveries::AnyFailures);
    let checker = search.spawn_bfs().join();
    let failure = checker.discoveries().into_iter().min_by_key(|(_, way)| way.clone().into_states().len());
    let (broken, way) = match failure {
        Some((property, way)) => (Some(property), way.into_actions().iter().map(ToString::to_string).collect()),
        None => (None, Vec::new()),
    };
    Found {
        whole: broken.is_none() && checker.is_done(),
        broken,
        way,
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        took: started.elapsed(),
    }
}

//! Decides whether anything is delivered at all: the app, pauses and drains. Pure.

use super::{Effect, Pipeline, PipelineConfig};
use crate::clock::Time;

/// Whether deliveries may start, and why not.
#[derive(Debug)]
pub(super) struct Flow {
    /// Asked for by the configuration, or by the file that it names.
    paused: bool,
    /// The app accepts connections.
    app: App,
    /// The consumer group was joined.
    joined: bool,
    drain: Drain,
}

#[derive(Debug)]
enum App {
    /// It was never seen, or is down since.
    Down {
        since: Option<Time>,
        why: String,
    },
    Up,
}

#[derive(Debug)]
enum Drain {
    /// Deliveries may start.
    No,
    /// What is under way is waited for.
    Draining { deadline: Time, for_good: bool },
    /// Everything is settled; the app may go.
    Drained { since: Time, for_good: bool },
}

impl Flow {
    pub(super) const fn new(paused: bool) -> Self {
        let app = App::Down { since: None, why: String::new() };
        Self { paused, app, joined: false, drain: Drain::No }
    }

    pub(super) const fn is_running(&self) -> bool {
        !self.paused && self.app_is_up() && matches!(self.drain, Drain::No)
    }

    pub(super) const fn app_is_up(&self) -> bool {
        matches!(self.app, App::Up)
    }

    pub(super) fn app_trouble(&self) -> Option<&str> {
        match &self.app {
            App::Up => None,
            App::Down { why, .. } => Some(why),
        }
    }

    pub(super) const fn is_joined(&self) -> bool {
        self.joined
    }

    pub(super) const fn is_paused(&self) -> bool {
        self.paused || !matches!(self.drain, Drain::No)
    }

    pub(super) fn next_due(&self, config: &PipelineConfig) -> Option<Time> {
        let app = match self.app {
            App::Down { since: Some(since), .. } if self.joined => Some(since + config.app_down_timeout),
            _ => None,
        };
        let drain = match self.drain {
            Drain::Draining { deadline, .. } => Some(deadline),
            Drain::Drained { since, for_good: false } => Some(since + config.app_down_timeout),
            _ => None,
        };
        app.into_iter().chain(drain).min()
    }
}

impl Pipeline {
    /// The app accepts connections.
    pub fn app_accepts(&mut self, now: Time) {
        self.flow.app = App::Up;
        if matches!(self.flow.drain, Drain::Drained { for_good: false, .. }) {
            self.flow.drain = Drain::No;
        }
        if !self.flow.joined {
            self.flow.joined = true;
            self.effects.push(Effect::Join);
        }
        self.resume(now);
    }

    /// The app does not accept connections; `why` says what to do about it.
    pub(super) fn app_is_down(&mut self, why: &str, now: Time) {
        if self.flow.app_is_up() {
            self.flow.app = App::Down { since: Some(now), why: why.to_owned() };
            self.effects.push(Effect::WatchApp { restarted: false });
            self.withdraw_all(now);
        }
    }

    /// The app was tried and not reached: it is waited for, or after a drain it has gone.
    pub fn app_unreachable(&mut self, trouble: &str, now: Time) {
        match &mut self.flow.app {
            App::Down { why, .. } if why != trouble => trouble.clone_into(why),
            App::Down { .. } => {}
            App::Up => self.app_is_down(trouble, now),
        }
    }

    /// Starts no delivery any more, and waits for what is under way; [`Effect::Drained`] tells the end. With `for_good`
    /// deliveries never resume; without, they do once the app has restarted.
    pub fn drain(&mut self, for_good: bool, now: Time) {
        self.follow_verdicts(now);
        let deadline = now + self.config.drain_timeout;
        self.flow.drain = match self.flow.drain {
            Drain::Draining { deadline, for_good: already } => {
                Drain::Draining { deadline, for_good: already || for_good }
            }
            Drain::Drained { for_good: already, .. } => Drain::Draining { deadline, for_good: already || for_good },
            Drain::No => Drain::Draining { deadline, for_good },
        };
        self.withdraw_all(now);
    }

    /// Stops the flow, or lets it go on. What is under way settles and is committed; partitions are kept, claims are not.
    pub fn pause(&mut self, paused: bool, now: Time) {
        if paused == self.flow.paused {
            return;
        }
        self.follow_verdicts(now);
        self.flow.paused = paused;
        if paused {
            self.withdraw_all(now);
        } else {
            self.resume(now);
        }
    }

    pub(super) fn watch_flow(&mut self, now: Time) {
        if let App::Down { since: Some(since), .. } = self.flow.app
            && self.flow.joined
            && now.since(since) >= self.config.app_down_timeout
        {
            self.flow.joined = false;
            self.effects.push(Effect::Leave);
        }
        // The app that was to go has stayed.
        if let Drain::Drained { since, for_good: false } = self.flow.drain
            && now.since(since) >= self.config.app_down_timeout
        {
            self.flow.drain = Drain::No;
            if self.flow.app_is_up() {
                self.resume(now);
            } else {
                self.effects.push(Effect::WatchApp { restarted: false });
            }
        }
    }

    pub(super) fn finish_drain(&mut self, now: Time) {
        let Drain::Draining { deadline, for_good } = self.flow.drain else { return };
        let committed = self.partitions.iter().all(|(_, partition)| partition.is_committed());
        let settled = self.busy == 0 && self.gate.is_idle() && committed;
        if !settled && now < deadline {
            return;
        }
        self.flow.drain = Drain::Drained { since: now, for_good };
        self.effects.push(Effect::Drained { remaining: self.busy, committed });
        if !for_good && self.flow.app_is_up() {
            self.effects.push(Effect::WatchApp { restarted: true });
        }
    }

    fn resume(&mut self, now: Time) {
        if self.flow.is_running() {
            self.touch_all();
            self.follow_verdicts(now);
        }
    }
}

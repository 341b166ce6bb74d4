//! Decides which replica leads, by a Lease. [`decide`] is pure; the rest is I/O against the API server.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::time::Instant;

use crate::kube_error::words;

/// How long a leader is believed alive after its lease was last seen to change.
const LEASE: Duration = Duration::from_secs(15);
/// A leader that could not renew for so long has lost: before anybody else can believe it dead.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often the lease is renewed, or looked at.
const RETRY: Duration = Duration::from_secs(2);

/// A lease as it was seen, and when it was last seen to change. Others' clocks are not looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    holder: Option<String>,
    renewed: Option<MicroTime>,
    version: Option<String>,
    transitions: i32,
    acquired: Option<MicroTime>,
    since: Instant,
}

impl Observed {
    /// What is seen now, after what was seen before: the time is kept while nothing changes.
    #[must_use]
    pub fn next(before: Option<&Self>, lease: &Lease, now: Instant) -> Self {
        let spec = lease.spec.clone().unwrap_or_default();
        let mut next = Self {
            holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
            renewed: spec.renew_time,
            version: lease.metadata.resource_version.clone(),
            transitions: spec.lease_transitions.unwrap_or(0),
            acquired: spec.acquire_time,
            since: now,
        };
        if let Some(before) = before.filter(|before| before.holder == next.holder && before.renewed == next.renewed) {
            next.since = before.since;
        }
        next
    }
}

/// What to do about the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// There is none: make it.
    Create,
    /// Nobody holds it, or its holder has not renewed it: take it.
    Take,
    /// It is ours: renew it.
    Renew,
    /// Another holds it.
    Wait,
}

/// What to do about a lease as it was seen last.
#[must_use]
pub fn decide(observed: Option<&Observed>, me: &str, now: Instant) -> Decision {
    let Some(observed) = observed else { return Decision::Create };
    match observed.holder.as_deref() {
        Some(holder) if holder == me => Decision::Renew,
        None => Decision::Take,
        Some(_) if now.duration_since(observed.since) >= LEASE => Decision::Take,
        Some(_) => Decision::Wait,
    }
}

/// A candidate, or the leader.
///
/// # Guarantees
/// - Two replicas never lead at once, as long as their clocks run at about the same speed: a leader gives up before others believe it dead.
/// - Every write names the version that it was decided upon, so that of two that take the lease at once one succeeds.
#[derive(Debug)]
pub struct Elector {
    api: Api<Lease>,
    name: String,
    me: String,
    observed: Option<Observed>,
}

impl Elector {
    /// A candidate of that identity for a lease.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, me: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), name: name.to_owned(), me: me.to_owned(), observed: None }
    }

    /// Waits until this replica leads; when its claim to lead began.
    pub async fn acquire(&mut self) -> Instant {
        let mut told = None;
        loop {
            let asked = Instant::now();
            match tokio::time::timeout(RENEW_DEADLINE, self.attempt()).await {
                Ok(Ok(true)) => return asked,
                Ok(Ok(false)) => {
                    let holder = self.observed.as_ref().and_then(|observed| observed.holder.clone());
                    if told != holder {
                        tracing::info!(holder, "another replica leads; this one stands by");
                        told = holder;
                    }
                }
                Ok(Err(error)) => tracing::warn!(error = words(&error), "the lease can't be had"),
                Err(_) => tracing::warn!("the API server does not answer for the lease"),
            }
            pause().await;
        }
    }

    /// Renews the lease until that fails for too long: then this replica does not lead any more. `since` is what [`Self::acquire`] gave.
    pub async fn keep(&mut self, since: Instant) {
        let mut renewed = since;
        loop {
            pause().await;
            let Some(left) = RENEW_DEADLINE.checked_sub(renewed.elapsed()) else { return };
            // The time counts from when the renewal was sent: when it arrived is not known.
            let asked = Instant::now();
            match tokio::time::timeout(left, self.attempt()).await {
                Ok(Ok(true)) => renewed = asked,
                // A conflict with somebody who only touched the lease is no loss.
                Ok(Ok(false)) if self.is_taken() => return,
                Ok(Ok(false)) => {}
                Ok(Err(error)) => tracing::warn!(error = words(&error), "the lease can't be renewed"),
                Err(_) => return,
            }
        }
    }

    /// Gives the lease back, so that another can lead at once.
    pub async fn release(&mut self) {
        let Some(observed) =
            self.observed.clone().filter(|observed| observed.holder.as_deref() == Some(self.me.as_str()))
        else {
            return;
        };
        let mut lease = self.lease(&observed);
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
        }
        let params = PostParams::default();
        match tokio::time::timeout(RETRY, self.api.replace(&self.name, &params, &lease)).await {
            Ok(Ok(_)) => tracing::info!("the lease is released"),
            Ok(Err(error)) => {
                tracing::warn!(error = words(&error), "the lease can't be released; it runs out by itself")
            }
            Err(_) => tracing::warn!("the API server does not answer; the lease runs out by itself"),
        }
    }

    /// Another is seen to hold it.
    fn is_taken(&self) -> bool {
        let holder = self.observed.as_ref().and_then(|observed| observed.holder.as_deref());
        holder.is_some_and(|holder| holder != self.me)
    }

    /// Looks at the lease, and takes or renews it if it may; whether it is ours now.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let seen = self.api.get_opt(&self.name).await?;
        let now = Instant::now();
        self.observed = seen.as_ref().map(|lease| Observed::next(self.observed.as_ref(), lease, now));
        let written = match (decide(self.observed.as_ref(), &self.me, now), &self.observed) {
            (Decision::Wait, _) => return Ok(false),
            (Decision::Renew, Some(observed)) => {
                self.api.replace(&self.name, &PostParams::default(), &self.lease(observed)).await
            }
            (Decision::Take, Some(observed)) => {
                let taken = Observed {
                    transitions: observed.transitions.saturating_add(1),
                    acquired: None,
                    ..observed.clone()
                };
                self.api.replace(&self.name, &PostParams::default(), &self.lease(&taken)).await
            }
            (_, _) => self.api.create(&PostParams::default(), &self.first()).await,
        };
        match written {
            Ok(lease) => {
                self.observed = Some(Observed::next(self.observed.as_ref(), &lease, now));
                Ok(true)
            }
            // Another was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn first(&self) -> Lease {
        self.lease(&Observed {
            holder: None,
            renewed: None,
            version: None,
            transitions: 0,
            acquired: None,
            since: Instant::now(),
        })
    }

    /// The lease as ours, over what was seen.
    fn lease(&self, over: &Observed) -> Lease {
        let now = wall_clock();
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                resource_version: over.version.clone(),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.me.clone()),
                lease_duration_seconds: i32::try_from(LEASE.as_secs()).ok(),
                acquire_time: Some(over.acquired.clone().unwrap_or_else(|| now.clone())),
                renew_time: Some(now),
                lease_transitions: Some(over.transitions),
                ..LeaseSpec::default()
            }),
        }
    }
}

/// From the interval to a fifth more, so that replicas don't march in step.
async fn pause() {
    tokio::time::sleep(RETRY.mul_f64(1.0 + rand::random::<f64>() / 5.0)).await;
}

/// For people and other clients that look at the lease: the one place here that reads the wall clock.
fn wall_clock() -> MicroTime {
    MicroTime(k8s_openapi::jiff::Timestamp::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, second: i64) -> Lease {
        let renew_time = Some(MicroTime(k8s_openapi::jiff::Timestamp::from_second(second).unwrap()));
        let spec = LeaseSpec { holder_identity: Some(holder.into()), renew_time, ..LeaseSpec::default() };
        Lease { spec: Some(spec), ..Lease::default() }
    }

    #[test]
    fn a_lease_that_nobody_holds_is_taken() {
        let now = Instant::now();
        assert_eq!(decide(None, "me", now), Decision::Create);
        assert_eq!(decide(Some(&Observed::next(None, &lease("", 0), now)), "me", now), Decision::Take);
        assert_eq!(decide(Some(&Observed::next(None, &lease("me", 0), now)), "me", now), Decision::Renew);
    }

    #[test]
    fn a_holder_is_believed_dead_only_after_we_saw_no_change_for_long_enough() {
        let start = Instant::now();
        // Its renewal was years ago by our clock, which says nothing.
        let mut observed = Observed::next(None, &lease("other", 1), start);
        assert_eq!(decide(Some(&observed), "me", start + LEASE / 2), Decision::Wait);
        observed = Observed::next(Some(&observed), &lease("other", 2), start + LEASE / 2);
        assert_eq!(decide(Some(&observed), "me", start + LEASE), Decision::Wait, "it was renewed meanwhile");
        observed = Observed::next(Some(&observed), &lease("other", 2), start + LEASE);
        assert_eq!(decide(Some(&observed), "me", start + LEASE / 2 + LEASE), Decision::Take);
    }

    #[test]
    fn a_leader_gives_up_before_others_take_over() {
        assert!(RENEW_DEADLINE + RETRY < LEASE);
    }
}

//! Decides how reconciles are run: how many at once, woken by what, until when. I/O.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use futures_util::{Stream, StreamExt};
use kube::runtime::Controller;
use kube::runtime::controller::{Config, Error as ControllerError};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

use super::key::Key;
use super::store::Guarded;
use super::watch::{Keepers, Scope, watch};
use super::{Context, error_policy, reconcile};

/// Reconciles at once. They wait for the API server and for sidecars most of the time.
const AT_ONCE: u16 = 64;
/// Events that come together lead to one reconcile.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// After it is told to stop, what is under way is finished within this time, or left.
const DRAIN: Duration = Duration::from_secs(25);
/// How often what is gone is forgotten, and the gauges are set.
const SWEEP: Duration = Duration::from_secs(10);

/// Reconciles every consumer in scope until `stop`, then finishes those under way; whether it could in time.
pub async fn run(
    context: Arc<Context>,
    scope: Scope,
    keepers: Keepers,
    woken: UnboundedReceiver<Key>,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) -> bool {
    let (stopped, told) = oneshot::channel();
    let stop = async move {
        stop.await;
        let _ = stopped.send(());
    };
    let woken = stream::unfold(woken, |mut woken| async move { woken.recv().await.map(|key| (key, woken)) });
    let wakes = stream::select(watch(&context, &scope, keepers), woken).map(|key| key.reference());
    let reconciles = Controller::<Guarded>::for_stream(never(), context.stores.consumers.store().clone())
        .with_config(Config::default().concurrency(AT_ONCE).debounce(DEBOUNCE))
        .reconcile_on(wakes)
        .graceful_shutdown_on(stop)
        .run(reconcile, error_policy, Arc::clone(&context))
        .for_each(|result| async move {
            match result {
                Ok((consumer, _)) => tracing::debug!(consumer = %consumer, "reconciled"),
                // `error_policy` has told it, or the consumer was deleted before its turn.
                Err(ControllerError::ReconcilerFailed(..) | ControllerError::ObjectNotFound(_)) => {}
                Err(error) => tracing::error!(%error, "the controller's queue has failed"),
            }
        });
    let sweep = async {
        let mut ticks = tokio::time::interval(SWEEP);
        loop {
            ticks.tick().await;
            context.sweep();
        }
    };
    let overdue = async {
        let _ = told.await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        () = reconciles => true,
        () = sweep => true,
        () = overdue => {
            tracing::warn!(seconds = DRAIN.as_secs(), "reconciles under way are not finished and are left");
            false
        }
    }
}

/// The consumers' own changes come by `reconcile_on`, with all others.
fn never() -> impl Stream<Item = Result<Guarded, kube::runtime::watcher::Error>> + Send + 'static {
    stream::pending()
}

//! Decides what the operator does from its start to its end: checks, waits to lead, reconciles, steps down. I/O.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crds::listen::listen;
use kube::runtime::events::Reporter;
use kube::{Client, Config};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

use crate::admin::{Admin, Phase};
use crate::args::{self, RunArgs, exit};
use crate::controller::memory::Memory;
use crate::controller::upgrade::Slots;
use crate::controller::validate::Defaults;
use crate::controller::watch::{Listings, Scope, stores};
use crate::controller::{self, Context};
use crate::kube_error::words;
use crate::leader::Elector;
use crate::metrics::Metrics;
use crate::{logging, preflight};

/// Where a pod finds the namespace that it is in.
const OWN_NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
/// What the operator is called in events.
const REPORTER: &str = "idempotent-consumer-operator";

/// A request whose answer says nothing for so long has failed.
const ANSWER: Duration = Duration::from_secs(30);

/// The two ways to the API server.
#[derive(Clone)]
pub struct Clients {
    /// For requests: an answer that does not come is a failure.
    pub requests: Client,
    /// For watches, over which nothing may come for minutes. Each ends by itself, and has a watch over its silence.
    pub watches: Client,
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clients").finish_non_exhaustive()
    }
}

impl Clients {
    /// Clients by what the process finds: a kubeconfig, or its pod's service account.
    async fn infer() -> Result<Self, kube::Error> {
        let config = Config::infer().await.map_err(kube::Error::InferConfig)?;
        let mut requests = config.clone();
        requests.read_timeout = Some(ANSWER);
        requests.reset_reader_on_write = true;
        Ok(Self { requests: Client::try_from(requests)?, watches: Client::try_from(config)? })
    }
}

/// Why the operator ends without having been asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no way to an API server.
    #[error("no configuration for the API server is found: {}", words(.0))]
    Client(Box<kube::Error>),
    /// The admin endpoint can't listen.
    #[error("can't listen on {address}: {source}")]
    Bind {
        /// The address.
        address: std::net::SocketAddr,
        /// What happened.
        source: std::io::Error,
    },
    /// The process can't be told to end.
    #[error("signals can't be received: {0}")]
    Signals(std::io::Error),
    /// The API server is none to work with.
    #[error(transparent)]
    Preflight(#[from] preflight::Error),
    /// Another replica leads, or may.
    #[error("the lease is lost: another replica leads, or may by now")]
    Lost,
}

impl Error {
    /// The code to end with.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Client(_) | Self::Bind { .. } | Self::Preflight(_) | Self::Lost => exit::UNAVAILABLE,
            Self::Signals(_) => exit::INTERNAL,
        }
    }
}

/// Starts logging and the runtime, and runs.
#[must_use]
pub fn start(settings: RunArgs) -> ExitCode {
    let filter = match logging::filter(settings.log.clone()) {
        Ok(filter) => filter,
        Err(error) => return args::tell(&error, exit::BAD_INPUT),
    };
    if let Err(error) = logging::init(filter) {
        return args::tell(&error, exit::INTERNAL);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return args::tell(&error, exit::INTERNAL),
    };
    let ended = runtime.block_on(run(settings));
    // What is still under way is not waited for: either there is nothing, or nothing may be written any more.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::from(exit::DONE),
        Err(error) => {
            tracing::error!(%error, "the operator ends");
            args::tell(&error, error.exit_code())
        }
    }
}

async fn run(settings: RunArgs) -> Result<(), Error> {
    let stop = stop_signal()?;
    let (phases, phase) = watch::channel(Phase::Waiting("starting".into()));
    let metrics = Metrics::new();
    let address = settings.admin_bind;
    let listener =
        listen(address, TcpListener::bind::<SocketAddr>).await.map_err(|source| Error::Bind { address, source })?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), address = %listener.local_addr().unwrap_or(address), "the operator starts");
    let listings = Listings::default();
    tokio::spawn(Admin { phase, listings: listings.clone(), metrics: Arc::clone(&metrics) }.serve(listener));
    let clients = Clients::infer().await.map_err(|error| Error::Client(Box::new(error)))?;
    tokio::select! {
        ended = serve(settings, clients, listings, metrics, &phases, stop.clone()) => ended,
        // Before it leads there is nothing to finish; later, `serve` sees to that.
        () = stopped_before_leading(stop, &phases) => Ok(()),
    }
}

/// Checks the API server, waits to lead, and reconciles until it is told to stop or does not lead any more.
///
/// # Errors
/// It can't, or not any more.
pub async fn serve(
    settings: RunArgs,
    clients: Clients,
    listings: Listings,
    metrics: Arc<Metrics>,
    phases: &watch::Sender<Phase>,
    stop: watch::Receiver<bool>,
) -> Result<(), Error> {
    let client = clients.requests.clone();
    let namespace = lease_namespace(&settings, &client);
    let needs = preflight::Needs {
        scope: scope(&settings),
        leases_in: settings.leader_elect.then(|| namespace.clone()),
        bound: Duration::from_secs(settings.start_timeout),
    };
    preflight::check(&client, &needs, |why| _ = phases.send_replace(Phase::Waiting(why.to_owned()))).await?;
    let me = identity(&settings);
    if !settings.leader_elect {
        phases.send_replace(Phase::Leading);
        metrics.leader.set(1);
        let _ = reconcile(&settings, clients, listings, metrics, &me, phases, stop).await;
        return Ok(());
    }
    let mut elector = Elector::new(client.clone(), &namespace, &settings.lease_name, &me);
    phases.send_replace(Phase::StandingBy);
    let since = elector.acquire().await;
    tracing::info!(identity = me, lease = format!("{namespace}/{}", settings.lease_name), "this replica leads");
    phases.send_replace(Phase::Leading);
    metrics.leader.set(1);
    // Renewed in a task of its own, so that reconciles never delay it.
    let (finished, finish) = oneshot::channel::<()>();
    let mut keeping = tokio::spawn(async move {
        tokio::select! {
            () = elector.keep(since) => None,
            _ = finish => Some(elector),
        }
    });
    tokio::select! {
        _ = &mut keeping => {
            metrics.leader.set(0);
            Err(Error::Lost)
        }
        drained = reconcile(&settings, clients, listings, Arc::clone(&metrics), &me, phases, stop) => {
            // Only when everything under way is finished may another lead; else the lease runs out by itself.
            let _ = finished.send(());
            if let (true, Ok(Some(mut elector))) = (drained, keeping.await) {
                elector.release().await;
            }
            metrics.leader.set(0);
            Ok(())
        }
    }
}

/// Reconciles until it is told to stop; whether everything under way was finished then.
async fn reconcile(
    settings: &RunArgs,
    clients: Clients,
    listings: Listings,
    metrics: Arc<Metrics>,
    me: &str,
    phases: &watch::Sender<Phase>,
    mut stop: watch::Receiver<bool>,
) -> bool {
    let (stores, keepers) = stores();
    let (wake, woken) = mpsc::unbounded_channel();
    let reporter = Reporter { controller: REPORTER.to_owned(), instance: Some(me.to_owned()) };
    let context = Arc::new(Context {
        client: clients.requests,
        watches: clients.watches,
        listings,
        stores,
        defaults: Defaults {
            sidecar_image: settings.sidecar_image.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            redis_url: settings.left.redis_url.clone(),
            sidecar_resources: settings.left.sidecar_resources.clone(),
        },
        upgrade: settings.upgrade_consumers,
        slots: Mutex::new(Slots::new(settings.upgrade_concurrency.into())),
        memory: Memory::default(),
        wake,
        reporter,
        metrics,
    });
    let scope = scope(settings);
    let phases = phases.clone();
    let stopping = async move {
        let _ = stop.wait_for(|stop| *stop).await;
        tracing::info!("no reconcile is started any more; those under way are finished");
        phases.send_replace(Phase::Ending);
    };
    controller::run(context, scope, keepers, woken, stopping).await
}

fn scope(settings: &RunArgs) -> Scope {
    let mut names = settings.namespaces.clone();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() { Scope::All } else { Scope::Namespaces(names) }
}

/// A name that no other replica has, nor an earlier life of this one.
fn identity(settings: &RunArgs) -> String {
    settings.identity.clone().unwrap_or_else(|| {
        let name = settings.pod_name.as_deref().or(settings.host_name.as_deref()).unwrap_or("operator");
        format!("{name}_{:08x}", rand::random::<u32>())
    })
}

fn lease_namespace(settings: &RunArgs, client: &Client) -> String {
    let own = || {
        std::fs::read_to_string(OWN_NAMESPACE).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    settings.lease_namespace.clone().or_else(own).unwrap_or_else(|| client.default_namespace().to_owned())
}

/// True once SIGTERM or SIGINT has come.
fn stop_signal() -> Result<watch::Receiver<bool>, Error> {
    let (stop, stopped) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signals)?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.send_replace(true);
        stop.closed().await;
    });
    Ok(stopped)
}

async fn stopped_before_leading(mut stop: watch::Receiver<bool>, phases: &watch::Sender<Phase>) {
    let _ = stop.wait_for(|stop| *stop).await;
    if matches!(*phases.borrow(), Phase::Leading | Phase::Ending) {
        std::future::pending::<()>().await;
    }
}

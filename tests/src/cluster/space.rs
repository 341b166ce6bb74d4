//! Decides what a cluster test gets: a namespace of its own under Pod Security `restricted`, a ledger, and the words to wait with. I/O.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use crds::CONSUMER_LABEL;
use crds::status::SidecarStatus;
use crds::v1alpha1::IdempotentConsumer;
use futures_util::FutureExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Event, Namespace, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use libtest_mimic::Trial;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{LedgerServer, consumer, diagnosis, kubectl};
use crate::env::{Env, text_of};
use crate::ledger::Published;
use crate::offsets::Offsets;
use crate::publish::Plan;
use crate::wait::patiently;

/// How long a pod may take from its creation until it is ready, on a small machine that does other things too.
pub const START: Duration = Duration::from_secs(60);
/// How long anything else may take that should happen soon.
pub const SOON: Duration = Duration::from_secs(45);
/// How long a test may take where it names no other limit.
const LIMIT: Duration = Duration::from_secs(150);
/// What is left of the limit to write down what the cluster looks like.
const DIAGNOSIS: Duration = Duration::from_secs(25);
/// The sidecar's admin port.
const ADMIN: u16 = 9464;
/// As whom tests apply: what `kubectl` calls itself, so that both may change the same fields.
const MANAGER: &str = "kubectl-client-side-apply";

/// A test's namespace.
pub struct Space {
    /// Its servers, folder and names.
    pub env: Env,
    /// Its client.
    pub client: Client,
    /// The namespace's name.
    pub namespace: String,
    /// What its apps report.
    pub ledger: LedgerServer,
}

impl Debug for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Space({})", self.namespace)
    }
}

impl std::ops::Deref for Space {
    type Target = Env;

    fn deref(&self) -> &Env {
        &self.env
    }
}

/// A test in a namespace of its own, with the usual time limit.
pub fn trial<F, T>(name: &str, test: F) -> Trial
where
    F: FnOnce(std::sync::Arc<Space>) -> T + Send + 'static,
    T: Future<Output = anyhow::Result<()>>,
{
    trial_within(LIMIT, name, test)
}

/// A test in a namespace of its own. When it fails, what the cluster looks like is written into its folder.
pub fn trial_within<F, T>(limit: Duration, name: &str, test: F) -> Trial
where
    F: FnOnce(std::sync::Arc<Space>) -> T + Send + 'static,
    T: Future<Output = anyhow::Result<()>>,
{
    crate::env::trial_within(limit + DIAGNOSIS, name, move |env| async move {
        let space = std::sync::Arc::new(Space::new(env).await?);
        let within = tokio::time::timeout(limit, test(space.clone()));
        let result = match std::panic::AssertUnwindSafe(within).catch_unwind().await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(anyhow::anyhow!("not done within {limit:?}")),
            Err(panic) => Err(anyhow::anyhow!("{}", text_of(panic.as_ref()))),
        };
        if result.is_err() {
            diagnosis::write(&space.client, &space.namespace, space.dir()).await;
        }
        if result.is_ok() || std::env::var_os("KEEP").is_none_or(|keep| keep != "1") {
            space.remove().await?;
        }
        result
    })
}

impl Space {
    async fn new(env: Env) -> anyhow::Result<Self> {
        let client = super::client().await?;
        let all: Api<Namespace> = Api::all(client.clone());
        let namespace = serde_json::from_value(json!({
            "metadata": {
                "generateName": "e2e-",
                "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
                "annotations": {"test": env.test()},
            },
        }))?;
        let made = all.create(&PostParams::default(), &namespace).await.context("cannot make a namespace")?;
        let ledger = LedgerServer::start(env.dir()).await?;
        Ok(Self { env, client, namespace: made.metadata.name.context("a namespace has a name")?, ledger })
    }

    /// Asks for its removal; what is in it goes in the background.
    async fn remove(&self) -> anyhow::Result<()> {
        let all: Api<Namespace> = Api::all(self.client.clone());
        all.delete(&self.namespace, &DeleteParams::default()).await.context("cannot remove the namespace")?;
        Ok(())
    }

    /// Objects of one kind in the namespace.
    #[must_use]
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Runs `kubectl` in the namespace.
    ///
    /// # Errors
    /// It failed; the text is what it said.
    pub async fn kubectl(&self, args: &[&str]) -> anyhow::Result<String> {
        kubectl(&[args, &["--namespace", &self.namespace]].concat(), "").await
    }

    /// Applies one manifest of any kind by `kubectl`.
    ///
    /// # Errors
    /// It was refused.
    pub async fn kubectl_apply(&self, manifest: &Value) -> anyhow::Result<String> {
        kubectl(&["apply", "--namespace", &self.namespace, "--filename=-"], &manifest.to_string()).await
    }

    /// A consumer of one topic with the ledger app; see [`consumer::consumer`].
    ///
    /// # Errors
    /// Kafka or Redis can't be started.
    pub async fn consumer(&self, name: &str, topic: &str) -> anyhow::Result<Value> {
        let (kafka, redis) = (self.env.kafka().await?.bootstrap(), self.env.redis_url().await?);
        Ok(consumer::consumer(name, topic, &kafka, &redis, &self.ledger.address()))
    }

    /// Applies a consumer (server-side).
    ///
    /// # Errors
    /// It was refused.
    pub async fn apply(&self, consumer: &Value) -> anyhow::Result<IdempotentConsumer> {
        let name = consumer["metadata"]["name"].as_str().context("a consumer has a name")?;
        let params = PatchParams::apply(MANAGER).force();
        Ok(self.api::<IdempotentConsumer>().patch(name, &params, &Patch::Apply(consumer)).await?)
    }

    /// Changes a consumer by a merge patch.
    ///
    /// # Errors
    /// It was refused.
    pub async fn change(&self, name: &str, change: Value) -> anyhow::Result<IdempotentConsumer> {
        Ok(self.api::<IdempotentConsumer>().patch(name, &PatchParams::default(), &Patch::Merge(change)).await?)
    }

    /// A consumer as it is.
    ///
    /// # Errors
    /// It is not there.
    pub async fn get(&self, name: &str) -> anyhow::Result<IdempotentConsumer> {
        Ok(self.api::<IdempotentConsumer>().get(name).await?)
    }

    /// Waits until an object fulfils a condition, and returns it. `seen` says what is wrong yet.
    ///
    /// # Panics
    /// It does not within `deadline`.
    pub async fn until<K>(
        &self,
        what: &str,
        name: &str,
        deadline: Duration,
        mut seen: impl FnMut(&K) -> Result<(), String>,
    ) -> K
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
        K::DynamicType: Default,
    {
        let api = self.api::<K>();
        patiently(format!("{name}: {what}"), deadline, async || {
            let object = api.get(name).await.map_err(|e| e.to_string())?;
            seen(&object).map(|()| object)
        })
        .await
    }

    /// Waits until a condition of a consumer holds, or holds not, for the spec as it is; returns the condition.
    ///
    /// # Panics
    /// It does not within `deadline`.
    pub async fn condition(&self, name: &str, kind: &str, status: &str, deadline: Duration) -> Condition {
        let mut found = None;
        self.until::<IdempotentConsumer>(&format!("{kind}={status}"), name, deadline, |consumer| {
            let condition = condition(consumer, kind).ok_or_else(|| format!("no {kind}: {:?}", consumer.status))?;
            if condition.status != status || condition.observed_generation != consumer.metadata.generation {
                return Err(format!("generation {:?}, {condition:?}", consumer.metadata.generation));
            }
            found = Some(condition.clone());
            Ok(())
        })
        .await;
        found.expect("a condition that was just seen")
    }

    /// Waits until a consumer is ready for the spec as it is.
    ///
    /// # Panics
    /// It is not within [`START`].
    pub async fn ready(&self, name: &str) {
        self.condition(name, crds::conditions::READY, "True", START).await;
    }

    /// Waits until a consumer is ready and no pod of an older revision, or that ends, is left.
    ///
    /// # Errors
    /// Pods can't be listed.
    ///
    /// # Panics
    /// It is not within twice [`START`].
    pub async fn rolled_out(&self, name: &str, pods: usize) -> anyhow::Result<()> {
        patiently(format!("{name}: {pods} pods, all ready"), START * 2, async || {
            let consumer = self.get(name).await?;
            let ready = condition(&consumer, crds::conditions::READY).cloned();
            let up_to_date = ready
                .as_ref()
                .is_some_and(|c| c.status == "True" && c.observed_generation == consumer.metadata.generation);
            ensure!(up_to_date, "generation {:?}: {ready:?}", consumer.metadata.generation);
            let all = self.all_pods(name).await?;
            ensure!(all.len() == pods, "{} pods", all.len());
            let unready: Vec<_> =
                all.iter().filter(|pod| !is_ready(pod)).filter_map(|p| p.metadata.name.clone()).collect();
            ensure!(unready.is_empty(), "not ready: {unready:?}");
            Ok(())
        })
        .await;
        Ok(())
    }

    /// The pods of a consumer, those that end too.
    ///
    /// # Errors
    /// They can't be listed.
    pub async fn all_pods(&self, name: &str) -> anyhow::Result<Vec<Pod>> {
        let list = ListParams::default().labels(&format!("{CONSUMER_LABEL}={name}"));
        Ok(self.api::<Pod>().list(&list).await?.items)
    }

    /// The names of a consumer's pods that do not end, sorted.
    ///
    /// # Errors
    /// They can't be listed.
    pub async fn pods(&self, name: &str) -> anyhow::Result<Vec<String>> {
        let all = self.all_pods(name).await?.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let mut names: Vec<_> = all.filter_map(|pod| pod.metadata.name).collect();
        names.sort();
        Ok(names)
    }

    /// The one pod of a consumer that does not end.
    ///
    /// # Errors
    /// There is another number of them.
    pub async fn pod(&self, name: &str) -> anyhow::Result<String> {
        let mut pods = self.pods(name).await?;
        ensure!(pods.len() == 1, "one pod is expected: {pods:?}");
        pods.pop().context("a pod")
    }

    /// Every container of the consumer's pods, with how often it was restarted: the same later means that none was touched.
    ///
    /// # Errors
    /// They can't be listed.
    pub async fn containers(&self, name: &str) -> anyhow::Result<BTreeMap<String, i32>> {
        let mut found = BTreeMap::new();
        for pod in self.all_pods(name).await? {
            let (name, status) = (pod.metadata.name.unwrap_or_default(), pod.status.unwrap_or_default());
            let all = status.container_statuses.into_iter().chain(status.init_container_statuses).flatten();
            found.extend(all.map(|c| (format!("{name}/{}", c.name), c.restart_count)));
        }
        Ok(found)
    }

    /// What a pod's sidecar says of itself, asked through the API server.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn sidecar_status(&self, pod: &str) -> anyhow::Result<SidecarStatus> {
        let path = format!("/api/v1/namespaces/{}/pods/{pod}:{ADMIN}/proxy/status", self.namespace);
        let request = hyper::Request::get(path).body(Vec::new())?;
        Ok(self.client.request(request).await?)
    }

    /// Waits until something of that kind and name is gone.
    ///
    /// # Panics
    /// It is there at the deadline.
    pub async fn gone<K>(&self, name: &str, deadline: Duration)
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
        K::DynamicType: Default,
    {
        let api = self.api::<K>();
        patiently(format!("{name} is gone"), deadline, async || match api.get_opt(name).await {
            Ok(None) => Ok(()),
            Ok(Some(object)) => Err(format!("there: {:?}", object.meta())),
            Err(e) => Err(e.to_string()),
        })
        .await;
    }

    /// Waits for an event of a consumer with that reason; returns its message.
    ///
    /// # Panics
    /// There is none [`SOON`].
    pub async fn event(&self, consumer: &str, reason: &str) -> String {
        self.event_that(consumer, reason, |_| true).await
    }

    /// Waits for an event of a consumer with that reason and such a message; returns the message.
    ///
    /// # Panics
    /// There is none [`SOON`].
    pub async fn event_that(&self, consumer: &str, reason: &str, says: impl Fn(&str) -> bool) -> String {
        let api = self.api::<Event>();
        patiently(format!("an event {reason} of {consumer}"), SOON, async || {
            let all = api.list(&ListParams::default()).await?.items.into_iter();
            let of_it: Vec<_> = all.filter(|e| e.involved_object.name.as_deref() == Some(consumer)).collect();
            let of_reason = of_it.iter().filter(|event| event.reason.as_deref() == Some(reason));
            match of_reason.filter_map(|event| event.message.clone()).find(|message| says(message)) {
                Some(message) => Ok(message),
                None => bail!("{:?}", of_it.iter().map(|e| (&e.reason, &e.message)).collect::<Vec<_>>()),
            }
        })
        .await
    }

    /// Publishes so many new events with 30 % duplicates.
    ///
    /// # Errors
    /// Kafka refuses one.
    pub async fn publish(&self, topic: &str, unique: usize, partitions: i32) -> anyhow::Result<Published> {
        Plan::new(unique, partitions).publish(&self.env.kafka().await?.bootstrap(), topic).await
    }

    /// The offsets of a consumer's default group.
    ///
    /// # Errors
    /// Kafka can't be asked.
    pub async fn offsets_of(&self, consumer: &str) -> anyhow::Result<Offsets> {
        self.env.offsets(&format!("{}.{consumer}", self.namespace)).await
    }

    /// Waits until a consumer has settled what its topic holds.
    ///
    /// # Errors
    /// Kafka can't be asked.
    ///
    /// # Panics
    /// It has not [`SOON`].
    pub async fn settled(&self, consumer: &str, topic: &str) -> anyhow::Result<()> {
        self.offsets_of(consumer).await?.wait_until_settled(topic, SOON).await;
        Ok(())
    }
}

/// A condition of a consumer.
#[must_use]
pub fn condition<'a>(consumer: &'a IdempotentConsumer, kind: &str) -> Option<&'a Condition> {
    consumer.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == kind)
}

/// Is a pod ready, and not ending?
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

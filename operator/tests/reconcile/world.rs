//! One consumer in a cluster of its own, reconciled by hand.

use std::sync::{Arc, Mutex};

use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::runtime::controller::Action;
use kube::runtime::events::Reporter;
use kube::runtime::watcher::Event;
use operator::controller::build::ChildKind;
use operator::controller::memory::Memory;
use operator::controller::store::Guarded;
use operator::controller::upgrade::{Slots, Upgrade};
use operator::controller::validate::Defaults;
use operator::controller::watch::{Keepers, Listings, stores};
use operator::controller::{Context, Error, reconcile};
use operator::metrics::Metrics;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::api::Api;

pub(crate) const CONSUMER: &str = "/apis/idempotency.dev/v1alpha1/namespaces/ns/idempotentconsumers/a";
pub(crate) const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/ns/deployments/a";
pub(crate) const REPLICA_SETS: &str = "/apis/apps/v1/namespaces/ns/replicasets";
pub(crate) const PODS: &str = "/api/v1/namespaces/ns/pods";
pub(crate) const CONFIG_MAPS: &str = "/api/v1/namespaces/ns/configmaps";
pub(crate) const SECRETS: &str = "/api/v1/namespaces/ns/secrets";

pub(crate) struct World {
    pub(crate) api: Api,
    keepers: Keepers,
    context: Arc<Context>,
}

impl World {
    /// A consumer that nobody has looked at yet.
    pub(crate) fn new() -> Self {
        Self::with(Upgrade::OnChange)
    }

    pub(crate) fn with(upgrade: Upgrade) -> Self {
        let api = Api::default();
        api.change(CONSUMER, |consumer| *consumer = smallest());
        let (stores, keepers) = stores();
        let client = api.client();
        let (wake, _) = mpsc::unbounded_channel();
        let context = Arc::new(Context {
            watches: client.clone(),
            client,
            listings: Listings::default(),
            stores,
            defaults: Defaults { sidecar_image: "sidecar:1".into(), version: "1".into(), ..Defaults::default() },
            upgrade,
            slots: Mutex::new(Slots::new(1)),
            memory: Memory::default(),
            wake,
            reporter: Reporter { controller: "test".into(), instance: None },
            metrics: Metrics::new(),
        });
        let mut world = Self { api, keepers, context };
        world.sync();
        world
    }

    /// Another process of the operator, of that version, over the same cluster.
    pub(crate) fn upgraded(self, version: &str, upgrade: Upgrade) -> Self {
        let mut world = Self::with(upgrade);
        world.api = self.api;
        let client = world.api.client();
        let (wake, _) = mpsc::unbounded_channel();
        let context = Context {
            watches: client.clone(),
            client,
            listings: Listings::default(),
            stores: world.context.stores.clone(),
            defaults: Defaults {
                sidecar_image: format!("sidecar:{version}"),
                version: version.into(),
                ..Defaults::default()
            },
            upgrade,
            slots: Mutex::new(Slots::new(1)),
            memory: Memory::default(),
            wake,
            reporter: Reporter { controller: "test".into(), instance: None },
            metrics: Metrics::new(),
        };
        world.context = Arc::new(context);
        world.sync();
        world
    }

    /// Lets the watches see everything as it is.
    pub(crate) fn sync(&mut self) {
        let (api, keepers) = (&self.api, &mut self.keepers);
        let all = |part: &str| api.list(part);
        feed(&mut keepers.consumers, all("/idempotentconsumers/"));
        for (kind, keeper) in ChildKind::ALL.into_iter().zip(&mut keepers.children) {
            let ours = |object: &Value| {
                object.pointer("/metadata/labels").is_some_and(|labels| !labels[crds::CONSUMER_LABEL].is_null())
            };
            let objects = all(&format!("/{}/", kind.resource().plural));
            feed::<DynamicObject>(keeper, objects.into_iter().filter(ours).collect());
        }
        feed::<ReplicaSet>(&mut keepers.replica_sets, all("/replicasets/"));
        feed(&mut keepers.pods, all("/pods/"));
        feed::<PartialObjectMeta<_>>(&mut keepers.secrets, all("/secrets/"));
        feed::<PartialObjectMeta<_>>(&mut keepers.config_maps, all("/configmaps/"));
    }

    /// Lets the watch of consumers alone see how things are: the others are behind.
    pub(crate) fn sync_consumers(&mut self) {
        feed(&mut self.keepers.consumers, self.api.list("/idempotentconsumers/"));
    }

    /// Reconciles once, with what the watches have shown.
    pub(crate) async fn reconcile(&mut self) -> Result<Action, Error> {
        let key = operator::controller::key::Key::new("ns", "a");
        let object: Arc<Guarded> = self.context.stores.consumers.get(&key).expect("the consumer is shown");
        reconcile(object, Arc::clone(&self.context)).await
    }

    /// Reconciles until nothing changes any more, with the Deployment's controller at its work.
    pub(crate) async fn settle(&mut self) {
        for _ in 0..3 {
            self.reconcile().await.unwrap();
            self.complete();
            self.sync();
        }
        self.api.asked();
    }

    /// The Deployment's controller has replaced all pods.
    pub(crate) fn complete(&self) {
        self.api.change(DEPLOYMENT, |deployment| {
            let wanted = deployment["spec"]["replicas"].clone();
            deployment["status"] = json!({
                "observedGeneration": deployment["metadata"]["generation"],
                "replicas": wanted, "readyReplicas": wanted, "updatedReplicas": wanted, "availableReplicas": wanted,
                "conditions": [{"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}],
            });
        });
    }

    /// A pod as the Deployment would make it now.
    pub(crate) fn make_pod(&self, name: &str) {
        let template = self.api.get(DEPLOYMENT).expect("a Deployment")["spec"]["template"]["metadata"].clone();
        self.api.change(&format!("{PODS}/{name}"), |pod| {
            *pod = json!({"metadata": template, "status": {"phase": "Running"}});
            pod["metadata"]["name"] = name.into();
            pod["metadata"]["namespace"] = "ns".into();
        });
    }

    /// The generation that a condition of the consumer's speaks of.
    pub(crate) fn generation_of(&self, about: &str) -> Option<i64> {
        let consumer = self.api.get(CONSUMER)?;
        let conditions = consumer.pointer("/status/conditions")?.as_array()?;
        conditions.iter().find(|condition| condition["type"] == about)?["observedGeneration"].as_i64()
    }

    /// How many consumers are rolled for an upgrade, wait for that, and have failed.
    pub(crate) fn upgrades(&self) -> (usize, usize, usize) {
        self.context.slots.lock().unwrap().counts()
    }

    /// Consumers that wait for another.
    pub(crate) fn rivalled(&self) -> Vec<String> {
        self.context.stores.rivalled.all().iter().map(ToString::to_string).collect()
    }

    /// A condition of the consumer's: its status and its reason.
    pub(crate) fn condition(&self, about: &str) -> (String, String, String) {
        let consumer = self.api.get(CONSUMER).unwrap();
        let conditions = consumer.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        let found = conditions.into_iter().find(|condition| condition["type"] == about).unwrap_or_default();
        let text = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
        (text("status"), text("reason"), text("message"))
    }
}

fn feed<K>(keeper: &mut operator::controller::store::Keeper<K>, objects: Vec<Value>)
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + 'static,
    K::DynamicType: Eq + std::hash::Hash + Clone,
{
    keeper.take(Event::Init);
    for object in objects {
        keeper.take(Event::InitApply(serde_json::from_value(object).unwrap()));
    }
    keeper.take(Event::InitDone);
}

/// The smallest consumer there is.
fn smallest() -> Value {
    json!({
        "apiVersion": "idempotency.dev/v1alpha1",
        "kind": "IdempotentConsumer",
        "metadata": {"name": "a", "namespace": "ns", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "topics": ["orders"],
            "kafka": {"bootstrapServers": "kafka:9092"},
            "redis": {"url": "redis://redis:6379"},
            "template": {"spec": {"containers": [{"name": "app", "image": "app:1"}]}},
        },
    })
}

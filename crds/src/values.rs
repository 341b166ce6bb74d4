//! Decides what the Helm chart can be told: its `values.yaml`, from which its schema and its README are generated. Pure types.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Any members: Kubernetes' own API server says what is wrong with them.
pub type Object = Map<String, Value>;
/// Labels, annotations, selectors.
pub type Texts = BTreeMap<String, String>;

/// Values of the chart `idempotent-consumer`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Values {
    /// Takes the place of the chart's name in the names of objects.
    pub name_override: String,
    /// Takes the place of `<release>-<chart>` in the names of objects.
    pub fullname_override: String,
    /// Registry that stands before the repository of every image, for example a mirror.
    pub image_registry: String,
    /// Secrets with which the operator's, the test's and the Redis image are pulled. Pods of consumers have their own, in their template.
    pub image_pull_secrets: Vec<NamedObject>,
    /// The CustomResourceDefinition.
    pub crds: Crds,
    /// The operator.
    pub operator: Operator,
    /// What consumers get that say nothing else.
    pub sidecar: Sidecar,
    /// The operator's service account.
    pub service_account: ServiceAccount,
    /// The operator's permissions.
    pub rbac: Rbac,
    /// How everything is watched.
    pub metrics: Metrics,
    /// Who may connect to what the chart installs.
    pub network_policy: NetworkPolicy,
    /// One Redis, for trying out: without a replica and without a password.
    pub redis: Redis,
    /// What `helm test` does.
    pub tests: Tests,
    /// Not used; Helm sets it where this chart is a dependency of another.
    pub global: Object,
}

/// An object, by its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NamedObject {
    /// Its name.
    pub name: String,
}

/// The CustomResourceDefinition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Crds {
    /// Install it, and upgrade it with the chart. It stays when the chart is uninstalled, and with it every consumer.
    pub enabled: bool,
}

impl Default for Crds {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// An image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Image {
    /// Its name, without a tag.
    #[schemars(length(min = 1))]
    pub repository: String,
    /// Its tag; empty means the chart's `appVersion`.
    pub tag: String,
    /// Its digest (`sha256:…`), which then counts instead of the tag.
    #[schemars(regex(pattern = "^(sha256:[0-9a-f]{64})?$"))]
    pub digest: String,
}

impl Image {
    fn of(repository: &str, tag: &str) -> Self {
        Self { repository: repository.into(), tag: tag.into(), digest: String::new() }
    }
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PullPolicy {
    /// At every start of a container.
    Always,
    /// When the node has none.
    #[default]
    IfNotPresent,
    /// At no time: the node must have it.
    Never,
}

/// Compute resources of a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Resources {
    /// What is reserved.
    pub requests: BTreeMap<String, IntOrString>,
    /// What is not exceeded.
    pub limits: BTreeMap<String, IntOrString>,
}

impl Resources {
    fn of(requests: &[(&str, &str)], limits: &[(&str, &str)]) -> Self {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), IntOrString::String((*value).to_owned()))).collect()
        };
        Self { requests: map(requests), limits: map(limits) }
    }
}

/// The operator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Operator {
    /// Its image.
    pub image: Image,
    /// When its image is pulled.
    pub image_pull_policy: PullPolicy,
    /// Pods of it. One leads; the others take over within 15 s of its death, or at once when it ends in order.
    #[schemars(range(min = 0))]
    pub replicas: i32,
    /// Namespaces in which it looks for consumers; it then gets a Role in each, and no rights beyond. Empty: all namespaces.
    #[schemars(extend("uniqueItems" = true), inner(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")))]
    pub namespaces: Vec<String>,
    /// What becomes of consumers that another version of the operator, or another default of `sidecar`, rolled out.
    pub upgrade_consumers: UpgradeConsumers,
    /// Consumers that are rolled at once with `upgradeConsumers: Rolling`.
    #[schemars(range(min = 1, max = 65535))]
    pub upgrade_concurrency: i32,
    /// Filter of its log, for example `info` or `info,operator=debug`.
    #[schemars(length(min = 1))]
    pub log_level: String,
    /// Its compute resources. A thousand consumers take it to 190 MiB.
    pub resources: Resources,
    /// A PodDisruptionBudget that lets one pod go at a time, where there is more than one.
    pub pod_disruption_budget: Switch,
    /// Labels of its pods.
    pub pod_labels: Texts,
    /// Annotations of its pods.
    pub pod_annotations: Texts,
    /// Priority class of its pods.
    pub priority_class_name: String,
    /// Node labels that its pods want.
    pub node_selector: Texts,
    /// Taints that its pods bear.
    pub tolerations: Vec<Object>,
    /// Affinity of its pods. Empty: its pods are kept on different nodes where that is possible.
    pub affinity: Object,
}

impl Default for Operator {
    fn default() -> Self {
        Self {
            image: Image::of("idempotent-consumer/operator", ""),
            image_pull_policy: PullPolicy::default(),
            replicas: 2,
            namespaces: Vec::new(),
            upgrade_consumers: UpgradeConsumers::default(),
            upgrade_concurrency: 3,
            log_level: "info".into(),
            resources: Resources::of(&[("cpu", "50m"), ("memory", "64Mi")], &[("memory", "256Mi")]),
            pod_disruption_budget: Switch { enabled: true },
            pod_labels: Texts::new(),
            pod_annotations: Texts::new(),
            priority_class_name: String::new(),
            node_selector: Texts::new(),
            tolerations: Vec::new(),
            affinity: Object::new(),
        }
    }
}

/// When consumers follow an upgrade.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UpgradeConsumers {
    /// When their spec changes the next time: an upgrade restarts no app.
    #[default]
    OnChange,
    /// At once, a few at a time.
    Rolling,
}

/// On or off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Switch {
    /// Have it.
    pub enabled: bool,
}

/// What consumers get that say nothing else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Sidecar {
    /// Image of the sidecar (`spec.sidecar.image`).
    pub image: Image,
    /// Compute resources of the sidecar (`spec.sidecar.resources`). What is empty is the operator's own: 50m of a core and 64Mi are
    /// reserved, 512Mi of memory are the limit.
    pub resources: Resources,
    /// URL of the Redis (`spec.redis.url`), without a password. Empty: the one of `redis` where that is enabled, else none, and every
    /// consumer names its own.
    #[schemars(regex(pattern = "^(rediss?://.+)?$"))]
    pub redis_url: String,
}

impl Default for Sidecar {
    fn default() -> Self {
        Self {
            image: Image::of("idempotent-consumer/sidecar", ""),
            resources: Resources::default(),
            redis_url: String::new(),
        }
    }
}

/// The operator's service account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ServiceAccount {
    /// Make one.
    pub create: bool,
    /// Its name. Empty: the name of the operator's Deployment, or `default` where none is made.
    pub name: String,
    /// Its annotations.
    pub annotations: Texts,
}

impl Default for ServiceAccount {
    fn default() -> Self {
        Self { create: true, name: String::new(), annotations: Texts::new() }
    }
}

/// The operator's permissions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Rbac {
    /// Make roles and bind them. Without, somebody else grants the same; the operator says what it lacks, and waits.
    pub create: bool,
}

impl Default for Rbac {
    fn default() -> Self {
        Self { create: true }
    }
}

/// How everything is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Metrics {
    /// A ServiceMonitor for the operator. Needs the Prometheus operator.
    pub service_monitor: Monitor,
    /// A PodMonitor for the sidecars of all consumers. Needs the Prometheus operator.
    pub pod_monitor: Monitor,
    /// A ConfigMap with a Grafana dashboard, for Grafana's dashboard sidecar.
    pub dashboard: Dashboard,
}

/// An object for the Prometheus operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Monitor {
    /// Have it.
    pub enabled: bool,
    /// How often figures are asked for.
    #[schemars(length(min = 1))]
    pub interval: String,
    /// Its labels, by which a Prometheus picks it.
    pub labels: Texts,
}

impl Default for Monitor {
    fn default() -> Self {
        Self { enabled: false, interval: "30s".into(), labels: Texts::new() }
    }
}

/// A Grafana dashboard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Dashboard {
    /// Have it.
    pub enabled: bool,
    /// Its labels, by which Grafana finds it.
    pub labels: Texts,
    /// Its annotations, for example the folder.
    pub annotations: Texts,
}

impl Default for Dashboard {
    fn default() -> Self {
        let labels = Texts::from([("grafana_dashboard".into(), "1".into())]);
        Self { enabled: false, labels, annotations: Texts::new() }
    }
}

/// Who may connect to what the chart installs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct NetworkPolicy {
    /// NetworkPolicies for the operator and, where it is enabled, for `redis`.
    pub enabled: bool,
    /// Peers that may ask the operator for figures, as in a NetworkPolicy's `from`. Empty: everybody.
    pub metrics_from: Vec<Object>,
    /// Peers that may use the Redis beside the pods of consumers, which always may.
    pub redis_from: Vec<Object>,
}

/// One Redis, for trying out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Redis {
    /// Have it. Its append-only file is on, and it evicts nothing.
    pub enabled: bool,
    /// Its image: one with `redis-server` on its path, 7 or later.
    pub image: Image,
    /// When its image is pulled.
    pub image_pull_policy: PullPolicy,
    /// Its compute resources. At the memory limit it would be killed: `maxMemory` is to stay below.
    pub resources: Resources,
    /// Memory for keys, from which on it refuses writes, and consumers go on unprotected; an event takes some 150 bytes.
    #[schemars(regex(pattern = "^[0-9]+([kmgKMG][bB]?)?$"))]
    pub max_memory: String,
    /// Where its file is.
    pub persistence: Persistence,
}

impl Default for Redis {
    fn default() -> Self {
        Self {
            enabled: false,
            image: Image::of("redis", "8.2"),
            image_pull_policy: PullPolicy::default(),
            resources: Resources::of(&[("cpu", "50m"), ("memory", "64Mi")], &[("memory", "384Mi")]),
            max_memory: "256mb".into(),
            persistence: Persistence::default(),
        }
    }
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Persistence {
    /// On a volume that outlives the pod. Without, it outlives restarts of the container alone.
    pub enabled: bool,
    /// Size of the volume.
    #[schemars(length(min = 1))]
    pub size: String,
    /// Storage class of the volume. Empty: the cluster's default.
    pub storage_class: String,
}

impl Default for Persistence {
    fn default() -> Self {
        Self { enabled: false, size: "1Gi".into(), storage_class: String::new() }
    }
}

/// What `helm test` does: it makes a consumer whose app publishes one event, and waits until its sidecar has delivered it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Tests {
    /// The Kafka that the event goes through, plain text. Empty: one that the app brings along, inside the pod.
    pub kafka: TestKafka,
    /// How long the event is waited for, in seconds.
    #[schemars(range(min = 1))]
    pub timeout_seconds: i32,
}

impl Default for Tests {
    fn default() -> Self {
        Self { kafka: TestKafka::default(), timeout_seconds: 120 }
    }
}

/// The Kafka that the test's event goes through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TestKafka {
    /// Comma-separated list of `host:port`. Empty: one that the app brings along, inside the pod.
    pub bootstrap_servers: String,
    /// The topic, which is to be there, or to be made when it is asked for.
    #[schemars(length(min = 1, max = 249), regex(pattern = "^[a-zA-Z0-9._-]+$"))]
    pub topic: String,
}

impl Default for TestKafka {
    fn default() -> Self {
        Self { bootstrap_servers: String::new(), topic: "idempotent-consumer-test".into() }
    }
}

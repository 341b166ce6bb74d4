//! Decides what is watched, and brings it into the stores. I/O: the API server's watches.

use std::hash::Hash;
use std::sync::Arc;

use crds::CONSUMER_LABEL;
use futures_util::stream::{self, BoxStream, SelectAll, select_all};
use futures_util::{Stream, StreamExt};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::Api;
use kube::core::{ApiResource, DynamicObject, NamespaceResourceScope, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::Context;
use super::build::ChildKind;
use super::dereference::Kind;
use super::key::Key;
use super::store::{Guarded, Keeper, NamedBy, Rivalled, Shelf, Stores, digest, labelled};
use super::validate;

mod listings;
mod merge;
pub(super) mod strip;

pub use listings::Listings;

/// Where consumers are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In every namespace.
    All,
    /// In these.
    Namespaces(Vec<String>),
}

/// Keeps everything that [`Stores`] show.
#[derive(Debug)]
pub struct Keepers {
    /// The consumers.
    pub consumers: Keeper<Guarded>,
    /// Their children, in the order of [`ChildKind::ALL`].
    pub children: [Keeper<DynamicObject>; ChildKind::ALL.len()],
    /// The Deployments' ReplicaSets.
    pub replica_sets: Keeper<ReplicaSet>,
    /// The pods.
    pub pods: Keeper<Pod>,
    /// Every Secret in scope.
    pub secrets: Keeper<PartialObjectMeta<Secret>>,
    /// Every ConfigMap in scope.
    pub config_maps: Keeper<PartialObjectMeta<ConfigMap>>,
}

/// Empty stores, and what fills them.
#[must_use]
pub fn stores() -> (Stores, Keepers) {
    let named_by = NamedBy::default();
    let (secrets, config_maps) = (named_by.clone(), named_by.clone());
    let keepers = Keepers {
        consumers: Keeper::new((), strip::consumer, strip::wish, Box::new(|consumer| vec![Key::of(consumer)])),
        children: ChildKind::ALL
            .map(|kind| Keeper::new(kind.resource(), strip::of_child(kind), strip::contents, Box::new(labelled))),
        replica_sets: Keeper::new((), strip::replica_set, digest, Box::new(labelled)),
        pods: Keeper::new((), strip::pod, digest, Box::new(labelled)),
        secrets: Keeper::new(
            (),
            strip::metadata,
            digest,
            Box::new(move |secret| secrets.of(Kind::Secret, &Key::of(secret))),
        ),
        config_maps: Keeper::new(
            (),
            strip::metadata,
            digest,
            Box::new(move |map| config_maps.of(Kind::ConfigMap, &Key::of(map))),
        ),
    };
    let stores = Stores {
        consumers: keepers.consumers.shelf(),
        children: keepers.children.each_ref().map(Keeper::shelf),
        replica_sets: keepers.replica_sets.shelf(),
        pods: keepers.pods.shelf(),
        secrets: keepers.secrets.shelf(),
        config_maps: keepers.config_maps.shelf(),
        named_by,
        rivalled: Rivalled::default(),
    };
    (stores, keepers)
}

/// Watches everything, and says which consumers to look at.
pub fn watch(context: &Context, scope: &Scope, keepers: Keepers) -> SelectAll<BoxStream<'static, Key>> {
    let stores = &context.stores;
    let (consumers, rivalled) = (stores.consumers.clone(), stores.rivalled.clone());
    let mut all = SelectAll::new();
    let over = |what, labelled| Watch { context, scope, what, labelled };
    all.push(
        wakes(over("consumers", false).events(&stores.consumers), keepers.consumers)
            .flat_map(move |key| stream::iter(with_its_group(&consumers, &rivalled, key)))
            .boxed(),
    );
    for (kind, keeper) in ChildKind::ALL.into_iter().zip(keepers.children) {
        let watch = over(kind.plural(), true);
        all.push(wakes(watch.events_of(&kind.resource(), stores.children(kind)), keeper).boxed());
    }
    let (sets, pods) = (over("replicasets", true), over("pods", true));
    all.push(wakes(sets.events(&stores.replica_sets), keepers.replica_sets).boxed());
    all.push(wakes(pods.events(&stores.pods), keepers.pods).boxed());
    let (secrets, config_maps) = (over("named secrets", false), over("named configmaps", false));
    all.push(wakes(secrets.events(&stores.secrets), keepers.secrets).boxed());
    all.push(wakes(config_maps.events(&stores.config_maps), keepers.config_maps).boxed());
    all
}

/// A consumer that changes or goes may be in the way of others of its group, or no longer.
fn with_its_group(consumers: &Shelf<Guarded>, rivalled: &Rivalled, key: Key) -> Vec<Key> {
    // Of which group it was before is not known any more, so that all that wait for another are looked at; these are few.
    let mut wake = rivalled.all();
    if let Some(group) = consumers.get(&key).and_then(|object| object.0.as_ref().ok().map(validate::group)) {
        let of_group = |object: &Guarded| object.0.as_ref().is_ok_and(|other| validate::is_group(other, &group));
        let others = consumers.store().state_filter(of_group);
        wake.extend(others.iter().map(|object| Key::of(object.as_ref())));
    }
    wake.push(key);
    wake.sort_unstable();
    wake.dedup();
    wake
}

type Events<K> = BoxStream<'static, watcher::Result<Event<K>>>;

/// The watches of one kind.
#[derive(Clone, Copy)]
struct Watch<'a> {
    context: &'a Context,
    scope: &'a Scope,
    /// What it is called where it fails.
    what: &'static str,
    /// Only what carries our label.
    labelled: bool,
}

impl Watch<'_> {
    fn config(self) -> watcher::Config {
        let config = watcher::Config::default();
        if self.labelled { config.labels(CONSUMER_LABEL) } else { config }
    }

    fn events<K>(self, shelf: &Shelf<K>) -> Events<K>
    where
        K: Resource<Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug
            + Send
            + Sync
            + 'static,
        K::DynamicType: Default + Eq + Hash + Clone + Send + Sync,
    {
        let client = &self.context.watches;
        self.each(shelf, |namespace| match namespace {
            None => Api::<K>::all(client.clone()),
            Some(namespace) => Api::namespaced(client.clone(), namespace),
        })
    }

    fn events_of(self, resource: &ApiResource, shelf: &Shelf<DynamicObject>) -> Events<DynamicObject> {
        let client = &self.context.watches;
        self.each(shelf, |namespace| match namespace {
            None => Api::<DynamicObject>::all_with(client.clone(), resource),
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, resource),
        })
    }

    /// One watch, or one for each namespace, as if it were one.
    fn each<K>(self, shelf: &Shelf<K>, api: impl Fn(Option<&str>) -> Api<K>) -> Events<K>
    where
        K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
        K::DynamicType: Eq + Hash + Clone + Send + Sync,
    {
        let one = |namespace| self.noted(namespace, watcher(api(namespace), self.config()).default_backoff().boxed());
        match self.scope {
            Scope::All => one(None),
            Scope::Namespaces(names) if names.len() == 1 => one(names.first().map(String::as_str)),
            Scope::Namespaces(names) => {
                let mut merge = merge::Merge::new(names.iter().cloned());
                let shelf = shelf.clone();
                let tagged = names.iter().map(|name| {
                    let tag = name.clone();
                    one(Some(name)).map(move |event| (tag.clone(), event)).boxed()
                });
                select_all(tagged)
                    .flat_map(move |(namespace, event)| {
                        let known =
                            || shelf.store().state_filter(|object| object.namespace().as_deref() == Some(&namespace));
                        stream::iter(match event {
                            Ok(event) => merge.take(&namespace, event, known).into_iter().map(Ok).collect(),
                            Err(error) => vec![Err(error)],
                        })
                    })
                    .boxed()
            }
        }
    }

    /// Notes whether the first listing is done, and what fails.
    fn noted<K: 'static>(self, namespace: Option<&str>, events: Events<K>) -> Events<K> {
        let place = namespace.map_or_else(String::new, |namespace| format!(" in namespace {namespace}"));
        let what = format!("{}{place}", self.what);
        let (listings, metrics, kind) = (self.context.listings.clone(), Arc::clone(&self.context.metrics), self.what);
        listings.begin(&what);
        events
            .inspect(move |event| match event {
                Ok(Event::InitDone) => listings.done(&what),
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(what, %error, "a watch failed and is tried again");
                    metrics.watch_failed(kind);
                    listings.failed(&what, error.to_string());
                }
            })
            .boxed()
    }
}

/// Brings events into their store; the consumers that they wake. A watch that failed is tried again, with growing pauses.
fn wakes<K>(events: Events<K>, mut keeper: Keeper<K>) -> impl Stream<Item = Key> + Send + 'static
where
    K: Resource + Clone + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone + Send + Sync,
{
    events.flat_map(move |event| stream::iter(event.map_or_else(|_| Vec::new(), |event| keeper.take(event))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn consumer(name: &str, group: &str) -> Guarded {
        let consumer = json!({
            "apiVersion": "idempotency.dev/v1alpha1", "kind": "IdempotentConsumer",
            "metadata": {"name": name, "namespace": "ns"},
            "spec": {
                "group": group, "topics": ["t"], "kafka": {"bootstrapServers": "k:1"}, "redis": {"url": "redis://r"},
                "template": {"spec": {"containers": []}},
            },
        });
        serde_json::from_value(consumer).unwrap()
    }

    #[test]
    fn one_that_waits_for_another_is_woken_whatever_its_status_says() {
        let (stores, mut keepers) = stores();
        for (name, group) in [("a", "g"), ("b", "g"), ("c", "other"), ("d", "other")] {
            keepers.consumers.take(Event::Apply(consumer(name, group)));
        }
        let key = |name: &str| Key::new("ns", name);
        let woken = |name: &str| with_its_group(&stores.consumers, &stores.rivalled, key(name));
        assert_eq!(woken("a"), [key("a"), key("b")]);
        assert_eq!(woken("gone"), [key("gone")]);
        stores.rivalled.note(&key("c"));
        assert_eq!(woken("gone"), [key("c"), key("gone")]);
        assert_eq!(woken("a"), [key("a"), key("b"), key("c")], "it may have been of that group");
        stores.rivalled.forget(&key("c"));
        assert_eq!(woken("gone"), [key("gone")]);
    }
}

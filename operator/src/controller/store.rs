//! Decides what the operator keeps in memory of the cluster, and whom a change wakes. No I/O: watches bring events, [`Shelf`]s answer.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, PoisonError, RwLock};

use crds::CONSUMER_LABEL;
use crds::v1alpha1::IdempotentConsumer;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::core::{DeserializeGuard, DynamicObject, PartialObjectMeta};
use kube::runtime::reflector::store::{Writer, WriterDropped};
use kube::runtime::reflector::{Lookup, ObjectRef, Store};
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};

use super::build::ChildKind;
use super::dereference::Kind;
use super::key::Key;

/// A consumer as it was read, or why it can't be: one that can't doesn't stop the watch.
pub type Guarded = DeserializeGuard<IdempotentConsumer>;

/// Which objects of a kind belong to which consumer, by name.
type Index = Arc<RwLock<HashMap<Key, BTreeSet<String>>>>;

/// The objects of one kind that are known, readable from everywhere.
pub struct Shelf<K: Lookup + 'static>
where
    K::DynamicType: Eq + Hash,
{
    store: Store<K>,
    index: Index,
    dynamic: K::DynamicType,
}

impl<K: Lookup + Clone + 'static> Clone for Shelf<K>
where
    K::DynamicType: Eq + Hash + Clone,
{
    fn clone(&self) -> Self {
        Self { store: self.store.clone(), index: Arc::clone(&self.index), dynamic: self.dynamic.clone() }
    }
}

/// Objects may hold Secrets' values, so that only their number is shown.
impl<K: Lookup + Clone + 'static> fmt::Debug for Shelf<K>
where
    K::DynamicType: Eq + Hash + Clone,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shelf").field("objects", &self.store.len()).finish_non_exhaustive()
    }
}

impl<K: Resource + Clone + 'static> Shelf<K>
where
    K::DynamicType: Eq + Hash + Clone,
{
    /// The object of that name.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.store.get(&ObjectRef::new_with(&key.name, self.dynamic.clone()).within(&key.namespace))
    }

    /// The objects that carry a consumer's label.
    #[must_use]
    pub fn of(&self, consumer: &Key) -> Vec<Arc<K>> {
        let names =
            self.index.read().unwrap_or_else(PoisonError::into_inner).get(consumer).cloned().unwrap_or_default();
        names.into_iter().filter_map(|name| self.get(&Key::new(&consumer.namespace, name))).collect()
    }

    /// Where the objects are.
    #[must_use]
    pub fn store(&self) -> &Store<K> {
        &self.store
    }
}

/// Whom an object concerns.
pub type Concerns<K> = Box<dyn Fn(&K) -> Vec<Key> + Send>;

#[derive(Debug)]
struct Seen {
    digest: u64,
    concerns: Vec<Key>,
}

/// Takes the events of one kind: keeps its [`Shelf`], and says whom a change wakes.
///
/// # Guarantees
/// - An event that changes nothing of what is kept wakes nobody.
/// - A deletion always wakes, one that was missed and shows at the next listing too.
/// - Nobody is woken for what the shelf does not show yet: a consumer that is not found is not looked for again.
pub struct Keeper<K: Resource + Clone + 'static>
where
    K::DynamicType: Eq + Hash + Clone,
{
    writer: Writer<K>,
    shelf: Shelf<K>,
    seen: HashMap<Key, Seen>,
    /// What the listing under way has brought.
    listed: Option<HashSet<Key>>,
    /// Whom it wakes once it is done: only then does the shelf show what it has brought.
    waking: Vec<Key>,
    strip: fn(&mut K),
    digest: fn(&K) -> u64,
    concerns: Concerns<K>,
}

impl<K: Resource + Clone + 'static> fmt::Debug for Keeper<K>
where
    K::DynamicType: Eq + Hash + Clone,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("seen", &self.seen.len()).finish_non_exhaustive()
    }
}

impl<K: Resource + Clone + 'static> Keeper<K>
where
    K::DynamicType: Eq + Hash + Clone,
{
    /// `strip` takes away what is not needed, `digest` says what counts as a change, `concerns` whom.
    #[must_use]
    pub fn new(dynamic: K::DynamicType, strip: fn(&mut K), digest: fn(&K) -> u64, concerns: Concerns<K>) -> Self {
        let writer = Writer::new(dynamic.clone());
        let shelf = Shelf { store: writer.as_reader(), index: Arc::default(), dynamic };
        Self { writer, shelf, seen: HashMap::new(), listed: None, waking: Vec::new(), strip, digest, concerns }
    }

    /// Where others read what is kept.
    #[must_use]
    pub fn shelf(&self) -> Shelf<K> {
        self.shelf.clone()
    }

    /// Takes an event; the consumers to wake.
    pub fn take(&mut self, event: Event<K>) -> Vec<Key> {
        let event = event.modify(self.strip);
        // What a listing does not bring any more is looked at before it leaves the shelf.
        let gone = if matches!(event, Event::InitDone) { self.gone() } else { Vec::new() };
        self.writer.apply_watcher_event(&event);
        match &event {
            Event::Init => {
                self.listed = Some(HashSet::new());
                Vec::new()
            }
            Event::InitApply(object) => {
                if let Some(listed) = &mut self.listed {
                    listed.insert(Key::of(object));
                }
                let wake = self.note(object);
                self.waking.extend(wake);
                Vec::new()
            }
            Event::Apply(object) => self.note(object),
            Event::Delete(object) => self.forget(&Key::of(object)).into_iter().chain((self.concerns)(object)).collect(),
            Event::InitDone => gone.into_iter().chain(std::mem::take(&mut self.waking)).collect(),
        }
    }

    fn gone(&mut self) -> Vec<Key> {
        let listed = self.listed.take().unwrap_or_default();
        let gone: Vec<Key> = self.seen.keys().filter(|key| !listed.contains(*key)).cloned().collect();
        let mut wake = Vec::new();
        for key in gone {
            wake.extend(self.shelf.get(&key).iter().flat_map(|object| (self.concerns)(object)));
            wake.extend(self.forget(&key));
        }
        wake.sort_unstable();
        wake.dedup();
        wake
    }

    fn note(&mut self, object: &K) -> Vec<Key> {
        let (key, digest) = (Key::of(object), (self.digest)(object));
        if self.seen.get(&key).is_some_and(|seen| seen.digest == digest) {
            return Vec::new();
        }
        // One whose label was changed concerns its former consumer too.
        let mut wake = self.forget(&key);
        let concerns = (self.concerns)(object);
        let mut index = self.shelf.index.write().unwrap_or_else(PoisonError::into_inner);
        for consumer in &concerns {
            index.entry(consumer.clone()).or_default().insert(key.name.clone());
        }
        drop(index);
        wake.extend(concerns.iter().cloned());
        self.seen.insert(key, Seen { digest, concerns });
        wake.sort_unstable();
        wake.dedup();
        wake
    }

    fn forget(&mut self, key: &Key) -> Vec<Key> {
        let Some(seen) = self.seen.remove(key) else { return Vec::new() };
        let mut index = self.shelf.index.write().unwrap_or_else(PoisonError::into_inner);
        for consumer in &seen.concerns {
            if let Some(names) = index.get_mut(consumer) {
                names.remove(&key.name);
                if names.is_empty() {
                    index.remove(consumer);
                }
            }
        }
        seen.concerns
    }
}

/// The consumer that an object's label names.
#[must_use]
pub fn labelled(object: &impl Resource) -> Vec<Key> {
    let consumer = object.labels().get(CONSUMER_LABEL);
    consumer.map(|name| Key::new(ResourceExt::namespace(object).unwrap_or_default(), name)).into_iter().collect()
}

/// A digest of anything that can be serialized; for comparing within this process only.
pub fn digest(value: &impl serde::Serialize) -> u64 {
    let mut hasher = DefaultHasher::new();
    serde_json::to_vec(value).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}

/// Which consumers name a Secret or ConfigMap; noted at each reconcile.
#[derive(Clone, Debug, Default)]
pub struct NamedBy(Arc<RwLock<Names>>);

#[derive(Debug, Default)]
struct Names {
    by_object: HashMap<(Kind, Key), BTreeSet<Key>>,
    by_consumer: HashMap<Key, BTreeSet<(Kind, Key)>>,
}

impl NamedBy {
    /// Notes what a consumer names now.
    pub fn note(&self, consumer: &Key, objects: BTreeSet<(Kind, Key)>) {
        let mut names = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if names.by_consumer.get(consumer) == Some(&objects) {
            return;
        }
        names.forget(consumer);
        for object in &objects {
            names.by_object.entry(object.clone()).or_default().insert(consumer.clone());
        }
        if !objects.is_empty() {
            names.by_consumer.insert(consumer.clone(), objects);
        }
    }

    /// The consumer is gone.
    pub fn forget(&self, consumer: &Key) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).forget(consumer);
    }

    /// Who names an object.
    #[must_use]
    pub fn of(&self, kind: Kind, object: &Key) -> Vec<Key> {
        let names = self.0.read().unwrap_or_else(PoisonError::into_inner);
        names.by_object.get(&(kind, object.clone())).into_iter().flatten().cloned().collect()
    }
}

/// Consumers that another may be in the way of; noted at each reconcile.
#[derive(Clone, Debug, Default)]
pub struct Rivalled(Arc<RwLock<BTreeSet<Key>>>);

impl Rivalled {
    /// Notes a consumer. Before it is looked whether another is in its way: one that goes meanwhile wakes it.
    pub fn note(&self, consumer: &Key) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(consumer.clone());
    }

    /// No other is in its way, or it is gone.
    pub fn forget(&self, consumer: &Key) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(consumer);
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Key> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

impl Names {
    fn forget(&mut self, consumer: &Key) {
        for object in self.by_consumer.remove(consumer).unwrap_or_default() {
            if let Some(consumers) = self.by_object.get_mut(&object) {
                consumers.remove(consumer);
                if consumers.is_empty() {
                    self.by_object.remove(&object);
                }
            }
        }
    }
}

/// Everything that is known of the cluster.
#[derive(Clone, Debug)]
pub struct Stores {
    /// The consumers.
    pub consumers: Shelf<Guarded>,
    /// What belongs to them, in the order of [`ChildKind::ALL`].
    pub children: [Shelf<DynamicObject>; ChildKind::ALL.len()],
    /// ReplicaSets of the Deployments, stripped to the ConfigMap and the Secret that their pods read.
    pub replica_sets: Shelf<ReplicaSet>,
    /// Pods, stripped to how they are and where they answer.
    pub pods: Shelf<Pod>,
    /// Every Secret in scope, without its contents.
    pub secrets: Shelf<PartialObjectMeta<Secret>>,
    /// Every ConfigMap in scope, without its contents.
    pub config_maps: Shelf<PartialObjectMeta<ConfigMap>>,
    /// Who names them.
    pub named_by: NamedBy,
    /// Who waits for another consumer to change or go.
    pub rivalled: Rivalled,
}

impl Stores {
    /// The children of one kind.
    #[must_use]
    pub fn children(&self, kind: ChildKind) -> &Shelf<DynamicObject> {
        // The kinds are declared in the order of `ALL`, the shelves made from it.
        &self.children[kind as usize]
    }

    /// Waits until every kind was listed once.
    ///
    /// # Errors
    /// A watch has ended: the operator is about to.
    pub async fn ready(&self) -> Result<(), WriterDropped> {
        self.consumers.store.wait_until_ready().await?;
        for children in &self.children {
            children.store.wait_until_ready().await?;
        }
        self.replica_sets.store.wait_until_ready().await?;
        self.pods.store.wait_until_ready().await?;
        self.secrets.store.wait_until_ready().await?;
        self.config_maps.store.wait_until_ready().await
    }
}

#[cfg(test)]
mod tests;

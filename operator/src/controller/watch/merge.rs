//! Decides how the watches of several namespaces look like one. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};

/// Merges the events of one watch for each namespace.
///
/// # Guarantees
/// - The first listing is done when every namespace's is.
/// - A namespace that is listed again replaces only its own objects.
#[derive(Debug)]
pub(super) struct Merge<K> {
    /// Namespaces whose first listing is not done.
    awaited: BTreeSet<String>,
    /// What listings under way have brought, by namespace and name.
    listings: BTreeMap<String, BTreeMap<String, K>>,
    started: bool,
}

impl<K: Resource + Clone> Merge<K> {
    pub(super) fn new(namespaces: impl Iterator<Item = String>) -> Self {
        Self { awaited: namespaces.collect(), listings: BTreeMap::new(), started: false }
    }

    /// Takes one namespace's event; the events as one watch would bring them. `known` is what is known of that namespace.
    pub(super) fn take(
        &mut self,
        namespace: &str,
        event: Event<K>,
        known: impl FnOnce() -> Vec<Arc<K>>,
    ) -> Vec<Event<K>> {
        match event {
            Event::Init => {
                self.listings.insert(namespace.to_owned(), BTreeMap::new());
                Vec::new()
            }
            Event::InitApply(object) => self.list(namespace, object),
            Event::Apply(object) if !self.started => self.list(namespace, object),
            Event::Delete(object) if !self.started => {
                self.listings.entry(namespace.to_owned()).or_default().remove(&object.name_any());
                Vec::new()
            }
            Event::InitDone if !self.started => {
                self.awaited.remove(namespace);
                if self.awaited.is_empty() { self.start() } else { Vec::new() }
            }
            Event::InitDone => {
                let listed = self.listings.remove(namespace).unwrap_or_default();
                let gone = known().into_iter().filter(|object| !listed.contains_key(&object.name_any()));
                let mut events: Vec<_> = gone.map(|object| Event::Delete(Arc::unwrap_or_clone(object))).collect();
                events.extend(listed.into_values().map(Event::Apply));
                events
            }
            other => vec![other],
        }
    }

    fn list(&mut self, namespace: &str, object: K) -> Vec<Event<K>> {
        self.listings.entry(namespace.to_owned()).or_default().insert(object.name_any(), object);
        Vec::new()
    }

    fn start(&mut self) -> Vec<Event<K>> {
        self.started = true;
        let objects = std::mem::take(&mut self.listings).into_values().flat_map(BTreeMap::into_values);
        let mut events = vec![Event::Init];
        events.extend(objects.map(Event::InitApply));
        events.push(Event::InitDone);
        events
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::core::ObjectMeta;

    use super::*;

    fn object(namespace: &str, name: &str) -> ConfigMap {
        let metadata =
            ObjectMeta { name: Some(name.into()), namespace: Some(namespace.into()), ..ObjectMeta::default() };
        ConfigMap { metadata, ..ConfigMap::default() }
    }

    fn told(events: &[Event<ConfigMap>]) -> Vec<String> {
        events.iter().map(ToString::to_string).collect()
    }

    fn merged() -> Merge<ConfigMap> {
        let mut merge = Merge::new(["a".to_owned(), "b".to_owned()].into_iter());
        for namespace in ["a", "b"] {
            merge.take(namespace, Event::Init, Vec::new);
            merge.take(namespace, Event::InitApply(object(namespace, "one")), Vec::new);
        }
        merge
    }

    #[test]
    fn the_listing_is_done_when_every_namespaces_is() {
        let mut merge = merged();
        assert!(merge.take("a", Event::InitDone, Vec::new).is_empty());
        assert!(merge.take("a", Event::Apply(object("a", "two")), Vec::new).is_empty());
        let events = merge.take("b", Event::InitDone, Vec::new);
        assert_eq!(told(&events), ["Init", "InitApply(one)", "InitApply(two)", "InitApply(one)", "InitDone"]);
        assert_eq!(told(&merge.take("a", Event::Delete(object("a", "one")), Vec::new)), ["Delete(one)"]);
    }

    #[test]
    fn a_namespace_listed_again_replaces_only_its_own() {
        let mut merge = merged();
        merge.take("a", Event::InitDone, Vec::new);
        merge.take("b", Event::InitDone, Vec::new);
        merge.take("a", Event::Init, Vec::new);
        merge.take("a", Event::InitApply(object("a", "three")), Vec::new);
        let known = || vec![Arc::new(object("a", "one")), Arc::new(object("a", "three"))];
        assert_eq!(told(&merge.take("a", Event::InitDone, known)), ["Delete(one)", "Apply(three)"]);
    }
}

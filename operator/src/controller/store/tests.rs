use std::collections::BTreeMap;

use kube::core::ObjectMeta;

use super::*;

fn config_map(name: &str, consumer: Option<&str>, value: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some("ns".into()),
            labels: consumer.map(|c| BTreeMap::from([(CONSUMER_LABEL.to_owned(), c.to_owned())])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([("k".to_owned(), value.to_owned())])),
        ..ConfigMap::default()
    }
}

fn keeper() -> Keeper<ConfigMap> {
    Keeper::new((), |_| {}, digest, Box::new(labelled))
}

fn names(keys: &[Key]) -> Vec<&str> {
    keys.iter().map(|key| key.name.as_str()).collect()
}

#[test]
fn what_changes_wakes_and_what_does_not_does_not() {
    let mut keeper = keeper();
    assert_eq!(names(&keeper.take(Event::Apply(config_map("a", Some("one"), "1")))), ["one"]);
    assert!(keeper.take(Event::Apply(config_map("a", Some("one"), "1"))).is_empty());
    assert_eq!(names(&keeper.take(Event::Apply(config_map("a", Some("one"), "2")))), ["one"]);
    assert_eq!(names(&keeper.take(Event::Apply(config_map("a", Some("two"), "2")))), ["one", "two"]);
    let shelf = keeper.shelf();
    assert!(shelf.of(&Key::new("ns", "one")).is_empty());
    assert_eq!(shelf.of(&Key::new("ns", "two")).len(), 1);
    assert!(names(&keeper.take(Event::Delete(config_map("a", Some("two"), "2")))).contains(&"two"));
    assert!(shelf.of(&Key::new("ns", "two")).is_empty());
}

#[test]
fn a_deletion_that_was_missed_wakes_at_the_next_listing() {
    let mut keeper = keeper();
    keeper.take(Event::Init);
    keeper.take(Event::InitApply(config_map("a", Some("one"), "1")));
    keeper.take(Event::InitApply(config_map("b", Some("two"), "1")));
    assert_eq!(names(&keeper.take(Event::InitDone)), ["one", "two"]);
    keeper.take(Event::Init);
    assert!(keeper.take(Event::InitApply(config_map("b", Some("two"), "1"))).is_empty());
    assert_eq!(names(&keeper.take(Event::InitDone)), ["one"]);
}

#[test]
fn nobody_is_woken_before_the_shelf_shows_what_a_listing_has_brought() {
    let mut keeper = keeper();
    let (shelf, key) = (keeper.shelf(), Key::new("ns", "a"));
    keeper.take(Event::Init);
    let woken = keeper.take(Event::InitApply(config_map("a", Some("one"), "1")));
    assert_eq!((woken.len(), shelf.get(&key).is_some()), (0, false), "who is not found is not looked for again");
    let woken = keeper.take(Event::InitDone);
    assert_eq!((names(&woken), shelf.get(&key).is_some()), (vec!["one"], true));
}

#[test]
fn a_secret_wakes_those_that_name_it_now() {
    let (named, secret) = (NamedBy::default(), Key::new("ns", "secret"));
    let (one, two) = (Key::new("ns", "one"), Key::new("ns", "two"));
    named.note(&one, BTreeSet::from([(Kind::Secret, secret.clone())]));
    named.note(&two, BTreeSet::from([(Kind::Secret, secret.clone())]));
    assert_eq!(named.of(Kind::Secret, &secret), [one.clone(), two.clone()]);
    assert!(named.of(Kind::ConfigMap, &secret).is_empty());
    named.note(&one, BTreeSet::new());
    named.forget(&two);
    assert!(named.of(Kind::Secret, &secret).is_empty());
}

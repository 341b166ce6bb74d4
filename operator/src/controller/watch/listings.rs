//! Decides whether everything was listed once, before which nothing is reconciled. No I/O.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is still to be listed, and what the API server last said to it. Clones are the same.
///
/// A watch that fails later is no reason to stop: what is known is reconciled, and the watch is tried again.
#[derive(Clone, Debug, Default)]
pub struct Listings(Arc<Mutex<BTreeMap<String, Option<String>>>>);

impl Listings {
    /// Something is going to be listed.
    pub fn begin(&self, what: &str) {
        self.lock().insert(what.to_owned(), None);
    }

    /// It was listed.
    pub fn done(&self, what: &str) {
        self.lock().remove(what);
    }

    /// It could not be listed; nothing, where it was before.
    pub fn failed(&self, what: &str, why: String) {
        if let Some(said) = self.lock().get_mut(what) {
            *said = Some(why);
        }
    }

    /// What is waited for: that which can't be listed first.
    #[must_use]
    pub fn awaited(&self) -> Option<String> {
        let all = self.lock();
        let failed = all.iter().find_map(|(what, why)| Some(format!("can't list {what}: {}", why.as_ref()?)));
        failed.or_else(|| all.keys().next().map(|what| format!("listing {what}")))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Option<String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_listed_is_told_before_what_is_being_listed() {
        let listings = Listings::default();
        assert_eq!(listings.awaited(), None);
        listings.begin("configmaps");
        listings.begin("secrets in namespace b");
        assert_eq!(listings.awaited().as_deref(), Some("listing configmaps"));
        listings.failed("secrets in namespace b", "forbidden".into());
        assert_eq!(listings.awaited().as_deref(), Some("can't list secrets in namespace b: forbidden"));
        listings.done("secrets in namespace b");
        listings.done("configmaps");
        listings.failed("configmaps", "a watch that fails later".into());
        assert_eq!(listings.awaited(), None);
    }
}

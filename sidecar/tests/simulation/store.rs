//! A store in simulated time: applies operations when told to.

use std::collections::HashMap;

use bytes::Bytes;
use sidecar::clock::Time;
use sidecar::store::{Op, Reply};

#[derive(Default)]
pub(crate) struct Store {
    values: HashMap<String, (Bytes, Time)>,
}

impl Store {
    pub(crate) fn get(&self, key: &str, now: Time) -> Option<&Bytes> {
        self.values.get(key).filter(|(_, until)| now < *until).map(|(value, _)| value)
    }

    pub(crate) fn apply(&mut self, op: &Op, now: Time) -> Reply {
        let key = op.key().to_string();
        let there = self.get(&key, now).cloned();
        let mut set = |value: &Bytes, ttl: std::time::Duration| {
            self.values.insert(key.clone(), (value.clone(), now + ttl));
            Reply::Applied
        };
        match op {
            Op::SetIfAbsent { value, ttl, .. } => match there {
                Some(found) => Reply::Present(found),
                None => set(value, *ttl),
            },
            Op::SetIfPresent { value, ttl, .. } if there.is_some() => set(value, *ttl),
            Op::CompareAndSet { expect, value, ttl, .. } if there.as_ref() == Some(expect) => set(value, *ttl),
            Op::Set { value, ttl, .. } => set(value, *ttl),
            Op::CompareAndDelete { expect, .. } if there.as_ref() == Some(expect) => {
                self.values.remove(&key);
                Reply::Applied
            }
            Op::Delete { .. } if there.is_some() => {
                self.values.remove(&key);
                Reply::Applied
            }
            Op::Exists { .. } if there.is_some() => Reply::Applied,
            _ => Reply::Refused,
        }
    }
}

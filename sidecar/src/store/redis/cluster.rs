//! Decides which node of a Redis Cluster serves each key, and follows its redirections. Does network I/O.
//!
//! The crate's cluster client repeats a command after a broken connection, with no way to switch that off for this case
//! alone. A claim whose reply was lost would be made twice, and a compare-and-set that was applied would answer
//! "refused"; hence this one, which repeats only what a node surely did not apply. It also sends one pipeline a node.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::{Pipeline, Value};
use tokio::time::Instant;

use super::address::{Access, Address};
use super::exchange::{Outcome, exchange};
use super::link::{Changes, Link, Target};
use crate::store::{Op, Replies, StoreError};

/// Redirections followed for one operation: to the new node, and on while slots are moving.
const HOPS: usize = 4;
const SLOTS: u16 = 16_384;

/// The nodes of a cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    seeds: Vec<Address>,
    access: Access,
    script_only: bool,
    changes: Changes,
    links: Mutex<HashMap<Address, Arc<Link>>>,
    map: Mutex<Option<Arc<SlotMap>>>,
    /// A node redirected or did not answer since the map was read.
    stale: AtomicBool,
    reading: tokio::sync::Mutex<()>,
}

/// Which node serves which slots: first slot, last slot, node; in the order of the slots.
#[derive(Debug, PartialEq, Eq)]
struct SlotMap(Vec<(u16, u16, Address)>);

impl SlotMap {
    fn masters(&self) -> BTreeSet<String> {
        self.0.iter().map(|(.., node)| node.to_string()).collect()
    }

    fn node(&self, slot: u16) -> Option<&Address> {
        let after = self.0.partition_point(|(first, ..)| *first <= slot);
        let (_, last, node) = self.0.get(after.checked_sub(1)?)?;
        (slot <= *last).then_some(node)
    }
}

/// An operation on its way: its place in the answers, the node to ask, and whether only this once.
struct Errand {
    place: usize,
    node: Address,
    asking: bool,
}

impl Cluster {
    pub(super) fn new(seeds: Vec<Address>, access: Access, script_only: bool, changes: Changes) -> Self {
        Self {
            seeds,
            access,
            script_only,
            changes,
            links: Mutex::default(),
            map: Mutex::default(),
            stale: AtomicBool::new(false),
            reading: tokio::sync::Mutex::default(),
        }
    }

    /// Applies the operations, one pipeline a node, all nodes at once.
    pub(super) async fn apply(&self, ops: &[Op], timeout: Duration) -> Replies {
        let map = match self.map(Instant::now() + timeout).await {
            Ok(map) => map,
            Err(error) => return vec![Err(error); ops.len()],
        };
        let mut replies: Replies = Vec::with_capacity(ops.len());
        let mut errands = Vec::with_capacity(ops.len());
        for (place, op) in ops.iter().enumerate() {
            match map.node(slot(op.key())) {
                Some(node) => errands.push(Errand { place, node: node.clone(), asking: false }),
                None => self.stale.store(true, Ordering::Relaxed),
            }
            // What stands if it gets no further.
            replies.push(Err(StoreError::NotSent("no node of the cluster serves the key's slot".to_owned())));
        }
        let deadline = Instant::now() + timeout;
        for _ in 0..HOPS {
            if errands.is_empty() {
                break;
            }
            errands = self.round(ops, errands, &mut replies, deadline).await;
        }
        replies
    }

    /// One round trip to each node concerned; and what is to go on to another node.
    async fn round(&self, ops: &[Op], errands: Vec<Errand>, replies: &mut Replies, deadline: Instant) -> Vec<Errand> {
        let mut groups: HashMap<(Address, bool), Vec<usize>> = HashMap::new();
        for errand in errands {
            groups.entry((errand.node, errand.asking)).or_default().push(errand.place);
        }
        let sent = groups.into_iter().map(|((node, asking), places)| async move {
            let chosen: Vec<_> = places.iter().map(|place| &ops[*place]).collect();
            let outcomes = self.visit(&node, asking, &chosen, deadline).await;
            (node, places, outcomes)
        });
        let mut onward = Vec::new();
        for (node, places, outcomes) in join_all(sent).await {
            for (place, outcome) in places.into_iter().zip(outcomes) {
                let (named, asking) = match outcome {
                    Outcome::Answer(answer) => {
                        replies[place] = answer;
                        continue;
                    }
                    Outcome::Moved(named) => (named, false),
                    Outcome::Ask(named) => (named, true),
                };
                if !asking {
                    self.stale.store(true, Ordering::Relaxed);
                }
                replies[place] = Err(StoreError::Refused(format!("{node} redirects to `{named}`")));
                if let Some(node) = node.sibling(&named) {
                    onward.push(Errand { place, node, asking });
                }
            }
        }
        onward
    }

    async fn visit(&self, node: &Address, asking: bool, ops: &[&Op], deadline: Instant) -> Vec<Outcome> {
        let link = self.link(node);
        let outcomes = match link.live(deadline).await {
            Ok(live) => exchange(&link, &live, ops, asking, deadline).await,
            Err(error) => ops.iter().map(|_| Outcome::Answer(Err(error.clone()))).collect(),
        };
        // A failed node, a demoted one (READONLY) or a cluster without one (CLUSTERDOWN): the map may say more by now.
        if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Answer(Err(_)))) {
            self.stale.store(true, Ordering::Relaxed);
        }
        outcomes
    }

    fn link(&self, node: &Address) -> Arc<Link> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let new =
            || Link::new(Target::Server(node.clone()), self.access.clone(), self.script_only, self.changes.clone());
        Arc::clone(links.entry(node.clone()).or_insert_with(new))
    }

    /// Links to the nodes that serve slots, for questions to all of them.
    pub(super) async fn masters(&self, deadline: Instant) -> Result<Vec<Arc<Link>>, StoreError> {
        let map = self.map(deadline).await?;
        let mut nodes: Vec<_> = map.0.iter().map(|(.., node)| node).collect();
        nodes.sort_by_key(ToString::to_string);
        nodes.dedup();
        Ok(nodes.into_iter().map(|node| self.link(node)).collect())
    }

    /// The map; read first where there is none, and read again by one caller at a time where it is stale.
    async fn map(&self, deadline: Instant) -> Result<Arc<SlotMap>, StoreError> {
        if let Some(map) = self.known() {
            if !self.stale.load(Ordering::Relaxed) {
                return Ok(map);
            }
            // The others go on with the old one meanwhile: redirections lead them right.
            let Ok(_reading) = self.reading.try_lock() else { return Ok(map) };
            return Ok(self.read(deadline).await.unwrap_or(map));
        }
        let late = |_| StoreError::NotSent("the cluster's slots are not known yet".to_owned());
        let _reading = tokio::time::timeout_at(deadline, self.reading.lock()).await.map_err(late)?;
        match self.known() {
            Some(map) => Ok(map),
            None => self.read(deadline).await,
        }
    }

    fn known(&self) -> Option<Arc<SlotMap>> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks every node known, the seeds among them, and takes the first map.
    async fn read(&self, deadline: Instant) -> Result<Arc<SlotMap>, StoreError> {
        self.stale.store(false, Ordering::Relaxed);
        let mut nodes: Vec<Address> =
            self.links.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        nodes.extend(self.seeds.iter().filter(|seed| !nodes.contains(seed)).cloned().collect::<Vec<_>>());
        let mut asked: FuturesUnordered<_> = nodes.iter().map(|node| self.ask(node, deadline)).collect();
        let mut why = Vec::new();
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(map) => {
                    let map = Arc::new(map);
                    self.forget_others(&map);
                    let before = self.map.lock().unwrap_or_else(PoisonError::into_inner).replace(Arc::clone(&map));
                    // Slots that move lose nothing on the way; a replica that took a master's place may lack what that had.
                    if before.is_some_and(|before| before.masters() != map.masters()) {
                        self.changes.add();
                    }
                    return Ok(map);
                }
                Err(error) => why.push(error),
            }
        }
        self.stale.store(true, Ordering::Relaxed);
        Err(StoreError::NotSent(format!("no node of the cluster says which slots it serves: {}", why.join("; "))))
    }

    async fn ask(&self, node: &Address, deadline: Instant) -> Result<SlotMap, String> {
        let link = self.link(node);
        let live = link.live(deadline).await.map_err(|error| error.to_string())?;
        let mut pipeline = Pipeline::new();
        pipeline.cmd("CLUSTER").arg("SLOTS");
        let values = link.round_trip(&live, &pipeline, deadline).await.map_err(|error| error.to_string())?;
        let unreadable = || format!("{node}: its answer to CLUSTER SLOTS can't be read");
        let value = values.into_iter().next().ok_or_else(unreadable)?;
        if let Value::ServerError(error) = &value {
            return Err(self.access.redact(format!("{node}: {}", super::command::text(error))));
        }
        slot_map(node, &value).filter(|map| !map.0.is_empty()).ok_or_else(unreadable)
    }

    /// Closes connections to nodes that left.
    fn forget_others(&self, map: &SlotMap) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|node, _| self.seeds.contains(node) || map.0.iter().any(|(.., serving)| serving == node));
    }
}

/// Reads the answer of `asked` to `CLUSTER SLOTS`: first slot, last slot, `[host, port, …]` of the master, replicas.
fn slot_map(asked: &Address, value: &Value) -> Option<SlotMap> {
    let Value::Array(ranges) = value else { return None };
    let mut map = Vec::with_capacity(ranges.len());
    for range in ranges {
        let Value::Array(range) = range else { return None };
        let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = &range[..] else { return None };
        let [host, Value::Int(port), ..] = &master[..] else { return None };
        let host = match host {
            Value::BulkString(host) => std::str::from_utf8(host).ok()?,
            _ => "",
        };
        let node = asked.at(host, u16::try_from(*port).ok()?)?;
        map.push((u16::try_from(*first).ok()?, u16::try_from(*last).ok()?, node));
    }
    map.sort_by_key(|(first, ..)| *first);
    Some(SlotMap(map))
}

/// The slot of a key: CRC-16/XMODEM of the part in the first braces, or of all of it.
fn slot(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    let hashed = tag.filter(|tag| !tag.is_empty()).unwrap_or(key);
    let crc = hashed.bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
    });
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(port: u16) -> Address {
        Address::Tcp { host: "h".into(), port, tls: false }
    }

    #[test]
    fn slots_are_those_of_the_redis_cluster_specification() {
        assert_eq!(slot("123456789"), 0x31C3);
        assert_eq!(slot("foo"), 12_182);
        assert_eq!(slot("{user1000}.following"), slot("{user1000}.followers"));
        assert_eq!(slot("foo{{bar}}zap"), slot("{bar"));
        assert_ne!(slot("foo{}{bar}"), slot("bar"), "empty braces don't count");
    }

    #[test]
    fn a_slot_between_two_ranges_has_no_node() {
        let map = SlotMap(vec![(0, 99, node(1)), (200, 16_383, node(2))]);
        for (slot, expected) in
            [(0, Some(1)), (99, Some(1)), (100, None), (199, None), (200, Some(2)), (16_383, Some(2))]
        {
            assert_eq!(map.node(slot), expected.map(node).as_ref(), "{slot}");
        }
    }

    #[test]
    fn a_node_without_a_host_is_where_it_was_asked() {
        let text = b"*2\r\n*3\r\n:100\r\n:16383\r\n*2\r\n$1\r\ng\r\n:2\r\n*3\r\n:0\r\n:99\r\n*2\r\n$-1\r\n:1\r\n";
        let map = slot_map(&node(9), &redis::parse_redis_value(text).unwrap()).unwrap();
        let other = Address::Tcp { host: "g".into(), port: 2, tls: false };
        assert_eq!(map, SlotMap(vec![(0, 99, node(1)), (100, 16_383, other)]));
        assert_eq!(slot_map(&node(9), &Value::Okay), None);
    }
}

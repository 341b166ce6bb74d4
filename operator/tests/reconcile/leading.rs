//! Who leads, from the start of the process to its end. Time is virtual.

use std::time::Duration;

use clap::Parser;
use operator::admin::Phase;
use operator::args::{Arguments, Command};
use operator::controller::watch::Listings;
use operator::metrics::Metrics;
use operator::run::{Clients, Error, serve};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::api::Api;

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/ns/leases/idempotent-consumer-operator";

struct Replica {
    task: JoinHandle<Result<(), Error>>,
    stop: watch::Sender<bool>,
    phase: watch::Receiver<Phase>,
    listings: Listings,
}

fn start(api: &Api, identity: &str) -> Replica {
    let said = ["operator", "run", "--sidecar-image", "s", "--lease-namespace", "ns", "--identity", identity];
    let Command::Run(settings) = Arguments::try_parse_from(said).unwrap().command else { panic!() };
    let (stop, stopped) = watch::channel(false);
    let (phases, phase) = watch::channel(Phase::Waiting("starting".into()));
    let clients = Clients { requests: api.client(), watches: api.client() };
    let listings = Listings::default();
    let told = listings.clone();
    let task = tokio::spawn(async move { serve(*settings, clients, told, Metrics::new(), &phases, stopped).await });
    Replica { task, stop, phase, listings }
}

fn holder(api: &Api) -> Value {
    api.get(LEASE).map(|lease| lease["spec"]["holderIdentity"].clone()).unwrap_or_default()
}

/// Another holds the lease, and renews it every two seconds.
fn held_by_another(api: &Api) -> JoinHandle<()> {
    let api = api.clone();
    api.change(LEASE, |lease| {
        *lease = json!({"metadata": {"name": "idempotent-consumer-operator"}, "spec": {"holderIdentity": "other"}})
    });
    tokio::spawn(async move {
        for second in 0.. {
            let time = format!("2026-01-01T00:{:02}:{:02}.000000Z", second / 60 % 60, second % 60);
            api.change(LEASE, |lease| lease["spec"]["renewTime"] = time.into());
            sleep(Duration::from_secs(2)).await;
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_standby_does_nothing_until_the_leader_is_gone() {
    let api = Api::default();
    let leader = held_by_another(&api);
    sleep(Duration::from_millis(1)).await;
    let replica = start(&api, "me");
    sleep(Duration::from_secs(60)).await;
    assert_eq!(*replica.phase.borrow(), Phase::StandingBy);
    let asked = api.asked();
    assert!(asked.iter().all(|asked| !asked.writes()), "{asked:?}");
    assert!(
        asked.iter().all(|asked| !asked.query.contains("watch") && !asked.path.ends_with("/idempotentconsumers")),
        "{asked:?}"
    );
    leader.abort();
    sleep(Duration::from_secs(12)).await;
    assert_eq!(holder(&api), "other", "it may be alive still");
    sleep(Duration::from_secs(8)).await;
    assert_eq!((holder(&api), replica.phase.borrow().clone()), ("me".into(), Phase::Leading));
    assert_eq!(api.get(LEASE).unwrap()["spec"]["leaseTransitions"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_ends_before_another_can_lead() {
    let api = Api::default();
    let replica = start(&api, "me");
    sleep(Duration::from_secs(10)).await;
    assert_eq!(*replica.phase.borrow(), Phase::Leading);
    api.refuse(|asked| (asked.path == LEASE).then(|| (500, "etcd is away".to_owned())));
    sleep(Duration::from_secs(6)).await;
    assert!(!replica.task.is_finished(), "a short fault is borne");
    sleep(Duration::from_secs(6)).await;
    assert!(replica.task.is_finished());
    assert!(matches!(replica.task.await.unwrap(), Err(Error::Lost)));
    api.asked();
    sleep(Duration::from_secs(30)).await;
    assert!(api.asked().iter().all(|asked| !asked.writes()));
}

#[tokio::test(start_paused = true)]
async fn a_lease_taken_by_another_is_given_up_at_once() {
    let api = Api::default();
    let replica = start(&api, "me");
    sleep(Duration::from_secs(10)).await;
    api.change(LEASE, |lease| lease["spec"]["holderIdentity"] = "other".into());
    sleep(Duration::from_secs(3)).await;
    assert!(matches!(replica.task.await.unwrap(), Err(Error::Lost)));
    assert_eq!(holder(&api), "other");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_told_to_end_gives_the_lease_back() {
    let api = Api::default();
    let replica = start(&api, "me");
    sleep(Duration::from_secs(10)).await;
    assert_eq!(holder(&api), "me");
    replica.stop.send_replace(true);
    replica.task.await.unwrap().unwrap();
    assert_eq!((holder(&api), replica.phase.borrow().clone()), ("".into(), Phase::Ending));
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_does_not_answer_ends_the_start_in_time() {
    let api = Api::default();
    api.swallow(|asked| asked.path == "/version");
    let replica = start(&api, "me");
    sleep(Duration::from_secs(290)).await;
    assert!(!replica.task.is_finished(), "it may come");
    sleep(Duration::from_secs(30)).await;
    assert!(replica.task.is_finished());
    assert!(matches!(replica.task.await.unwrap(), Err(Error::Preflight(_))));
}

#[tokio::test(start_paused = true)]
async fn one_that_lacks_a_permission_says_which_and_goes_on_when_it_has_it() {
    let api = Api::default();
    api.forbid(|what| what["resource"] == "secrets" && what["verb"] == "watch");
    let replica = start(&api, "me");
    sleep(Duration::from_secs(60)).await;
    let Phase::Waiting(why) = replica.phase.borrow().clone() else { panic!("it works") };
    assert_eq!(why, "waiting for permissions: the operator may not watch secrets in all namespaces");
    assert_eq!(api.get(LEASE), None, "one that can't work does not lead");
    api.forbid(|_| false);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(*replica.phase.borrow(), Phase::Leading);
}

#[tokio::test(start_paused = true)]
async fn one_that_never_gets_a_permission_ends() {
    let api = Api::default();
    api.forbid(|what| what["resource"] == "leases");
    let replica = start(&api, "me");
    sleep(Duration::from_secs(320)).await;
    let Err(error) = replica.task.await.unwrap() else { panic!("it works") };
    assert_eq!(error.exit_code(), 69);
    assert!(error.to_string().contains("may not get leases in namespace ns"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_list_says_what_and_is_not_ready() {
    let api = Api::default();
    api.refuse(|asked| asked.path.ends_with("/configmaps").then(|| (403, "configmaps is forbidden".to_owned())));
    let replica = start(&api, "me");
    sleep(Duration::from_secs(20)).await;
    let awaited = replica.listings.awaited().expect("something is not listed");
    assert!(awaited.contains("configmaps") && awaited.contains("forbidden"), "{awaited}");
    api.accept();
    sleep(Duration::from_secs(120)).await;
    assert_eq!(replica.listings.awaited(), None);
}

//! An API server of a few resources, in memory: enough of server-side apply to tell what the operator writes.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::{Method, Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;
type Swallows = Box<dyn Fn(&Asked) -> bool + Send>;
type Forbids = Box<dyn Fn(&Value) -> bool + Send>;
type Refuses = Box<dyn Fn(&Asked) -> Option<(u16, String)> + Send>;

/// A request, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) apply: bool,
    pub(crate) body: Value,
}

impl Asked {
    pub(crate) fn writes(&self) -> bool {
        self.method != Method::GET && !self.dry_run() && !self.path.ends_with("/selfsubjectaccessreviews")
    }

    pub(crate) fn dry_run(&self) -> bool {
        self.query.contains("dryRun=All")
    }

    /// The request in a word, for comparing: its method, the last parts of its path, and whether it is only a trial.
    pub(crate) fn word(&self) -> String {
        let mut parts: Vec<&str> = self.path.rsplit('/').take(2).collect();
        parts.reverse();
        format!("{}{} {}", if self.dry_run() { "TRY " } else { "" }, self.method, parts.join("/"))
    }
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    asked: Vec<Asked>,
    refuses: Option<Refuses>,
    swallows: Option<Swallows>,
    forbids: Option<Forbids>,
    version: u64,
}

/// The server; clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Api(Arc<Mutex<State>>);

impl Api {
    pub(crate) fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        Client::new(service, "ns")
    }

    /// The requests since the last time.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.0.lock().unwrap().asked)
    }

    /// The requests since the last time, in words.
    pub(crate) fn words(&self) -> Vec<String> {
        self.asked().iter().map(Asked::word).collect()
    }

    /// Answers some requests with an error from now on.
    pub(crate) fn refuse(&self, refuses: impl Fn(&Asked) -> Option<(u16, String)> + Send + 'static) {
        self.0.lock().unwrap().refuses = Some(Box::new(refuses));
    }

    /// Does not answer some requests from now on.
    pub(crate) fn swallow(&self, swallows: impl Fn(&Asked) -> bool + Send + 'static) {
        self.0.lock().unwrap().swallows = Some(Box::new(swallows));
    }

    /// Says from now on, of what may be done, that some may not.
    pub(crate) fn forbid(&self, forbids: impl Fn(&Value) -> bool + Send + 'static) {
        self.0.lock().unwrap().forbids = Some(Box::new(forbids));
    }

    pub(crate) fn accept(&self) {
        self.0.lock().unwrap().swallows = None;
        self.0.lock().unwrap().refuses = None;
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().unwrap().objects.get(path).cloned()
    }

    /// Objects whose path has that in it.
    pub(crate) fn list(&self, part: &str) -> Vec<Value> {
        let state = self.0.lock().unwrap();
        state.objects.iter().filter(|(path, _)| path.contains(part)).map(|(_, object)| object.clone()).collect()
    }

    /// Changes an object behind the operator's back.
    pub(crate) fn change(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut state = self.0.lock().unwrap();
        let mut object = state.objects.get(path).cloned().unwrap_or_else(|| json!({}));
        change(&mut object);
        state.put(path, object);
    }

    pub(crate) fn remove(&self, path: &str) {
        self.0.lock().unwrap().objects.remove(path);
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let (head, body) = request.into_parts();
        let body = body.collect_bytes().await.unwrap();
        let apply = head.headers.get("content-type").is_some_and(|kind| kind == "application/apply-patch+yaml");
        let asked = Asked {
            method: head.method,
            path: head.uri.path().to_owned(),
            query: head.uri.query().unwrap_or_default().to_owned(),
            apply,
            body: serde_json::from_slice(&body).unwrap_or(Value::Null),
        };
        let swallowed = self.0.lock().unwrap().swallows.as_ref().is_some_and(|swallows| swallows(&asked));
        if swallowed {
            std::future::pending::<()>().await;
        }
        let mut state = self.0.lock().unwrap();
        state.asked.push(asked.clone());
        if let Some((code, message)) = state.refuses.as_ref().and_then(|refuses| refuses(&asked)) {
            return failure(code, &message);
        }
        if asked.query.contains("watch=true") {
            return forever();
        }
        state.act(&asked)
    }
}

impl State {
    fn act(&mut self, asked: &Asked) -> Answer {
        let path = asked.path.trim_end_matches("/status").to_owned();
        let before = self.objects.get(&path).cloned();
        let after = match asked.method {
            Method::GET => return before.map_or_else(|| discovery(&path), |object| answer(200, &object)),
            Method::DELETE => {
                self.objects.remove(&path);
                return answer(200, &json!({"kind": "Status", "status": "Success"}));
            }
            Method::POST if path.ends_with("/selfsubjectaccessreviews") => {
                let mut review = asked.body.clone();
                let forbidden = |forbids: &Forbids| forbids(&review["spec"]["resourceAttributes"]);
                let allowed = !self.forbids.as_ref().is_some_and(forbidden);
                review["status"] = json!({"allowed": allowed});
                return answer(201, &review);
            }
            Method::POST => {
                let name = asked.body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("none").to_owned();
                return answer(201, &self.put(&format!("{path}/{name}"), asked.body.clone()));
            }
            Method::PUT => {
                let version = |object: &Value| object.pointer("/metadata/resourceVersion").cloned();
                if before.as_ref().map(version) != Some(version(&asked.body)) {
                    return failure(409, "the object has been modified");
                }
                asked.body.clone()
            }
            _ if asked.path.ends_with("/status") => {
                let Some(mut object) = before else { return failure(404, "not found") };
                // A JSON patch: a test, and the whole status.
                if asked.body[0]["value"] != object["metadata"]["uid"] {
                    return failure(422, "testing value /metadata/uid failed: test failed");
                }
                object["status"] = asked.body[1]["value"].clone();
                return answer(200, &self.put(&path, object));
            }
            _ => {
                let mut object = before.clone().unwrap_or_else(|| json!({}));
                merge(&mut object, &asked.body);
                object
            }
        };
        if asked.dry_run() { answer(200, &after) } else { answer(200, &self.put(&path, after)) }
    }

    /// Stores an object; one that is the same keeps its version.
    fn put(&mut self, path: &str, mut object: Value) -> Value {
        let before = self.objects.get(path);
        if before == Some(&object) {
            return object;
        }
        let changes_spec = before.is_none_or(|before| before["spec"] != object["spec"]);
        self.version += 1;
        let meta = &mut object["metadata"];
        meta["resourceVersion"] = self.version.to_string().into();
        if meta["uid"].is_null() {
            meta["uid"] = format!("uid-{}", self.version).into();
        }
        if changes_spec {
            meta["generation"] = (meta["generation"].as_i64().unwrap_or(0) + 1).into();
        }
        self.objects.insert(path.to_owned(), object.clone());
        object
    }
}

/// As a JSON merge patch does; near enough to an apply by the only writer.
fn merge(object: &mut Value, patch: &Value) {
    match (object, patch) {
        (Value::Object(object), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    object.remove(key);
                } else {
                    merge(object.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (object, patch) => *object = patch.clone(),
    }
}

fn discovery(path: &str) -> Answer {
    let list = |names: &[&str]| {
        let resources: Vec<Value> = names
            .iter()
            .map(|name| json!({"name": name, "singularName": "", "namespaced": true, "kind": "", "verbs": []}))
            .collect();
        answer(200, &json!({"kind": "APIResourceList", "groupVersion": "", "resources": resources}))
    };
    match path {
        "/version" => {
            let texts = ["gitVersion", "gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler", "platform"];
            let mut version = json!({"major": "1", "minor": "37"});
            texts.iter().for_each(|text| version[text] = "v1.37.0".into());
            answer(200, &version)
        }
        "/apis/apps/v1" => list(&["deployments"]),
        "/apis/policy/v1" => list(&["poddisruptionbudgets"]),
        "/apis/coordination.k8s.io/v1" => list(&["leases"]),
        "/apis/events.k8s.io/v1" => list(&["events"]),
        "/apis/idempotency.dev/v1alpha1" => list(&["idempotentconsumers"]),
        path if path.ends_with('s') && !path.contains("/namespaces/") => {
            answer(200, &json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": []}))
        }
        _ => failure(404, "not found"),
    }
}

fn answer(code: u16, value: &Value) -> Answer {
    let body = Full::new(Bytes::from(value.to_string())).boxed_unsync();
    Response::builder().status(code).header("content-type", "application/json").body(body).unwrap()
}

fn failure(code: u16, message: &str) -> Answer {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        _ => "Tested",
    };
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code});
    answer(code, &status)
}

fn forever() -> Answer {
    let never = futures_util::stream::pending::<Result<Frame<Bytes>, Infallible>>();
    Response::new(BodyExt::boxed_unsync(StreamBody::new(never)))
}

//! Decides how an app can behave: what it does for the events of one request, and what it answers. Pure.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use super::event::Event;

/// One request to the app.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its number, from 1.
    pub number: u64,
    /// The path it was sent to.
    pub path: String,
    /// Was it a batch?
    pub batch: bool,
    /// Its events; in binary mode one.
    pub events: Vec<Event>,
}

impl Request {
    /// The first event; in binary mode the only one.
    #[must_use]
    pub fn event(&self) -> &Event {
        &self.events[0]
    }
}

/// How the app behaves: asked for every request.
pub type Behaviour = Arc<dyn Fn(Request) -> Pin<Box<dyn Future<Output = Act> + Send>> + Send + Sync>;

/// A behaviour from a closure. It may wait, for example for a test to let it go on.
pub fn behave<F, A>(f: F) -> Behaviour
where
    F: Fn(Request) -> A + Send + Sync + 'static,
    A: Future<Output = Act> + Send + 'static,
{
    Arc::new(move |request| Box::pin(f(request)))
}

/// A behaviour from a closure that waits for nothing.
pub fn act(f: impl Fn(&Request) -> Act + Send + Sync + 'static) -> Behaviour {
    behave(move |request| std::future::ready(f(&request)))
}

/// Completes everything.
#[must_use]
pub fn complete() -> Behaviour {
    act(|_| Act::complete())
}

/// Fails the first `n` requests with each event with that status, then completes. (In a batch: the events one by one.)
#[must_use]
pub fn fail_first(n: u32, status: u16) -> Behaviour {
    act(move |request| match request.batch {
        true => Act::each(request, |event| if event.times <= n { Verdict::Retry } else { Verdict::Success }),
        false if request.event().times <= n => Act::status(status),
        false => Act::complete(),
    })
}

/// What the app does for one request.
#[derive(Clone, Debug)]
pub struct Act {
    /// Which events take effect before the answer: all, none, or one `bool` for each.
    pub effects: Effects,
    /// The answer.
    pub reply: Reply,
    /// How long it works: before the effects.
    pub before: Duration,
    /// How long it dawdles: between the effects and the answer.
    pub after: Duration,
}

/// Which events of a request take effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effects {
    /// All.
    All,
    /// None.
    None,
    /// Those with `true`.
    Of(Vec<bool>),
}

/// What the app answers.
#[derive(Clone, Debug)]
pub enum Reply {
    /// An HTTP answer.
    Http {
        /// The status code.
        status: u16,
        /// Headers.
        headers: Vec<(String, String)>,
        /// The body.
        body: Bytes,
    },
    /// 200, and for a batch a `SUCCESS` for each event.
    Complete,
    /// These bytes instead of HTTP, then the end of the connection.
    Raw(Bytes),
    /// Nothing, ever; the connection stays open.
    Hang,
    /// The end of the connection.
    Disconnect,
}

/// The status of one event in a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Completed, with its effect.
    Success,
    /// Failed, without an effect.
    Retry,
    /// Rejected, without an effect.
    Drop,
    /// Any other word, without an effect.
    Word(String),
    /// Not in the answer, without an effect.
    Missing,
}

impl Act {
    /// The effects happen, and the answer says so.
    #[must_use]
    pub fn complete() -> Self {
        Self::new(Effects::All, Reply::Complete)
    }

    /// No effect, and this status: 422 rejects, 503 fails.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self::new(Effects::None, Reply::Http { status, headers: Vec::new(), body: Bytes::new() })
    }

    /// No effect: the event is refused for good (422).
    #[must_use]
    pub fn reject() -> Self {
        Self::status(422)
    }

    /// No effect, and 200 with this body, for example `{"status":"RETRY"}`.
    pub fn body(body: impl Into<Bytes>) -> Self {
        Self::new(Effects::None, Reply::Http { status: 200, headers: Vec::new(), body: body.into() })
    }

    /// No effect and no answer.
    #[must_use]
    pub fn hang() -> Self {
        Self::new(Effects::None, Reply::Hang)
    }

    /// The effects happen, and no answer says so: the time-out after the effect.
    #[must_use]
    pub fn hang_after_effect() -> Self {
        Self::new(Effects::All, Reply::Hang)
    }

    /// The effects happen, and the connection ends without an answer.
    #[must_use]
    pub fn disconnect_after_effect() -> Self {
        Self::new(Effects::All, Reply::Disconnect)
    }

    /// No effect, and the connection ends without an answer.
    #[must_use]
    pub fn disconnect() -> Self {
        Self::new(Effects::None, Reply::Disconnect)
    }

    /// No effect, and something that is not HTTP.
    #[must_use]
    pub fn garbage() -> Self {
        Self::new(Effects::None, Reply::Raw(Bytes::from_static(b"\x00\xffthis is not HTTP\r\n\r\n\x01\x02")))
    }

    /// No effect, and 200 with a body of that many bytes.
    #[must_use]
    pub fn too_long(bytes: usize) -> Self {
        Self::body(vec![b'x'; bytes])
    }

    /// One verdict for each event of a batch, with effects for the successes.
    #[must_use]
    pub fn each(request: &Request, mut verdict: impl FnMut(&Event) -> Verdict) -> Self {
        let verdicts: Vec<_> = request.events.iter().map(|event| (event.id.clone(), verdict(event))).collect();
        let effects = verdicts.iter().map(|(_, v)| *v == Verdict::Success).collect();
        let results: Vec<_> = verdicts
            .into_iter()
            .filter_map(|(id, verdict)| {
                let status = match verdict {
                    Verdict::Success => "SUCCESS".into(),
                    Verdict::Retry => "RETRY".into(),
                    Verdict::Drop => "DROP".into(),
                    Verdict::Word(word) => word,
                    Verdict::Missing => return None,
                };
                Some(json!({"id": id, "status": status}))
            })
            .collect();
        let body = json!({"results": results}).to_string();
        Self { effects: Effects::Of(effects), ..Self::body(body) }
    }

    /// With a header in an HTTP answer, for example `retry-after`.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Reply::Http { headers, .. } = &mut self.reply {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// With all effects, whatever the answer.
    #[must_use]
    pub fn with_effect(mut self) -> Self {
        self.effects = Effects::All;
        self
    }

    /// After that much work.
    #[must_use]
    pub fn after(mut self, work: Duration) -> Self {
        self.before = work;
        self
    }

    fn new(effects: Effects, reply: Reply) -> Self {
        Self { effects, reply, before: Duration::ZERO, after: Duration::ZERO }
    }
}

//! Decides how the ledger app runs in a pod: each effect goes to the harness's ledger before the answer, and the harness tells it how
//! to behave and when to die. I/O.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::protocol::{MODE_HEADER, Mode, ToApp, What};
use super::reporter::Reporter;
use crate::app::{Act, App, Effects, Event, Listen, Request, behave};
use crate::ledger::Ledger;

/// Work of so many milliseconds is reported when it begins.
const LONG: u64 = 1_000;

/// What the app is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it listens for events.
    pub listen: Listen,
    /// `host:port` of the harness's ledger.
    pub ledger: String,
    /// Name of its pod.
    pub pod: String,
    /// Port of the liveness probe, if there is one.
    pub live_port: Option<u16>,
    /// Print each event.
    pub print: bool,
}

/// Runs until SIGTERM, at which it ends at once: what it had not finished is lost.
///
/// # Errors
/// It can't listen.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    let (orders, mut inbox) = mpsc::unbounded_channel();
    let reporter = Reporter::start(settings.ledger, settings.pod, orders);
    let (mode, live) = (Arc::new(RwLock::new(Mode::default())), Arc::new(AtomicBool::new(true)));
    if let Some(port) = settings.live_port {
        let listener = TcpListener::bind(("0.0.0.0", port)).await.context("the liveness probe's port")?;
        tokio::spawn(answer_probes(listener, Arc::clone(&live)));
    }
    // The first order says how to behave: before it, no event may come.
    reporter.report(What::Started).await?;
    let behaviour = behave({
        let (mode, reporter) = (Arc::clone(&mode), reporter.clone());
        move |request| {
            let (mode, reporter) = (*mode.read().unwrap(), reporter.clone());
            async move {
                if settings.print {
                    print(&request);
                }
                act(&request, mode, &reporter).await
            }
        }
    });
    let mut app = App::stopped(settings.listen, behaviour, Ledger::new());
    app.keep_nothing();
    let mut listening = false;
    loop {
        tokio::select! {
            _ = terminated.recv() => return reporter.report(What::Terminated).await,
            order = inbox.recv() => match order.context("the reporter is gone")? {
                ToApp::Kept(_) => {}
                ToApp::Behave(wanted) => *mode.write().unwrap() = wanted,
                ToApp::Die => kill(std::process::id())?,
                ToApp::KillSidecar => kill(find("sidecar")?)?,
                ToApp::Live(wanted) => live.store(wanted, Ordering::Relaxed),
            },
        }
        if !listening {
            app.listen()?;
            listening = true;
        }
    }
}

/// What takes effect is the ledger's: the app itself keeps nothing.
async fn act(request: &Request, mode: Mode, reporter: &Reporter) -> Act {
    let own = request.event().attribute(&format!("kafka-header-{MODE_HEADER}")).and_then(|text| text.parse().ok());
    let mode = own.unwrap_or(mode);
    match mode {
        Mode::Complete => {}
        Mode::Work(time) => {
            let (event, attempt) = (request.event().event.clone(), request.event().attempt);
            if time >= LONG && reporter.report(What::Begun { event, attempt }).await.is_err() {
                return Act::status(503);
            }
            tokio::time::sleep(Duration::from_millis(time)).await;
        }
        Mode::Status(status) => return Act::status(status),
        Mode::Hang => return Act::hang(),
    }
    let effects = request.events.iter().map(|event| event.effect(0)).collect();
    match reporter.report(What::Effects(effects)).await {
        Ok(()) => Act { effects: Effects::None, ..Act::complete() },
        Err(_) => Act::status(503),
    }
}

/// One line for each event, for people who read the pod's log.
#[allow(clippy::print_stdout, reason = "that is what it is for")]
pub fn print(request: &Request) {
    for event in &request.events {
        let Event { topic, partition, offset, attempt, protection, event, .. } = event;
        println!("{topic}/{partition}@{offset} attempt {attempt}, protection {protection}: {event}");
    }
}

fn kill(process: u32) -> anyhow::Result<()> {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw).context("a process id")?;
    Ok(kill_process(pid, Signal::KILL)?)
}

/// A process that this pod runs, by the name of its program.
fn find(program: &str) -> anyhow::Result<u32> {
    let mut found = std::fs::read_dir("/proc")?.flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let name = std::fs::read_to_string(PathBuf::from("/proc").join(entry.file_name()).join("comm")).ok()?;
        (name.trim() == program).then_some(pid)
    });
    found.next().with_context(|| format!("no process `{program}`: does the pod share its process namespace?"))
}

async fn answer_probes(listener: TcpListener, live: Arc<AtomicBool>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let status = if live.load(Ordering::Relaxed) { "200 OK" } else { "503 Service Unavailable" };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        let mut request = [0; 1024];
        // A probe that went away has its answer.
        let _ = stream.read(&mut request).await;
        let _ = stream.write_all(answer.as_bytes()).await;
    }
}

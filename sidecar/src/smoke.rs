//! Decides nothing: the two sides of the chart's test. `app` publishes one event and is the app that takes it, `wait` asks that app
//! until it has it. I/O.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::args::{SmokeCommand, WaitArgs, exit};

mod app;

/// Between two questions to the app.
const PAUSE: Duration = Duration::from_millis(500);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(5);

/// Does what is asked. The code is 69 where the event is not delivered in time.
#[must_use]
pub fn run(command: &SmokeCommand) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return crate::args::tell(&error, exit::INTERNAL),
    };
    let ended = match command {
        SmokeCommand::App(args) => runtime.block_on(app::run(args)),
        SmokeCommand::Wait(args) => runtime.block_on(wait(args)),
    };
    // The client of Kafka may still wait for a broker.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr().lock(), "sidecar: {error:#}");
            ExitCode::from(exit::UNAVAILABLE)
        }
    }
}

/// Asks the app until it has its event, and prints how it came.
async fn wait(args: &WaitArgs) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(args.timeout);
    loop {
        let asked = timeout(ANSWER, ask(&args.app)).await.unwrap_or_else(|_| bail!("no answer within {ANSWER:?}"));
        match asked {
            Ok(said) => {
                let _ = writeln!(std::io::stdout().lock(), "{}", said.trim_end());
                return Ok(());
            }
            Err(error) if Instant::now() >= until => {
                return Err(error).with_context(|| {
                    format!("no event was delivered within {} s, by what {} says", args.timeout, args.app)
                });
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// What the app says once it has its event.
async fn ask(app: &str) -> Result<String> {
    let stream = TcpStream::connect(app).await.with_context(|| format!("cannot reach {app}"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get("/").header("host", app).body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await?;
    let code = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    connection.abort();
    let said = String::from_utf8_lossy(&body).into_owned();
    ensure!(code.is_success(), "{}", said.trim_end());
    Ok(said)
}

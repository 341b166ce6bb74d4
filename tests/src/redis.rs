//! Starts, stops, freezes and kills real `redis-server` processes on free ports of loopback
//! (or where pods reach them: [`host`]). Does process and network I/O.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use redis::{FromRedisValue, Value};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::port::host;

mod sentinel;

pub use sentinel::RedisSentinel;

/// How long a server may take to start, or a condition to come true.
const PATIENCE: Duration = Duration::from_secs(30);
/// Folder of the append-only file, where there is one.
const APPEND_ONLY: &str = "appendonlydir";
/// A free port can be taken by somebody else before the server binds it.
const PORT_ATTEMPTS: usize = 5;

/// One `redis-server` process. Killed when dropped.
#[derive(Debug)]
pub struct RedisServer {
    dir: TempDir,
    port: u16,
    tls_port: Option<u16>,
    args: Vec<String>,
    child: Option<Child>,
}

impl RedisServer {
    /// A server with nothing set.
    ///
    /// # Errors
    /// Where `redis-server` is not installed, or doesn't start.
    pub fn start() -> Result<Self> {
        Self::with(&[])
    }

    /// A server with these options (`--maxmemory 1mb` as `["--maxmemory", "1mb"]`).
    ///
    /// # Errors
    /// As [`RedisServer::start`].
    pub fn with(options: &[&str]) -> Result<Self> {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Self::launch(options, None)
    }

    /// A server that also listens with TLS (`rediss_url`), and asks its clients for a certificate there.
    ///
    /// # Errors
    /// As [`RedisServer::start`].
    pub fn with_tls(certificates: &Certificates, options: &[&str]) -> Result<Self> {
        let mut args: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        for (option, path) in [
            ("--tls-cert-file", &certificates.server_cert),
            ("--tls-key-file", &certificates.server_key),
            ("--tls-ca-cert-file", &certificates.ca),
        ] {
            args.extend([option.to_owned(), path.display().to_string()]);
        }
        Self::launch(args, Some(()))
    }

    fn launch(args: Vec<String>, tls: Option<()>) -> Result<Self> {
        let mut last = None;
        for _ in 0..PORT_ATTEMPTS {
            let (port, tls_port) = (free_port()?, tls.map(|()| free_port()).transpose()?);
            let mut server = Self { dir: tempfile::tempdir()?, port, tls_port, args: args.clone(), child: None };
            match server.spawn() {
                Ok(()) => return Ok(server),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no attempt was made")?)
    }

    fn spawn(&mut self) -> Result<()> {
        let mut command = Command::new(program("redis-server", "redis-server")?);
        command.args(["--bind", &host().to_string(), "--protected-mode", "no", "--port", &self.port.to_string()]);
        command.args(["--save", "", "--appendonly", "no"]);
        command.args(["--dir", &self.dir.path().display().to_string(), "--logfile", "redis.log"]);
        if let Some(port) = self.tls_port {
            command.args(["--tls-port", &port.to_string()]);
        }
        let child = command.args(&self.args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.child = Some(child.context("start redis-server")?);
        self.wait_until_up()
    }

    fn wait_until_up(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                bail!("redis-server ended with {status}: {}", self.log());
            }
            if self.command::<Value>(&["PING"]).is_ok() {
                return Ok(());
            }
            ensure!(started.elapsed() < PATIENCE, "redis-server did not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("redis.log")).unwrap_or_default()
    }

    /// Its port without TLS.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `redis://127.0.0.1:<port>`, or with the address where pods reach it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}:{}", host(), self.port)
    }

    /// `rediss://localhost:<tls port>`.
    ///
    /// # Errors
    /// Where it was started without TLS.
    pub fn rediss_url(&self) -> Result<String> {
        Ok(format!("rediss://localhost:{}", self.tls_port.context("this redis-server has no TLS port")?))
    }

    /// Runs one command as the default user, over a connection of its own.
    ///
    /// # Errors
    /// The server's error, or no answer.
    pub fn command<T: FromRedisValue>(&self, args: &[&str]) -> Result<T> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(2))?;
        connection.set_read_timeout(Some(Duration::from_secs(10)))?;
        let (name, rest) = args.split_first().context("a command has a name")?;
        let value = redis::cmd(name).arg(rest).query::<Value>(&mut connection);
        Ok(redis::from_redis_value(value.with_context(|| format!("{args:?}"))?)?)
    }

    /// Waits until a command's answer, as text, contains `text`.
    ///
    /// # Errors
    /// Where it doesn't in 30 s.
    pub fn wait_for(&self, args: &[&str], text: &str) -> Result<()> {
        wait_until(&format!("{args:?} to say {text}"), || {
            Ok(self.command::<Value>(args).is_ok_and(|value| render(&value).contains(text)))
        })
    }

    /// Stops the process without ending it (SIGSTOP): it takes connections and answers nothing.
    ///
    /// # Errors
    /// Where it doesn't run.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on after [`RedisServer::freeze`].
    ///
    /// # Errors
    /// Where it doesn't run.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("redis-server doesn't run")?;
        kill_process(Pid::from_child(child), signal).context("signal redis-server")
    }

    /// Ends the process at once (SIGKILL).
    ///
    /// # Errors
    /// Where it can't be waited for.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Starts it again on the same port, empty.
    ///
    /// # Errors
    /// As [`RedisServer::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        self.spawn()
    }

    /// Copies what it has written to its append-only file so far, to [`RedisServer::restore`] it later. It must have been started with one.
    ///
    /// # Errors
    /// The files can't be copied.
    pub fn snapshot(&self) -> Result<TempDir> {
        let copy = tempfile::tempdir()?;
        for file in std::fs::read_dir(self.dir.path().join(APPEND_ONLY)).context("it has no append-only file")? {
            let file = file?;
            std::fs::copy(file.path(), copy.path().join(file.file_name()))?;
        }
        Ok(copy)
    }

    /// Kills it, and starts it again with what it had at a snapshot: as a replica that was behind takes a master's place.
    ///
    /// # Errors
    /// As [`RedisServer::start`].
    pub fn restore(&mut self, snapshot: &TempDir) -> Result<()> {
        self.kill()?;
        let files = self.dir.path().join(APPEND_ONLY);
        std::fs::remove_dir_all(&files)?;
        std::fs::create_dir(&files)?;
        for file in std::fs::read_dir(snapshot.path())? {
            let file = file?;
            std::fs::copy(file.path(), files.join(file.file_name()))?;
        }
        self.spawn()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // Nobody is left to tell; the process is gone either way.
        let _ = self.kill();
    }
}

fn render(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Array(values) => values.iter().map(|value| render(value) + " ").collect(),
        other => format!("{other:?}"),
    }
}

/// Three masters that serve all slots.
#[derive(Debug)]
pub struct RedisCluster {
    /// The nodes.
    pub nodes: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts and joins the nodes, and waits until each of them serves.
    ///
    /// # Errors
    /// As [`RedisServer::start`].
    pub fn start() -> Result<Self> {
        let mut nodes = Vec::new();
        for _ in 0..3 {
            let bus = free_port()?.to_string();
            let options =
                ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-port", bus.as_str()];
            nodes.push((RedisServer::with(&options)?, bus));
        }
        for ((node, bus), (first, last)) in nodes.iter().zip([("0", "5460"), ("5461", "10922"), ("10923", "16383")]) {
            node.command::<Value>(&["CLUSTER", "ADDSLOTSRANGE", first, last])?;
            // Nodes that join with equal epochs settle later whose word counts, and moved slots can move back meanwhile.
            node.command::<Value>(&["CLUSTER", "SET-CONFIG-EPOCH", bus])?;
        }
        for (node, bus) in &nodes[1..] {
            let port = node.port().to_string();
            nodes[0].0.command::<Value>(&["CLUSTER", "MEET", "127.0.0.1", &port, bus])?;
        }
        let nodes: Vec<_> = nodes.into_iter().map(|(node, _)| node).collect();
        for node in &nodes {
            node.wait_for(&["CLUSTER", "INFO"], "cluster_state:ok")?;
        }
        Ok(Self { nodes })
    }

    /// The index of the node that serves a key.
    ///
    /// # Errors
    /// Where none does.
    pub fn owner(&self, key: &str) -> Result<usize> {
        // A node answers for its own slots, and redirects for others.
        let serves = |node: &RedisServer| node.command::<Value>(&["EXISTS", key]).is_ok();
        self.nodes.iter().position(serves).with_context(|| format!("no node serves {key}"))
    }

    /// The cluster's own name of a node.
    ///
    /// # Errors
    /// Where the node doesn't answer.
    pub fn id(&self, index: usize) -> Result<String> {
        self.nodes[index].command(&["CLUSTER", "MYID"])
    }
}

/// An authority, and certificates it signed: for a server on localhost, and for a client.
#[derive(Debug)]
pub struct Certificates {
    _dir: TempDir,
    /// The authority's certificate.
    pub ca: PathBuf,
    /// The server's certificate, for `localhost` and 127.0.0.1.
    pub server_cert: PathBuf,
    /// The server's key.
    pub server_key: PathBuf,
    /// The client's certificate.
    pub client_cert: PathBuf,
    /// The client's key.
    pub client_key: PathBuf,
}

impl Certificates {
    /// Makes new ones with the `openssl` command.
    ///
    /// # Errors
    /// Where it is not installed or fails.
    pub fn generate() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n")?;
        let new_key = "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        openssl(dir.path(), &format!("{new_key} -x509 -days 2 -keyout ca.key -out ca.pem -subj /CN=test-authority"))?;
        for name in ["server", "client"] {
            openssl(dir.path(), &format!("{new_key} -keyout {name}.key -out {name}.csr -subj /CN={name}"))?;
            let sign = "-CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names";
            openssl(dir.path(), &format!("x509 -req -in {name}.csr {sign} -out {name}.pem"))?;
        }
        let path = |name: &str| dir.path().join(name);
        Ok(Self {
            ca: path("ca.pem"),
            server_cert: path("server.pem"),
            server_key: path("server.key"),
            client_cert: path("client.pem"),
            client_key: path("client.key"),
            _dir: dir,
        })
    }
}

fn openssl(dir: &Path, args: &str) -> Result<()> {
    let mut command = Command::new(program("openssl", "openssl")?);
    let output = command.args(args.split(' ')).current_dir(dir).stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The path of a program, or which Debian package has it.
fn program(name: &str, package: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&path).map(|dir| dir.join(name));
    found.find(|file| file.is_file()).with_context(|| format!("{name} is not in PATH: apt-get install {package}"))
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((host(), 0))?.local_addr()?.port())
}

/// Asks again until `condition` holds.
///
/// # Errors
/// Its own, or that it did not hold within 30 s.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    while !condition()? {
        ensure!(started.elapsed() < PATIENCE, "waited 30 s for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

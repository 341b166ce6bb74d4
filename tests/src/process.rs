//! Decides how a test starts, signals and ends other programs: each dies with the test, and its output is kept. I/O.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait::eventually;

/// A program that was started by a test. Dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    status: Option<ExitStatus>,
}

/// What to start.
#[derive(Debug)]
pub struct Program {
    name: String,
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    user: Option<(u32, u32)>,
}

impl Program {
    /// A program by path or by name on PATH; `name` is what failures call it.
    pub fn new(name: impl Into<String>, program: impl Into<OsString>) -> Self {
        Self { name: name.into(), program: program.into(), args: Vec::new(), env: Vec::new(), user: None }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Sets a variable of its environment, beside ours.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Runs it as another user and group, by number, without further groups. Needs root.
    #[must_use]
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.user = Some((uid, gid));
        self
    }

    /// Starts it, with standard output and error in `<dir>/<name>.log`, or `<name>.2.log` and so on for a later one.
    ///
    /// # Errors
    /// The program or `setpriv` does not exist, or the log cannot be written.
    pub fn start(mut self, dir: &Path) -> anyhow::Result<Process> {
        let log = free_log(dir, &self.name);
        let out = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        // `setpriv` (util-linux) asks the kernel to kill the program when we are gone, however we went.
        let mut command = Command::new("setpriv");
        command.arg("--pdeathsig").arg("KILL");
        if let Some((uid, gid)) = self.user {
            self.program = within_reach(&self.program, dir)?;
            command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}")).arg("--clear-groups");
        }
        command.arg("--").arg(&self.program).args(&self.args).envs(self.env);
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let child = spawn(command).with_context(|| {
            format!("cannot start {}: is `setpriv` (Debian package util-linux) there? `make setup` checks", self.name)
        })?;
        Ok(Process { name: self.name, child, log, status: None })
    }
}

/// Starts a command from a thread that lives as long as we do.
///
/// "The parent died" means for the kernel that the *thread* which started the child ended. Test threads end with their test,
/// and a child shared by all tests would end with the first.
fn spawn(command: Command) -> std::io::Result<Child> {
    type Order = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in inbox {
                // Nobody waits for the reply only when the asking thread died: then the child is killed by its drop there.
                let _ = reply.send(command.spawn());
            }
        });
        orders
    });
    let (reply, child) = mpsc::channel();
    let gone = || std::io::Error::other("the thread that starts programs is gone");
    spawner.send((command, reply)).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}

/// A copy of a program of ours that another user can reach: the build folder may lie in a home that is closed to others.
fn within_reach(program: &OsStr, dir: &Path) -> anyhow::Result<OsString> {
    let program = Path::new(program);
    let Some(name) = program.file_name().filter(|_| program.is_absolute()) else { return Ok(program.into()) };
    let copy = dir.join(name);
    if !copy.exists() {
        std::fs::copy(program, &copy).with_context(|| format!("cannot copy {}", program.display()))?;
    }
    Ok(copy.into())
}

fn free_log(dir: &Path, name: &str) -> PathBuf {
    let first = dir.join(format!("{name}.log"));
    if !first.exists() {
        return first;
    }
    (2..).map(|n| dir.join(format!("{name}.{n}.log"))).find(|path| !path.exists()).unwrap_or(first)
}

impl Process {
    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The name given to it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that holds its output.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Its output so far.
    #[must_use]
    pub fn log(&self) -> String {
        read_log(&self.log)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        if self.status.is_some() {
            bail!("{} has ended: no signal can be sent", self.name);
        }
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).with_context(|| format!("cannot send {signal:?} to {} (pid {pid:?})", self.name))
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// The kernel does not know it.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait().with_context(|| format!("cannot ask after {}", self.name))?;
        }
        Ok(self.status)
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// It still runs at the deadline.
    pub async fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        eventually(what, deadline, async || match self.ended() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("it runs".to_owned()),
            Err(e) => Err(format!("{e:#}")),
        })
        .await
    }

    /// Kills it (SIGKILL) and waits until it is gone. Nothing happens if it has ended.
    pub fn kill(&mut self) {
        if matches!(self.ended(), Ok(None)) {
            // The only failure left is that it ended between the two lines.
            let _ = self.child.kill();
            self.status = self.child.wait().ok();
        }
    }

    /// Fails when it has ended, with the end of its output.
    ///
    /// # Errors
    /// It has ended.
    pub fn must_run(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.ended()? {
            bail!("{} ended ({}); its output:\n{}", self.name, how(status), tail(&self.log(), 40));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An exit status in words: `exit code 64`, `signal 9`.
#[must_use]
pub fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// The last lines of a text.
#[must_use]
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    let skipped = all.len().saturating_sub(lines);
    let shown = all[skipped..].join("\n");
    if skipped == 0 { shown } else { format!("… {skipped} lines before\n{shown}") }
}

/// A log's text, also where it is not UTF-8.
#[must_use]
pub fn read_log(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// A program that this workspace builds, next to the running test.
///
/// # Errors
/// It is not built.
pub fn built(name: &str) -> anyhow::Result<PathBuf> {
    let me = std::env::current_exe()?;
    // Tests are in `target/<profile>/deps`, binaries in `target/<profile>`.
    let found = me.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file());
    let how = if name == "sidecar" {
        "--bin sidecar".to_owned()
    } else {
        format!("-p idempotent-consumer-tests --bin {name}")
    };
    found.with_context(|| format!("`{name}` is not built: run `cargo build --release {how}`"))
}

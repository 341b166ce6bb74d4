//! Decides what a process has used: CPU time and memory, as the kernel counts them. I/O: it reads `/proc`.

use anyhow::Context;

/// Linux counts CPU time in hundredths of a second, whatever its own clock does.
const TICK: u64 = 10_000;

/// CPU time that a process and its threads have used, in microseconds.
pub(crate) fn cpu(pid: u32) -> anyhow::Result<u64> {
    let text =
        std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} is gone"))?;
    // The name in parentheses may hold anything; what follows are numbers, the state first.
    let (_, fields) = text.rsplit_once(')').context("/proc/PID/stat has no name")?;
    let field = |n: usize| fields.split_ascii_whitespace().nth(n).and_then(|f| f.parse::<u64>().ok());
    let ticks = field(11).zip(field(12)).map(|(user, system)| user + system).context("/proc/PID/stat is too short")?;
    Ok(ticks * TICK)
}

/// Memory that a process holds now, in KiB.
pub(crate) fn resident(pid: u32) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    line.trim().trim_end_matches(" kB").trim().parse().context("VmRSS")
}

//! Decides at which address and port a server of ours listens. I/O: it binds and lets go.

use std::net::{IpAddr, Ipv4Addr, TcpListener};

use anyhow::{Context, bail};
use rand::RngExt;

/// Where our servers listen: on loopback, or where `E2E_HOST` says, an address of this machine that pods reach.
///
/// # Panics
/// `E2E_HOST` is no address.
#[must_use]
pub fn host() -> IpAddr {
    match std::env::var("E2E_HOST") {
        Ok(host) if !host.is_empty() => host.parse().expect("E2E_HOST is an IP address of this machine"),
        _ => Ipv4Addr::LOCALHOST.into(),
    }
}

/// A port of ours ([`host`]) that is free now and that the kernel will not hand out by itself.
///
/// Ports for outgoing connections (the ephemeral range) would not do: while a server of ours is down, a client that keeps
/// trying its port can be given that very port as its own and connect to itself, and the server then cannot come back.
///
/// # Errors
/// None was found.
pub fn free() -> anyhow::Result<u16> {
    let first_ephemeral = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse::<u16>().ok())
        .unwrap_or(32_768);
    let lowest = 10_000;
    if first_ephemeral <= lowest {
        // No room below: the kernel's choice, with the risk named above.
        return Ok(TcpListener::bind((host(), 0)).context("no free port")?.local_addr()?.port());
    }
    for _ in 0..1_000 {
        let port = rand::rng().random_range(lowest..first_ephemeral);
        if TcpListener::bind((host(), port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between {lowest} and {first_ephemeral} in 1000 tries")
}

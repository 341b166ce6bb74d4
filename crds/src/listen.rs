//! Decides where to listen on a machine that has no IPv6. Pure.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where to listen instead, after an error: `[::]` means every address of either family, and where the kernel has no IPv6 those are the
/// IPv4 ones. `None` where that would not help.
#[must_use]
pub fn without_ipv6(address: SocketAddr, error: &io::Error) -> Option<SocketAddr> {
    let every = address.is_ipv6() && address.ip().is_unspecified();
    let of_port = matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied);
    (every && !of_port).then(|| SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_every_address_is_every_ipv4_address_where_there_is_no_ipv6() {
        let unsupported = io::Error::from_raw_os_error(97);
        let instead = |address: &str, error: &io::Error| without_ipv6(address.parse().unwrap(), error);
        assert_eq!(instead("[::]:80", &unsupported), Some("0.0.0.0:80".parse().unwrap()));
        assert_eq!(instead("[::]:80", &io::ErrorKind::AddrNotAvailable.into()), Some("0.0.0.0:80".parse().unwrap()));
        assert_eq!(instead("[::]:80", &io::ErrorKind::AddrInUse.into()), None);
        assert_eq!(instead("[::1]:80", &unsupported), None);
        assert_eq!(instead("0.0.0.0:80", &unsupported), None);
    }
}

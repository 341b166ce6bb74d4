//! Decides where to listen on a machine that has no IPv6. Pure: who calls it brings the call that binds.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Listens where the address says, or as near to it as a machine without IPv6 can.
///
/// # Errors
/// The address is taken, or not this machine's.
pub async fn listen<L, F>(address: SocketAddr, bind: impl Fn(SocketAddr) -> F) -> io::Result<L>
where
    F: Future<Output = io::Result<L>>,
{
    match bind(address).await {
        Err(error) => match without_ipv6(address, &error) {
            Some(instead) => bind(instead).await.map_err(|_| error),
            None => Err(error),
        },
        bound => bound,
    }
}

/// Where to listen instead, after an error: `[::]` means every address of either family, and where the kernel has no IPv6 those are the
/// IPv4 ones. `None` where that would not help.
fn without_ipv6(address: SocketAddr, error: &io::Error) -> Option<SocketAddr> {
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

//! Decides how servers outside of the cluster get names in a namespace. Pure.

use std::net::SocketAddr;

use serde_json::{Value, json};

/// A name and port in the namespace for a server outside of the cluster.
#[must_use]
pub fn service(name: &str, port: u16, address: SocketAddr) -> [Value; 2] {
    [
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {"ports": [{"port": port, "targetPort": address.port()}]},
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "ports": [{"port": address.port()}],
            "endpoints": [{"addresses": [address.ip().to_string()]}],
        }),
    ]
}

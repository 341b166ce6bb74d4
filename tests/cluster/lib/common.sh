# shellcheck shell=bash
# Names, folders and messages that every script here shares. Sourced, not run.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=$(cd "$here/../.." && pwd)/.cache/cluster

# Several nodes run side by side: each has its name, its folder and its namespaces.
CLUSTER=${CLUSTER:-default}
state=$cache/state/$CLUSTER
bin=$cache/bin

# The node sees its folder here, in a mount namespace of its own: so the files in etc/ are the same for every node, and the
# paths of unix sockets stay under their 107 characters. Nothing is mounted there outside of the namespace.
home=/run/idempotency-node

address=10.99.0.1
node_version=$(sed -n 's/^\tk8s.io\/kubernetes //p' "$here/go.mod")

say() { echo "cluster: $*" >&2; }

die() {
  say "$@"
  exit 1
}

need_root() {
  [ "$(id -u)" = 0 ] || die "needs root: namespaces, cgroups and mounts"
  [[ $CLUSTER =~ ^[a-z0-9-]+$ ]] || die "CLUSTER is '$CLUSTER': take lower-case letters, digits and dashes"
}

# One of up, down and image at a time for a node. What they start must not inherit the lock: it gets 9>&-.
lock() {
  mkdir -p "$cache/state"
  exec 9>"$cache/state/$CLUSTER.lock"
  flock 9
}

# shellcheck shell=bash
# The node's namespaces: one for the network, so that addresses, rules and links vanish with it and nothing leaves the
# machine; one for mounts, so that the paths which kubelet and containerd have built in are the node's own, and every mount
# vanishes with it. A sleeping process holds both. Sourced, not run.

# Built into the programs, with no setting to move them: the sockets of containerd's shims; the device plugins' socket, which a
# kubelet takes from another; what CNI remembers; the links to the logs.
own_folders=(/run/containerd /var/lib/kubelet /var/lib/cni /var/log/containers)

# What a kubelet writes at its start, for the whole machine. In the node these are plain files with the values it wants.
own_settings=(vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1
  kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000)

holder_start() {
  setsid unshare --net --mount --propagation private -- sleep infinity </dev/null >/dev/null 2>&1 9>&- &
  record holder $!
  wait_for 5 holder "the node has its namespaces" holder_is_apart
  cgroup_make
  holder_mounts
  holder_links
}

holder_is_apart() {
  local pid
  pid=$(pid_of holder)
  [ "$(readlink /proc/self/ns/mnt)" != "$(readlink "/proc/$pid/ns/mnt")" ] &&
    [ "$(readlink /proc/self/ns/net)" != "$(readlink "/proc/$pid/ns/net")" ] &&
    # unshare has become sleep: the propagation is set.
    [ "$(cat "/proc/$pid/comm")" = sleep ]
}

# A mount needs a folder to lie on. Those that are missing are noted, and removed when the node goes.
holder_mount_point() {
  [ -d "$1" ] && return
  mkdir -p "$1"
  echo "$1" >>"$state/mount-points"
}

holder_mounts() {
  local folder setting
  holder_mount_point "$home"
  in_node mount --bind "$state" "$home"
  for folder in "${own_folders[@]}"; do
    holder_mount_point "$folder"
    mkdir -p "$state/own$folder"
    in_node mount --bind "$state/own$folder" "$folder"
  done
  for setting in "${own_settings[@]}"; do
    [ -e "/proc/sys/${setting%=*}" ] || continue
    mkdir -p "$state/own/sys/$(dirname "$setting")"
    echo "${setting#*=}" >"$state/own/sys/${setting%=*}"
    in_node mount --bind "$state/own/sys/${setting%=*}" "/proc/sys/${setting%=*}"
  done
  # The machine's name servers cannot be reached from here; the cluster's can, by everything that runs in the node.
  if [ -e /etc/resolv.conf ]; then
    in_node mount --bind "$home/etc/resolv.conf" /etc/resolv.conf
  fi
}

# The API server wants an address that is not loopback to advertise. A bridge with nothing on it has one, and needs no driver
# beyond those that CNI needs.
holder_links() {
  in_node ip link set lo up
  in_node ip link add k8s0 type bridge
  in_node ip address add "$address/24" dev k8s0
  in_node ip link set k8s0 up
  # kube-proxy sends a Service's address on to a pod, but only once the kernel has found some route for it.
  in_node ip route add 10.96.0.0/16 dev k8s0 src "$address"
  # What is for an address that nobody has fails at once, not after a time-out.
  in_node ip route add unreachable default
  in_node sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
}

# Removes the mount points that were made for us, unless another node has taken to them: removing the folder would take its mount away.
holder_remove_mount_points() {
  local folder
  [ -e "$state/mount-points" ] || return 0
  while read -r folder; do
    grep --quiet --no-messages " $folder " /proc/[0-9]*/mountinfo || rmdir "$folder" 2>/dev/null || true
  done <"$state/mount-points"
}

# shellcheck shell=bash
# The node's own cgroup: `node` below it has the programs, `kubepods` the containers. It says what belongs to the node
# without a look at names or pids, also when everything else is lost. Sourced, not run.

# One line per hierarchy: several with cgroup v1, one with v2.
cgroup_hierarchies() { findmnt --noheadings --raw --types cgroup,cgroup2 --output TARGET; }

# The hierarchy whose membership is looked at. With v1 the programs join this one alone: in the others they stay with
# whoever started them, and within his limits.
cgroup_tracked() {
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then echo /sys/fs/cgroup; else echo /sys/fs/cgroup/pids; fi
}

# Named after the holder, since nodes of other checkouts may have our name.
cgroup_name() { echo "idempotency-$(pid_of holder)"; }

cgroup_make() {
  local hierarchy name controllers
  name=$(cgroup_name)
  for hierarchy in $(cgroup_hierarchies); do
    mkdir "$hierarchy/$name"
  done
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    # v2: a controller works in a cgroup once all those above hand it down.
    controllers=$(sed 's/[^ ]*/+&/g' /sys/fs/cgroup/cgroup.controllers)
    echo "$controllers" >/sys/fs/cgroup/cgroup.subtree_control
    echo "$controllers" >"/sys/fs/cgroup/$name/cgroup.subtree_control"
  fi
  mkdir "$(cgroup_tracked)/$name/node"
}

# cgroup_enter PART: puts the calling subshell, and what it becomes, into the cgroup.
cgroup_enter() { echo "$BASHPID" >"$(cgroup_tracked)/$(cgroup_name)/$1/cgroup.procs"; }

cgroup_pids() {
  find "$(cgroup_tracked)/$(cgroup_name)/$1" -name cgroup.procs -exec cat {} + 2>/dev/null || true
}

# cgroup_kill PART: everything in it, until nothing is left.
cgroup_kill() {
  local pids deadline=$((SECONDS + 30))
  while pids=$(cgroup_pids "$1") && [ -n "$pids" ]; do
    [ "$SECONDS" -lt "$deadline" ] || die "these processes do not die: ${pids//$'\n'/ }"
    # shellcheck disable=SC2086 # a list of numbers
    kill -KILL $pids 2>/dev/null || true
    sleep 0.02
  done
}

cgroup_remove() {
  local hierarchy folder deadline=$((SECONDS + 10))
  for hierarchy in $(cgroup_hierarchies); do
    folder=$hierarchy/$(cgroup_name)
    # A cgroup stays busy for a moment after its last process.
    while [ -d "$folder" ] && ! find "$folder" -depth -type d -exec rmdir {} + 2>/dev/null; do
      [ "$SECONDS" -lt "$deadline" ] || die "cannot remove $folder"
      sleep 0.02
    done
  done
}

# shellcheck shell=bash
# What `up` and `down` share: whether the node runs, and taking it down from whatever state it is in. Sourced, not run.

node_is_up() {
  [ -e "$state/ready" ] || return 1
  local name
  for name in holder "${components[@]}"; do
    alive "$name" || {
      say "$name has stopped (the end of its log is in $state/log/$name.log)"
      return 1
    }
  done
}

# Takes down what `up` has started, as much of it as there is, and removes everything but the logs.
node_down() {
  [ -e "$state/pids/holder" ] || return 0
  local name
  rm -f "$state/ready"
  for name in "${components[@]}"; do
    # Containers before their runtime. They are killed through their cgroup, which also works when the runtime doesn't.
    [ "$name" != containerd ] || cgroup_kill kubepods
    stop "$name"
  done
  # What the programs have started, the containers' shims first of all.
  cgroup_kill .
  cgroup_remove
  # With the last process in them the namespaces go, and with those every mount, link, address and rule.
  stop holder
  holder_remove_mount_points
  find "$state" -mindepth 1 -maxdepth 1 ! -name log -exec rm -rf {} +
}

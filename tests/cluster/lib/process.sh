# shellcheck shell=bash
# Starts programs in the node, knows whether they live, waits for them, stops them. A process is its pid and its start
# time, both recorded in state/pids/NAME: a pid alone may be another process by now. Sourced, not run.

# start_time PID: in clock ticks since boot. Fails when there is no such process, or only a zombie that nobody has reaped yet.
start_time() {
  local stat fields
  { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 1
  # The name in parentheses may hold anything; after it the fields are counted from the third.
  read -ra fields <<<"${stat##*) }"
  [ "${fields[0]}" != Z ] || return 1
  echo "${fields[19]}"
}

record() {
  local name=$1 pid=$2 started
  # A program that is gone already is recorded too, so that whoever waits for it says so.
  started=$(start_time "$pid") || started=0
  echo "$pid $started" >"$state/pids/$name"
}

alive() {
  local pid started
  read -r pid started 2>/dev/null <"$state/pids/$1" || return 1
  [ "$(start_time "$pid")" = "$started" ]
}

pid_of() {
  local pid
  read -r pid _ <"$state/pids/$1"
  echo "$pid"
}

# in_node COMMAND...: runs in the node's network and mount namespace, in the root folder.
in_node() {
  local pid
  pid=$(pid_of holder)
  nsenter --net="/proc/$pid/ns/net" --mount="/proc/$pid/ns/mnt" -- "$@"
}

# start NAME COMMAND...: in the node, in the background, with its output in the node's log folder. Each call in the chain
# replaces the one before it, so the pid is the program's. setsid: a Ctrl-C in the terminal is not meant for it.
start() {
  local name=$1 pid
  shift
  pid=$(pid_of holder)
  (
    cgroup_enter node
    exec nsenter --net="/proc/$pid/ns/net" --mount="/proc/$pid/ns/mnt" -- setsid "$@"
  ) </dev/null >"$state/log/$name.log" 2>&1 9>&- &
  record "$name" $!
}

# wait_for SECONDS NAME WHAT CHECK...: returns when the check passes; fails when NAME dies, or the time is over.
wait_for() {
  local deadline=$((SECONDS + $1)) name=$2 what=$3
  shift 3
  until "$@" >/dev/null 2>&1; do
    failing=$name
    alive "$name" || die "$name stopped while waiting until $what"
    [ "$SECONDS" -lt "$deadline" ] || die "gave up waiting until $what"
    sleep 0.05
  done
  failing=
}

# stop NAME: asks, waits for a moment, insists. The state is thrown away, so an orderly end is politeness only.
stop() {
  local name=$1 pid deadline=$((SECONDS + 5))
  if alive "$name"; then
    pid=$(pid_of "$name")
    kill -TERM "$pid" 2>/dev/null || true
    while alive "$name" && [ "$SECONDS" -lt "$deadline" ]; do sleep 0.02; done
    ! alive "$name" || kill -KILL "$pid" 2>/dev/null || true
    while alive "$name"; do sleep 0.02; done
  fi
  rm -f "$state/pids/$name"
}

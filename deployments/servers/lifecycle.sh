# shellcheck shell=bash
# The life of one server, sourced by the script of each. That script sets
#   server             its name, and of its folder in SERVERS_DIR
#   variable           the TEST_ variable that carries its address
#   elsewhere          what to install where there is no apt-get
#   stop_signal        what makes it stop cleanly (default: TERM)
# and defines
#   missing_packages   prints the Debian packages that it lacks, nothing when it can run
#   prepare            fetches and configures: writes port, address and whatever else into $dir
#   run                replaces the shell by the server
#   ready              succeeds once the server does its work
#   forget             (optional) deletes what it keeps outside of $dir
# and calls main "$@" at its end.

: "${SERVERS_DIR:?is set by servers.sh, which is what to call}"
dir=$SERVERS_DIR/${server:?}
: "${variable:?}" "${elsewhere:?}"
stop_signal=TERM

say() { echo "$server: $*" >&2; }
die() { say "$@"; exit 1; }

# born prints when a process started (clock ticks since boot), nothing for a process that is gone or a zombie. With
# it a process id that was given to another program is not taken for the server.
born() {
  local stat fields
  { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 0
  read -ra fields <<<"${stat##*) }" # from the third field on: the second, a name, may hold spaces
  [ "${fields[0]}" = Z ] || echo "${fields[19]}"
}

# alive sets pid and succeeds while the process that we started lives.
alive() {
  local since=
  pid=
  { read -r pid since <"$dir/pid"; } 2>/dev/null || return 1
  [ -n "$since" ] && [ "$(born "$pid")" = "$since" ]
}

# free_port prints a port that nobody listens on: the one of the last start ($1, may be empty), so that the address stays,
# else one of the thousand from $2 on. Each use has a thousand of its own, all below those that Linux gives to outgoing
# connections, so that servers that start at the same time cannot choose the same.
free_port() {
  local port=$1 attempt
  for ((attempt = 0; attempt < 100; attempt++)); do
    if [ -n "$port" ] && ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      echo "$port"
      return
    fi
    port=$(($2 + RANDOM % 1000))
  done
  die "no free port found from $2 on"
}

# kept prints a value that an earlier start has written, or nothing.
kept() { cat "$dir/$1" 2>/dev/null || true; }

# install_packages gets what missing_packages names, where that can be done without a question.
install_packages() {
  local packages root=()
  mapfile -t packages < <(missing_packages)
  [ ${#packages[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || root=(sudo -n)
  if [ "${SERVERS_INSTALL:-yes}" != no ] && command -v apt-get >/dev/null && "${root[@]}" true 2>/dev/null; then
    say "installing ${packages[*]}"
    # One call at a time, for several servers start at once; the lock is closed for what apt-get may start.
    # shellcheck disable=SC2016 # expanded by the inner shell
    flock --close "$SERVERS_DIR/lock" timeout 900 "${root[@]}" env DEBIAN_FRONTEND=noninteractive sh -c \
      'apt-get -q update && apt-get -q install -y --no-install-recommends -o DPkg::Lock::Timeout=120 "$@"' \
      sh "${packages[@]}" >"$dir/install.log" 2>&1 </dev/null || tail -n 15 "$dir/install.log" >&2
    mapfile -t packages < <(missing_packages)
  fi
  [ ${#packages[@]} -eq 0 ] || die "cannot start: apt-get install ${packages[*]} (elsewhere: $elsewhere)," \
    "or set $variable to the address of one that runs"
}

# maven calls Maven with goals and options, one call at a time because its local repository is shared; in $dir, because
# a plugin without a project may leave a folder where it was called. Paths in the options have to be absolute.
maven() {
  say "fetching by Maven, once"
  (cd "$dir" && flock --close "$SERVERS_DIR/lock" timeout 900 mvn -q -B -ntp "$@") >"$dir/fetch.log" 2>&1 </dev/null || {
    tail -n 15 "$dir/fetch.log" >&2
    die "not fetched: see $dir/fetch.log"
  }
}

# java17 succeeds where a Java runs that is new enough for all of the servers; java is its path.
java=${JAVA_HOME:+$JAVA_HOME/bin/}java
java17() {
  local version
  version=$("$java" -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p') || return 1
  [ "${version:-0}" -ge 17 ]
}

start() {
  if ! alive; then
    install_packages
    prepare
    rm -f "$dir/ready"
    [ ! -e "$dir/log" ] || mv -f "$dir/log" "$dir/log.before"
    run >"$dir/log" 2>&1 </dev/null &
    pid=$!
    echo "$pid $(born "$pid")" >"$dir/pid"
  fi
  await
  echo "$variable=$(kept address)"
}

# await waits until the server answers, for 90 s of the clock at most. A server that a start was interrupted at is
# waited for by the next one.
await() {
  local since=$SECONDS
  [ ! -e "$dir/ready" ] || return 0
  until ready >/dev/null 2>&1; do
    if ! alive || [ $((SECONDS - since)) -ge 90 ]; then
      say "the end of $dir/log:"
      tail -n 30 "$dir/log" >&2
      stop
      die "did not become ready in $((SECONDS - since)) s"
    fi
    sleep 0.2
  done
  touch "$dir/ready"
  say "ready in $((SECONDS - since)) s"
}

stop() {
  local since=$SECONDS
  if alive; then
    kill -s "$stop_signal" "$pid"
    while alive; do
      if [ $((SECONDS - since)) -ge 30 ]; then
        say "did not stop in 30 s: killed"
        kill -s KILL "$pid"
      fi
      sleep 0.1
    done
    say "stopped"
  fi
  rm -f "$dir/pid" "$dir/ready"
}

status() {
  if alive; then
    echo "$server: $([ -e "$dir/ready" ] && echo runs || echo starts), $(kept address), process $pid," \
      "$(awk '/^VmRSS/ {print int($2 / 1024)}' "/proc/$pid/status") MB, $dir"
  else
    echo "$server: stopped"
  fi
}

# main does one command of servers.sh. An address that a person has set goes before a server of ours; our own
# address counts as not set, for it comes from our env.
main() {
  local given=${!variable:-}
  mkdir -p "$dir"
  if [ -n "$given" ] && [ "$given" != "$(kept address)" ]; then
    case $1 in
      start) echo "$variable=$given" ;;
      env) printf 'export %s=%q\n' "$variable" "$given" ;;
      status) echo "$server: not ours, $given" ;;
      *) ;;
    esac
    return
  fi
  case $1 in
    # Two starts at once: the second waits, then finds the server running. The lock is not for the server to keep.
    start | stop | clean) exec flock --close --timeout 1200 "$dir/lock" bash "$0" "locked-$1" ;;
    locked-start) start ;;
    locked-stop) stop ;;
    locked-clean)
      stop
      if declare -F forget >/dev/null; then forget; fi
      rm -rf "${dir:?}"
      ;;
    status) status ;;
    env)
      if alive && [ -e "$dir/ready" ]; then printf 'export %s=%q\n' "$variable" "$(kept address)"; fi
      ;;
  esac
}

#!/usr/bin/env bash
# Gets, starts and stops real servers on loopback, for tests and for a person. See README.md beside this file.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
all=(kafka postgres pgbouncer mariadb mongodb schema-registry)

usage() {
  cat <<TEXT
Usage: servers.sh start|stop|status|env|clean [${all[*]}]

  start    get what is missing, start the named servers (default: all), wait until they answer, print their addresses
  stop     stop them; data and downloads stay
  status   print what runs, where, and its memory
  env      print "export TEST_...=..." for those that run: eval "\$(servers.sh env)"
  clean    stop them and delete their data; downloads stay

  SERVERS_DIR      folder of data, logs and downloads (default: .servers in the repository)
  SERVERS_INSTALL  no: never install Debian packages (default: yes, as root or by sudo without a password)
  TEST_KAFKA_BROKERS, TEST_POSTGRES_DSN, TEST_PGBOUNCER_DSN, TEST_MYSQL_DSN, TEST_MONGODB_URI, TEST_SCHEMA_REGISTRY_URL
                   a server whose address is set is used as it is, neither started nor stopped
TEXT
}

command=${1:-}
case $command in
  start | stop | status | env | clean) shift ;;
  -h | --help | help) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac
names=("$@")
[ $# -gt 0 ] || names=("${all[@]}")
for name in "${names[@]}"; do
  [[ " ${all[*]} " == *" $name "* ]] || { echo "servers.sh: no server is called \"$name\": one of ${all[*]}" >&2; exit 2; }
done
[ "$(uname)" = Linux ] || {
  echo "servers.sh: needs Linux: elsewhere start deployments/compose.yaml and set the TEST_ addresses (--help names them)" >&2
  exit 1
}

SERVERS_DIR=${SERVERS_DIR:-$here/../../.servers}
mkdir -p "$SERVERS_DIR"
SERVERS_DIR=$(cd "$SERVERS_DIR" && pwd)
export SERVERS_DIR

# Each server is a process of its own, so that they start at the same time and one that fails stops no other. Job control
# (-m) gives each its own process group: an interrupt then ends what is under way, down to Maven.
set -m
pids=()
trap 'for pid in "${pids[@]}"; do kill -- "-$pid" 2>/dev/null || true; done; exit 130' INT TERM
for name in "${names[@]}"; do
  bash "$here/$name.sh" "$command" &
  pids+=($!)
  [ "$command" = start ] || wait $! # the others in the order of their names
done
failed=0
for pid in "${pids[@]}"; do
  wait "$pid" || failed=1
done
exit "$failed"

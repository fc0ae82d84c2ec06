#!/usr/bin/env bash
# PostgreSQL from Debian's package, with a data folder of its own and every commit on disk (fsync). Called by servers.sh.
#
# The databases have the C locale. For another: CREATE DATABASE x TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'.
# The package makes a cluster of its own when it is installed (port 5432): that one is not touched.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
server=postgres
variable=TEST_POSTGRES_DSN
elsewhere="PostgreSQL 15 or later, with initdb, postgres and psql on the PATH"
# shellcheck source=deployments/servers/lifecycle.sh
source "$here/lifecycle.sh"
stop_signal=INT # The default, TERM, waits until the last client has gone.

# program prints the path of one of PostgreSQL's programs: Debian's are not on the PATH, and the newest version is taken.
program() {
  local found
  found=$(find /usr/lib/postgresql -path "*/bin/$1" 2>/dev/null | sort -V | tail -n 1) || true
  [ -z "$found" ] || { echo "$found"; return; }
  command -v "$1"
}

missing_packages() {
  local name
  for name in initdb postgres psql; do
    program "$name" >/dev/null || { echo postgresql; return; }
  done
}

# as_owner replaces the shell by a command, run as postgres for root, which PostgreSQL refuses.
as_owner() {
  [ "$(id -u)" != 0 ] || set -- setpriv --reuid postgres --regid "$(id -g postgres)" --init-groups "$@"
  exec "$@"
}

prepare() {
  local port
  port=$(free_port "$(kept port)" 23000)
  [ -s "$dir/password" ] || initialise
  release "$(kept folder)/data/postmaster.pid"
  echo "$port" >"$dir/port"
  (umask 077 && echo "postgres://postgres:$(kept password)@127.0.0.1:$port/postgres?sslmode=disable" >"$dir/address")
}

# initialise makes the data folder, and writes the password last: without it, an interrupted attempt is made again.
initialise() {
  local folder=$dir/owned password
  forget
  if [ "$(id -u)" = 0 ] && ! (as_owner test -x "$dir"); then
    folder=$(mktemp -d /var/tmp/clerk-connect-postgres.XXXXXX) # the repository is in a folder closed to postgres
  fi
  echo "$folder" >"$dir/folder"
  password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
  (umask 077 && mkdir -p "$folder")
  (umask 077 && echo "$password" >"$folder/password")
  [ "$(id -u)" != 0 ] || chown -R postgres: "$folder"
  (cd "$folder" && as_owner "$(program initdb)" -D "$folder/data" --username postgres --pwfile "$folder/password" \
    --auth scram-sha-256 --encoding UTF8 --locale C) >"$dir/initdb.log" 2>&1 || {
    tail -n 15 "$dir/initdb.log" >&2
    die "no data folder made: see $dir/initdb.log"
  }
  (umask 077 && echo "$password" >"$dir/password")
}

# release removes the lock file of a killed server once its process is dead but not reaped, which PostgreSQL takes for
# alive: the machine's first process may be late with that, or in a bare container never do it. Five seconds are for
# the other processes of that server, which end when they see it dead.
release() {
  local holder since=$SECONDS
  { read -r holder <"$1"; } 2>/dev/null || return 0
  while [ -e "/proc/$holder" ] && [ -z "$(born "$holder")" ]; do
    [ $((SECONDS - since)) -lt 5 ] || rm -f "$1"
    [ -e "$1" ] || return 0
    sleep 0.1
  done
}

run() {
  cd "$(kept folder)"
  as_owner setsid "$(program postgres)" -D "$PWD/data" -p "$(kept port)" -c listen_addresses=127.0.0.1 \
    -c unix_socket_directories= -c max_connections=200
}

ready() {
  [ "$(PGCONNECT_TIMEOUT=5 "$(program psql)" -XAt -d "$(kept address)" -c 'SELECT 1')" = 1 ]
}

forget() {
  local folder
  folder=$(kept folder)
  [ -z "$folder" ] || rm -rf "$folder"
}

main "$@"

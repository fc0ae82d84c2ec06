#!/usr/bin/env bash
# PgBouncer from Debian's package, in transaction mode, before the PostgreSQL of postgres.sh. Called by servers.sh.
#
# Version 1.18, as Debian 12 has it, forgets prepared statements between two transactions, which is what the tests want of
# it. The package may start one of its own (port 6432): not touched.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
server=pgbouncer
variable=TEST_PGBOUNCER_DSN
elsewhere="PgBouncer, with pgbouncer on the PATH, and what postgres.sh needs"
# shellcheck source=deployments/servers/lifecycle.sh
source "$here/lifecycle.sh"
stop_signal=INT # TERM, which is at once to others, waits for the last client here
PATH=$PATH:/usr/sbin # where Debian puts it

missing_packages() {
  command -v pgbouncer >/dev/null || echo pgbouncer
}

# as_owner replaces the shell by a command, run as postgres for root, which PgBouncer refuses.
as_owner() {
  [ "$(id -u)" != 0 ] || set -- setpriv --reuid postgres --regid "$(id -g postgres)" --init-groups "$@"
  exec "$@"
}

prepare() {
  local port folder dsn form='^postgres(ql)?://([^:@/]+):([^@/%]+)@([^:/]+):([0-9]+)/'
  # Waits for a start that is under way, else starts it or takes the one that is given.
  dsn=$(bash "$here/postgres.sh" start) || die "needs PostgreSQL"
  dsn=${dsn#TEST_POSTGRES_DSN=}
  [[ $dsn =~ $form ]] || die "cannot read TEST_POSTGRES_DSN: user, password, host and port as postgres://user:password@host:port/, or set $variable"
  port=$(free_port "$(kept port)" 27000)
  folder=$(kept folder)
  if [ -z "$folder" ] || [ ! -d "$folder" ]; then
    folder=$dir/owned
    if [ "$(id -u)" = 0 ] && ! (as_owner test -x "$dir"); then
      folder=$(mktemp -d /var/tmp/clerk-connect-pgbouncer.XXXXXX) # the repository is in a folder closed to postgres
    fi
    echo "$folder" >"$dir/folder"
  fi
  (
    umask 077
    mkdir -p "$folder"
    echo "\"${BASH_REMATCH[2]}\" \"${BASH_REMATCH[3]}\"" >"$folder/users"
    cat >"$folder/pgbouncer.ini" <<TEXT
[databases]
* = host=${BASH_REMATCH[4]} port=${BASH_REMATCH[5]}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $port
unix_socket_dir =
auth_type = scram-sha-256
auth_file = $folder/users
pool_mode = transaction
default_pool_size = 20
max_client_conn = 500
TEXT
    echo "postgres://${BASH_REMATCH[2]}:${BASH_REMATCH[3]}@127.0.0.1:$port/${dsn##*/}" >"$dir/address"
  )
  [ "$(id -u)" != 0 ] || chown -R postgres: "$folder"
  echo "$port" >"$dir/port"
}

run() {
  cd "$(kept folder)"
  as_owner setsid pgbouncer "$PWD/pgbouncer.ini"
}

ready() {
  [ "$(PGCONNECT_TIMEOUT=5 psql -XAt -d "$(kept address)" -c 'SELECT 1')" = 1 ]
}

forget() {
  local folder
  folder=$(kept folder)
  [ -z "$folder" ] || rm -rf "$folder"
}

main "$@"

#!/usr/bin/env bash
# MariaDB from Debian's package, with a data folder of its own and every commit on disk. Called by servers.sh.
#
# It runs on its own defaults, no configuration file: databases are latin1 unless they say otherwise, so that a client
# that forgets its character set is found out. The package may start a server of its own (port 3306): not touched.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
server=mariadb
variable=TEST_MYSQL_DSN
elsewhere="MariaDB 10.6 or later, with mariadbd, mariadb-install-db and mariadb on the PATH"
# shellcheck source=deployments/servers/lifecycle.sh
source "$here/lifecycle.sh"
PATH=$PATH:/usr/sbin # where Debian puts the server

missing_packages() {
  local name
  for name in mariadbd mariadb-install-db mariadb; do
    command -v "$name" >/dev/null || { echo mariadb-server; return; }
  done
}

# as_owner replaces the shell by a command, run as mysql for root, which MariaDB refuses.
as_owner() {
  [ "$(id -u)" != 0 ] || set -- setpriv --reuid mysql --regid "$(id -g mysql)" --init-groups "$@"
  exec "$@"
}

prepare() {
  local port
  port=$(free_port "$(kept port)" 25000)
  [ -s "$dir/password" ] || initialise
  echo "$port" >"$dir/port"
  (umask 077 && echo "mysql://clerk_connect:$(kept password)@127.0.0.1:$port/clerk_connect" >"$dir/address")
}

# initialise makes the data folder and the one user who may log in over TCP, and writes the password last: without it,
# an interrupted attempt is made again.
initialise() {
  local folder=$dir/owned password
  forget
  if [ "$(id -u)" = 0 ] && ! (as_owner test -x "$dir"); then
    folder=$(mktemp -d /var/tmp/clerk-connect-mariadb.XXXXXX) # the repository is in a folder closed to mysql
  fi
  echo "$folder" >"$dir/folder"
  password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
  (umask 077 && mkdir -p "$folder")
  [ "$(id -u)" != 0 ] || chown mysql: "$folder"
  (
    cd "$folder"
    (as_owner mariadb-install-db --no-defaults --datadir="$folder/data" --skip-test-db)
    (as_owner mariadbd --no-defaults --datadir="$folder/data" --bootstrap) <<TEXT
FLUSH PRIVILEGES;
CREATE DATABASE clerk_connect;
CREATE USER clerk_connect@'127.0.0.1' IDENTIFIED BY '$password';
GRANT ALL ON *.* TO clerk_connect@'127.0.0.1' WITH GRANT OPTION;
TEXT
  ) >"$dir/initialise.log" 2>&1 || {
    tail -n 15 "$dir/initialise.log" >&2
    die "no data folder made: see $dir/initialise.log"
  }
  (umask 077 && echo "$password" >"$dir/password")
}

# The socket is in the data folder, by a relative name because an absolute one may be too long.
run() {
  cd "$(kept folder)"
  as_owner setsid mariadbd --no-defaults --datadir="$PWD/data" --port="$(kept port)" --bind-address=127.0.0.1 \
    --socket=socket --pid-file=pid --skip-name-resolve --max-connections=200
}

ready() {
  MYSQL_PWD=$(kept password) mariadb --no-defaults --protocol=tcp --connect-timeout=5 -h 127.0.0.1 -P "$(kept port)" \
    -u clerk_connect -e 'SELECT 1' clerk_connect
}

forget() {
  local folder
  folder=$(kept folder)
  [ -z "$folder" ] || rm -rf "$folder"
}

main "$@"

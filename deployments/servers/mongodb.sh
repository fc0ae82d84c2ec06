#!/usr/bin/env bash
# A server that speaks MongoDB's protocol: SecantusDB, from PyPI, as a replica set of one. Called by servers.sh.
#
# MongoDB itself is in no package registry. This one has what the tests need of it: transactions, unique indexes,
# validators, unordered bulk writes and their errors. For the real thing set the variable.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
server=mongodb
variable=TEST_MONGODB_URI
elsewhere="Python 3.11 or later, with venv and pip"
# shellcheck source=deployments/servers/lifecycle.sh
source "$here/lifecycle.sh"

version=0.7.0b3
app=$SERVERS_DIR/cache/secantusdb-$version

missing_packages() {
  [ -x "$app/bin/secantusd-py" ] || python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
}

prepare() {
  if [ ! -x "$app/bin/secantusd-py" ]; then
    say "fetching by pip, once"
    rm -rf "$app" # a venv knows its own path: it cannot be made elsewhere and moved
    { python3 -m venv "$app" && timeout 600 "$app/bin/pip" install -q --disable-pip-version-check "secantusdb==$version"; } \
      >"$dir/fetch.log" 2>&1 </dev/null || {
      tail -n 15 "$dir/fetch.log" >&2
      rm -rf "$app"
      die "not fetched: see $dir/fetch.log"
    }
  fi
  local port
  port=$(free_port "$(kept port)" 26000)
  echo "$port" >"$dir/port"
  # Directly, because a replica set names its members by addresses that a proxy or a container hides.
  echo "mongodb://127.0.0.1:$port/?directConnection=true" >"$dir/address"
}

run() {
  exec setsid "$app/bin/secantusd-py" --host 127.0.0.1 --port "$(kept port)" --storage-path "$dir/data" --log-level WARNING
}

# It listens once its storage is open.
ready() {
  (exec 3<>"/dev/tcp/127.0.0.1/$(kept port)") 2>/dev/null
}

main "$@"

#!/usr/bin/env bash
# Runs every test that this machine can run and ends with what was covered.
# With CI=true nothing may be left out: a server that cannot be had, or a
# missing C compiler, is an error. Up to six failures, subtests counted, without a
# data race are run once more by themselves: kills, cut networks and real servers
# on a busy machine are told from a fault that stays. Those that pass then are
# named at the end, as unsteady, to be mended.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
here=deployments/servers
ci=${CI:-}

# On a person's machine nothing is installed unasked.
if [ "$ci" != true ]; then
  export SERVERS_INSTALL=${SERVERS_INSTALL:-no}
  echo "starting the servers that this machine can run; without the others their tests are left out" >&2
fi
if ! $here/servers.sh start >/dev/null && [ "$ci" = true ]; then
  echo "make test: with CI=true every server must start" >&2
  exit 1
fi
eval "$($here/servers.sh env)"

race=()
if [ "$(go env CGO_ENABLED)" = 1 ] && command -v "$(go env CC)" >/dev/null; then
  race=(-race)
elif [ "$ci" = true ]; then
  echo "make test: with CI=true the race detector needs a C compiler" >&2
  exit 1
fi

gotestsum=gotest.tools/gotestsum@v1.13.0
unsteady=$(mktemp)
trap 'rm -f "$unsteady"' EXIT

# Without the cache, which does not see that a program which a test builds and
# starts has changed.
status=0
if [ "$ci" = true ]; then
  go run $gotestsum --format standard-quiet --hide-summary skipped --packages ./... --rerun-fails=1 --rerun-fails-max-failures=6 \
    --rerun-fails-abort-on-data-race --rerun-fails-run-root-test --rerun-fails-report "$unsteady" \
    -- ${race[@]+"${race[@]}"} -count=1 -timeout 20m || status=1
else
  go test ${race[@]+"${race[@]}"} -count=1 -timeout 20m ./... || status=1
fi
# The order of events once more, without the race detector and much longer.
go test ./connector/sequencer -run 'TestConverges' -count=1 -rapid.checks="${HISTORIES:-100000}" -timeout 20m || status=1

said() { if [ -n "$2" ]; then echo "  $1: yes"; else echo "  $1: NO ($3)"; fi; }
shared=${CLERK_CONNECT_SHARED:-../shared}
echo
echo "covered:"
said "unit, property and end-to-end tests on the embedded broker" yes ""
said "race detector" "${race[*]:-}" "no C compiler"
said "Apache Kafka" "${TEST_KAFKA_BROKERS:-}" "needs Java 17 and Maven, which make services installs on Debian, or TEST_KAFKA_BROKERS"
said "PostgreSQL" "${TEST_POSTGRES_DSN:-}" "needs its server, which make services installs on Debian, or TEST_POSTGRES_DSN"
said "PgBouncer in transaction mode" "${TEST_PGBOUNCER_DSN:-}" "needs PostgreSQL and PgBouncer, which make services installs on Debian, or TEST_PGBOUNCER_DSN"
said "MariaDB or MySQL" "${TEST_MYSQL_DSN:-}" "needs MariaDB's server, or TEST_MYSQL_DSN"
said "a MongoDB-speaking server" "${TEST_MONGODB_URI:-}" "needs Python 3.11 with venv, or TEST_MONGODB_URI"
said "Schema Registry" "${TEST_SCHEMA_REGISTRY_URL:-}" "needs Java 17, Maven and curl, which make services installs on Debian, or TEST_SCHEMA_REGISTRY_URL"
said "Clerk's payloads and API descriptions" "$([ -d "$shared/fixtures" ] && echo yes)" "CLERK_CONNECT_SHARED names no such folder"
if [ $status = 0 ] && [ -s "$unsteady" ]; then
  echo "unsteady: failed once, passed by itself afterwards; mend it:"
  sed 's/^/  /' "$unsteady"
fi
[ $status = 0 ] && echo "all that was run has passed" || echo "SOME TESTS FAILED: see above"
exit $status

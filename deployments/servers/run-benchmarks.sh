#!/usr/bin/env bash
# Runs the benchmarks, on the servers that run (make services), and prints what
# machine it was. Every benchmark names its limit and reports its ratio to it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
eval "$(deployments/servers/servers.sh env)"
echo "machine: $(uname -sm), $(getconf _NPROCESSORS_ONLN) processors, $(go version)"
go test -run '^$' -bench . -benchtime "${1:-1s}" -timeout 30m ./...

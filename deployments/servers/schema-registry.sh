#!/usr/bin/env bash
# A schema registry that speaks Confluent's API: Apicurio Registry, in memory, fetched by Maven. Called by servers.sh.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
server=schema-registry
variable=TEST_SCHEMA_REGISTRY_URL
elsewhere="a Java runtime of version 17 or later, Maven, and curl"
# shellcheck source=deployments/servers/lifecycle.sh
source "$here/lifecycle.sh"

version=2.6.13.Final # the last one for Java 17
app=$SERVERS_DIR/cache/apicurio-registry-$version

missing_packages() {
  java17 || echo default-jre-headless
  [ -d "$app" ] || command -v mvn >/dev/null || echo maven
  command -v curl >/dev/null || echo curl
}

prepare() {
  if [ ! -d "$app" ]; then
    rm -rf "$app.part"
    maven org.apache.maven.plugins:maven-dependency-plugin:3.8.1:unpack \
      -Dartifact="io.apicurio:apicurio-registry-app:$version:tar.gz:all" -DoutputDirectory="$app.part"
    mv "$app.part" "$app"
  fi
  local port
  port=$(free_port "$(kept port)" 24000)
  echo "$port" >"$dir/port"
  echo "http://127.0.0.1:$port/apis/ccompat/v7" >"$dir/address"
}

run() {
  export QUARKUS_HTTP_HOST=127.0.0.1 QUARKUS_HTTP_PORT
  QUARKUS_HTTP_PORT=$(kept port)
  exec setsid "$java" -Xmx256m -XX:TieredStopAtLevel=1 -jar "$app/apicurio-registry-app-$version-runner.jar"
}

# Confluent's own registry checks BACKWARD unless told otherwise, Apicurio checks nothing: made alike before it is ready.
ready() {
  curl -fsS -m 5 -X PUT -H 'Content-Type: application/json' -d '{"compatibility":"BACKWARD"}' "$(kept address)/config"
}

main "$@"

#!/usr/bin/env bash
# Apache Kafka: one KRaft node, broker and controller, fetched by Maven. Called by servers.sh.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
server=kafka
variable=TEST_KAFKA_BROKERS
elsewhere="a Java runtime of version 17 or later, and Maven"
# shellcheck source=deployments/servers/lifecycle.sh
source "$here/lifecycle.sh"

# Named after the content of the pom: another version is another folder.
jars=$SERVERS_DIR/cache/kafka-$(cksum <"$here/kafka.pom.xml" | cut -d ' ' -f 1)

missing_packages() {
  java17 || echo default-jre-headless
  [ -d "$jars" ] || command -v mvn >/dev/null || echo maven
}

prepare() {
  if [ ! -d "$jars" ]; then
    rm -rf "$jars.part"
    maven -f "$here/kafka.pom.xml" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
      -DincludeScope=runtime -DoutputDirectory="$jars.part"
    mv "$jars.part" "$jars"
  fi
  local port controller
  port=$(free_port "$(kept port)" 21000)
  controller=$(free_port "$(kept controller-port)" 22000)
  echo "$port" >"$dir/port"
  echo "$controller" >"$dir/controller-port"
  echo "127.0.0.1:$port" >"$dir/address"
  cat >"$dir/server.properties" <<TEXT
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
controller.listener.names=CONTROLLER
log.dirs=$dir/data
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
# One node: nothing can be replicated. Few partitions: each costs files, and time at the start.
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
# Compaction within seconds for topics that ask for it: the default waits 15 s between looks, and takes 128 MB of heap.
log.cleaner.backoff.ms=1000
log.cleaner.dedupe.buffer.size=33554432
TEXT
  if [ ! -e "$dir/data/meta.properties" ]; then
    "$java" -cp "$jars/*" kafka.tools.StorageTool format -t clerkConnectTestKafkaQ -c "$dir/server.properties" \
      >"$dir/format.log" 2>&1 || {
      tail -n 15 "$dir/format.log" >&2
      die "not formatted: see $dir/format.log"
    }
  fi
}

run() {
  exec setsid "$java" -Xms256m -Xmx512m -XX:+ExitOnOutOfMemoryError -Dlog4j2.level=INFO -cp "$jars/*" \
    kafka.Kafka "$dir/server.properties"
}

# An open port is not enough: until the controller has let the broker in, no topic can be made.
ready() {
  local port
  port=$(kept port)
  (exec 3<>"/dev/tcp/127.0.0.1/$port") &&
    timeout 20 "$java" -Xmx64m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp "$jars/*" \
      org.apache.kafka.tools.BrokerApiVersionsCommand --bootstrap-server "127.0.0.1:$port" | grep 'isFenced: false'
}

main "$@"

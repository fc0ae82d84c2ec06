package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
)

// prefixes are those under which every variable is one of ours, or foreign.
var prefixes = []string{"KAFKA_", "SCHEMA_REGISTRY_", "TOPIC_", "CLERK_", "POLICY_", "WEBHOOK_", "SNAPSHOT_", "ADMIN_", "LOG_", "SINK_", "SINKS_", "ERASURE_", "INSTANCE_"}

// foreign are variables of other programs under our prefixes that are often
// in the same environment: Kafka's own scripts, Clerk's SDKs.
var foreign = []string{
	"KAFKA_CONFIG", "KAFKA_DEBUG", "KAFKA_GC_LOG_OPTS", "KAFKA_HEAP_OPTS", "KAFKA_HOME", "KAFKA_JMX_OPTS", "KAFKA_JMX_PORT",
	"KAFKA_JVM_PERFORMANCE_OPTS", "KAFKA_LOG4J_CMD_OPTS", "KAFKA_LOG4J_OPTS", "KAFKA_MODE", "KAFKA_OPTS", "KAFKA_VERSION",
	"CLERK_API_KEY", "CLERK_API_VERSION", "CLERK_DOMAIN", "CLERK_FRONTEND_API", "CLERK_IS_SATELLITE", "CLERK_JS_URL", "CLERK_JS_VERSION",
	"CLERK_JWT_KEY", "CLERK_MACHINE_SECRET_KEY", "CLERK_PROXY_URL", "CLERK_PUBLISHABLE_KEY", "CLERK_SIGN_IN_URL", "CLERK_SIGN_UP_URL",
	"CLERK_TELEMETRY_DEBUG", "CLERK_TELEMETRY_DISABLED", "CLERK_ENCRYPTION_KEY",
}

// serviceLink matches what Kubernetes puts into the environment of every pod
// for a service of the namespace, here one with a name such as "kafka".
// https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
var serviceLink = regexp.MustCompile(`_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// unknown reports variables under our prefixes that are no settings. Their
// values are not shown: a misspelt name may hold a secret.
func unknown(environ map[string]string, fields []*field) (problems []error) {
	known := make([]string, 0, 2*len(fields))
	for _, f := range fields {
		known = append(known, f.name)
		if f.secret {
			known = append(known, f.fileName())
		}
	}
	for name, value := range environ {
		ours := slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
		if !ours || value == "" || slices.Contains(known, name) || slices.Contains(foreign, name) || serviceLink.MatchString(name) {
			continue
		}
		advice := "unset it"
		if strings.HasPrefix(name, "SINK_") {
			advice = "name its sink in SINKS, or unset it"
		}
		if near := nearest(name, known); near != "" {
			advice = fmt.Sprintf("did you mean %s? Otherwise %s", near, advice)
		}
		problems = append(problems, fmt.Errorf("%s is not a setting: %s", name, advice))
	}
	return problems
}

// nearest returns the known name with the fewest edits, "" if that is more
// than a third of the name.
func nearest(name string, known []string) string {
	best, near := len(name)/3+1, ""
	for _, candidate := range known {
		if d := levenshtein.ComputeDistance(name, candidate); d < best {
			best, near = d, candidate
		}
	}
	return near
}

package config

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"clerkconnect/cmd/internal/kinds"
)

// canary is part of every secret of these tests; nothing may print it.
const canary = "c4n4ryc4n4ry"

// complete is enough for every role.
func complete() map[string]string {
	return map[string]string{
		"KAFKA_BROKERS":                "kafka-1:9092, kafka-2:9092",
		"CLERK_SECRET_KEY":             "sk_test_" + canary,
		"CLERK_WEBHOOK_SIGNING_SECRET": "whsec_" + canary + canary + ", whsec_" + canary + canary + canary + canary,
		"WEBHOOK_ADDR":                 ":8080",
		"SINKS":                        "sqlite,crm=sqlite",
		"SINK_SQLITE_PATH":             "/data/a.db",
		"SINK_CRM_PATH":                "/data/b.db",
		"INSTANCE_NAME":                "one",
	}
}

func TestLoad_Complete(t *testing.T) {
	t.Parallel()
	c, err := Load(complete(), Roles())
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"kafka-1:9092", "kafka-2:9092"}; !slices.Equal(c.Kafka.Brokers, want) {
		t.Errorf("KAFKA_BROKERS: got %q, want %q", c.Kafka.Brokers, want)
	}
	if len(c.Clerk.WebhookSigningSecret) != 2 {
		t.Errorf("CLERK_WEBHOOK_SIGNING_SECRET: got %d secrets, want 2", len(c.Clerk.WebhookSigningSecret))
	}
	if len(c.Sinks) != 2 || c.Sinks[1].Name != "crm" || c.Sinks[1].Kind.Name != "sqlite" || c.Sinks[1].Prefix() != "SINK_CRM_" {
		t.Errorf("SINKS: got %+v, want sqlite and crm", c.Sinks)
	}
	var shown strings.Builder
	if err := c.Show(&shown); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(shown.String(), canary) {
		t.Errorf("Show prints a secret:\n%s", shown.String())
	}
	if !strings.Contains(shown.String(), "/data/b.db") {
		t.Errorf("Show lacks a sink's setting:\n%s", shown.String())
	}
}

func TestLoad_Problems(t *testing.T) {
	t.Parallel()
	secretFile := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secretFile, []byte("sk_test_"+canary+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		change map[string]string // "" removes
		roles  []Role
		want   []string // the beginning of each problem, in order
	}{
		{"complete", nil, nil, nil},
		{"everything missing, said at once", map[string]string{
			"KAFKA_BROKERS": "", "CLERK_SECRET_KEY": "", "CLERK_WEBHOOK_SIGNING_SECRET": "", "WEBHOOK_ADDR": "",
			"SINKS": "", "SINK_SQLITE_PATH": "", "SINK_CRM_PATH": "",
		}, nil, []string{
			"CLERK_SECRET_KEY is missing", "CLERK_WEBHOOK_SIGNING_SECRET is empty", "KAFKA_BROKERS is not set",
			"SINKS is empty", `WEBHOOK_ADDR is ""`,
		}},
		{"a receiver needs no key, no sinks", map[string]string{
			"CLERK_SECRET_KEY": "", "SINKS": "", "SINK_SQLITE_PATH": "", "SINK_CRM_PATH": "",
		}, []Role{RoleReceiver}, nil},
		{"a snapshot needs no signing secret, no address", map[string]string{
			"CLERK_WEBHOOK_SIGNING_SECRET": "", "WEBHOOK_ADDR": "",
		}, []Role{RoleSnapshot}, nil},
		{"a receiver does not read the secrets of others", map[string]string{
			"CLERK_SECRET_KEY": "", "CLERK_SECRET_KEY_FILE": "/not/there", "SINKS": "postgres", "SINK_POSTGRES_DSN_FILE": "/not/there",
			"SINK_SQLITE_PATH": "", "SINK_CRM_PATH": "",
		}, []Role{RoleReceiver}, nil},
		{"a sequencer needs Kafka alone", map[string]string{
			"CLERK_WEBHOOK_SIGNING_SECRET": "", "WEBHOOK_ADDR": "", "CLERK_SECRET_KEY": "", "SINKS": "", "SINK_SQLITE_PATH": "", "SINK_CRM_PATH": "",
		}, []Role{RoleSequencer}, nil},
		{"set to nothing is said", map[string]string{"KAFKA_BROKERS": "(empty)"}, nil,
			[]string{"KAFKA_BROKERS is not set: give the addresses of Kafka brokers, as kafka-1:9092,kafka-2:9092 (KAFKA_BROKERS is set to nothing"}},
		{"set to nothing and no setting", map[string]string{"SINK_WAREHOUSE_HOSTNAME": "(empty)"}, nil, nil},
		{"misspelt", map[string]string{"KAFKA_SASL_PASSWRD": canary}, nil,
			[]string{"KAFKA_SASL_PASSWRD is not a setting: did you mean KAFKA_SASL_PASSWORD?"}},
		{"misspelt setting of a sink", map[string]string{"SINK_CRM_TABEL": "x"}, nil,
			[]string{"SINK_CRM_TABEL is not a setting: did you mean SINK_CRM_TABLE?"}},
		{"held back for longer than the deadline", map[string]string{"SINK_CRM_ERASE_AFTER": "800h"}, nil,
			[]string{"SINK_CRM_ERASE_AFTER is 800h0m0s, not below ERASURE_DEADLINE (672h0m0s)"}},
		{"setting of no sink", map[string]string{"SINK_WAREHOUSE_HOSTNAME": "x"}, nil,
			[]string{"SINK_WAREHOUSE_HOSTNAME is not a setting"}},
		{"foreign variables", map[string]string{
			"KAFKA_OPTS": "-Xmx1g", "KAFKA_PORT_9092_TCP_ADDR": "10.0.0.1", "KAFKA_SERVICE_HOST": "10.0.0.1", "KAFKA_SERVICE_PORT_PLAIN": "9092",
			"CLERK_PUBLISHABLE_KEY": "pk_test_x", "KAFKAESQUE": "yes", "PATH": "/bin",
		}, nil, nil},
		{"types", map[string]string{"KAFKA_TLS": "perhaps", "TOPIC_PARTITIONS": "a dozen", "CLERK_RATE_SHARE": "half", "SINK_CRM_BUSY_TIMEOUT": "5"}, nil,
			[]string{`CLERK_RATE_SHARE is "half"`, `KAFKA_TLS is "perhaps"`, `SINK_CRM_BUSY_TIMEOUT is "5": give a duration`, `TOPIC_PARTITIONS is "a dozen": give a whole number`}},
		{"secrets that are none", map[string]string{"CLERK_SECRET_KEY": "pk_" + canary, "CLERK_WEBHOOK_SIGNING_SECRET": canary}, nil,
			[]string{"CLERK_SECRET_KEY does not begin with", "CLERK_WEBHOOK_SIGNING_SECRET, entry 1 of 1"}},
		{"secret by file", map[string]string{"CLERK_SECRET_KEY": "", "CLERK_SECRET_KEY_FILE": secretFile}, nil, nil},
		{"secret twice", map[string]string{"CLERK_SECRET_KEY_FILE": secretFile}, nil,
			[]string{"both CLERK_SECRET_KEY and CLERK_SECRET_KEY_FILE are set"}},
		{"secret's file is missing", map[string]string{"CLERK_SECRET_KEY": "", "CLERK_SECRET_KEY_FILE": secretFile + ".not"}, nil,
			[]string{"CLERK_SECRET_KEY_FILE: open "}},
		{"sinks", map[string]string{"SINKS": "sqlite,crm=sqlite,crm=sqlite,x=oracle,Big=sqlite,webhook=sqlite"}, nil,
			[]string{`SINKS has "Big=sqlite"`, `SINKS has "crm" twice`, `SINKS has "x=oracle": there is no kind "oracle"`, "SINKS has a sink named webhook"}},
		{"one address for the internet and for operators", map[string]string{"WEBHOOK_ADDR": ":8080", "ADMIN_ADDR": ":8080"}, nil,
			[]string{`ADMIN_ADDR and WEBHOOK_ADDR are both ":8080"`}},
		{"half a login", map[string]string{"KAFKA_SASL_MECHANISM": "PLAIN", "KAFKA_SASL_PASSWORD": canary}, nil,
			[]string{"KAFKA_SASL_USER or KAFKA_SASL_PASSWORD is not set"}},
		{"unknown policy field", map[string]string{"POLICY_INCLUDE": "phone_number"}, nil, []string{"POLICY_INCLUDE: unknown field"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			environ := complete()
			for name, value := range test.change {
				switch value {
				case "":
					delete(environ, name)
				case "(empty)":
					environ[name] = ""
				default:
					environ[name] = value
				}
			}
			roles := test.roles
			if roles == nil {
				roles = Roles()
			}
			_, err := Load(environ, roles)
			var problems Problems
			if err != nil && !errors.As(err, &problems) {
				t.Fatalf("Load: got %T, want Problems", err)
			}
			if len(problems) != len(test.want) {
				t.Fatalf("Load: got %d problems, want %d:\n%v", len(problems), len(test.want), problems)
			}
			for i, problem := range problems {
				if !strings.HasPrefix(problem.Error(), test.want[i]) {
					t.Errorf("problem %d: got %q, want %q...", i, problem, test.want[i])
				}
				if strings.Contains(problem.Error(), canary) {
					t.Errorf("problem %d shows a secret: %q", i, problem)
				}
			}
		})
	}
}

// TestLoad_FileSecretIsTrimmed: editors and echo end a file with a newline.
func TestLoad_FileSecretIsTrimmed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte("sk_test_"+canary+"\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	environ := complete()
	delete(environ, "CLERK_SECRET_KEY")
	environ["CLERK_SECRET_KEY_FILE"] = path
	c, err := Load(environ, Roles())
	if err != nil {
		t.Fatal(err)
	}
	if c.Snapshot.SecretKey != "sk_test_"+canary {
		t.Error("CLERK_SECRET_KEY_FILE: the value is not that of the file without its newline")
	}
}

// TestSettings_AreDocumented: the reference has a sentence for each, and no
// name stands for two.
func TestSettings_AreDocumented(t *testing.T) {
	t.Parallel()
	for _, kind := range kinds.Table {
		sink := &Sink{Name: "x", Kind: kind, Settings: kind.Settings()}
		seen := map[string]bool{}
		for _, f := range append(New().fields, sink.fields()...) {
			if !strings.HasSuffix(f.doc, ".") {
				t.Errorf("%s: the doc tag is %q, want a sentence", f.name, f.doc)
			}
			if seen[f.name] {
				t.Errorf("kind %s: there are two settings %s", kind.Name, f.name)
			}
			seen[f.name] = true
		}
	}
}

// TestReference_IsInTheREADME compares the README with the code.
func TestReference_IsInTheREADME(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	want, err := InsertReference(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if string(text) != want {
		t.Error("the configuration reference in README.md is not what the code says: run make reference")
	}
}

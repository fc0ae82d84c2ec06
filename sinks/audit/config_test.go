package audit

import (
	"strings"
	"testing"
	"time"
)

func TestConfig_Validate(t *testing.T) {
	t.Parallel()
	good := "postgres://user:s3cret@db/app"
	for _, test := range []struct {
		name string
		cfg  Config
		want []string // words of each problem, in order
	}{
		{"postgres", Config{URL: good}, nil},
		{"postgresql, with a schema", Config{URL: "postgresql://db/app", Schema: "audit", Writer: "w"}, nil},
		{"mysql", Config{URL: "mysql://user:s3cret@db/app?tls=true", Writer: "w@10.0.0.1"}, nil},
		{"sqlite", Config{URL: "sqlite:/var/lib/audit.db"}, nil},
		{"sqlite, as an address", Config{URL: "sqlite:///var/lib/audit.db"}, nil},
		{"mongodb", Config{URL: "mongodb://a:1,b:2/app?replicaSet=rs"}, nil},
		{"mongodb+srv", Config{URL: "mongodb+srv://user:s3cret@db.example/app"}, nil},
		{"nothing", Config{}, []string{"URL is empty"}},
		{"no scheme", Config{URL: "user:s3cret@tcp(db)/app"}, []string{"URL does not say which database"}},
		{"bad escape", Config{URL: "postgres://user:s3cret%zz@db/app"}, []string{"URL is no address of postgres"}},
		{"mysql without a database", Config{URL: "mysql://user:s3cret@db"}, []string{"URL is no address of mysql"}},
		{"mongodb without a database", Config{URL: "mongodb://user:s3cret@db"}, []string{"URL is no address of mongodb"}},
		{"sqlite without a path", Config{URL: "sqlite:"}, []string{"URL is no address of sqlite"}},
		{"all at once", Config{URL: "redis://s3cret", Table: "a b", Schema: "x'y", Timeout: time.Millisecond}, []string{
			"URL does not say which database", "TABLE is", "SCHEMA is", "TIMEOUT is",
		}},
		{"schema elsewhere", Config{URL: "sqlite:/a", Schema: "audit", Writer: "w"}, []string{"SCHEMA is", "WRITER is"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			err := test.cfg.Validate()
			var lines []string
			if err != nil {
				lines = strings.Split(err.Error(), "\n")
			}
			if len(lines) != len(test.want) {
				t.Fatalf("problems: got %q, want %d", lines, len(test.want))
			}
			for i, want := range test.want {
				if !strings.HasPrefix(lines[i], want) {
					t.Errorf("problem %d: got %q, want %q", i, lines[i], want)
				}
				if strings.Contains(lines[i], "s3cret") {
					t.Errorf("problem %d quotes a secret: %q", i, lines[i])
				}
			}
			if _, err := New(test.cfg); (err != nil) != (len(test.want) > 0) {
				t.Errorf("New: got %v", err)
			}
		})
	}
}

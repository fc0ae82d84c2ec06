package roster_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/sinktest"

	"example.com/roster/roster"
)

func TestSink(t *testing.T) {
	sinktest.Run(t, sinktest.Harness{New: func(t testing.TB) sinktest.Destination {
		path := filepath.Join(t.TempDir(), "roster")
		return sinktest.Destination{
			Sink: func(t testing.TB) sinks.Sink {
				sink, err := roster.New(roster.Config{Path: path})
				if err != nil {
					t.Fatal(err)
				}
				return sink
			},
			Read: func(t testing.TB, ids ...string) map[string]sinktest.Row {
				rows := map[string]sinktest.Row{}
				for line := range strings.Lines(string(read(t, path))) {
					id, value, _ := strings.Cut(line, "\t")
					var e struct{ User *schemas.User }
					if err := json.Unmarshal([]byte(value), &e); err != nil {
						t.Fatal(err)
					}
					for _, wanted := range ids {
						if id == wanted && e.User != nil {
							rows[id] = sinktest.RowOf(e.User)
						}
					}
				}
				return rows
			},
			Dump: func(t testing.TB) []byte { return read(t, path) },
		}
	}})
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return text
}

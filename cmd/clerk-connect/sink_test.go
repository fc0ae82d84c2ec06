package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"clerkconnect/sinks"
	"clerkconnect/sinks/memory"
)

// preparing is a sink that has something to initialise.
type preparing struct {
	sinks.Sink
	err    error
	called int
}

func (p *preparing) InitScript() string { return "CREATE TABLE users ();\n" }

func (p *preparing) Init(context.Context) error { p.called++; return p.err }

func TestInitialize(t *testing.T) {
	t.Parallel()
	bare := new(memory.Sink) // which has nothing to initialise
	for _, test := range []struct {
		name   string
		sink   sinks.Sink
		dryRun bool
		called int
		want   string // what is printed, or the error
		fails  bool
	}{
		{"dry run", &preparing{Sink: bare}, true, 0, "CREATE TABLE users ();\n", false},
		{"done", &preparing{Sink: bare}, false, 1, "Sink x: the destination has what it needs.", false},
		{"failed", &preparing{Sink: bare, err: errors.New("no rights")}, false, 1, "sink x: init: no rights", true},
		{"nothing to do", bare, false, 0, "kind memory needs nothing at its destination", true},
		{"nothing to print", bare, true, 0, "kind memory needs nothing at its destination", true},
	} {
		var out bytes.Buffer
		err := initialize(t.Context(), &out, "x", "memory", test.sink, test.dryRun)
		got := out.String()
		if err != nil {
			got += err.Error()
		}
		if (err != nil) != test.fails || !strings.Contains(got, test.want) {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
		if p, ok := test.sink.(*preparing); ok && p.called != test.called {
			t.Errorf("%s: Init was called %d times, want %d", test.name, p.called, test.called)
		}
	}
}

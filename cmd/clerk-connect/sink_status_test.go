package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"clerkconnect/cmd/internal/control"
)

// The status of a sink names the record that holds it up.
func TestPrintStatus_HeldUp(t *testing.T) {
	t.Parallel()
	now := time.Now()
	instance := instanceStatus{Instance: "a", Status: control.Status{
		At: now.UnixMilli(), State: control.StateRunning, HeldUpBy: "clerk.users/3/17", Attempts: 12, NextAt: 1_800_000_000_000,
	}}
	var out bytes.Buffer
	if err := printStatus(&out, sinkStatus{Name: "crm", Instances: []instanceStatus{instance}}, now); err != nil {
		t.Fatal(err)
	}
	if want := "held up by clerk.users/3/17, which fails alone: tried 12 times, next at 2027-01-15T08:00:00Z"; !strings.Contains(out.String(), want) {
		t.Errorf("got\n%s\nwant it to contain %q", out.String(), want)
	}
}

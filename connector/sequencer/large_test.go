package sequencer_test

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/connector"
)

// incompressible is text of that many bytes.
func incompressible(n int) string {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
	text := make([]byte, n)
	for i := range text {
		text[i] = letters[rand.IntN(len(letters))]
	}
	return string(text)
}

// TestSequencer_LargestEvent: whatever a receiver can acknowledge, the
// sequencer can publish, although the published record carries more beside
// the user than the event does. Otherwise one user would hold up his
// partition for ever.
func TestSequencer_LargestEvent(t *testing.T) {
	brokers(t, func(t *testing.T, opts []kgo.Opt) {
		d := deploy(t, opts, 1)
		small, large := 1<<19, 1<<20+1<<18 // accepted, refused
		for large-small > 1 {
			size := (small + large) / 2
			err := d.writer.Write(t.Context(), connector.SourceRecord{Event: event("user_probe", 1000, incompressible(size))})
			switch {
			case err == nil:
				small = size
			case errors.Is(err, kerr.MessageTooLarge):
				large = size
			default:
				t.Fatal(err)
			}
		}
		t.Logf("largest name: %d bytes", small)
		name := incompressible(small)
		if err := d.writer.Write(t.Context(), connector.SourceRecord{Event: event("user_large", 1000, name)}); err != nil {
			t.Fatal(err)
		}
		s, _ := d.start(t, "a")
		eventually(t, patience, "caught up", d.caughtUp(t, s))
		if got := d.table(t)["user_large"]; got == nil || *got.User.FirstName != name {
			t.Error("the largest event is not in the topic")
		}
	})
}

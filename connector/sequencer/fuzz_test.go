package sequencer

import (
	"bytes"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/connector"
	"clerkconnect/schemas"
)

// FuzzProcess: no record that stands in the event log stops its partition or
// says something of another user than its key's, and what cannot be read is
// asked for again.
func FuzzProcess(f *testing.F) {
	version, name := int64(5), "Ada"
	codec := new(schemas.Codec)
	for _, event := range []schemas.UserEvent{
		{Operation: schemas.EventUpsert, Origin: schemas.OriginWebhook, UpdatedAt: 5, StatedAt: 5, User: &schemas.User{FirstName: &name}},
		{Operation: schemas.EventUpsert, Origin: schemas.OriginRepair, UpdatedAt: 5, StatedAt: 5, IfVersion: &version, User: &schemas.User{}},
		{Operation: schemas.EventUpsert, Origin: schemas.OriginSnapshot}, // without a user
		{Operation: schemas.EventDelete, Origin: schemas.OriginRequest, StatedAt: 9},
		{Operation: schemas.EventInferredDelete, Origin: schemas.OriginReconcile, IfVersion: &version},
		{Operation: schemas.EventRevoke, Origin: schemas.OriginRequest, User: &schemas.User{}},
	} {
		event.ClerkID = "user_1"
		value, err := codec.Encode(&event)
		if err != nil {
			f.Fatal(err)
		}
		f.Add([]byte("user_1"), value)
		f.Add([]byte("user_2"), value)
	}
	f.Add([]byte(schemas.TickKey), []byte(nil))
	f.Add([]byte(nil), []byte("x"))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		h := newHarness()
		out, err := h.seq.Process(t.Context(), []*kgo.Record{{Topic: testTopics.UserEvents(), Key: key, Value: value}})
		if err != nil {
			t.Fatal(err)
		}
		h.seq.Committed()
		var event schemas.UserEvent
		read := codec.Decode(t.Context(), value, &event) == nil && event.ClerkID == string(key) && (event.User != nil || !statesUser(event.Operation))
		if !read && string(key) != schemas.TickKey && (len(out) != 1 || string(out[0].Key) != connector.StateKeyRereadPrefix+string(key)) {
			t.Fatalf("a record that cannot be read: got %d records, want the wish to read the user again", len(out))
		}
		for _, r := range out {
			if r.Topic != testTopics.ConnectState() && !bytes.Equal(r.Key, key) {
				t.Fatalf("%s: got key %q, want %q", r.Topic, r.Key, key)
			}
		}
		if at, known := h.seq.position(string(key), 0); known != (read && len(out) > 0) || known && at.Version < 0 {
			t.Fatalf("position: got %+v, %v", at, known)
		}
	})
}

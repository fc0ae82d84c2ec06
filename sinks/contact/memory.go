package contact

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"

	"clerkconnect/sinks"
)

// Memory is what a tool's sink remembers of a user, in the sink's state topic:
// what its erasure needs, and what saves calls. The zero value remembers
// nothing.
type Memory struct {
	// RemoteID is the tool's own id of the contact; "": not known yet.
	RemoteID string `json:"id,omitempty"`
	// Email is the address that the contact has at the tool, for tools that are
	// keyed by it.
	Email string `json:"email,omitempty"`
	// Creating tells that a contact is about to be created, or was: the sink
	// must look before it creates one. See [sinks.ErrRememberFirst].
	Creating bool `json:"creating,omitempty"`
	// Welcomed tells that the effect for new users has been sent.
	Welcomed bool `json:"welcomed,omitempty"`
	// Erased tells that the contact was erased and RemoteID is kept for reading
	// that back alone: if the user comes back, nothing else counts.
	Erased bool `json:"erased,omitempty"`
	// Sent are hashes of what was sent last, by property.
	Sent map[string]string `json:"sent,omitempty"`
	// Extra is for what only one tool needs, as the addresses that a user has left.
	Extra map[string]string `json:"extra,omitempty"`
}

// format is the version of the form in which a memory is kept. A new format must
// read all older ones.
const format = 1

type stored struct {
	Format int `json:"v"`
	Memory
}

// Recall returns what is remembered. A state that cannot be read, as one of a
// later version, is no memory: then the sink looks for the contact by its key.
func Recall(state []byte) Memory {
	var s stored
	if len(state) == 0 || json.Unmarshal(state, &s) != nil || s.Format != format {
		return Memory{}
	}
	return s.Memory
}

// mostSent is the longest state with hashes: without room for them every change
// is sent.
const mostSent = 4 << 10

// Remember has the runner keep m. It takes effect only if the record is
// applied, or is listed with [sinks.ErrRememberFirst].
func (m Memory) Remember(r sinks.Record) { r.Remember(m.encode()) }

// RememberErased has the runner keep of m what the confirmation of the erasure
// needs, and nothing if it needs nothing: an erasure may be demanded again after
// its confirmation, and then nobody would forget it. Every erasure ends with it, so
// that a user who comes back is not taken for one who is still there.
func (m Memory) RememberErased(r sinks.Record) {
	if m.RemoteID == "" && m.Email == "" && len(m.Extra) == 0 {
		r.Remember(nil)
		return
	}
	Memory{RemoteID: m.RemoteID, Email: m.Email, Extra: m.Extra, Erased: true}.Remember(r)
}

func (m Memory) encode() []byte {
	text, err := json.Marshal(stored{format, m})
	if err != nil {
		panic(err) // strings and bools
	}
	if len(text) > mostSent && len(m.Sent) > 0 {
		m.Sent = nil
		return m.encode()
	}
	return text
}

// hash returns 48 bits of a value: enough that a change is missed once in 10^14,
// and short enough for a hundred properties.
func hash(value any) string {
	if value == nil {
		return "-"
	}
	text, err := json.Marshal(value)
	if err != nil {
		return "?" // no JSON: the request fails and says so
	}
	sum := sha256.Sum256(text)
	return base64.RawURLEncoding.EncodeToString(sum[:6])
}

// Names returns the names of p in order, for requests that are the same each
// time.
func (p Properties) Names() []string { return slices.Sorted(maps.Keys(p)) }

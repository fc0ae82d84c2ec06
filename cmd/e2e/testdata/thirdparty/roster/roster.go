// Package roster is a sink of somebody else's: a file of JSON lines, one for
// each user, as a small in-house tool might read.
package roster

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

// Config is the configuration of the sink.
type Config struct {
	Path string // the file; its folder must exist
}

// Sink keeps the file. Safe for concurrent use.
type Sink struct{ cfg Config }

var (
	_ sinks.Sink      = (*Sink)(nil)
	_ sinks.Lister    = (*Sink)(nil)
	_ sinks.Confirmer = (*Sink)(nil)
)

// New returns a sink for cfg.
func New(cfg Config) (*Sink, error) {
	if cfg.Path == "" {
		return nil, errors.New("Path is empty: name a file")
	}
	return &Sink{cfg}, nil
}

// entry is what the file holds of a user. Of an erased one only the guard stays.
type entry struct {
	Guard sinks.Guard
	User  *schemas.User `json:",omitempty"`
}

// file is locked by every sink of this process that writes to it. A tool that
// several processes write to needs a lock of its own.
var file sync.Mutex

// Capabilities implements [sinks.Sink].
func (s *Sink) Capabilities() sinks.Capabilities {
	return sinks.Capabilities{Kind: "roster", MaxBatch: 100, MaxInFlight: 1}
}

// Open implements [sinks.Sink].
func (s *Sink) Open(ctx context.Context) error {
	if info, err := os.Stat(filepath.Dir(s.cfg.Path)); err != nil || !info.IsDir() {
		return sinks.Fatal(sinks.ReasonMisconfigured, errors.New("the folder of the file is not there"))
	}
	return ctx.Err()
}

// Close implements [sinks.Sink].
func (s *Sink) Close() error { return nil }

// Apply implements [sinks.Sink].
func (s *Sink) Apply(ctx context.Context, batch []sinks.Record) error {
	return s.change(ctx, func(held map[string]entry) {
		for _, r := range batch {
			guard, moved := held[r.ClerkID].Guard.Advance(r)
			switch {
			case !moved:
				r.Superseded()
				continue
			case !r.Erase():
				held[r.ClerkID] = entry{guard, &r.Change.User}
				continue
			case held[r.ClerkID].User == nil:
				r.Erased(schemas.OutcomeNotPresent)
			default:
				r.Erased(schemas.OutcomeDeleted)
			}
			held[r.ClerkID] = entry{Guard: guard}
		}
	})
}

// Keys implements [sinks.Lister].
func (s *Sink) Keys(ctx context.Context, after string, limit int) (keys []string, err error) {
	err = s.change(ctx, func(held map[string]entry) {
		for id, e := range held {
			if e.User != nil && id > after {
				keys = append(keys, id)
			}
		}
	})
	slices.Sort(keys)
	return keys[:min(limit, len(keys))], err
}

// Confirm implements [sinks.Confirmer].
func (s *Sink) Confirm(ctx context.Context, clerkID string, _ []byte) (gone bool, err error) {
	err = s.change(ctx, func(held map[string]entry) { gone = held[clerkID].User == nil })
	return gone, err
}

// change reads the file, changes what it holds and puts it back in one step.
func (s *Sink) change(ctx context.Context, change func(map[string]entry)) error {
	file.Lock()
	defer file.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	held := map[string]entry{}
	text, err := os.ReadFile(s.cfg.Path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return sinks.RetryAfter(sinks.ReasonUnavailable, 0, err)
	}
	for line := range strings.Lines(string(text)) {
		id, value, _ := strings.Cut(line, "\t")
		var e entry
		if err := json.Unmarshal([]byte(value), &e); err != nil {
			return sinks.Fatal(sinks.ReasonMisconfigured, errors.New("the file is not a roster"))
		}
		held[id] = e
	}
	change(held)
	var out strings.Builder
	for id, e := range held {
		value, err := json.Marshal(e)
		if err != nil {
			return err
		}
		out.WriteString(id + "\t" + string(value) + "\n")
	}
	if err := os.WriteFile(s.cfg.Path+".new", []byte(out.String()), 0o600); err != nil {
		return sinks.RetryAfter(sinks.ReasonUnavailable, 0, err)
	}
	return os.Rename(s.cfg.Path+".new", s.cfg.Path)
}

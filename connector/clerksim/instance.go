package clerksim

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	svix "github.com/svix/svix-webhooks/go"
)

// ErrNotFound is the error for a user or message that the instance does not have.
var ErrNotFound = errors.New("clerksim: not found")

// Instance is a simulated Clerk instance. Its methods may be called at the same
// time from many goroutines.
type Instance struct {
	cfg      Config
	client   *http.Client
	signer   *svix.Webhook
	requests atomic.Uint64 // numbers the trace ids
	pauses   atomic.Int32  // Drains under way: Run makes no events
	wake     chan struct{} // something to deliver; holds one token

	limit struct { // of API requests, a fixed window
		sync.Mutex
		start             time.Time
		n                 int
		requests, limited int
	}

	mu      sync.RWMutex // guards what follows
	failed  error        // the journal cannot be written: the instance stands still
	url     string
	pcg     *rand.PCG
	rng     *rand.Rand // over pcg
	seq     uint64     // numbers what must be unique; part of the saved state
	users   map[string]*user
	order   []*user // by created_at, then id
	gone    []tombstone
	goneIDs map[string]int // id to index in gone
	journal *journal       // nil without a state file
	history []*message     // the newest messages, oldest first
	byID    map[string]*message
	owed    map[*message]int // deliveries queued or in flight, by message
	queue   deliveries
	flying  int                    // deliveries being attempted
	held    map[string][]*delivery // by user; see holdBack
	drained chan struct{}          // closed when nothing is owed any more; nil unless a Drain waits
	stats   Stats
}

// tombstone remembers a deleted user: its id, its place in the listing, and its
// address until somebody signs up with it.
type tombstone struct {
	ID      string `json:"id"`
	Created int64  `json:"ca"`
	Address string `json:"em,omitempty"`
}

// Stats counts. All but Users, Deleted and Pending begin at 0 with the process.
type Stats struct {
	Users, Deleted int            // now
	Events         map[string]int // made, by event type
	Deliveries     int            // answered with 2xx; a duplicate counts again
	Attempts       int
	Failures       int // attempts not answered with 2xx in time
	GivenUp        int // deliveries that MaxAttempts or the receiver ended
	Pending        int // deliveries owed now, those in flight too
	Requests       int // API requests, of which
	Limited        int // were answered 429
}

// New makes the instance, or loads it from cfg.StateFile. It starts nothing.
func New(cfg Config) (*Instance, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("clerksim configuration: %w", err)
	}
	cfg = cfg.withDefaults()
	i := &Instance{
		cfg: cfg, client: newClient(cfg), url: cfg.WebhookURL, wake: make(chan struct{}, 1),
		users: map[string]*user{}, goneIDs: map[string]int{}, byID: map[string]*message{},
		owed: map[*message]int{}, held: map[string][]*delivery{},
	}
	i.stats.Events = map[string]int{}
	i.pcg = rand.NewPCG(cfg.Seed, 0)
	i.rng = rand.New(i.pcg)
	if err := i.open(); err != nil {
		return nil, fmt.Errorf("open state file: %w", err)
	}
	signer, err := svix.NewWebhook(i.cfg.SigningSecret)
	if err != nil {
		return nil, fmt.Errorf("signing secret: %w", err)
	}
	i.signer = signer
	return i, nil
}

// name fills the secrets and the instance id that neither the configuration
// nor the state file gave.
func (i *Instance) name(instanceID, secretKey, signingSecret string) {
	for _, s := range []struct {
		to   *string
		from string
	}{{&i.cfg.InstanceID, instanceID}, {&i.cfg.SecretKey, secretKey}, {&i.cfg.SigningSecret, signingSecret}} {
		if *s.to == "" {
			*s.to = s.from
		}
	}
}

// InstanceID returns the instance's id, ins_...
func (i *Instance) InstanceID() string { return i.cfg.InstanceID }

// SecretKey returns the key of the Backend API, sk_test_...
func (i *Instance) SecretKey() string { return i.cfg.SecretKey }

// SigningSecret returns the secret of the webhook endpoint, whsec_...
func (i *Instance) SigningSecret() string { return i.cfg.SigningSecret }

// SetWebhookURL changes where deliveries go, the pending ones too; empty
// switches webhooks off: nothing is attempted, and events owe no delivery.
func (i *Instance) SetWebhookURL(url string) {
	i.mu.Lock()
	i.url = url
	i.mu.Unlock()
	i.signal()
}

// Truth returns the users that exist, by id, as the API would answer now.
func (i *Instance) Truth() map[string]json.RawMessage {
	i.mu.RLock()
	users := slices.Clone(i.order)
	i.mu.RUnlock()
	now := i.now()
	truth := make(map[string]json.RawMessage, len(users))
	for _, u := range users {
		truth[u.ID] = u.json(now)
	}
	return truth
}

// Deleted returns the ids of all deleted users, in the order of their deletion.
func (i *Instance) Deleted() []string {
	i.mu.RLock()
	defer i.mu.RUnlock()
	ids := make([]string, len(i.gone))
	for n, g := range i.gone {
		ids[n] = g.ID
	}
	return ids
}

// UserIDs returns the ids of the users that exist, oldest first.
func (i *Instance) UserIDs() []string {
	i.mu.RLock()
	defer i.mu.RUnlock()
	ids := make([]string, len(i.order))
	for n, u := range i.order {
		ids[n] = u.ID
	}
	return ids
}

// Stats returns the counts at this moment.
func (i *Instance) Stats() Stats {
	i.mu.RLock()
	defer i.mu.RUnlock()
	i.limit.Lock()
	defer i.limit.Unlock()
	s := i.stats
	s.Requests, s.Limited = i.limit.requests, i.limit.limited
	s.Users, s.Deleted, s.Pending = len(i.order), len(i.gone), i.pending()
	s.Events = make(map[string]int, len(i.stats.Events))
	maps.Copy(s.Events, i.stats.Events)
	return s
}

// Save syncs the state file and, where that saves half of it, rewrites it. Every
// act is in the file already when its method returns. Returns the error that
// stopped the instance, if its file could not be written.
func (i *Instance) Save() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.failed != nil || i.journal == nil {
		return i.failed
	}
	if i.wasteful() {
		return i.compact()
	}
	return i.journal.file.Sync()
}

// errClosed is what acts return after Close.
var errClosed = errors.New("clerksim: closed")

// Close saves and closes the state file, and the connections of deliveries.
// Run and Drain must have returned. It is safe to call twice.
func (i *Instance) Close() error {
	if i.cfg.HTTPClient == nil {
		i.client.CloseIdleConnections()
	}
	err := i.Save()
	i.mu.Lock()
	defer i.mu.Unlock()
	if errors.Is(i.failed, errClosed) {
		return nil
	}
	if i.journal != nil {
		err = errors.Join(err, i.journal.file.Close())
		i.journal = nil
	}
	i.failed = errClosed
	return err
}

func (i *Instance) now() int64 { return i.cfg.Now().UnixMilli() }

// find returns where a user stands in the listing, or would.
func (i *Instance) find(created int64, id string) (int, bool) {
	return slices.BinarySearchFunc(i.order, created, func(u *user, created int64) int {
		if u.Created != created {
			return int(min(max(u.Created-created, -1), 1))
		}
		return strings.Compare(u.ID, id)
	})
}

// put adds u or replaces the user with its id.
func (i *Instance) put(u *user) {
	at, found := i.find(u.Created, u.ID)
	if found {
		i.order[at] = u
	} else {
		i.order = slices.Insert(i.order, at, u)
		if n := u.primary(); n >= 0 {
			i.claim(u.Emails[n].Value)
		}
	}
	i.users[u.ID] = u
}

// claim forgets that an address is free, because a user has it again.
func (i *Instance) claim(address string) {
	for n := max(0, len(i.gone)-reusable); n < len(i.gone); n++ {
		if i.gone[n].Address == address {
			i.gone[n].Address = ""
		}
	}
}

// reusable is the number of deleted users whose address may be used again.
const reusable = 16

// remove deletes u for ever.
func (i *Instance) remove(u *user) {
	if at, found := i.find(u.Created, u.ID); found {
		i.order = slices.Delete(i.order, at, at+1)
	}
	delete(i.users, u.ID)
	t := tombstone{ID: u.ID, Created: u.Created}
	if n := u.primary(); n >= 0 {
		t.Address = u.Emails[n].Value
	}
	i.bury(t)
}

func (i *Instance) bury(t tombstone) {
	i.goneIDs[t.ID] = len(i.gone)
	i.gone = append(i.gone, t)
}

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"clerkconnect/cmd/internal/config"
	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

func newSinkTest() *cobra.Command {
	return &cobra.Command{
		Use:   "test NAME",
		Short: "Send one made-up user through a sink: create, change, erase, read back",
		Long: `test shows whether a sink works with its settings, before a real user goes there.
It makes up one user, who cannot be taken for a real one (an ID that Clerk does
not make, an address at example.com), and sends him to the destination as the
running sink would: creates him, reads him back if the destination can, changes
him, erases him, and reads that back.

It talks to the destination alone, never to Kafka. Whatever happens, Ctrl-C
included, it erases the user at the end. What the sink leaves of an erased user
stays of this one, too: a line of its table of versions, and with a policy other
than hard his emptied row.`,
		Example: `  export SINKS=postgres SINK_POSTGRES_DSN_FILE=/run/secrets/postgres-dsn
  clerk-connect sink test postgres`,
		Args: oneName,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			entry, err := config.LoadSink(config.Environment(), args[0])
			if err != nil {
				return err
			}
			sink, err := entry.Kind.New(entry.Settings)
			if err != nil {
				return fmt.Errorf("sink %s: %w", args[0], err)
			}
			t := &trial{name: args[0], sink: sink, out: cmd.OutOrStdout(), timeout: entry.Runner.ApplyTimeout}
			if paced, ok := sink.(sinks.Paced); ok {
				paced.Pace(calm{})
				t.timeout += asleep
			}
			return t.run(cmd.Context())
		},
	}
}

// calm is the pace of one user: far below any limit.
type calm struct{}

const calmWait = 200 * time.Millisecond

func (c calm) Wait(ctx context.Context) error { return c.Sleep(ctx, calmWait) }

func (calm) Heed(int, time.Duration) {}

func (calm) Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// asleep is how long a call may take beyond APPLY_TIMEOUT, in which a sink's
// sleep does not count.
const asleep = 5 * time.Minute

// trial is one made-up user on his way.
type trial struct {
	name    string
	sink    sinks.Sink
	out     io.Writer
	timeout time.Duration

	id      string
	version int64
	state   []byte
	there   bool // something may have been written
}

// errTrial ends a test that has failed; the lines before say why.
var errTrial = errors.New("the sink does not work yet")

// cleanTimeout bounds the erasing at the end.
const cleanTimeout = 20 * time.Second

func (t *trial) run(ctx context.Context) (err error) {
	t.id = "user_clerk-connect-test-" + strings.ToLower(rand.Text()[:8]) // Clerk's have no hyphens
	t.version = time.Now().UnixMilli()
	fmt.Fprintf(t.out, "Sink %s, with the made-up user %s\n", t.name, t.id)
	defer func() {
		if closing := t.sink.Close(); closing != nil {
			err = errors.Join(err, fmt.Errorf("close: %w", closing))
		}
	}()
	defer func() {
		if t.there {
			err = errors.Join(err, t.clean(ctx))
		}
	}()
	steps := []struct {
		name string
		do   func(context.Context) (string, error)
	}{
		{"open", func(ctx context.Context) (string, error) { return "", t.sink.Open(ctx) }},
		{"create", func(ctx context.Context) (string, error) { return "", t.apply(ctx, t.change("Test")) }},
		{"read back", func(ctx context.Context) (string, error) { return t.look(ctx, true) }},
		{"change", func(ctx context.Context) (string, error) { return "", t.apply(ctx, t.change("Changed")) }},
		{"erase", t.erase},
		{"confirm", func(ctx context.Context) (string, error) { return t.look(ctx, false) }},
	}
	for _, step := range steps {
		began := time.Now()
		word, err := step.do(ctx)
		took := time.Since(began).Round(time.Millisecond)
		if ctx.Err() != nil {
			fmt.Fprintf(t.out, "  %-10s interrupted\n", step.name)
			return ctx.Err()
		}
		if err != nil {
			problem := sinks.Classify(err)
			fmt.Fprintf(t.out, "  %-10s FAILED after %v: %v\n             %s\n", step.name, took, err, advice(problem))
			return errTrial
		}
		if word == "" {
			word = "ok"
		}
		fmt.Fprintf(t.out, "  %-10s %-8v %s\n", step.name, took, word)
	}
	t.there = false
	fmt.Fprintln(t.out, "The sink works.")
	return nil
}

// change is the user as Clerk would have him.
func (t *trial) change(first string) sinks.Record {
	t.version++
	now := t.version
	last, email, address := "Clerk-Connect", t.id[len("user_"):]+"@example.com", "idn_clerk-connect-test"
	// An audit log holds nothing personal but these (the address is of RFC 5737's).
	clientIP, userAgent := "192.0.2.1", "clerk-connect sink test"
	user := schemas.User{
		FirstName: &first, LastName: &last, PrimaryEmailAddressID: &address, PrimaryEmailAddress: &email,
		CreatedAt: &now, UpdatedAt: &now,
	}
	return sinks.Record{
		ClerkID: t.id, Version: schemas.Version{Epoch: epochNow(), Number: t.version},
		Change: &schemas.UserChange{
			ClerkID: t.id, Operation: schemas.ChangeUpdate, Epoch: epochNow(), Version: t.version, EventID: "clerk-connect-test",
			EventType: "user.updated", Origin: schemas.OriginRequest, OccurredAt: now, ReceivedAt: now, SequencedAt: now, User: user,
			ClientIP: &clientIP, UserAgent: &userAgent,
		},
	}
}

// epochNow is an epoch as topics that are pinned now would have it.
func epochNow() int32 { return int32(time.Now().Unix() / 60) }

// Bounds of the attempts at one step.
const (
	trialAttempts = 4
	trialPause    = time.Second
)

// call gives one record to the sink with what it remembers, and keeps what it is
// to remember from now on.
func (t *trial) call(ctx context.Context, r sinks.Record) (sinks.Result, error) {
	r.State = t.state
	r = sinks.Track(r)
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	err := t.sink.Apply(ctx, []sinks.Record{r})
	var listed *sinks.BatchError
	if errors.As(err, &listed) {
		err = listed.Failed(0)
	}
	result := r.Result()
	if result.Remembered && (err == nil || errors.Is(err, sinks.ErrRememberFirst)) {
		t.state = slices.Clone(result.State)
	}
	return result, err
}

// apply gives one change to the sink as the runner does: again if it asks for
// that, or may succeed later.
func (t *trial) apply(ctx context.Context, r sinks.Record) error {
	for attempt := 1; ; attempt++ {
		t.there = true
		result, err := t.call(ctx, r)
		first := errors.Is(err, sinks.ErrRememberFirst)
		problem := sinks.Classify(err)
		switch {
		case err == nil:
			if result.Superseded {
				return errors.New("the destination says that it has something newer of this user, who was made up just now")
			}
			return nil
		case attempt == trialAttempts || !first && problem.Class != sinks.ClassRetry:
			return err
		}
		if !first {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(max(problem.After, trialPause)):
			}
		}
	}
}

// demand is the erasure of the user.
func (t *trial) demand() sinks.Record {
	t.version++
	return sinks.Record{
		ClerkID: t.id, Version: schemas.Version{Epoch: epochNow(), Number: t.version},
		Erasure: &schemas.Erasure{ClerkID: t.id, Epoch: epochNow(), Version: t.version, Origin: schemas.OriginRequest, EventID: "clerk-connect-test", RequestedAt: t.version},
	}
}

func (t *trial) erase(ctx context.Context) (string, error) {
	demand := t.demand()
	result, err := t.call(ctx, demand)
	for attempt := 1; errors.Is(err, sinks.ErrRememberFirst) && attempt < trialAttempts; attempt++ {
		result, err = t.call(ctx, demand)
	}
	if err != nil {
		return "", err
	}
	word := strings.ToLower(string(result.Outcome))
	if result.Reason != "" {
		word += ": " + result.Reason
	}
	return word, nil
}

// Bounds of the looking at a destination that takes its time. SendGrid shows a
// contact within a minute or so; erased before, it would come to light later.
const (
	lookEvery = 5 * time.Second
	lookFor   = 90 * time.Second
)

// errCannotTell is of a destination that cannot be asked for one user.
var errCannotTell = errors.New("the destination cannot tell")

// holds reports whether the user is there.
func (t *trial) holds(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	if confirmer, ok := t.sink.(sinks.Confirmer); ok {
		gone, err := confirmer.Confirm(ctx, t.id, slices.Clone(t.state))
		return !gone && err == nil, err
	}
	if lister, ok := t.sink.(sinks.Lister); ok {
		keys, err := lister.Keys(ctx, t.id[:len(t.id)-1], 1000)
		return slices.Contains(keys, t.id), err
	}
	return false, errCannotTell
}

// look reads back whether the user is there, if the destination can tell.
func (t *trial) look(ctx context.Context, wanted bool) (string, error) {
	after := t.sink.Capabilities().ConfirmAfter
	there, err := t.holds(ctx)
	for began := time.Now(); err == nil && wanted && !there && after > 0 && time.Since(began) < lookFor; {
		select {
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-time.After(lookEvery):
		}
		there, err = t.holds(ctx)
	}
	switch problem := sinks.Classify(err); {
	case errors.Is(err, errCannotTell):
		return "the destination cannot tell; look there yourself", nil
	case err != nil && !wanted && after > 0 && problem.Class == sinks.ClassPermanent && problem.Reason == sinks.ReasonUnavailable:
		return fmt.Sprintf("not yet: %v; the running sink asks again", problem.Err), nil // as of a deletion that takes days
	case err != nil:
		return "", err
	case there == wanted && wanted:
		return "there", nil
	case there == wanted:
		return "gone", nil
	case wanted && after > 0:
		return "not seen yet: the destination takes its time", nil
	case wanted:
		return "", errors.New("the destination does not show what it has acknowledged")
	case after > 0:
		return fmt.Sprintf("still seen: the destination takes its time; the running sink looks %v after an erasure", after), nil
	}
	return "", errors.New("something of the user is still there after the erasure")
}

// clean erases the user after a failure, or Ctrl-C.
func (t *trial) clean(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
	defer cancel()
	if _, err := t.erase(ctx); err != nil {
		return fmt.Errorf("clean up: %w; remove %s at the destination by hand", err, t.id)
	}
	fmt.Fprintln(t.out, "  cleaned up: the made-up user is erased.")
	return nil
}

// advice says what to do about a problem.
func advice(problem sinks.Error) string {
	switch problem.Reason {
	case sinks.ReasonUnauthorized:
		return "Credentials are wrong, or rights are missing: see the sink's README."
	case sinks.ReasonMisconfigured:
		return "A table, a field or a setting is not as it must be: see clerk-connect sink init --dry-run, and the sink's README."
	case sinks.ReasonUnavailable, sinks.ReasonTimeout:
		return "The destination did not answer: address, network, TLS?"
	case sinks.ReasonRateLimited:
		return "The destination limits us: does another program use the same key?"
	case sinks.ReasonInvalidRecord, sinks.ReasonTooLarge:
		return "The destination refuses the made-up user: does the mapping fill all that it demands, with values that it takes?"
	case sinks.ReasonConflict:
		return "Another user, or a lock, holds what this one needs."
	}
	return "The running sink would try again."
}

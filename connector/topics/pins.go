package topics

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/connector"
	"clerkconnect/schemas"
	"clerkconnect/schemas/compacted"
)

// Bounds of one change of the pins: a transaction of one record, which a
// process that dies in it must not leave open for long.
const (
	pinTimeout   = 10 * time.Second
	pinRetryWait = 200 * time.Millisecond // at most, before another try after being fenced
)

// ReadPins returns what is pinned; the zero value if nothing is. opts say how
// to reach the brokers.
func ReadPins(ctx context.Context, opts []kgo.Opt, names schemas.Topics) (connector.Pins, error) {
	var pins connector.Pins
	err := compacted.Read(ctx, opts, names.ConnectState(), 0, func(r *kgo.Record) error {
		if string(r.Key) != connector.StateKeyPins {
			return nil
		}
		pins = connector.Pins{}
		if r.Value == nil {
			return nil
		}
		return json.Unmarshal(r.Value, &pins)
	})
	if err != nil {
		return connector.Pins{}, fmt.Errorf("read pins from %s: %w", names.ConnectState(), err)
	}
	return pins, nil
}

// PinInstance pins Clerk's instance id if none is pinned, and returns the
// pinned one, which is another if another process or an earlier run was first.
// An empty instanceID pins nothing. Safe to call from many processes at once.
func PinInstance(ctx context.Context, opts []kgo.Opt, names schemas.Topics, instanceID string) (string, error) {
	pins, err := changePins(ctx, opts, names, func(pins *connector.Pins) (bool, error) {
		if pins.InstanceID != "" || instanceID == "" {
			return false, nil
		}
		pins.InstanceID = instanceID
		return true, nil
	})
	return pins.InstanceID, err
}

// changePins reads the pins, lets change alter them, and stores them if it did.
// No change of another process is lost in between: the writer's transactional
// id is the lock. Whoever takes it fences who had it before, so that a commit
// succeeds only if nobody has begun since, and whoever begins later reads it.
func changePins(ctx context.Context, opts []kgo.Opt, names schemas.Topics, change func(*connector.Pins) (bool, error)) (connector.Pins, error) {
	for {
		pins, err := ReadPins(ctx, opts, names)
		if err != nil {
			return pins, err
		}
		if changed, err := change(&pins); err != nil || !changed {
			return pins, err
		}
		pins, err = changeLocked(ctx, opts, names, change)
		if !fenced(err) {
			return pins, err
		}
		select {
		case <-ctx.Done():
			return pins, context.Cause(ctx)
		case <-time.After(rand.N(pinRetryWait)):
		}
	}
}

func changeLocked(ctx context.Context, opts []kgo.Opt, names schemas.Topics, change func(*connector.Pins) (bool, error)) (connector.Pins, error) {
	client, err := kgo.NewClient(append(opts[:len(opts):len(opts)],
		kgo.TransactionalID(names.Prefix+".pins"),
		kgo.TransactionTimeout(pinTimeout),
		kgo.RecordDeliveryTimeout(pinTimeout))...)
	if err != nil {
		return connector.Pins{}, err
	}
	defer client.Close()
	if _, _, err := client.ProducerID(ctx); err != nil { // takes the lock
		return connector.Pins{}, fmt.Errorf("lock pins: %w", err)
	}
	pins, err := ReadPins(ctx, opts, names)
	if err != nil {
		return pins, err
	}
	if changed, err := change(&pins); err != nil || !changed {
		return pins, err
	}
	value, err := json.Marshal(pins)
	if err != nil {
		return pins, err
	}
	if err := client.BeginTransaction(); err != nil {
		return pins, fmt.Errorf("store pins: %w", err)
	}
	record := &kgo.Record{Topic: names.ConnectState(), Key: []byte(connector.StateKeyPins), Value: value}
	if err := client.ProduceSync(ctx, record).FirstErr(); err != nil {
		abort(client)
		return pins, fmt.Errorf("store pins: %w", err)
	}
	if err := client.EndTransaction(ctx, kgo.TryCommit); err != nil {
		return pins, fmt.Errorf("store pins: %w", err)
	}
	return pins, nil
}

// abort ends a transaction whose record could not be written. That it fails
// changes nothing: the broker ends it after pinTimeout.
func abort(client *kgo.Client) {
	ctx, cancel := context.WithTimeout(context.Background(), pinTimeout)
	defer cancel()
	_ = client.AbortBufferedRecords(ctx)
	_ = client.EndTransaction(ctx, kgo.TryAbort)
}

// fenced says that another process has taken the lock meanwhile.
func fenced(err error) bool {
	return errors.Is(err, kerr.ProducerFenced) || errors.Is(err, kerr.InvalidProducerEpoch) ||
		errors.Is(err, kerr.InvalidProducerIDMapping) || errors.Is(err, kerr.InvalidTxnState) ||
		errors.Is(err, kerr.ConcurrentTransactions)
}

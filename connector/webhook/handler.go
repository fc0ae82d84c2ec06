package webhook

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"clerkconnect/connector"
	"clerkconnect/connector/clerk"
)

// retryAfter is what a 503 asks for, in seconds: Svix's first retry comes after
// 5 s, and it honours a later time only up to twice its own schedule.
const retryAfter = "5"

// errTimeout is the cause of a context that ended with Config.Timeout.
var errTimeout = errors.New("no acknowledgement within WEBHOOK_TIMEOUT")

// Handler returns the receiver as a handler for Config.Path; it answers 404 to
// every other path.
func (r *Receiver) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		start := time.Now()
		r.metrics.inFlight.Inc()
		defer r.metrics.inFlight.Dec()
		end := r.handle(w, req, start)
		r.metrics.ended(end, time.Since(start))
		switch {
		case end == wrongMethod:
			w.Header().Set("Allow", http.MethodPost)
		case end == clientGone: // it may still listen, and must not take silence for 200
			end.code = http.StatusServiceUnavailable
			fallthrough
		case end.code == http.StatusServiceUnavailable:
			w.Header().Set("Retry-After", retryAfter)
		}
		w.WriteHeader(end.code)
	})
}

// handle takes a request as far as its verification; the rest goes on in a
// goroutine of its own, so that the answer is in time whatever the broker does,
// and a client that hangs up does not stop a write half-way.
func (r *Receiver) handle(w http.ResponseWriter, req *http.Request, start time.Time) outcome {
	received := r.deps.Now()
	switch {
	case req.URL.Path != r.cfg.Path:
		return wrongPath
	case !r.senders.admits(req):
		r.warnings.Warn("deliveries from addresses outside of WEBHOOK_ALLOWED_CIDRS are refused")
		return wrongAddress
	case req.Method != http.MethodPost:
		return wrongMethod
	case r.draining.Load():
		return shuttingDown
	}
	body, id, end := r.authenticate(w, req)
	if end != verified {
		return end
	}
	if r.repeats.seen(id) {
		r.metrics.repeated.Inc()
	}
	select {
	case r.slots <- struct{}{}:
	default:
		r.warnings.Warn("deliveries are refused: WEBHOOK_MAX_WAITING wait for the broker already")
		return tooMany
	}
	ctx, cancel := context.WithDeadlineCause(context.WithoutCancel(req.Context()), start.Add(r.cfg.Timeout), errTimeout)
	done := make(chan outcome, 1)
	go func() {
		defer func() { <-r.slots }()
		defer cancel()
		done <- r.takeSafely(ctx, delivery{id: id, body: body, received: received})
	}()
	select {
	case end := <-done:
		return end
	case <-ctx.Done():
	case <-req.Context().Done():
		end = clientGone
	}
	select {
	case end := <-done: // its end cancelled ctx
		return end
	default:
	}
	if end != clientGone {
		r.warnings.Warn("deliveries are not acknowledged within WEBHOOK_TIMEOUT")
		end = timedOut
	}
	return end
}

// authenticate returns the body and the delivery's id if one of our secrets
// signed them; else why not.
func (r *Receiver) authenticate(w http.ResponseWriter, req *http.Request) (body []byte, id string, end outcome) {
	if req.ContentLength > maxBodyBytes {
		discard(req)
		return nil, "", bodyTooLarge
	}
	arriving := &unverified{Reader: http.MaxBytesReader(w, req.Body, maxBodyBytes), small: smallBodyBytes, places: r.large}
	defer arriving.release()
	if body, end = readBody(req, arriving); end != verified {
		if end == tooMany {
			r.warnings.Warn("large deliveries are refused: too many are arriving already")
		}
		return nil, "", end
	}
	if id, end = r.verifier.verify(body, req.Header); end != verified {
		r.warnings.Warn("deliveries fail verification: " + end.reason)
	}
	return body, id, end
}

// readBody reads the whole body of req, which is arriving.
func readBody(req *http.Request, arriving io.Reader) ([]byte, outcome) {
	var body bytes.Buffer
	body.Grow(int(min(max(req.ContentLength, 0), smallBodyBytes)) + bytes.MinRead)
	if _, err := body.ReadFrom(arriving); err != nil {
		var tooLarge *http.MaxBytesError
		switch {
		case errors.As(err, &tooLarge):
			discard(req)
			return nil, bodyTooLarge
		case errors.Is(err, errNoPlace):
			return nil, tooMany
		case errors.Is(err, os.ErrDeadlineExceeded): // first, since it cancels the context too
			return nil, bodyUnread
		case req.Context().Err() != nil, errors.Is(err, io.ErrUnexpectedEOF):
			return nil, clientGone
		}
		return nil, bodyUnread
	}
	return body.Bytes(), verified
}

// discard reads on, within bounds, behind a body that is too large: many
// clients write the whole of it before they read the answer, and would see a
// broken connection instead.
func discard(req *http.Request) {
	_, _ = io.CopyN(io.Discard, req.Body, discardBytes) // its errors change nothing
}

// takeSafely is take, except that a panic costs this request and not the
// process: Svix would send the body that caused it again and again.
func (r *Receiver) takeSafely(ctx context.Context, d delivery) (end outcome) {
	defer func() {
		if p := recover(); p != nil { // p is not logged: it may quote the body
			r.deps.Logger.Error("panic while taking a delivery", "event_id", d.id, "panic_type", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			end = panicked
		}
	}()
	return r.take(ctx, d)
}

// delivery is a verified request.
type delivery struct {
	id       string // svix-id
	body     []byte
	received time.Time
}

// take decides what a delivery is and makes its records durable. It returns an
// outcome of code 200 only when nothing is left to be done for the delivery.
func (r *Receiver) take(ctx context.Context, d delivery) outcome {
	env, err := clerk.DecodeEnvelope(d.body)
	r.metrics.events.WithLabelValues(boundedType(env.Type)).Inc()
	if err != nil {
		return r.refuse(ctx, d, env, err)
	}
	switch {
	case clerk.IsSample(env):
		return sampleEvent
	case boundedType(env.Type) == typeOther:
		return typeNotTaken
	}
	ours, err := r.isOurs(ctx, env.InstanceID)
	if err != nil {
		return r.failed(ctx, "pin the instance id", err, pinFailed)
	}
	if !ours {
		r.warnings.Warn("events of another Clerk instance are dropped: its endpoint points here, or a wrong CLERK_INSTANCE_ID was pinned, which another TOPIC_PREFIX mends",
			"pinned", *r.instance.Load())
		return otherInstance
	}
	event, err := r.deps.Policy.Event(env, d.id, d.received)
	if err != nil {
		return r.refuse(ctx, d, env, err)
	}
	err = r.deps.Writer.Write(ctx, connector.SourceRecord{Event: event})
	if errors.Is(err, kerr.MessageTooLarge) {
		return r.deadLetter(ctx, d, env, recordTooLarge, -1, event.ClerkID) // a re-read would be as large
	}
	if err != nil {
		return r.failed(ctx, "write an event", err, writeFailed)
	}
	r.metrics.age.Observe(d.received.Sub(time.UnixMilli(event.OccurredAt)).Seconds())
	r.deps.Logger.Debug("event accepted", "event_id", d.id, "type", env.Type, "key", event.ClerkID)
	return accepted
}

// isOurs is true for events of the pinned instance, and pins the first one. An
// event that names none is ours: our secret signed it.
func (r *Receiver) isOurs(ctx context.Context, instanceID string) (bool, error) {
	if instanceID == "" {
		return true, nil
	}
	pinned := r.instance.Load()
	if pinned == nil {
		select {
		case r.pinning <- struct{}{}:
			defer func() { <-r.pinning }()
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
		if pinned = r.instance.Load(); pinned == nil {
			id, err := r.deps.PinInstance(ctx, instanceID)
			if err != nil {
				return false, err
			}
			pinned = &id
			r.instance.Store(pinned)
		}
	}
	return *pinned == instanceID, nil
}

// refuse deals with a signed delivery that gives no event.
func (r *Receiver) refuse(ctx context.Context, d delivery, env clerk.Envelope, err error) outcome {
	var malformed *clerk.MalformedError
	var ahead *clerk.TooFarAheadError
	now := d.received.UnixMilli()
	switch {
	case errors.As(err, &malformed):
		reread := &connector.Reread{ClerkID: malformed.ClerkID, Reason: "unreadable", RequestedAt: now}
		return r.deadLetter(ctx, d, env, outcome{http.StatusOK, malformed.Reason}, malformed.Offset, malformed.ClerkID, reread)
	case errors.As(err, &ahead):
		// Read again as soon as that time can be believed, and every now and
		// then until it can, since Clerk may mend it.
		ripe := ahead.UpdatedAt - clerk.MaxAhead.Milliseconds()
		reread := &connector.Reread{ClerkID: ahead.ClerkID, Reason: "clock_ahead", RequestedAt: now,
			NotBefore: min(ripe, now+clerk.MaxAhead.Milliseconds())}
		return r.deadLetter(ctx, d, env, tooFarAhead, -1, ahead.ClerkID, reread)
	case errors.Is(err, clerk.ErrMissingID) && env.Type == clerk.TypeUserDeleted:
		r.deps.Logger.Warn("a deletion names no user; reconciliation has to find it", "event_id", d.id)
		return deletionWithoutID
	case errors.Is(err, clerk.ErrMissingID):
		return r.deadLetter(ctx, d, env, missingID, -1, "")
	}
	return typeNotTaken
}

// deadLetter writes what may be said of a delivery that is given up, and the
// wish to read its user again if somebody can. clerkID is "" if not known. Without an acknowledgement Svix
// is to deliver again, as with events.
func (r *Receiver) deadLetter(ctx context.Context, d delivery, env clerk.Envelope, end outcome, offset int64, clerkID string, rereads ...*connector.Reread) outcome {
	sum := sha256.Sum256(d.body)
	records := []connector.SourceRecord{{DeadLetter: &connector.DeadLetter{
		EventID:    d.id,
		ClerkID:    clerkID,
		EventType:  env.Type, // empty or one that is taken
		Reason:     end.reason,
		Bytes:      len(d.body),
		SHA256:     hex.EncodeToString(sum[:]),
		Offset:     offset,
		ReceivedAt: d.received.UnixMilli(),
	}}}
	for _, reread := range rereads {
		if r.deps.HasKey && clerkID != "" {
			records = append(records, connector.SourceRecord{Reread: reread})
		}
	}
	if err := r.deps.Writer.Write(ctx, records...); err != nil {
		return r.failed(ctx, "write a dead letter", err, writeFailed)
	}
	r.deps.Logger.Error("delivery dead-lettered", "event_id", d.id, "reason", end.reason, "offset", offset, "bytes", len(d.body), "reread", len(records) > 1)
	return end
}

// failed says why a delivery has to come again.
func (r *Receiver) failed(ctx context.Context, what string, err error, end outcome) outcome {
	if ctx.Err() != nil {
		return timedOut
	}
	r.warnings.Warn("deliveries cannot be taken", "operation", what, "err", err)
	return end
}

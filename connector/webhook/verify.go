package webhook

import (
	"fmt"
	"net/http"
	"strconv"

	svix "github.com/svix/svix-webhooks/go"
)

// maxIDBytes bounds a delivery's id; Svix's have 31 bytes.
const maxIDBytes = 256

// verifier checks signatures against a list of secrets. Safe for concurrent use.
type verifier []*svix.Webhook

func newVerifier(secrets []string) (verifier, error) {
	var v verifier
	for i, secret := range secrets {
		webhook, err := svix.NewWebhook(secret)
		if err != nil {
			return nil, fmt.Errorf("signing secret %d: %w", i+1, err)
		}
		v = append(v, webhook)
	}
	return v, nil
}

// verify returns the delivery's id and verified if one of the secrets signed
// it within Svix's tolerance of 5 minutes. Otherwise the outcome is the reason:
// a header missing or unreadable, the right signature at a wrong time, which
// points to a clock, or no signature of ours.
func (v verifier) verify(body []byte, header http.Header) (id string, _ outcome) {
	id, ok := deliveryID(header)
	if !ok {
		return "", missingHeader
	}
	for _, webhook := range v {
		if webhook.Verify(body, header) == nil {
			return id, verified
		}
	}
	for _, webhook := range v {
		if webhook.VerifyIgnoringTimestamp(body, header) == nil {
			return "", wrongClock
		}
	}
	return "", noMatch
}

// deliveryID returns the id that the signature covers: that of the svix-*
// headers if all three are there, else of the webhook-* headers, which is the
// library's own choice. ok is false if neither set is whole and readable.
func deliveryID(header http.Header) (id string, ok bool) {
	for _, prefix := range []string{"Svix-", "Webhook-"} {
		id, timestamp, signature := header.Get(prefix+"Id"), header.Get(prefix+"Timestamp"), header.Get(prefix+"Signature")
		if id == "" || timestamp == "" || signature == "" {
			continue
		}
		_, err := strconv.ParseInt(timestamp, 10, 64)
		return id, err == nil && printable(id)
	}
	return "", false
}

// printable is true for visible ASCII of a reasonable length: the id becomes a
// record's header and key.
func printable(id string) bool {
	for _, c := range []byte(id) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return len(id) <= maxIDBytes
}

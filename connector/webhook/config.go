package webhook

import (
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"
)

// Limits that are not settings.
const (
	// maxBodyBytes: Clerk's users are at most some tens of KB (metadata is
	// limited to 8 KB each), and Kafka's default record limit is 1 MiB.
	maxBodyBytes = 1 << 20
	// discardBytes of a larger body are read for a client that sends all of it
	// before it reads the answer.
	discardBytes = 4 << 20
	// smallBodyBytes of a body may arrive without a signature having been seen;
	// what goes on behind them needs one of largeBodies places, each of which
	// costs about 2 MiB.
	smallBodyBytes = 64 << 10
	largeBodies    = 32
	// svixTimeout is how long Svix waits for an answer.
	// https://docs.svix.com/retries
	svixTimeout = 15 * time.Second
	// minSecretBytes is a key too short to guess; Svix's own have 24 bytes.
	minSecretBytes = 16
	secretPrefix   = "whsec_"
)

// Config says where to listen and whom to believe. Its variables stand behind
// WEBHOOK_, but for SigningSecrets and InstanceID, which cmd fills.
type Config struct {
	Addr       string        `env:"ADDR" doc:"Address to listen on for deliveries, as :8080 or 127.0.0.1:8080."`
	Path       string        `env:"PATH" envDefault:"/webhooks/clerk" doc:"Path that takes deliveries; every other path is answered 404."`
	Timeout    time.Duration `env:"TIMEOUT" envDefault:"8s" doc:"Time from a request's arrival to its answer, after which it is 503; 100ms to 14s, since Svix gives up after 15 s."`
	MaxWaiting int           `env:"MAX_WAITING" envDefault:"1024" doc:"Verified requests that may wait for the broker at once; further ones are answered 503 immediately."`

	AllowedCIDRs   []string `env:"ALLOWED_CIDRS" doc:"Networks or addresses that may deliver, by comma; empty allows all, since the signature is the real check."`
	TrustedProxies []string `env:"TRUSTED_PROXIES" doc:"Networks or addresses of proxies whose X-Forwarded-For is believed, by comma; its right-most other address is the sender's."`

	TLSCertFile string `env:"TLS_CERT_FILE" doc:"PEM file with the certificate chain; with WEBHOOK_TLS_KEY_FILE the receiver speaks HTTPS. Read again when it changes."`
	TLSKeyFile  string `env:"TLS_KEY_FILE" doc:"PEM file with the private key of WEBHOOK_TLS_CERT_FILE."`

	// SigningSecrets are the endpoint's secrets, whsec_ and base64: more than
	// one while a secret is being replaced. Each is accepted.
	SigningSecrets []string
	// InstanceID is Clerk's ins_... whose events are taken; empty: the one of
	// the first event, pinned through Dependencies.PinInstance.
	InstanceID string
}

// Validate returns every problem of the configuration. It never quotes a secret.
func (c Config) Validate() error {
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if _, _, err := net.SplitHostPort(c.Addr); err != nil {
		problem("WEBHOOK_ADDR is %q: give host:port, as :8080 or 127.0.0.1:8080", c.Addr)
	}
	if !strings.HasPrefix(c.Path, "/") || strings.ContainsAny(c.Path, "?#% ") {
		problem("WEBHOOK_PATH is %q: give a plain path that begins with a slash, as /webhooks/clerk", c.Path)
	}
	if c.Timeout < 100*time.Millisecond || c.Timeout > svixTimeout-time.Second {
		problem("WEBHOOK_TIMEOUT is %v: give 100ms to 14s, since Svix gives up after 15 s", c.Timeout)
	}
	if c.MaxWaiting < 1 {
		problem("WEBHOOK_MAX_WAITING is %d: give at least 1", c.MaxWaiting)
	}
	if _, err := prefixes("WEBHOOK_ALLOWED_CIDRS", c.AllowedCIDRs); err != nil {
		problems = append(problems, err)
	}
	if _, err := prefixes("WEBHOOK_TRUSTED_PROXIES", c.TrustedProxies); err != nil {
		problems = append(problems, err)
	}
	if (c.TLSCertFile == "") != (c.TLSKeyFile == "") {
		problem("only one of WEBHOOK_TLS_CERT_FILE and WEBHOOK_TLS_KEY_FILE is set: give both for HTTPS, or none")
	} else if c.TLSCertFile != "" {
		if _, err := c.certificate(nil).get(nil); err != nil {
			problems = append(problems, err)
		}
	}
	if len(c.SigningSecrets) == 0 {
		problem("CLERK_WEBHOOK_SIGNING_SECRET is empty: %s", whereSecrets)
	}
	for i, secret := range c.SigningSecrets {
		if fault := secretFault(secret); fault != "" {
			problem("CLERK_WEBHOOK_SIGNING_SECRET, entry %d of %d, %s: %s", i+1, len(c.SigningSecrets), fault, whereSecrets)
		}
	}
	return errors.Join(problems...)
}

// certificate is that of TLSCertFile and TLSKeyFile.
func (c Config) certificate(log *slog.Logger) *certificate {
	return &certificate{certFile: c.TLSCertFile, keyFile: c.TLSKeyFile, log: log}
}

const whereSecrets = "copy the endpoint's Signing Secret (whsec_...) from Clerk's Dashboard, Configure, Webhooks"

// secretFault says what is wrong with a signing secret, without quoting it.
func secretFault(secret string) string {
	encoded, ok := strings.CutPrefix(secret, secretPrefix)
	if !ok {
		return "does not begin with " + secretPrefix
	}
	key, err := base64.StdEncoding.DecodeString(encoded)
	switch {
	case err != nil:
		return "is not base64 after " + secretPrefix
	case len(key) == 0:
		return "is empty after " + secretPrefix
	case len(key) < minSecretBytes:
		return fmt.Sprintf("has %d bytes, at least %d are needed", len(key), minSecretBytes)
	}
	return ""
}

// prefixes parses a list of networks; a single address is a network of one.
func prefixes(variable string, list []string) ([]netip.Prefix, error) {
	var parsed []netip.Prefix
	var problems []error
	for _, text := range list {
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
			addr = addr.Unmap()
			parsed = append(parsed, netip.PrefixFrom(addr, addr.BitLen()))
		} else if prefix, err := netip.ParsePrefix(text); err == nil && !prefix.Addr().Is4In6() {
			parsed = append(parsed, prefix.Masked())
		} else {
			problems = append(problems, fmt.Errorf("%s has %q: give networks as 44.228.126.217/32 or 2600:1f24:64:8000::/56", variable, text))
		}
	}
	return parsed, errors.Join(problems...)
}

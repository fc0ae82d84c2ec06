package webhook

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certificate serves a certificate from two files and reads them again when
// they change, as a renewal does. Files that cannot be used leave the last
// good certificate in place.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger

	mu      sync.Mutex
	loaded  *tls.Certificate
	changed [2]time.Time // modification times of the files last read
}

// get is for tls.Config.GetCertificate: two calls of stat for each handshake.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := [2]time.Time{modified(c.certFile), modified(c.keyFile)}
	if c.loaded != nil && changed == c.changed {
		return c.loaded, nil
	}
	c.changed = changed
	fresh, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	switch {
	case err == nil:
		c.loaded = &fresh
	case c.loaded == nil:
		return nil, fmt.Errorf("WEBHOOK_TLS_CERT_FILE and WEBHOOK_TLS_KEY_FILE: give PEM files of a certificate and its key: %w", err)
	default:
		c.log.Warn("certificate files changed but cannot be used; keeping the last one", "err", err)
	}
	return c.loaded, nil
}

// modified is the zero time for a file that cannot be looked at.
func modified(file string) time.Time {
	info, err := os.Stat(file)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

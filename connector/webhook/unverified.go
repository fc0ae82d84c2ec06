package webhook

import (
	"errors"
	"io"
)

// errNoPlace ends a large body while too many others are arriving.
var errNoPlace = errors.New("no place for a large body")

// unverified is a body that nobody has vouched for yet. Behind its small part
// it takes one of few places or ends with errNoPlace, so that strangers cannot
// fill the memory; deliveries of the usual few KB never need one.
type unverified struct {
	io.Reader
	small  int // bytes that need no place
	places chan struct{}
	holds  bool
}

// Read implements [io.Reader].
func (u *unverified) Read(p []byte) (int, error) {
	switch {
	case u.small > 0:
		p = p[:min(len(p), u.small)]
	case !u.holds:
		select {
		case u.places <- struct{}{}:
			u.holds = true
		default:
			return 0, errNoPlace
		}
	}
	n, err := u.Reader.Read(p)
	u.small -= min(n, u.small)
	return n, err
}

// release gives the place back.
func (u *unverified) release() {
	if u.holds {
		<-u.places
		u.holds = false
	}
}

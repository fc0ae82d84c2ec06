package sinks

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ParseLimit reads a limit as [Limit.String] writes it: requests, a slash and
// the window, as 100/10s.
func ParseLimit(text string) (Limit, error) {
	requests, window, _ := strings.Cut(text, "/")
	n, err := strconv.Atoi(strings.TrimSpace(requests))
	if err != nil || n < 1 {
		return Limit{}, fmt.Errorf("limit %q: write requests/window, as 100/10s, with 1 request or more", text)
	}
	in, err := time.ParseDuration(strings.TrimSpace(window))
	if err != nil || in <= 0 {
		return Limit{}, fmt.Errorf("limit %q: write requests/window, as 100/10s, with a window of more than 0", text)
	}
	return Limit{Requests: n, Window: in}, nil
}

// String returns l as a person writes it, "" if nothing is limited.
func (l Limit) String() string {
	if l.Requests == 0 {
		return ""
	}
	return strconv.Itoa(l.Requests) + "/" + l.Window.String()
}

// UnmarshalText is ParseLimit for settings.
func (l *Limit) UnmarshalText(text []byte) (err error) {
	*l, err = ParseLimit(string(text))
	return err
}

// Validate tells what is wrong with a limit that a program has made.
func (l Limit) Validate() error {
	if (l != Limit{}) && (l.Requests < 1 || l.Window <= 0) {
		return fmt.Errorf("limit of %d requests in %s: both must be more than 0, or neither given", l.Requests, l.Window)
	}
	return nil
}

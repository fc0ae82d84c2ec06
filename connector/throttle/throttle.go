// Package throttle logs what comes again and again once in a while.
package throttle

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Every is how often the same message is logged: strangers can cause some of
// them, a broker that is down causes many, and metrics count each.
const Every = time.Minute

// Logger logs each message once in [Every], with how often it was held back
// meanwhile. Make one with [New]; it is safe for concurrent use.
type Logger struct {
	log  *slog.Logger
	mu   sync.Mutex
	last map[string]*said
}

type said struct {
	at   time.Time
	held int
}

// New returns a Logger that passes on to log.
func New(log *slog.Logger) *Logger {
	return &Logger{log: log, last: map[string]*said{}}
}

// Warn logs a warning. Messages are from a closed set, since each is kept.
func (l *Logger) Warn(message string, args ...any) {
	l.Log(slog.LevelWarn, message, message, args...)
}

// Log logs message, unless one of the same key was logged less than [Every]
// ago. Keys are from a closed set, since each is kept.
func (l *Logger) Log(level slog.Level, key, message string, args ...any) {
	now := time.Now()
	l.mu.Lock()
	s := l.last[key]
	if s == nil {
		s = &said{}
		l.last[key] = s
	}
	held := s.held
	due := now.Sub(s.at) >= Every
	if due {
		s.at, s.held = now, 0
	} else {
		s.held++
	}
	l.mu.Unlock()
	if due {
		l.log.Log(context.Background(), level, message, append(args[:len(args):len(args)], "held_back", held)...)
	}
}

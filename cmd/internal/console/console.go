// Package console speaks to the person at a terminal: lines, a bar that says
// how far a snapshot is, and logs that do not run into it.
package console

import (
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/dustin/go-humanize"
	"github.com/mattn/go-isatty"
)

// clearLine takes away what stands on the terminal's line.
const clearLine = "\r\x1b[K"

// Console writes to a person. Make one with [New]; it is safe for concurrent
// use. That nobody reads it is no reason to stop: it returns no errors.
type Console struct {
	mu    sync.Mutex
	out   io.Writer
	bar   bool // out is a terminal
	drawn bool // a bar is on its line
}

// New returns a console on out. terminal says that out shows a bar.
func New(out io.Writer, terminal bool) *Console {
	return &Console{out: out, bar: terminal}
}

// IsTerminal says whether out is a terminal, which can show a bar.
func IsTerminal(out io.Writer) bool {
	file, ok := out.(*os.File)
	return ok && isatty.IsTerminal(file.Fd())
}

// Line writes one line, in place of a bar if there is one.
func (c *Console) Line(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.drawn {
		format = clearLine + format
		c.drawn = false
	}
	_, _ = fmt.Fprintf(c.out, format+"\n", args...)
}

// Draw draws a bar, or reports that there is no terminal for it.
func (c *Console) Draw(text string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bar {
		_, _ = fmt.Fprint(c.out, clearLine, text)
		c.drawn = true
	}
	return c.bar
}

// Clear takes the bar away, if there is one.
func (c *Console) Clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clear()
}

// clear is Clear; the caller holds c.mu.
func (c *Console) clear() {
	if c.drawn {
		_, _ = fmt.Fprint(c.out, clearLine)
		c.drawn = false
	}
}

// Above returns a writer for logs, which takes the bar away first.
func (c *Console) Above(w io.Writer) io.Writer {
	return writer(func(p []byte) (int, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.clear()
		return w.Write(p)
	})
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// Number renders n with commas, as 1,234,567.
func Number[N int | int64](n N) string { return humanize.Comma(int64(n)) }

package sinktest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Proxy passes TCP connections on to a server until it is cut, for outages of
// servers that a test must not stop.
type Proxy struct {
	// Address is where it listens: a port on loopback.
	Address string

	target string
	gate   sync.RWMutex // held by Mute
	mu     sync.Mutex
	down   bool
	open   map[net.Conn]bool
}

// NewProxy returns a proxy in front of target, a host and port. It ends with
// t.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Address: listener.Addr().String(), target: target, open: map[net.Conn]bool{}}
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			wait.Go(func() { p.serve(client) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		p.Cut()
		wait.Wait()
	})
	return p
}

// Cut closes every connection, and each new one at once, until restore is
// called.
func (p *Proxy) Cut() (restore func()) {
	p.set(true)
	return func() { p.set(false) }
}

// Mute holds every answer of the server back until restore is called: for the
// server, a client that was paused.
func (p *Proxy) Mute() (restore func()) {
	p.gate.Lock()
	return p.gate.Unlock
}

// answers writes what the server says to a client.
type answers struct {
	client net.Conn
	gate   *sync.RWMutex
}

func (a answers) Write(b []byte) (int, error) {
	a.gate.RLock()
	defer a.gate.RUnlock()
	return a.client.Write(b)
}

func (p *Proxy) set(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
	for conn := range p.open {
		if down {
			conn.Close()
		}
	}
}

// keep registers conn so that Cut finds it, or closes it.
func (p *Proxy) keep(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		conn.Close()
		return false
	}
	p.open[conn] = true
	return true
}

func (p *Proxy) drop(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, conn)
	conn.Close()
}

func (p *Proxy) serve(client net.Conn) {
	if !p.keep(client) {
		return
	}
	defer p.drop(client)
	server, err := net.Dial("tcp", p.target)
	if err != nil || !p.keep(server) {
		return
	}
	defer p.drop(server)
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(server, client) //nolint:errcheck // either side may hang up
		server.Close()
	}()
	io.Copy(answers{client, &p.gate}, server) //nolint:errcheck // either side may hang up
	client.Close()
	<-done
}

package dev

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// lockWait is how long the predecessor may take to be gone.
const lockWait = 2 * time.Second

// folder is the data folder of a session, locked against other processes.
type folder struct{ lock *os.File }

// openFolder makes the folder if it is not there, and locks it. A folder of
// simulated users is refused for real ones, and the other way round: their
// topics must never mix.
func openFolder(dir string, clerk kind) (_ *folder, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	f := &folder{lock}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	if err := take(lock); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("another clerk-connect dev uses the data folder %s: end it, or give another --data-dir", dir)
		}
		return nil, fmt.Errorf("lock data folder: %w", err)
	}
	mark := filepath.Join(dir, "clerk")
	text, err := os.ReadFile(mark)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// Nobody should commit users, not even made-up ones.
		if err := os.WriteFile(filepath.Join(dir, ".gitignore"), []byte("*\n"), 0o600); err != nil {
			return nil, fmt.Errorf("data folder: %w", err)
		}
		if err := os.WriteFile(mark, []byte(clerk+"\n"), 0o600); err != nil {
			return nil, fmt.Errorf("data folder: %w", err)
		}
	case err != nil:
		return nil, fmt.Errorf("data folder: %w", err)
	case strings.TrimSpace(string(text)) != string(clerk):
		return nil, fmt.Errorf("the data folder %s holds users of a %s Clerk, not of a %s one: give another --data-dir",
			dir, strings.TrimSpace(string(text)), clerk)
	}
	return f, nil
}

// take takes the lock. The kernel releases it when its process has ended,
// which takes a moment after a kill while data goes to the disk.
func take(lock *os.File) error {
	deadline := time.Now().Add(lockWait)
	for {
		err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(deadline) {
			return err
		}
		time.Sleep(lockWait / 20)
	}
}

func (f *folder) close() { _ = f.lock.Close() }

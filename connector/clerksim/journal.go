package clerksim

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"
)

// journalVersion is the version of the state file's form.
const journalVersion = 1

// line is one line of the state file. It begins with the instance, its users,
// its deleted users and what it owes; acts and marks of deliveries follow.
type line struct {
	Instance *identity  `json:"instance,omitempty"`
	User     *user      `json:"user,omitempty"`
	Gone     *tombstone `json:"gone,omitempty"`
	Message  *message   `json:"message,omitempty"`
	Act      bool       `json:"act,omitempty"`    // Message's user takes effect
	Copies   int        `json:"copies,omitempty"` // deliveries of Message owed from here on
	Done     string     `json:"done,omitempty"`   // message of which one delivery is not owed any more
	Rand     []byte     `json:"rand,omitempty"`   // position of the random generator after this line
	Seq      uint64     `json:"seq,omitempty"`
}

type identity struct {
	Version       int    `json:"version"`
	ID            string `json:"id"`
	SecretKey     string `json:"secret_key"`
	SigningSecret string `json:"signing_secret"`
}

// journal is the open state file.
type journal struct {
	file  *os.File
	lines int
}

// open loads the state file, or makes a new instance and its state file.
func (i *Instance) open() error {
	whole := false
	if i.cfg.StateFile != "" {
		file, err := os.OpenFile(i.cfg.StateFile, os.O_RDWR|os.O_APPEND, 0o600)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err == nil {
			i.journal = &journal{file: file}
			if whole, err = i.load(file); err != nil {
				return errors.Join(err, file.Close())
			}
		}
	}
	if i.journal == nil {
		i.name(secrets(i.cfg.Seed))
		i.populate(i.cfg.Users)
	}
	if i.cfg.StateFile == "" || (whole && !i.wasteful()) {
		return nil
	}
	return i.compact()
}

// load reads the journal; whole is false if its last line was torn by a kill,
// which then was an act that nobody had heard of.
func (i *Instance) load(r io.Reader) (whole bool, err error) {
	in := bufio.NewReaderSize(r, 1<<20)
	messages := map[string]*message{}
	for {
		text, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			whole = len(text) == 0
			break
		}
		if err != nil {
			return false, err
		}
		var l line
		if err := json.Unmarshal(text, &l); err != nil {
			return false, fmt.Errorf("line %d: %w", i.journal.lines+1, err)
		}
		if err := i.replay(l, messages); err != nil {
			return false, fmt.Errorf("line %d: %w", i.journal.lines+1, err)
		}
		i.journal.lines++
	}
	if i.cfg.SigningSecret == "" {
		return false, errors.New("no instance in it")
	}
	owed := i.owed
	i.owed = map[*message]int{}
	for _, m := range byTime(owed) {
		i.remember(m)
		i.enqueue(m, make([]time.Duration, owed[m]))
	}
	return whole, nil
}

func (i *Instance) replay(l line, messages map[string]*message) error {
	switch {
	case l.Instance != nil:
		if l.Instance.Version != journalVersion {
			return fmt.Errorf("version is %d: want %d", l.Instance.Version, journalVersion)
		}
		i.name(l.Instance.ID, l.Instance.SecretKey, l.Instance.SigningSecret)
	case l.User != nil:
		i.put(l.User)
	case l.Gone != nil:
		i.bury(*l.Gone)
	case l.Message != nil:
		m := l.Message
		if l.Act {
			i.apply(m)
		}
		if l.Copies > 0 {
			if known := messages[m.ID]; known != nil {
				m = known
			}
			messages[m.ID] = m
			i.owed[m] += l.Copies
		}
	case l.Done != "":
		if m := messages[l.Done]; m != nil {
			if i.owed[m]--; i.owed[m] <= 0 {
				delete(i.owed, m)
				delete(messages, l.Done)
			}
		}
	}
	if l.Rand != nil {
		i.seq = l.Seq
		return i.pcg.UnmarshalBinary(l.Rand)
	}
	return nil
}

// byTime returns the messages in the order in which they were made.
func byTime(owed map[*message]int) []*message {
	list := make([]*message, 0, len(owed))
	for m := range owed {
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b *message) int {
		if a.At != b.At {
			return int(min(max(a.At-b.At, -1), 1))
		}
		return strings.Compare(a.ID, b.ID)
	})
	return list
}

// write appends a line in one piece. An error stops the instance, because its
// memory must not run ahead of its file.
func (i *Instance) write(l line) error {
	if i.failed != nil {
		return i.failed
	}
	if i.journal == nil {
		return nil
	}
	return i.stop(i.encode(i.journal.file, l))
}

// stop ends the instance's life at an error of its journal.
func (i *Instance) stop(err error) error {
	if err != nil {
		i.failed = fmt.Errorf("write state file: %w", err)
	}
	return err
}

func (i *Instance) encode(w io.Writer, l line) error {
	if l.Act || l.Instance != nil {
		l.Rand, _ = i.pcg.MarshalBinary() // never fails
		l.Seq = i.seq
	}
	text, err := json.Marshal(l)
	if err != nil {
		return err
	}
	i.journal.lines++
	_, err = w.Write(append(text, '\n'))
	return err
}

// wasteful says that more than half of the state file is history.
func (i *Instance) wasteful() bool {
	return i.journal != nil && i.journal.lines > 2*(len(i.order)+len(i.gone)+len(i.owed))+5_000
}

// compact writes the present state to a new file, which takes the place of
// the old one at once. What is in the old file alone is lost: an act must be in
// effect before.
func (i *Instance) compact() error {
	temp := i.cfg.StateFile + ".new"
	file, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return i.stop(err)
	}
	if i.journal != nil {
		_ = i.journal.file.Close() // replaced below
	}
	i.journal = &journal{file: file}
	w := bufio.NewWriterSize(file, 1<<20)
	err = i.encode(w, line{Instance: &identity{journalVersion, i.cfg.InstanceID, i.cfg.SecretKey, i.cfg.SigningSecret}})
	for n := 0; n < len(i.order) && err == nil; n++ {
		err = i.encode(w, line{User: i.order[n]})
	}
	for n := 0; n < len(i.gone) && err == nil; n++ {
		err = i.encode(w, line{Gone: &i.gone[n]})
	}
	for _, m := range byTime(i.owed) {
		if err == nil {
			err = i.encode(w, line{Message: m, Copies: i.owed[m]})
		}
	}
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = file.Sync()
	}
	if err == nil {
		err = os.Rename(temp, i.cfg.StateFile)
	}
	return i.stop(err)
}

package clerksim

import (
	"encoding/json"
	"fmt"
	"math/bits"
	"time"
)

// The event types that the instance makes.
const (
	UserCreated = "user.created"
	UserUpdated = "user.updated"
	UserDeleted = "user.deleted"
)

// SignUp creates a user and returns its id; empty if the instance has stopped
// (see Save). One in twenty uses the address of a user deleted lately.
func (i *Instance) SignUp() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	address := ""
	if i.chance(5) {
		for n := len(i.gone) - 1; n >= max(0, len(i.gone)-reusable) && address == ""; n-- {
			address = i.gone[n].Address
		}
	}
	return i.signUp(address)
}

// Rejoin deletes a user and signs up again with its primary e-mail address.
// It returns the new id.
func (i *Instance) Rejoin(id string) (string, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.delete(id); err != nil {
		return "", err
	}
	return i.signUp(i.gone[len(i.gone)-1].Address), i.failed
}

func (i *Instance) signUp(address string) string {
	at := i.now()
	if n := len(i.order); n > 0 {
		at = max(at, i.order[n-1].Created+1)
	}
	u := i.newUser(at)
	if address != "" {
		e := i.newIdent(at, address, "code")
		u.Emails, u.PrimaryEmail, u.Accounts = append(u.Emails, e), e.ID, nil
	}
	if i.record(UserCreated, u) != nil {
		return ""
	}
	return u.ID
}

// Delete deletes a user. Its id never returns.
func (i *Instance) Delete(id string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.delete(id)
}

func (i *Instance) delete(id string) error {
	u := i.users[id]
	if u == nil {
		return fmt.Errorf("user %s: %w", id, ErrNotFound)
	}
	return i.record(UserDeleted, u)
}

// UpdateProfile changes the name of a user, and by chance its picture, user
// name, locale, telephone number or second factor.
func (i *Instance) UpdateProfile(id string) error {
	return i.change(id, func(u *user, now int64) {
		before := u.First + u.Last
		for u.First+u.Last == before {
			u.First, u.Last = i.oneOf(firstNames), i.oneOf(lastNames)
		}
		i.seq++
		switch i.rng.IntN(12) {
		case 0:
			u.Image = i.newImage()
		case 1:
			u.Username = fmt.Sprintf("name.%d", i.seq)
		case 2:
			u.Locale = i.oneOf(locales)
		case 3:
			u.Phones = append(u.Phones, i.newIdent(now, fmt.Sprintf("+1555%07d", i.seq), "phone"))
			u.PrimaryPhone = u.Phones[len(u.Phones)-1].ID
		case 4:
			u.TOTP = !u.TOTP
			if u.TOTP {
				u.MFAOn = now
			} else {
				u.MFAOff = now
			}
		}
	})
}

// SetProfile gives a user a name and an e-mail address, which becomes the only
// one. It must be nobody else's.
func (i *Instance) SetProfile(id, first, last, email string) error {
	return i.change(id, func(u *user, now int64) {
		e := i.newIdent(now, email, "code")
		u.First, u.Last, u.Emails, u.PrimaryEmail, u.Accounts = first, last, []ident{e}, e.ID, nil
	})
}

// SignIn changes nothing but last_sign_in_at, last_active_at and updated_at:
// the most frequent of Clerk's events.
func (i *Instance) SignIn(id string) error {
	return i.change(id, func(u *user, now int64) { u.SignIn = now })
}

// ChangeEmail adds an e-mail address and makes it the primary one. The oldest
// of four is dropped.
func (i *Instance) ChangeEmail(id string) error {
	return i.change(id, func(u *user, now int64) {
		i.seq++
		u.Emails = append(u.Emails, i.newIdent(now, i.newAddress(u.First), "code"))
		u.PrimaryEmail = u.Emails[len(u.Emails)-1].ID
		if len(u.Emails) > 3 {
			u.Emails = u.Emails[1:]
		}
	})
}

// SwapEmails exchanges the primary e-mail addresses of two users in three
// events, by way of a third address. Both must have one.
func (i *Instance) SwapEmails(a, b string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	ua, ub := i.users[a], i.users[b]
	if ua == nil || ub == nil || a == b || ua.primary() < 0 || ub.primary() < 0 {
		return fmt.Errorf("swap e-mails of %s and %s: %w", a, b, ErrNotFound)
	}
	i.seq++
	ofA, ofB, between := ua.Emails[ua.primary()].Value, ub.Emails[ub.primary()].Value, i.newAddress("swap")
	for _, step := range []struct{ id, address string }{{a, between}, {b, ofA}, {a, ofB}} {
		if err := i.changeLocked(step.id, func(u *user, now int64) {
			e := &u.Emails[u.primary()]
			e.Value, e.Updated = step.address, now
		}); err != nil {
			return err
		}
	}
	return nil
}

// Ban bans a user; Clerk has no event of its own for it.
func (i *Instance) Ban(id string) error {
	return i.change(id, func(u *user, _ int64) { u.Banned = true })
}

// Unban takes a ban back.
func (i *Instance) Unban(id string) error {
	return i.change(id, func(u *user, _ int64) { u.Banned = false })
}

// Lock locks a user, half of them without an end.
func (i *Instance) Lock(id string) error {
	return i.change(id, func(u *user, _ int64) { i.lock(u, true) })
}

// Unlock unlocks a user.
func (i *Instance) Unlock(id string) error {
	return i.change(id, func(u *user, _ int64) { i.lock(u, false) })
}

// SetMetadata replaces a user's public and private metadata, byte for byte. Each
// must be a JSON object; nil leaves it as it is.
func (i *Instance) SetMetadata(id string, public, private json.RawMessage) error {
	for _, m := range []json.RawMessage{public, private} {
		var object map[string]json.RawMessage
		if m != nil && (json.Unmarshal(m, &object) != nil || object == nil) {
			return fmt.Errorf("metadata of %s is not a JSON object", id)
		}
	}
	return i.change(id, func(u *user, _ int64) {
		if public != nil {
			u.Public = string(public)
		}
		if private != nil {
			u.Private = string(private)
		}
	})
}

// Act makes one act by chance, as Run does. Sign-ins are a third, and there are
// three sign-ups for each deletion. It returns the error that stopped the instance.
func (i *Instance) Act() error {
	i.mu.Lock()
	a, b := i.pick(), i.pick()
	kind, metadata := i.rng.IntN(100), i.newMetadata()
	i.mu.Unlock()
	// A script may delete the user meanwhile: an act may then be none.
	switch {
	case a == nil || kind < 15:
		i.SignUp()
	case kind < 37:
		_ = i.UpdateProfile(a.ID)
	case kind < 46:
		_ = i.SetMetadata(a.ID, json.RawMessage(metadata), nil)
	case kind < 52:
		_ = i.ChangeEmail(a.ID)
	case kind < 55 && a.Banned:
		_ = i.Unban(a.ID)
	case kind < 55:
		_ = i.Ban(a.ID)
	case kind < 58 && a.Locked:
		_ = i.Unlock(a.ID)
	case kind < 58:
		_ = i.Lock(a.ID)
	case kind < 63:
		_ = i.Delete(a.ID)
	case kind == 63:
		_, _ = i.Rejoin(a.ID)
	case kind == 64 && a.primary() >= 0 && b.primary() >= 0 && a.ID != b.ID:
		_ = i.SwapEmails(a.ID, b.ID)
	default:
		_ = i.SignIn(a.ID)
	}
	return i.err()
}

// pick chooses a user, nil if there is none: half of the time one by chance,
// else the favourite of the last 16 numbers given out, so that messages of one
// user follow each other closely enough to overtake each other.
func (i *Instance) pick() *user {
	n := uint64(len(i.order))
	if n == 0 {
		return nil
	}
	r := i.rng.Uint64()
	if r&1 == 0 {
		r = (i.seq/16 + 1) * 0x9e3779b97f4a7c15 // Fibonacci hashing: spreads consecutive numbers
	}
	at, _ := bits.Mul64(r, n)
	return i.order[at]
}

func (i *Instance) err() error {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return i.failed
}

func (i *Instance) change(id string, edit func(u *user, now int64)) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.changeLocked(id, edit)
}

func (i *Instance) changeLocked(id string, edit func(u *user, now int64)) error {
	old := i.users[id]
	if old == nil {
		return fmt.Errorf("user %s: %w", id, ErrNotFound)
	}
	u := old.clone()
	if i.cfg.TiedUpdates == 0 || i.rng.Float64() >= i.cfg.TiedUpdates {
		u.Updated = max(i.now(), old.Updated+1)
	}
	edit(u, u.Updated)
	return i.record(UserUpdated, u)
}

// record makes the event of an act and puts the act into effect: first in the
// journal, then in memory, then among the deliveries.
func (i *Instance) record(kind string, u *user) error {
	if i.failed != nil {
		return i.failed
	}
	at := max(i.now(), u.Updated)
	m := &message{
		ID: i.newID("msg_", at), Type: kind, At: at, User: u,
		IP: fmt.Sprintf("203.0.113.%d", 1+i.rng.IntN(254)), Agent: i.rng.IntN(len(agents)),
	}
	plan := i.disorder()
	if i.url == "" {
		plan = nil
	}
	if err := i.write(line{Message: m, Act: true, Copies: len(plan)}); err != nil {
		return err
	}
	i.apply(m)
	i.stats.Events[kind]++
	i.remember(m)
	i.enqueue(m, plan)
	if i.wasteful() {
		return i.compact()
	}
	return nil
}

// apply puts the act that m tells of into effect.
func (i *Instance) apply(m *message) {
	if m.Type == UserDeleted {
		i.remove(m.User)
	} else {
		i.put(m.User)
	}
}

// disorder draws the copies of a message that are delivered and the delay of
// each; holdBack stands for "after the next message of that user".
func (i *Instance) disorder() []time.Duration {
	d := i.cfg.Disorder
	late := func() time.Duration { return time.Duration(i.rng.Float64() * float64(d.LateBy)) }
	plan := []time.Duration{0}
	switch r := i.rng.Float64(); {
	case r < d.Late:
		plan[0] = late()
	case r < d.Late+d.Swapped:
		plan[0] = holdBack
	}
	if i.rng.Float64() < d.Duplicate {
		plan = append(plan, late())
	}
	return plan
}

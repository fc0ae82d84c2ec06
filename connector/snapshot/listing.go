package snapshot

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// listing walks all users from the oldest to the newest. Users that exist
// throughout are returned, whatever is created or deleted meanwhile.
//
// The place is the last user read. Clerk's cursor (starting_after) names that
// user, and Clerk does not say what it answers when the user has been deleted
// since. So no answer to a cursor is believed that could come from that: an
// error, a page from before the place, or an empty page while newer users
// exist make the listing look by the time of creation instead, which needs no
// user to exist, and skip whom it has read.
type listing struct {
	api     *api
	id      string          // the place: id of the last user read; empty: at the start
	created int64           // the place: that user's created_at
	ties    map[string]bool // users created at that millisecond that were read
	date    time.Time       // of the last answer: Clerk's clock
}

// errInconsistent means that answers contradict each other for too long.
var errInconsistent = errors.New("answers contradict each other: nobody is listed after the last user read, and yet there are newer users")

// next returns the users after the place, none at the end. A short page is not
// the end, since a server may cap the size: only an empty one is, and only when
// the newest of all users was read.
func (l *listing) next(ctx context.Context) ([]row, error) {
	for round := range l.api.cfg.MaxAttempts {
		rows, err := l.after(ctx, round%2 == 1)
		if err != nil || len(rows) > 0 {
			return rows, err
		}
		if end, err := l.ended(ctx); err != nil || end {
			return nil, err
		}
	}
	return nil, errInconsistent
}

func (l *listing) after(ctx context.Context, byTime bool) ([]row, error) {
	if l.id == "" {
		p, err := l.api.oldest(ctx, "", "")
		l.date = p.date
		return p.rows, err
	}
	if !byTime {
		p, err := l.api.oldest(ctx, "starting_after", l.id)
		if !cursorRefused(err) && !l.precedes(p) {
			l.date = p.date
			return p.rows, err
		}
	}
	// Less one, because Clerk does not say whether "after" includes the time.
	p, err := l.api.oldest(ctx, "created_at_after", strconv.FormatInt(max(0, l.created-1), 10))
	if err != nil {
		return nil, err
	}
	l.date = p.date
	rows := slices.DeleteFunc(slices.Clone(p.rows), l.read)
	if len(rows) > 0 || len(p.rows) < l.api.cfg.PageSize {
		return rows, nil
	}
	// More users of one moment than a page holds, all of them read: on from the
	// last one, and some are read twice.
	last := p.rows[len(p.rows)-1]
	if last.id == "" || last.id == l.id {
		return nil, nil
	}
	l.place(last)
	return l.after(ctx, false)
}

// ended says whether the newest of all users was read, or was created before
// the place.
func (l *listing) ended(ctx context.Context) (bool, error) {
	newest, err := l.api.newest(ctx)
	if err != nil {
		return false, err
	}
	if len(newest.rows) == 0 {
		total, _, err := l.api.count(ctx)
		return total == 0, err
	}
	return l.read(newest.rows[0]), nil
}

// read says whether a user was read before, as far as the place tells: whoever
// was created before it was, if there was such a user then.
func (l *listing) read(r row) bool {
	return r.id != "" && (r.id == l.id || r.created != 0 && r.created < l.created || r.created == l.created && l.ties[r.id])
}

// precedes says that a page has users from before the place, or the place
// itself: the cursor was not heeded.
func (l *listing) precedes(p page) bool {
	return slices.ContainsFunc(p.rows, func(r row) bool { return r.created != 0 && r.created < l.created || r.id == l.id })
}

// advance moves the place behind rows.
func (l *listing) advance(rows []row) {
	for _, r := range rows {
		if r.id != "" {
			l.place(r)
			l.ties[r.id] = true
		}
	}
}

// place moves the place to a user.
func (l *listing) place(r row) {
	if l.ties == nil || r.created != 0 && r.created != l.created {
		l.ties = map[string]bool{}
	}
	l.id, l.created = r.id, cmp.Or(r.created, l.created)
}

// cursorRefused says that an answer may mean that the cursor's user is gone:
// any refusal that is not about the key or the rate, and a server that fails on
// it again and again.
func cursorRefused(err error) bool {
	status, _ := statusOf(err)
	switch status {
	case http.StatusUnauthorized, http.StatusPaymentRequired, http.StatusForbidden, http.StatusProxyAuthRequired, http.StatusRequestTimeout, http.StatusTooEarly:
		return false
	}
	return status >= 400
}

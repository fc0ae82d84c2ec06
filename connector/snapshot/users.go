package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"time"
)

// row is one user object of an answer. id is empty if it cannot be read.
type row struct {
	id      string
	created int64 // created_at, Unix milliseconds; 0: cannot be read
	raw     json.RawMessage
}

// page is one answer of GET /users.
type page struct {
	rows []row
	date time.Time // Clerk's clock
}

// userID is what a Clerk ID looks like; anything else never gets into a path.
var userID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)

// list reads users. An answer counts only if it is a JSON array in the order
// asked for, in which at least one user can be told if it holds anything.
func (a *api) list(ctx context.Context, query url.Values) (page, error) {
	var p page
	err := a.get(ctx, endpointUsers, "/users", query, func(body json.RawMessage, date time.Time) error {
		var raws []json.RawMessage
		if err := json.Unmarshal(body, &raws); err != nil {
			return err
		}
		p = page{date: date, rows: make([]row, len(raws))}
		told, last := len(raws) == 0, int64(0)
		for i, raw := range raws {
			r := readRow(raw)
			p.rows[i] = r
			told = told || r.id != ""
			if r.created != 0 && r.created < last {
				return errors.New("users are not in the order asked for")
			}
			last = max(last, r.created)
		}
		if !told {
			return errors.New("answer holds no user")
		}
		return nil
	})
	return p, err
}

func readRow(raw json.RawMessage) row {
	var head struct {
		ID        string `json:"id"`
		CreatedAt int64  `json:"created_at"`
	}
	if err := json.Unmarshal(raw, &head); err != nil || !userID.MatchString(head.ID) {
		return row{raw: raw}
	}
	return row{id: head.ID, created: head.CreatedAt, raw: raw}
}

// oldest asks for users in the order of their creation.
func (a *api) oldest(ctx context.Context, key, value string) (page, error) {
	query := url.Values{"order_by": {"+created_at"}, "limit": {strconv.Itoa(a.cfg.PageSize)}}
	if key != "" {
		query.Set(key, value)
	}
	return a.list(ctx, query)
}

// newest returns the user that was created last; none: there is no user.
func (a *api) newest(ctx context.Context) (page, error) {
	return a.list(ctx, url.Values{"order_by": {"-created_at"}, "limit": {"1"}})
}

// count returns how many users there are. It is never asked with a filter: that
// takes Clerk minutes.
func (a *api) count(ctx context.Context) (total int64, date time.Time, err error) {
	err = a.get(ctx, endpointCount, "/users/count", nil, func(body json.RawMessage, at time.Time) error {
		var answer struct {
			Total *int64 `json:"total_count"`
		}
		if err := json.Unmarshal(body, &answer); err != nil {
			return err
		}
		if answer.Total == nil || *answer.Total < 0 {
			return errors.New("answer holds no total_count")
		}
		total, date = *answer.Total, at
		return nil
	})
	return total, date, err
}

// user reads one user. found is false only if Clerk itself says that there is
// no such user: a 404 of a gateway is an error.
func (a *api) user(ctx context.Context, id string) (raw json.RawMessage, date time.Time, found bool, err error) {
	err = a.get(ctx, endpointUser, "/users/"+id, nil, func(body json.RawMessage, at time.Time) error {
		if readRow(body).id != id {
			return errors.New("answer is not the user asked for")
		}
		raw, date = body, at
		return nil
	})
	if e := new(apiError); errors.As(err, &e) && e.status == http.StatusNotFound && e.code == "resource_not_found" {
		return nil, time.Time{}, false, nil
	}
	return raw, date, err == nil, err
}

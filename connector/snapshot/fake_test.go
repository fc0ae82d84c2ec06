package snapshot

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// fakeUsers is the listing of Clerk's Backend API in small, with what the
// simulated Clerk does not do: users of the same millisecond, and every answer
// that is conceivable where Clerk's description says nothing.
type fakeUsers struct {
	users     []fakeUser // by created_at, then id
	gone      []fakeUser
	mode      fakeCursor
	inclusive bool // created_at_after includes the time
}

type fakeUser struct {
	ID      string `json:"id"`
	Created int64  `json:"created_at"`
}

// fakeCursor is the answer to a cursor whose user is gone.
type fakeCursor int

const (
	cursor422 fakeCursor = iota
	cursor404
	cursor500
	cursorEmpty
	cursorKeeps
	cursorIgnored
	cursorUnknown // no cursor is ever heeded
	cursorModes
)

func fakeOrder(a, b fakeUser) int {
	return cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(a.ID, b.ID))
}

func (f *fakeUsers) add(u fakeUser) {
	f.users = append(f.users, u)
	slices.SortFunc(f.users, fakeOrder)
}

func (f *fakeUsers) find(users []fakeUser, id string) int {
	return slices.IndexFunc(users, func(u fakeUser) bool { return u.ID == id })
}

// remove says whether there was such a user.
func (f *fakeUsers) remove(id string) bool {
	i := f.find(f.users, id)
	if i < 0 {
		return false
	}
	f.gone = append(f.gone, f.users[i])
	f.users = slices.Delete(f.users, i, i+1)
	return true
}

func (f *fakeUsers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Date", time.Now().UTC().Format(http.TimeFormat))
	query := r.URL.Query()
	limit, _ := strconv.Atoi(query.Get("limit"))
	list := slices.Clone(f.users)
	if r.URL.Path == "/v1/users/count" {
		_ = json.NewEncoder(w).Encode(map[string]int{"total_count": len(list)})
		return
	}
	if after := query.Get("created_at_after"); after != "" {
		from, _ := strconv.ParseInt(after, 10, 64)
		list = slices.DeleteFunc(list, func(u fakeUser) bool { return u.Created < from || u.Created == from && !f.inclusive })
	}
	if query.Get("order_by") == "-created_at" {
		slices.Reverse(list)
	}
	if id := query.Get("starting_after"); id != "" && f.mode != cursorUnknown {
		i := f.find(f.users, id)
		switch {
		case i >= 0:
			list = list[i+1:]
		case f.mode == cursor422:
			clerkError(w, http.StatusUnprocessableEntity, "form_param_value_invalid")
			return
		case f.mode == cursor404:
			clerkError(w, http.StatusNotFound, "resource_not_found")
			return
		case f.mode == cursor500:
			http.Error(w, "oops", http.StatusInternalServerError)
			return
		case f.mode == cursorEmpty:
			list = nil
		case f.mode == cursorKeeps:
			place := f.gone[f.find(f.gone, id)]
			list = slices.DeleteFunc(list, func(u fakeUser) bool { return fakeOrder(u, place) <= 0 })
		}
	}
	_ = json.NewEncoder(w).Encode(append([]fakeUser{}, list[:min(limit, len(list))]...))
}

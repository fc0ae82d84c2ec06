package clerksim

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

// apiError is an answer in the shape of ClerkErrors.
type apiError struct {
	status              int
	code, message, long string
	param               string // empty: no meta
	retryAfter          int    // seconds; 0: no header
}

func invalid(param, long string) *apiError {
	return &apiError{status: http.StatusUnprocessableEntity, code: "form_param_value_invalid", message: "is invalid", long: long, param: param}
}

func notFound(long string) *apiError {
	return &apiError{status: http.StatusNotFound, code: "resource_not_found", message: "not found", long: long}
}

// Handler returns the Backend API: GET /v1/users, /v1/users/count and
// /v1/users/{id}.
func (i *Instance) Handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, answer func(*http.Request) ([]byte, *apiError)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			body, problem := []byte(nil), i.admit(r)
			if problem == nil {
				body, problem = answer(r)
			}
			i.respond(w, body, problem)
		})
	}
	handle("GET /v1/users", i.listUsers)
	handle("GET /v1/users/count", i.countUsers)
	handle("GET /v1/users/{id}", i.getUser)
	handle("/", func(*http.Request) ([]byte, *apiError) { return nil, notFound("No such endpoint is simulated") })
	return mux
}

func (i *Instance) respond(w http.ResponseWriter, body []byte, problem *apiError) {
	trace := fmt.Sprintf("%032x", i.requests.Add(1))
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Clerk-Trace-Id", trace)
	h.Set("Date", i.cfg.Now().UTC().Format(http.TimeFormat))
	if problem == nil {
		_, _ = w.Write(body)
		return
	}
	if problem.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(problem.retryAfter))
	}
	var e, all object
	e.quoted("message", problem.message)
	e.quoted("long_message", problem.long)
	e.quoted("code", problem.code)
	if problem.param != "" {
		var meta object
		meta.quoted("param_name", problem.param)
		e.raw("meta", string(meta.end()))
	}
	all.raw("errors", "["+string(e.end())+"]")
	all.text("clerk_trace_id", trace)
	w.WriteHeader(problem.status)
	_, _ = w.Write(all.end())
}

// admit checks the key, then the limit of requests.
func (i *Instance) admit(r *http.Request) *apiError {
	if r.Header.Get("Authorization") != "Bearer "+i.cfg.SecretKey {
		return &apiError{
			status: http.StatusUnauthorized, code: "clerk_key_invalid", message: "The provided Clerk Secret Key is invalid",
			long: "The provided Clerk Secret Key is invalid. Make sure that your Clerk Secret Key is correct.",
		}
	}
	i.limit.Lock()
	defer i.limit.Unlock()
	i.limit.requests++
	now := i.cfg.Now()
	if elapsed := now.Sub(i.limit.start); elapsed >= i.cfg.RateWindow || elapsed < 0 {
		i.limit.start, i.limit.n = now, 0
	}
	if i.limit.n++; i.cfg.RateLimit < 0 || i.limit.n <= i.cfg.RateLimit {
		return nil
	}
	i.limit.limited++
	left := i.limit.start.Add(i.cfg.RateWindow).Sub(now)
	return &apiError{
		status: http.StatusTooManyRequests, code: "too_many_requests", message: "Too many requests",
		long: "Too many requests, retry later", retryAfter: int((left + time.Second - 1) / time.Second),
	}
}

func (i *Instance) getUser(r *http.Request) ([]byte, *apiError) {
	id := r.PathValue("id")
	i.mu.RLock()
	u := i.users[id]
	i.mu.RUnlock()
	if u == nil {
		return nil, notFound("No user was found with id " + id)
	}
	return u.json(i.now()), nil
}

func (i *Instance) countUsers(r *http.Request) ([]byte, *apiError) {
	q, problem := parse(r.URL.Query())
	if problem != nil {
		return nil, problem
	}
	q.limit, q.offset, q.after = -1, 0, ""
	users, _ := i.page(q)
	return fmt.Appendf(nil, `{"object":"total_count","total_count":%d}`, len(users)), nil
}

func (i *Instance) listUsers(r *http.Request) ([]byte, *apiError) {
	q, problem := parse(r.URL.Query())
	if problem != nil {
		return nil, problem
	}
	users, problem := i.page(q)
	if problem != nil {
		return nil, problem
	}
	now := i.now()
	return []byte(array(users, func(u *user) []byte { return u.json(now) })), nil
}

// query is a parsed request for users.
type query struct {
	limit, offset   int // limit below 0: all
	after           string
	order           string // a key of orders; created_at walks the listing as it is kept
	descending      bool
	created, before int64 // created_at_after and _before, both exclusive; 0: none
	match           []func(*user) bool
}

// supportedFilters holds the filters by value, each of up to 100 values.
var supportedFilters = map[string]func(*user) []string{
	"user_id":       func(u *user) []string { return []string{u.ID} },
	"external_id":   func(u *user) []string { return []string{u.ExternalID} },
	"username":      func(u *user) []string { return []string{u.Username} },
	"email_address": func(u *user) []string { return values(u.Emails) },
	"phone_number":  func(u *user) []string { return values(u.Phones) },
	"web3_wallet":   func(u *user) []string { return values(u.Wallets) },
}

var unsupportedFilters = []string{
	"organization_id", "query", "email_address_query", "phone_number_query", "username_query", "name_query",
	"last_active_at_before", "last_active_at_after", "last_active_at_since", "last_sign_in_at_before",
	"last_sign_in_at_after", "provider", "provider_user_id",
}

// orders compares two users by what order_by may name.
var orders = map[string]func(a, b *user) int{
	"created_at":      func(a, b *user) int { return cmp.Compare(a.Created, b.Created) },
	"updated_at":      func(a, b *user) int { return cmp.Compare(a.Updated, b.Updated) },
	"last_active_at":  func(a, b *user) int { return cmp.Compare(a.SignIn/day, b.SignIn/day) },
	"last_sign_in_at": func(a, b *user) int { return cmp.Compare(a.SignIn, b.SignIn) },
	"first_name":      func(a, b *user) int { return cmp.Compare(a.First, b.First) },
	"last_name":       func(a, b *user) int { return cmp.Compare(a.Last, b.Last) },
	"username":        func(a, b *user) int { return cmp.Compare(a.Username, b.Username) },
	"email_address":   func(a, b *user) int { return slices.Compare(values(a.Emails), values(b.Emails)) },
	"phone_number":    func(a, b *user) int { return slices.Compare(values(a.Phones), values(b.Phones)) },
	"web3wallet":      func(a, b *user) int { return slices.Compare(values(a.Wallets), values(b.Wallets)) },
}

func values(list []ident) []string {
	v := make([]string, len(list))
	for n, item := range list {
		v[n] = item.Value
	}
	return v
}

// parse reads the parameters of GET /v1/users, with Clerk's defaults and limits.
func parse(v url.Values) (query, *apiError) {
	q := query{after: v.Get("starting_after")}
	for _, p := range []struct {
		name          string
		def, min, max int64
		to            func(int64)
	}{
		{"limit", 10, 1, 500, func(n int64) { q.limit = int(n) }},
		{"offset", 0, 0, 1 << 40, func(n int64) { q.offset = int(n) }},
		{"created_at_after", 0, 0, 1 << 60, func(n int64) { q.created = n }},
		{"created_at_before", 0, 0, 1 << 60, func(n int64) { q.before = n }},
	} {
		n := p.def
		if text := v.Get(p.name); text != "" {
			var err error
			if n, err = strconv.ParseInt(text, 10, 64); err != nil || n < p.min || n > p.max {
				return q, invalid(p.name, fmt.Sprintf("%s must be an integer from %d to %d", p.name, p.min, p.max))
			}
		}
		p.to(n)
	}
	// A + that was not escaped arrives as a space.
	q.order = strings.TrimLeft(cmp.Or(v.Get("order_by"), "-created_at"), "+ ")
	q.order, q.descending = strings.CutPrefix(q.order, "-")
	switch {
	case orders[q.order] == nil:
		return q, invalid("order_by", "order_by does not name an order")
	case q.after != "" && q.order != "created_at":
		return q, invalid("starting_after", "starting_after can only be used with the created_at ordering")
	case q.after != "" && q.offset != 0:
		return q, invalid("starting_after", "starting_after cannot be used with an offset")
	}
	for _, name := range unsupportedFilters {
		if v.Has(name) {
			return q, &apiError{status: http.StatusBadRequest, code: "not_simulated", message: "not simulated", long: name + " is not simulated", param: name}
		}
	}
	if v.Has("banned") {
		banned := v.Get("banned") == "true"
		q.match = append(q.match, func(u *user) bool { return u.Banned == banned })
	}
	for name, of := range supportedFilters {
		wanted := v[name]
		if len(wanted) > 100 {
			return q, invalid(name, name+" accepts up to 100 values")
		}
		if len(wanted) > 0 {
			q.match = append(q.match, filter(wanted, of, strings.HasSuffix(name, "_id")))
		}
	}
	return q, nil
}

// filter matches users with one of the values and, where signs are allowed,
// none of those that begin with a minus.
func filter(wanted []string, of func(*user) []string, signs bool) func(*user) bool {
	include, exclude := map[string]bool{}, map[string]bool{}
	for _, w := range wanted {
		without, minus := strings.CutPrefix(w, "-")
		switch {
		case signs && minus:
			exclude[without] = true
		case signs:
			include[strings.TrimLeft(w, "+ ")] = true
		default:
			include[w] = true
		}
	}
	return func(u *user) bool {
		found := len(include) == 0
		for _, v := range of(u) {
			if exclude[v] {
				return false
			}
			found = found || include[v]
		}
		return found
	}
}

// page returns the users that q asks for. It holds the lock, and writes no
// JSON meanwhile; the page is the instance at one moment.
func (i *Instance) page(q query) ([]*user, *apiError) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	from, to := 0, len(i.order)
	if q.created > 0 {
		from = sort.Search(to, func(n int) bool { return i.order[n].Created > q.created })
	}
	if q.before > 0 {
		to = sort.Search(to, func(n int) bool { return i.order[n].Created >= q.before })
	}
	if q.after != "" {
		at, next, problem := i.cursor(q.after)
		if problem != nil {
			return nil, problem
		}
		if q.descending {
			to = min(to, at)
		} else {
			from = max(from, next)
		}
	}
	if from >= to {
		return nil, nil
	}
	list := i.order[from:to]
	if q.order != "created_at" {
		list = slices.Clone(list)
		slices.SortStableFunc(list, orders[q.order])
	}
	var users []*user
	for n := range list {
		u := list[n]
		if q.descending {
			u = list[len(list)-1-n]
		}
		if slices.ContainsFunc(q.match, func(m func(*user) bool) bool { return !m(u) }) {
			continue
		}
		if q.offset > 0 {
			q.offset--
			continue
		}
		if users = append(users, u); len(users) == q.limit {
			break
		}
	}
	return users, nil
}

// cursor returns the place of the user that starting_after names, and the place
// after it; they are one and the same if the user is deleted.
func (i *Instance) cursor(id string) (at, next int, problem *apiError) {
	if u := i.users[id]; u != nil {
		at, _ = i.find(u.Created, u.ID)
		return at, at + 1, nil
	}
	n, deleted := i.goneIDs[id]
	switch {
	case deleted && i.cfg.DeletedCursor == CursorKeepsPlace:
		at, _ = i.find(i.gone[n].Created, id)
		return at, at, nil
	case deleted && i.cfg.DeletedCursor == CursorEmptyPage:
		return 0, len(i.order), nil
	case deleted && i.cfg.DeletedCursor == CursorNotFound:
		return 0, 0, notFound("No user was found with id " + id)
	default:
		return 0, 0, invalid("starting_after", "starting_after does not name a user")
	}
}

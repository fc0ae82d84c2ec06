package e2e

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/sinks/sqlite"
)

const dayMilliseconds = 24 * 60 * 60 * 1000

// canary is personal data that is planted in a user: each part is found nowhere
// else.
func canary(part string, user int) string { return fmt.Sprintf("zq7%s%dx", part, user) }

var (
	// synced are the parts that the default policy lets through, private what
	// it must not.
	synced  = []string{"first", "last", "mail", "public"}
	private = "private"
)

// plant gives a user canaries for a name, an e-mail address and metadata.
func (s *stack) plant(id string, user int) {
	s.t.Helper()
	err := s.sim.SetProfile(id, canary("first", user), canary("last", user), canary("mail", user)+"@example.com")
	if err == nil {
		err = s.sim.SetMetadata(id, fmt.Appendf(nil, `{"note":{"deep":["%s"]}}`, canary("public", user)), fmt.Appendf(nil, `{"note":"%s"}`, canary(private, user)))
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// TestCanaries_ErasureLeavesNoTrace plants personal data in users, erases some, and
// searches everything that the deployment has written for it, by bytes: every
// table of a sink of each kind, of one that keeps anonymous rows, and of one that
// refuses the users, so that they are dead letters; every topic from its
// beginning; logs and metrics.
//
// What a database's own files hold of deleted rows until it cleans up (VACUUM of
// PostgreSQL, purge of InnoDB) is not looked at, but for SQLite.
func TestCanaries_ErasureLeavesNoTrace(t *testing.T) {
	t.Parallel()
	required(t, "TEST_POSTGRES_DSN")
	s := newStack(t, false, 40)
	databases := append(s.databases(), s.sqliteFile("anonymous", "DELETION=anonymize"), s.sqliteFile("picky"))
	refuseCanaries(t, databases[len(databases)-1])
	s.use(databases, nil)
	p := s.start("one", all, "")
	eventually(t, patience, "ready", p.ready)
	ids := s.sim.UserIDs()
	const planted, erased = 16, 8 // the first ones are erased
	for i := range planted {
		s.plant(ids[i], i)
	}
	s.settle(patience)

	// Before: it is where it belongs, and the search finds it.
	holders := []string{s.topics.UserEvents(), s.topics.Users(), s.topics.DeadLetters("picky"), "sqlite", "postgres", "mysql", "mongodb", "anonymous"}
	eventually(t, patience, "every canary in every place that holds users", func() bool {
		found := s.search(databases, p)
		return !slices.ContainsFunc(holders, func(place string) bool { return len(found[place]) != planted*len(synced) })
	})
	s.expectOnly("before the erasure", s.search(databases, p), holders...)

	for i := range erased {
		if err := s.sim.Delete(ids[i]); err != nil {
			t.Fatal(err)
		}
	}
	s.settle(patience)
	ofErased := func() findings {
		found := s.search(databases, p)
		for place := range found {
			found[place] = slices.DeleteFunc(found[place], func(f finding) bool { return f.user >= erased })
		}
		maps.DeleteFunc(found, func(_ string, f []finding) bool { return len(f) == 0 })
		return found
	}
	// What may remain for a while, and until when.
	bounded := map[string]map[string]int64{
		s.topics.UserEvents():         {"retention.ms": 14 * dayMilliseconds},
		s.topics.DeadLetters("picky"): {"retention.ms": 14 * dayMilliseconds},
		s.topics.Users():              {"max.compaction.lag.ms": 3 * dayMilliseconds},
	}
	var remaining []string
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("places that still held something of the erased: %q", remaining)
		}
	})
	eventually(t, patience, "nothing of the erased but what remains for a while", func() bool {
		remaining = slices.DeleteFunc(slices.Collect(maps.Keys(ofErased())), func(place string) bool { return bounded[place] != nil })
		return len(remaining) == 0
	})
	s.expectBounds(bounded)
	p.stop()

	// The broker compacts, and after that its retention has passed.
	s.cluster.Compact()
	s.expectOnly("after compaction", ofErased(), s.topics.UserEvents(), s.topics.DeadLetters("picky"))
	s.expire(s.topics.UserEvents(), s.topics.DeadLetters("picky"))
	s.expectOnly("after the retention", ofErased())
	found := s.search(databases, p)
	for _, place := range []string{s.topics.Users(), "sqlite", "postgres", "mysql", "mongodb", "anonymous"} {
		if len(found[place]) != (planted-erased)*len(synced) {
			t.Errorf("%s: got %d canaries of users who are there, want %d", place, len(found[place]), (planted-erased)*len(synced))
		}
	}
}

// finding is a canary that was found; findings has them by place.
type finding struct {
	part string
	user int
}

type findings map[string][]finding

// use has every process write to databases, over a network of each process's
// own.
func (s *stack) use(databases []database, over func(process string, d database) *network) {
	names := make([]string, len(databases))
	for i, d := range databases {
		names[i] = d.sink
	}
	s.settings = func(process string) []string {
		settings := []string{"SINKS=" + strings.Join(names, ","), "LOG_LEVEL=debug"}
		for _, d := range databases {
			var n *network
			if over != nil {
				n = over(process, d)
			}
			settings = append(settings, d.settings(n)...)
		}
		return settings
	}
}

// refuseCanaries makes the file of a sink, with a table that takes no planted
// user.
func refuseCanaries(t *testing.T, d database) {
	t.Helper()
	path := strings.TrimPrefix(d.settings(nil)[0], "SINK_PICKY_PATH=")
	sink, err := sqlite.New(sqlite.Config{Path: path})
	if err == nil {
		err = sink.Init(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(`CREATE TRIGGER refuse BEFORE INSERT ON clerk_users WHEN NEW.first_name LIKE 'zq7%' OR NEW.public_metadata LIKE '%zq7%'
		BEGIN SELECT RAISE(ABORT, 'cannot take this user'); END`); err != nil {
		t.Fatal(err)
	}
}

// search returns which canaries are found where: in each database by the name
// of its sink, in each topic, in "log of" and "metrics of" each process.
func (s *stack) search(databases []database, processes ...*process) findings {
	s.t.Helper()
	places := s.readTopics()
	for _, d := range databases {
		places[d.name()] = d.dump()
	}
	for _, p := range processes {
		places["log of "+p.admin] = []byte(p.log.String())
		places["metrics of "+p.admin] = p.metrics()
	}
	found := findings{}
	for place, data := range places {
		for user := range 50 {
			for _, part := range slices.Concat(synced, []string{private}) {
				if bytes.Contains(data, []byte(canary(part, user))) {
					found[place] = append(found[place], finding{part, user})
				}
			}
		}
	}
	return found
}

// metrics returns what /metrics says, nothing of a process that has ended.
func (p *process) metrics() []byte {
	response, err := http.Get("http://" + p.admin + "/metrics")
	if err != nil {
		return nil
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	return text
}

// expectOnly fails unless canaries are found in these places alone, and private
// ones nowhere.
func (s *stack) expectOnly(when string, found findings, places ...string) {
	s.t.Helper()
	for place, canaries := range found {
		for _, f := range canaries {
			if !slices.Contains(places, place) || f.part == private {
				s.t.Errorf("%s: %s holds the %s of user %d, and %d other canaries", when, place, f.part, f.user, len(canaries)-1)
				break
			}
		}
	}
	for _, place := range places {
		if len(found[place]) == 0 {
			s.t.Errorf("%s: %s holds nothing: the search finds nothing there, or the place is misnamed", when, place)
		}
	}
}

// readTopics returns every byte of every record of each topic of the deployment:
// also what a transaction has taken back.
func (s *stack) readTopics() map[string][]byte {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client, err := kgo.NewClient(append(s.opts, kgo.ConsumeRegex(), kgo.ConsumeTopics("^"+strings.ReplaceAll(s.topics.Prefix, ".", `\.`)+`\..*`),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadUncommitted()), kgo.KeepControlRecords())...)
	if err != nil {
		s.t.Fatal(err)
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	names, err := admin.ListTopics(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	topics, missing := map[string][]byte{}, map[string]map[int32]int64{}
	for _, name := range names.Names() {
		if strings.HasPrefix(name, s.topics.Prefix+".") {
			topics[name], missing[name] = nil, map[int32]int64{}
		}
	}
	ends, err := admin.ListEndOffsets(ctx, slices.Collect(maps.Keys(topics))...)
	if err != nil {
		s.t.Fatal(err)
	}
	starts, err := admin.ListStartOffsets(ctx, slices.Collect(maps.Keys(topics))...)
	if err != nil {
		s.t.Fatal(err)
	}
	left := 0
	ends.Each(func(o kadm.ListedOffset) {
		if start, ok := starts.Lookup(o.Topic, o.Partition); ok && start.Offset < o.Offset {
			missing[o.Topic][o.Partition] = o.Offset
			left++
		}
	})
	for left > 0 {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			s.t.Fatalf("topics: %d partitions were not read to their ends: %v", left, missing)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			record := slices.Concat(r.Key, []byte{'\n'}, r.Value)
			for _, h := range r.Headers {
				record = append(append(record, h.Key...), h.Value...)
			}
			topics[r.Topic] = append(topics[r.Topic], record...)
			if end, ok := missing[r.Topic][r.Partition]; ok && r.Offset >= end-1 {
				delete(missing[r.Topic], r.Partition)
				left--
			}
		})
	}
	return topics
}

// expectBounds compares the settings of topics, as the broker has them, with how
// long what is erased may remain there.
func (s *stack) expectBounds(bounds map[string]map[string]int64) {
	s.t.Helper()
	s.administer(func(ctx context.Context, admin *kadm.Client) error {
		found, err := admin.DescribeTopicConfigs(ctx, slices.Collect(maps.Keys(bounds))...)
		for _, topic := range found {
			for name, most := range bounds[topic.Name] {
				i := slices.IndexFunc(topic.Configs, func(c kadm.Config) bool { return c.Key == name })
				if i < 0 {
					s.t.Errorf("%s has no %s", topic.Name, name)
					continue
				}
				if got, err := strconv.ParseInt(topic.Configs[i].MaybeValue(), 10, 64); err != nil || got <= 0 || got > most {
					s.t.Errorf("%s: %s is %d, want at most %d", topic.Name, name, got, most)
				}
			}
		}
		return err
	})
}

// expire has the retention of topics pass.
func (s *stack) expire(topics ...string) {
	s.t.Helper()
	s.administer(func(ctx context.Context, admin *kadm.Client) error {
		short := "1"
		_, err := admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.ms", Value: &short}}, topics...)
		return err
	})
	time.Sleep(10 * time.Millisecond) // longer than the retention
	s.cluster.ApplyRetention()
}

func (s *stack) administer(act func(context.Context, *kadm.Client) error) {
	s.t.Helper()
	client, err := kgo.NewClient(s.opts...)
	if err != nil {
		s.t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := act(ctx, kadm.NewClient(client)); err != nil {
		s.t.Fatal(err)
	}
}

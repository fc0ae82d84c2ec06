package schemas

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/hamba/avro/v2"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"
	"pgregory.net/rapid"

	twmb "github.com/twmb/avro"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func ptr[T any](v T) *T { return &v }

// samples has one record of each type with every field set.
func samples() map[string]any {
	user := User{}
	value := reflect.ValueOf(&user).Elem()
	for i := range value.NumField() {
		switch field := value.Field(i); field.Interface().(type) {
		case *string:
			field.Set(reflect.ValueOf(ptr("text of " + value.Type().Field(i).Name + " \U0001F642")))
		case *bool:
			field.Set(reflect.ValueOf(ptr(true)))
		case *int64:
			field.Set(reflect.ValueOf(ptr(int64(1700000000000 + i))))
		}
	}
	user.EmailAddresses = &[]EmailAddress{{ID: ptr("idn_1"), EmailAddress: "ada@example.com", VerificationStatus: ptr("verified"), CreatedAt: ptr(int64(1))}, {EmailAddress: "a@example.org"}}
	user.PhoneNumbers = &[]PhoneNumber{{PhoneNumber: "+15555550100", DefaultSecondFactor: ptr(true)}}
	user.Web3Wallets = &[]Web3Wallet{{Web3Wallet: "0x0"}}
	user.Passkeys = &[]Passkey{}
	user.PublicMetadata = ptr(`{"big":12345678901234567890}`)
	return map[string]any{
		"user_event": &UserEvent{ClerkID: "user_1", Operation: EventUpsert, Origin: OriginRepair, EventID: "msg_1", EventType: "user.updated", InstanceID: "ins_1",
			UpdatedAt: 1, StatedAt: 2, OccurredAt: 3, ReceivedAt: 4, Fingerprint: -5, IfVersion: ptr(int64(6)), Snapshot: ptr("s"), PolicyHash: "p", ClientIP: ptr("::1"), UserAgent: ptr("ua"), User: &user},
		"user_change": &UserChange{ClerkID: "user_1", Operation: ChangeUpdate, Epoch: 1, Version: 2, EventID: "msg_1", EventType: "user.updated", Origin: OriginWebhook, InstanceID: "ins_1",
			OccurredAt: 3, ReceivedAt: 4, SequencedAt: 5, PolicyHash: "p", User: user},
		"position": &Position{UpdatedAt: 1, StatedAt: 2, Fingerprint: -3, Version: 4, Epoch: 5, Flags: FlagDeleted | FlagInferred},
		"erasure":  &Erasure{ClerkID: "user_1", Epoch: 1, Version: 2, Origin: OriginReconcile, Inferred: true, EventID: "e", RequestedAt: 3, SequencedAt: 4},
		"receipt":  &Receipt{ClerkID: "user_1", Sink: "postgres", Epoch: 1, Version: 2, Outcome: OutcomeAnonymized, DoneAt: 3, ConfirmedAt: ptr(int64(4)), Reason: ptr("rows of orders refer to it"), WaivedAt: ptr(int64(5))},
	}
}

func blank(r any) any { return reflect.New(reflect.TypeOf(r).Elem()).Interface() }

// TestGolden holds the bytes on the topics: a change here is a change for
// every consumer.
func TestGolden(t *testing.T) {
	for name, record := range samples() {
		got, err := (&Codec{}).Encode(record)
		if err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join("released", "*", name+".golden"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no golden file of %s: %v", name, err)
		}
		file := slices.Max(files) // of the newest version that changed this record
		if *update {
			if err := os.WriteFile(file, []byte(hex.EncodeToString(got)+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if hex.EncodeToString(got) != strings.TrimSpace(string(want)) {
			t.Errorf("%s: got %x, want %s", name, got, want)
		}
		decoded := blank(record)
		if err := (&Codec{}).Decode(t.Context(), got, decoded); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(decoded, record) {
			t.Errorf("%s: got %+v, want %+v", name, decoded, record)
		}
	}
}

// TestReleased is FULL_TRANSITIVE: every released schema and the current one
// read each other, and the bytes of every release can still be read.
func TestReleased(t *testing.T) {
	for _, c := range contracts {
		files, err := filepath.Glob("released/*/" + c.file)
		if err != nil || len(files) == 0 {
			t.Fatalf("no released schema of %s: %v", c.name, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			released := mustParse(string(text))
			compatibility := avro.NewSchemaCompatibility()
			if err := errors.Join(compatibility.Compatible(c.schema, released), compatibility.Compatible(released, c.schema)); err != nil {
				t.Errorf("%s: %v", file, err)
			}
			golden, err := os.ReadFile(strings.TrimSuffix(file, ".avsc") + ".golden")
			if err != nil {
				t.Fatal(err)
			}
			data, err := hex.DecodeString(strings.TrimSpace(string(golden)))
			if err != nil {
				t.Fatal(err)
			}
			if err := (&Codec{}).Decode(t.Context(), data, blank(samples()[strings.TrimSuffix(c.file, ".avsc")])); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
}

// TestOtherLibrary reads our bytes with an Avro library that is not ours,
// fingerprint and all: twmb/avro, which follows the specification's canonical
// form.
func TestOtherLibrary(t *testing.T) {
	for name, record := range samples() {
		data, err := (&Codec{}).Encode(record)
		if err != nil {
			t.Fatal(err)
		}
		schema, err := twmb.Parse(contractOf(record).text)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var fields map[string]any
		if _, err := schema.DecodeSingleObject(data, &fields); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDecode_Refuses(t *testing.T) {
	codec := &Codec{}
	good, err := codec.Encode(samples()["erasure"])
	if err != nil {
		t.Fatal(err)
	}
	huge, err := codec.Encode(&UserEvent{Operation: EventUpsert, Origin: OriginWebhook})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		data []byte
		want error
	}{
		"nothing":            {nil, ErrMalformed},
		"short":              {good[:5], ErrMalformed},
		"cut":                {good[:len(good)-1], ErrMalformed},
		"longer":             {append(append([]byte{}, good...), 0), ErrMalformed},
		"other record":       {huge, ErrUnknownSchema},
		"other fingerprint":  {append([]byte{0xC3, 1, 1, 2, 3, 4, 5, 6, 7, 8}, good[10:]...), ErrUnknownSchema},
		"wire, no registry":  {append([]byte{0, 0, 0, 0, 1}, good[10:]...), ErrUnknownSchema},
		"a string of 2 GiB":  {append(append([]byte{}, good[:10]...), 0xFE, 0xFF, 0xFF, 0xFF, 0x0F), ErrMalformed},
		"over the limit":     {make([]byte, maxRecordBytes+1), ErrMalformed},
		"negative long size": {append(append([]byte{}, good[:10]...), 1), ErrMalformed},
	} {
		if err := codec.Decode(t.Context(), c.data, &Erasure{}); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
}

// TestDecode_BlockCounts: block counts that make hamba/avro write outside of a
// slice, or loop for ever, are refused wherever they stand.
func TestDecode_BlockCounts(t *testing.T) {
	codec := &Codec{}
	good, err := codec.Encode(&UserEvent{Operation: EventUpsert, Origin: OriginWebhook, User: &User{EmailAddresses: &[]EmailAddress{{EmailAddress: "a"}}}})
	if err != nil {
		t.Fatal(err)
	}
	lowest := []byte{0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01}
	highest := []byte{0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01}
	for at := singleObjectHeader; at < len(good); at++ {
		for _, planted := range [][]byte{append(append([]byte{}, lowest...), 0), append(append(append([]byte{}, lowest...), 0), highest...), highest} {
			data := append(append(append([]byte{}, good[:at]...), planted...), good[at:]...)
			_ = codec.Decode(t.Context(), data, &UserEvent{}) // must return, whatever it says
		}
	}
}

// TestWellFormed asks the guard itself: what it lets pass, a recover behind it
// would hide here, and the decoder might loop or fill the memory elsewhere.
func TestWellFormed(t *testing.T) {
	parse := func(text string) avro.Schema { return mustParse(text) }
	text, flag := parse(`"string"`), parse(`"boolean"`)
	either := parse(`["null","string"]`)
	word := parse(`{"type":"enum","name":"Word","symbols":["A","B"]}`)
	texts := parse(`{"type":"array","items":"string"}`)
	long := func(numbers ...int64) (data []byte) {
		for _, n := range numbers {
			data = binary.AppendVarint(data, n)
		}
		return data
	}
	many := func(items int64) []byte { return append(long(items), make([]byte, items+1)...) } // empty strings, and the end
	for _, test := range []struct {
		name   string
		schema avro.Schema
		data   []byte
		fine   bool
	}{
		{"string", text, append(long(2), "ab"...), true},
		{"string longer than the bytes", text, append(long(3), "ab"...), false},
		{"string of a negative length", text, long(-1, 0), false},
		{"number that does not end", text, []byte{0xFF, 0xFF}, false},
		{"number of more than 64 bits", text, bytes.Repeat([]byte{0xFF}, 11), false},
		{"boolean", flag, []byte{1}, true},
		{"boolean of another value", flag, []byte{2}, false},
		{"no boolean", flag, nil, false},
		{"union", either, long(0), true},
		{"branch beyond the union", either, long(2, 0), false},
		{"branch before the union", either, long(-1, 0), false},
		{"enum", word, long(1), true},
		{"symbol beyond the enum", word, long(2), false},
		{"symbol before the enum", word, long(-1), false},
		{"array in two blocks", texts, long(1, 0, 2, 0, 0, 0), true},
		{"array block with its size", texts, long(-2, 2, 0, 0, 0), true},
		{"array that does not end", texts, long(1, 0), false},
		{"more items than bytes", texts, long(100, 0, 0), false},
		{"the lowest count of items", texts, long(math.MinInt64, 1, 0), false},
		{"as many items as are taken", texts, many(maxSliceItems), true},
		{"one item more", texts, many(maxSliceItems + 1), false},
		{"one item more in another block", texts, append(many(maxSliceItems)[:len(many(maxSliceItems))-1], long(1, 0, 0)...), false},
		{"a type that is in no schema of ours", parse(`"double"`), make([]byte, 8), false},
	} {
		rest, err := wellFormed(test.schema, test.data)
		if (err == nil && len(rest) == 0) != test.fine {
			t.Errorf("%s: got %d bytes left, %v; want it taken: %v", test.name, len(rest), err, test.fine)
		}
	}
}

// FuzzDecode: foreign bytes never panic, nor allocate without bounds; what can
// be read is written again to something equal.
func FuzzDecode(f *testing.F) {
	codec := &Codec{}
	for _, record := range samples() {
		data, err := codec.Encode(record)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, record := range []any{&UserEvent{}, &UserChange{}, &Position{}, &Erasure{}, &Receipt{}} {
			if err := codec.Decode(context.Background(), data, record); err != nil {
				continue
			}
			again, err := codec.Encode(record)
			if err != nil {
				t.Fatalf("decoded, but not encoded: %v", err)
			}
			copied := blank(record)
			if err := codec.Decode(context.Background(), again, copied); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(copied, record) {
				t.Fatalf("got %+v, want %+v", copied, record)
			}
		}
	})
}

// TestRegistry_Fake: ids are written, looked up once, and schemas that are not
// ours are refused. Compatibility is checked against a real registry below.
func TestRegistry_Fake(t *testing.T) {
	fake := srfake.New()
	t.Cleanup(fake.Close)
	roundTrip(t, fake.URL())
}

// TestRegistry_Real does the same against the registry that
// TEST_SCHEMA_REGISTRY_URL names, where an incompatible change is refused.
func TestRegistry_Real(t *testing.T) {
	url := os.Getenv("TEST_SCHEMA_REGISTRY_URL")
	if url == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("TEST_SCHEMA_REGISTRY_URL is not set: make services")
		}
		t.Skip("TEST_SCHEMA_REGISTRY_URL is not set")
	}
	client, topics := roundTrip(t, url)
	incompatible := strings.Replace(receiptContract.text, `{"name": "done_at"`, `{"name": "place", "type": "string"}, {"name": "done_at"`, 1)
	_, err := client.CreateSchema(t.Context(), topics.ErasureReceipts()+"-value", sr.Schema{Schema: incompatible, Type: sr.TypeAvro})
	if err == nil {
		t.Error("the registry took an incompatible schema")
	}
}

func roundTrip(t *testing.T, url string) (*sr.Client, Topics) {
	t.Helper()
	client, err := sr.NewClient(sr.URLs(url))
	if err != nil {
		t.Fatal(err)
	}
	topics := Topics{Prefix: "test-" + strings.ToLower(t.Name())}
	writes, err := NewRegistryCodec(t.Context(), client, topics)
	if err != nil {
		t.Fatal(err)
	}
	reads, err := NewRegistryCodec(t.Context(), client, topics) // a second process
	if err != nil {
		t.Fatal(err)
	}
	reads.known.Clear() // so that it has to look the ids up
	for name, record := range samples() {
		data, err := writes.Encode(record)
		if err != nil {
			t.Fatal(err)
		}
		if data[0] != 0 {
			t.Errorf("%s: not in the wire format: %x", name, data[:5])
		}
		decoded := blank(record)
		if err := reads.Decode(t.Context(), data, decoded); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(decoded, record) {
			t.Errorf("%s: got %+v, want %+v", name, decoded, record)
		}
	}
	known := 0
	reads.known.Range(func(any, any) bool { known++; return true })
	if known != len(contracts) {
		t.Errorf("%d ids are remembered, want %d: each is looked up once", known, len(contracts))
	}
	for _, topic := range []string{topics.UserEvents(), topics.Users(), topics.SequencerState(), topics.Erasures(), topics.ErasureReceipts()} {
		if set := client.Compatibility(t.Context(), topic+"-value")[0]; set.Err != nil || set.Level != sr.CompatFullTransitive {
			t.Errorf("%s: compatibility is %v, %v; want %v", topic, set.Level, set.Err, sr.CompatFullTransitive)
		}
	}
	if err := reads.Decode(t.Context(), []byte{0, 0x7f, 0xff, 0xff, 0xfe, 0}, &Erasure{}); !errors.Is(err, ErrUnknownSchema) {
		t.Errorf("unknown id: got %v, want %v", err, ErrUnknownSchema)
	}
	foreign, err := client.CreateSchema(t.Context(), topics.Prefix+"-foreign-value", sr.Schema{Schema: `{"type":"record","name":"Foreign","fields":[]}`, Type: sr.TypeAvro})
	if err != nil {
		t.Fatal(err)
	}
	if err := reads.Decode(t.Context(), []byte{0, 0, 0, byte(foreign.ID >> 8), byte(foreign.ID)}, &Erasure{}); !errors.Is(err, ErrUnknownSchema) {
		t.Errorf("foreign schema: got %v, want %v", err, ErrUnknownSchema)
	}
	return client, topics
}

// TestRegistry_Down: an answer that says nothing about the schema is an error
// that may be retried, never a verdict about the record.
func TestRegistry_Down(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "down", http.StatusBadGateway) }))
	t.Cleanup(server.Close)
	client, err := sr.NewClient(sr.URLs(server.URL))
	if err != nil {
		t.Fatal(err)
	}
	codec := &Codec{registry: client}
	err = codec.Decode(t.Context(), []byte{0, 0, 0, 0, 1, 0}, &Erasure{})
	if err == nil || errors.Is(err, ErrUnknownSchema) || errors.Is(err, ErrMalformed) {
		t.Errorf("got %v", err)
	}
}

// TestPartition_Java holds the partitions that Kafka's Java client computes
// for these keys (org.apache.kafka.common.utils.Utils.murmur2).
func TestPartition_Java(t *testing.T) {
	for key, hash := range map[string]int32{"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536, "a-little-bit-longer-string": -1486304829, "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971, "abc": 479470107} {
		for _, n := range []int32{1, 3, 12} {
			if got, want := Partition(key, n), (hash&0x7fffffff)%n; got != want {
				t.Errorf("Partition(%q, %d): got %d, want %d", key, n, got, want)
			}
		}
	}
}

func TestChangeHeaders_RoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := ChangeHeaders{
			Version:    Version{Epoch: rapid.Int32().Draw(t, "epoch"), Number: rapid.Int64().Draw(t, "number")},
			Operation:  rapid.SampledFrom([]string{"SNAPSHOT", OperationDelete}).Draw(t, "operation"),
			EventID:    rapid.StringMatching(`msg_[a-zA-Z0-9]*`).Draw(t, "event"),
			Origin:     OriginWebhook,
			OccurredAt: rapid.Int64().Draw(t, "occurred"),
			Snapshot:   SnapshotLast,
		}
		got, err := ParseChangeHeaders(want.Headers())
		if err != nil || got != want {
			t.Fatalf("got %+v, %v, want %+v", got, err, want)
		}
	})
	if _, err := ParseChangeHeaders(nil); err == nil {
		t.Error("headers without a version were taken")
	}
	for _, bad := range [][3]string{{"x", "1", "1"}, {"", "1", "1"}, {"9223372036854775808", "1", "1"}, {"1", "2147483648", "1"}, {"1", "", "1"}, {"1", "1", "soon"}} {
		foreign := []kgo.RecordHeader{{Key: HeaderVersion, Value: []byte(bad[0])}, {Key: HeaderEpoch, Value: []byte(bad[1])}, {Key: HeaderOccurredAt, Value: []byte(bad[2])}}
		if got, err := ParseChangeHeaders(foreign); err == nil {
			t.Errorf("%q: taken for %+v", bad, got)
		}
	}
}

// FuzzParseChangeHeaders: foreign headers are refused, or mean the same when
// they are written again.
func FuzzParseChangeHeaders(f *testing.F) {
	f.Add("7", "1", "UPDATE", "1700000000000")
	f.Add("-7", "2147483648", "DELETE", "")
	f.Add("9223372036854775808", "", "\x00", "soon")
	f.Add("+07", "0x1", "", "-1")
	f.Fuzz(func(t *testing.T, version, epoch, operation, occurred string) {
		var foreign []kgo.RecordHeader
		for _, h := range [][2]string{{HeaderVersion, version}, {HeaderEpoch, epoch}, {HeaderOperation, operation}, {HeaderOccurredAt, occurred}, {HeaderVersion, "1"}} {
			foreign = append(foreign, kgo.RecordHeader{Key: h[0], Value: []byte(h[1])})
		}
		got, err := ParseChangeHeaders(foreign)
		if err != nil {
			return
		}
		if again, err := ParseChangeHeaders(got.Headers()); err != nil || again != got {
			t.Fatalf("got %+v, then %+v, %v", got, again, err)
		}
	})
}

func TestVersion_Compare(t *testing.T) {
	ascending := []Version{{0, 0}, {0, 5}, {1, -1}, {1, 0}, {1, 7}, {2, 1}}
	for i, v := range ascending {
		for j, w := range ascending {
			if got, want := v.Compare(w), map[bool]int{true: 1}[i > j]-map[bool]int{true: 1}[i < j]; got != want {
				t.Errorf("%v.Compare(%v): got %d, want %d", v, w, got, want)
			}
		}
	}
}

func BenchmarkCodec(b *testing.B) {
	change := samples()["user_change"]
	codec := &Codec{}
	data, err := codec.Encode(change)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			if _, err := codec.Encode(change); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			if err := codec.Decode(context.Background(), data, &UserChange{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

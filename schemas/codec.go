package schemas

import (
	"context"
	"embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"sync"

	"github.com/hamba/avro/v2"
	"github.com/hamba/avro/v2/pkg/crc64"
	"github.com/twmb/franz-go/pkg/sr"
)

// Limits of the decoder, against bytes that somebody else wrote. Svix bodies
// are at most 1 MiB, so no string of ours is longer; no user has 10,000
// e-mail addresses.
const (
	maxStringBytes = 1 << 20
	maxSliceItems  = 10_000
	maxRecordBytes = 4 << 20
)

// Errors of [Codec.Decode].
var (
	// ErrUnknownSchema: the bytes name a schema that is not one of ours.
	ErrUnknownSchema = errors.New("schema is not one of clerk-connect's")
	// ErrMalformed: the bytes are not an Avro record in either of the two
	// encodings, or are not whole, or are larger than any record of ours.
	ErrMalformed = errors.New("malformed record")
)

// Record is one of the five types that have an Avro schema.
type Record interface {
	*UserEvent | *UserChange | *Position | *Erasure | *Receipt
}

//go:embed *.avsc released
var files embed.FS

// api is hamba/avro with its decoder's allocations bounded.
var api = avro.Config{MaxByteSliceSize: maxStringBytes, MaxSliceAllocSize: maxSliceItems, DisableBlockSizeHeader: true}.Freeze()

// contract is the schema of one record type.
type contract struct {
	name   string
	file   string
	text   string // self-contained, as a registry takes it
	schema avro.Schema
	print  uint64 // of schema
	// writers are the schemas by which records may have been written, by
	// fingerprint: the current one and every released one.
	writers map[uint64]writer
}

// writer is a schema by which a record was written.
type writer struct {
	contract *contract
	schema   avro.Schema // as it was written
	resolved avro.Schema // for reading it as the current one
}

var (
	userEventContract  = mustContract("UserEvent", "user_event.avsc")
	userChangeContract = mustContract("UserChange", "user_change.avsc")
	positionContract   = mustContract("Position", "position.avsc")
	erasureContract    = mustContract("Erasure", "erasure.avsc")
	receiptContract    = mustContract("Receipt", "receipt.avsc")

	contracts = []*contract{userEventContract, userChangeContract, positionContract, erasureContract, receiptContract}
)

// mustContract parses what is compiled in; a failure is a fault of this
// package that its tests find.
func mustContract(name, file string) *contract {
	text, user := mustRead(file), mustRead("user.avsc")
	inlined := strings.Replace(text, `"clerkconnect.v1.User"`, strings.TrimSpace(user), 1)
	schema := mustParse(inlined)
	c := &contract{name: name, file: file, text: inlined, schema: schema, print: fingerprint(schema)}
	c.writers = map[uint64]writer{c.print: {c, schema, schema}}
	released, err := fs.Glob(files, "released/*/"+file)
	if err != nil {
		panic(err)
	}
	for _, old := range released {
		written := mustParse(mustRead(old))
		if print := fingerprint(written); print != c.print {
			resolved, err := avro.NewSchemaCompatibility().Resolve(schema, written)
			if err != nil {
				panic(fmt.Errorf("%s: %w", old, err))
			}
			c.writers[print] = writer{c, written, resolved}
		}
	}
	return c
}

func mustRead(file string) string {
	text, err := files.ReadFile(file)
	if err != nil {
		panic(err)
	}
	return string(text)
}

func mustParse(text string) avro.Schema {
	schema, err := avro.ParseWithCache(text, "", &avro.SchemaCache{})
	if err != nil {
		panic(err)
	}
	return schema
}

// fingerprint is CRC-64-AVRO of the schema's parsing canonical form, as Avro's
// single-object encoding wants it. hamba/avro leaves the logical type in that
// form, Avro's specification ("Parsing Canonical Form", STRIP) takes it out.
func fingerprint(schema avro.Schema) uint64 {
	canonical := strings.ReplaceAll(schema.String(), `{"type":"long","logicalType":"timestamp-millis"}`, `"long"`)
	sum := crc64.Sum([]byte(canonical))
	return binary.BigEndian.Uint64(sum[:])
}

func contractOf(v any) *contract {
	switch v.(type) {
	case *UserEvent:
		return userEventContract
	case *UserChange:
		return userChangeContract
	case *Position:
		return positionContract
	case *Erasure:
		return erasureContract
	default:
		return receiptContract
	}
}

// Schema returns the Avro schema of a record type as self-contained JSON.
func Schema[R Record](r R) string { return contractOf(r).text }

// Codec turns records into bytes and back. The zero value writes Avro
// single-object encoding; [NewRegistryCodec] makes one that writes the
// Confluent wire format. Every Codec reads single-object encoding, and one
// with a registry reads both. Safe for concurrent use.
type Codec struct {
	registry *sr.Client
	ids      map[*contract]uint32 // schema ids by which records are written
	known    sync.Map             // uint32 -> writer: ids seen when reading
}

// NewRegistryCodec registers the five schemas with a Schema Registry
// (Confluent's API) under the subjects <topic>-value with FULL_TRANSITIVE
// compatibility, and returns a codec that writes their ids. It fails if the
// registry cannot be reached or finds a schema incompatible.
func NewRegistryCodec(ctx context.Context, registry *sr.Client, topics Topics) (*Codec, error) {
	c := &Codec{registry: registry, ids: map[*contract]uint32{}}
	for topic, contract := range map[string]*contract{
		topics.UserEvents():      userEventContract,
		topics.Users():           userChangeContract,
		topics.SequencerState():  positionContract,
		topics.Erasures():        erasureContract,
		topics.ErasureReceipts(): receiptContract,
	} {
		subject := topic + "-value"
		registered, err := registry.CreateSchema(ctx, subject, sr.Schema{Schema: contract.text, Type: sr.TypeAvro})
		if err != nil {
			return nil, fmt.Errorf("register schema of subject %s: %w", subject, err)
		}
		for _, set := range registry.SetCompatibility(ctx, sr.SetCompatibility{Level: sr.CompatFullTransitive}, subject) {
			if set.Err != nil {
				return nil, fmt.Errorf("set compatibility of subject %s: %w", subject, set.Err)
			}
		}
		c.ids[contract] = uint32(registered.ID)
		c.known.Store(uint32(registered.ID), contract.writers[contract.print])
	}
	return c, nil
}

// Encode returns the Avro encoding of r, one of the types of [Record] by
// pointer, behind the header that names its schema.
func (c *Codec) Encode(r any) ([]byte, error) {
	contract := contractOf(r)
	body, err := api.Marshal(contract.schema, r)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", contract.name, err)
	}
	if id, ok := c.ids[contract]; ok {
		out := make([]byte, 0, confluentHeader+len(body))
		out = append(out, 0)
		out = binary.BigEndian.AppendUint32(out, id)
		return append(out, body...), nil
	}
	out := make([]byte, 0, singleObjectHeader+len(body))
	out = append(out, 0xC3, 0x01)
	out = binary.LittleEndian.AppendUint64(out, contract.print)
	return append(out, body...), nil
}

// Sizes of the two headers: Avro 1.12 "Single-object encoding" has two magic
// bytes and an 8-byte fingerprint, Confluent's wire format one and a 4-byte id.
const (
	singleObjectHeader = 10
	confluentHeader    = 5
)

// Decode reads data into r, one of the types of [Record] by pointer. Data must
// have been written by a schema of ours for that type: ErrUnknownSchema
// otherwise, ErrMalformed if the bytes do not fit it. A failing look-up at the
// registry is returned as it is and may be retried. ctx bounds that look-up,
// which happens once for each id.
func (c *Codec) Decode(ctx context.Context, data []byte, r any) error {
	want := contractOf(r)
	if len(data) > maxRecordBytes {
		return fmt.Errorf("decode %s: %w: %d bytes, at most %d", want.name, ErrMalformed, len(data), maxRecordBytes)
	}
	by, body, err := c.writer(ctx, data)
	if err != nil {
		return fmt.Errorf("decode %s: %w", want.name, err)
	}
	if by.contract != want {
		return fmt.Errorf("decode %s: %w: it is a %s", want.name, ErrUnknownSchema, by.contract.name)
	}
	if err := by.unmarshal(body, r); err != nil {
		return fmt.Errorf("decode %s: %w: %v", want.name, ErrMalformed, err)
	}
	return nil
}

// unmarshal decodes and insists that every byte is used. The recover is for
// what nobody has found yet in a decoder that is no longer maintained.
func (w writer) unmarshal(body []byte, r any) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("decoder: %v", p)
		}
	}()
	rest, err := wellFormed(w.schema, body)
	switch {
	case err != nil:
		return err
	case len(rest) > 0:
		return fmt.Errorf("%d bytes left over", len(rest))
	}
	return api.Unmarshal(w.resolved, body, r)
}

// ours finds the writer among ours. Only schemas of ours are decoded by.
func ours(print uint64) (writer, error) {
	for _, contract := range contracts {
		if by, ok := contract.writers[print]; ok {
			return by, nil
		}
	}
	return writer{}, ErrUnknownSchema
}

// writer finds the schema by which data was written and strips the header.
func (c *Codec) writer(ctx context.Context, data []byte) (writer, []byte, error) {
	switch {
	case len(data) >= singleObjectHeader && data[0] == 0xC3 && data[1] == 0x01:
		by, err := ours(binary.LittleEndian.Uint64(data[2:]))
		return by, data[singleObjectHeader:], err
	case len(data) >= confluentHeader && data[0] == 0 && c.registry != nil:
		by, err := c.lookUp(ctx, binary.BigEndian.Uint32(data[1:]))
		return by, data[confluentHeader:], err
	case len(data) >= confluentHeader && data[0] == 0:
		return writer{}, nil, fmt.Errorf("%w: Confluent wire format, and no schema registry is configured", ErrUnknownSchema)
	}
	return writer{}, nil, ErrMalformed
}

// lookUp asks the registry for the schema of an id and finds ours that equals
// it. An id that the registry does not know is ErrUnknownSchema.
func (c *Codec) lookUp(ctx context.Context, id uint32) (writer, error) {
	if known, ok := c.known.Load(id); ok {
		return known.(writer), nil
	}
	found, err := c.registry.SchemaByID(ctx, int(id))
	if refused := new(sr.ResponseError); errors.As(err, &refused) && refused.StatusCode == http.StatusNotFound {
		return writer{}, fmt.Errorf("%w: id %d is not in the registry", ErrUnknownSchema, id)
	}
	if err != nil {
		return writer{}, fmt.Errorf("look up schema %d: %w", id, err)
	}
	schema, err := avro.ParseWithCache(found.Schema, "", &avro.SchemaCache{})
	if err != nil {
		return writer{}, fmt.Errorf("%w: schema %d: %v", ErrUnknownSchema, id, err)
	}
	by, err := ours(fingerprint(schema))
	if err != nil {
		return writer{}, fmt.Errorf("schema %d: %w", id, err)
	}
	c.known.Store(id, by)
	return by, nil
}

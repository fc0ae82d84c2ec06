package schemas

import (
	"context"
	"embed"
	"encoding/binary"
	"errors"
	"fmt"
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

//go:embed *.avsc
var files embed.FS

// api is hamba/avro with its decoder's allocations bounded.
var api = avro.Config{MaxByteSliceSize: maxStringBytes, MaxSliceAllocSize: maxSliceItems, DisableBlockSizeHeader: true}.Freeze()

// contract is one parsed schema.
type contract struct {
	name        string
	text        string // self-contained, as a registry takes it
	schema      avro.Schema
	fingerprint uint64 // CRC-64-AVRO of the parsing canonical form
}

var (
	userEventContract  = mustContract("UserEvent", "user_event.avsc")
	userChangeContract = mustContract("UserChange", "user_change.avsc")
	positionContract   = mustContract("Position", "position.avsc")
	erasureContract    = mustContract("Erasure", "erasure.avsc")
	receiptContract    = mustContract("Receipt", "receipt.avsc")
)

func mustContract(name, file string) *contract {
	text, err := files.ReadFile(file)
	if err != nil {
		panic(err)
	}
	user, err := files.ReadFile("user.avsc")
	if err != nil {
		panic(err)
	}
	inlined := strings.Replace(string(text), `"clerkconnect.v1.User"`, strings.TrimSpace(string(user)), 1)
	schema, err := avro.ParseWithCache(inlined, "", &avro.SchemaCache{})
	if err != nil {
		panic(fmt.Errorf("%s: %w", file, err))
	}
	return &contract{name: name, text: inlined, schema: schema, fingerprint: fingerprint(schema)}
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
	known    sync.Map             // uint32 -> *contract: ids seen when reading
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
		c.known.Store(uint32(registered.ID), contract)
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
	out = binary.LittleEndian.AppendUint64(out, contract.fingerprint)
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
	writer, body, err := c.writer(ctx, data)
	if err != nil {
		return fmt.Errorf("decode %s: %w", want.name, err)
	}
	if writer != want {
		return fmt.Errorf("decode %s: %w: it is a %s", want.name, ErrUnknownSchema, writer.name)
	}
	if err := unmarshal(want.schema, body, r); err != nil {
		return fmt.Errorf("decode %s: %w: %v", want.name, ErrMalformed, err)
	}
	return nil
}

// unmarshal decodes and insists that every byte is used. hamba/avro panics on
// some malformed input (it is no longer maintained), hence the recover.
func unmarshal(schema avro.Schema, body []byte, r any) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("decoder: %v", p)
		}
	}()
	reader := avro.NewReader(nil, 0, avro.WithReaderConfig(api))
	reader.Reset(body)
	reader.ReadVal(schema, r)
	if reader.Error != nil {
		return reader.Error
	}
	if reader.Peek(); reader.Error == nil {
		return errors.New("bytes left over")
	}
	return nil
}

// writer finds the schema by which data was written and strips the header.
func (c *Codec) writer(ctx context.Context, data []byte) (*contract, []byte, error) {
	switch {
	case len(data) >= singleObjectHeader && data[0] == 0xC3 && data[1] == 0x01:
		fingerprint := binary.LittleEndian.Uint64(data[2:])
		for _, contract := range contracts {
			if contract.fingerprint == fingerprint {
				return contract, data[singleObjectHeader:], nil
			}
		}
		return nil, nil, ErrUnknownSchema
	case len(data) >= confluentHeader && data[0] == 0 && c.registry != nil:
		contract, err := c.lookUp(ctx, binary.BigEndian.Uint32(data[1:]))
		return contract, data[confluentHeader:], err
	case len(data) >= confluentHeader && data[0] == 0:
		return nil, nil, fmt.Errorf("%w: Confluent wire format, and no schema registry is configured", ErrUnknownSchema)
	}
	return nil, nil, ErrMalformed
}

var contracts = []*contract{userEventContract, userChangeContract, positionContract, erasureContract, receiptContract}

// lookUp asks the registry for the schema of an id and finds ours that equals
// it. Only a schema of ours is ever decoded by.
func (c *Codec) lookUp(ctx context.Context, id uint32) (*contract, error) {
	if known, ok := c.known.Load(id); ok {
		return known.(*contract), nil
	}
	found, err := c.registry.SchemaByID(ctx, int(id))
	if err != nil {
		return nil, fmt.Errorf("look up schema %d: %w", id, err)
	}
	schema, err := avro.ParseWithCache(found.Schema, "", &avro.SchemaCache{})
	if err != nil {
		return nil, fmt.Errorf("%w: schema %d: %v", ErrUnknownSchema, id, err)
	}
	print := fingerprint(schema)
	for _, contract := range contracts {
		if contract.fingerprint == print {
			c.known.Store(id, contract)
			return contract, nil
		}
	}
	return nil, fmt.Errorf("%w: schema %d", ErrUnknownSchema, id)
}

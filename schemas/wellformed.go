package schemas

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hamba/avro/v2"
)

var errCut = errors.New("bytes end inside a value")

// wellFormed walks a value encoded by schema without decoding it and returns
// the bytes after it. hamba/avro believes the counts of array blocks: a negative one
// makes it write outside of its slice, and there will be no release that mends
// that. So nothing reaches its decoder that has not passed here. Only the
// types that our schemas use are known.
func wellFormed(schema avro.Schema, data []byte) ([]byte, error) {
	switch schema := schema.(type) {
	case *avro.RecordSchema:
		var err error
		for _, field := range schema.Fields() {
			if data, err = wellFormed(field.Type(), data); err != nil {
				return nil, fmt.Errorf("%s: %w", field.Name(), err)
			}
		}
		return data, nil
	case *avro.UnionSchema:
		branch, data, err := number(data)
		if err != nil {
			return nil, err
		}
		if branch < 0 || branch >= int64(len(schema.Types())) {
			return nil, fmt.Errorf("branch %d of a union of %d", branch, len(schema.Types()))
		}
		return wellFormed(schema.Types()[branch], data)
	case *avro.ArraySchema:
		return wellFormedArray(schema, data)
	case *avro.EnumSchema:
		symbol, data, err := number(data)
		if err == nil && (symbol < 0 || symbol >= int64(len(schema.Symbols()))) {
			err = fmt.Errorf("symbol %d of %d", symbol, len(schema.Symbols()))
		}
		return data, err
	case *avro.NullSchema:
		return data, nil
	case *avro.RefSchema:
		return wellFormed(schema.Schema(), data)
	}
	switch schema.Type() {
	case avro.String:
		size, data, err := number(data)
		if err != nil {
			return nil, err
		}
		if size < 0 || size > int64(len(data)) {
			return nil, fmt.Errorf("a string of %d bytes where %d are left", size, len(data))
		}
		return data[size:], nil
	case avro.Int, avro.Long:
		_, data, err := number(data)
		return data, err
	case avro.Boolean:
		if len(data) == 0 || data[0] > 1 {
			return nil, errCut
		}
		return data[1:], nil
	}
	return nil, fmt.Errorf("type %s is in no schema of ours", schema.Type())
}

// wellFormedArray bounds the number of items by the bytes that are left: no
// item of ours takes none. Blocks with a size in bytes (a negative count) are
// legal Avro, though we write none.
func wellFormedArray(schema *avro.ArraySchema, data []byte) ([]byte, error) {
	var items int64
	for {
		count, rest, err := number(data)
		if err != nil || count == 0 {
			return rest, err
		}
		if count < 0 {
			count = -count
			if _, rest, err = number(rest); err != nil {
				return nil, err
			}
		}
		if count < 0 || count > int64(len(rest)) || items+count > maxSliceItems {
			return nil, fmt.Errorf("an array block of %d items where %d bytes are left", count, len(rest))
		}
		items += count
		for data = rest; count > 0; count-- {
			if data, err = wellFormed(schema.Items(), data); err != nil {
				return nil, err
			}
		}
	}
}

// number reads a zig-zag varint, as Avro's int and long are.
func number(data []byte) (int64, []byte, error) {
	value, size := binary.Varint(data)
	if size <= 0 {
		return 0, nil, errCut
	}
	return value, data[size:], nil
}

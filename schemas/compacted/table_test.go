package compacted_test

import (
	"bytes"
	"fmt"
	"runtime"
	"testing"

	"pgregory.net/rapid"

	"clerkconnect/schemas/compacted"
)

// TestTable_IsAMap: whatever is set and deleted, in whatever order and size, a
// table gives what a map gives.
func TestTable_IsAMap(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		table, model := compacted.NewTable(), map[string][]byte{}
		key := rapid.Custom(func(t *rapid.T) string { return fmt.Sprint("user_", rapid.IntRange(0, 20).Draw(t, "user")) })
		check := func(key string) {
			got, ok := table.Get(key)
			want, wanted := model[key]
			if ok != wanted || !bytes.Equal(got, want) {
				t.Fatalf("%s: %d bytes, %t; want %d, %t", key, len(got), ok, len(want), wanted)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				// Long ones make chunks of their own, and have the table written anew.
				size := rapid.OneOf(rapid.IntRange(0, 300), rapid.IntRange(0, 300<<10)).Draw(t, "size")
				value := bytes.Repeat([]byte{rapid.Byte().Draw(t, "byte")}, size)
				k := key.Draw(t, "key")
				table.Set(k, value)
				model[k] = bytes.Clone(value)
				clear(value) // the table has a copy
			},
			"delete": func(t *rapid.T) {
				k := key.Draw(t, "key")
				table.Delete(k)
				delete(model, k)
			},
			"": func(t *rapid.T) {
				for i := range 21 {
					check(fmt.Sprint("user_", i))
				}
				if table.Len() != len(model) {
					t.Fatalf("%d keys, want %d", table.Len(), len(model))
				}
			},
		})
	})
}

// heap returns the bytes in use.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestTable_GivesUpWhatWasReplaced: a table costs what is in it, not what was.
// It is not parallel: it looks at the memory of the process.
func TestTable_GivesUpWhatWasReplaced(t *testing.T) {
	const users, size = 10_000, 200
	before := heap()
	table := compacted.NewTable()
	for round := range 20 { // 40 MB in all
		for i := range users {
			table.Set(fmt.Sprint("user_", i), make([]byte, size-round))
		}
	}
	if used := heap() - before; used > 3*users*size {
		t.Errorf("%d bytes for %d of values; want 3 times as many at most", used, users*size)
	}
	for i := range users - 1 {
		table.Delete(fmt.Sprint("user_", i))
	}
	if used := heap() - before; used > users*size/4 {
		t.Errorf("%d bytes for one user; want %d at most", used, users*size/4)
	}
	if value, ok := table.Get(fmt.Sprint("user_", users-1)); !ok || len(value) != size-19 {
		t.Errorf("the one that is left has %d bytes, %t; want %d, true", len(value), ok, size-19)
	}
}

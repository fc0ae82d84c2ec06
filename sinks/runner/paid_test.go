package runner

import (
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"

	"clerkconnect/schemas"
)

// TestReceipts_KeepsEverything: a receipt comes back whole, but for the sink's
// name, and is the caller's own; the rank of an erasure likewise.
func TestReceipts_KeepsEverything(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		receipts, ranks := newReceipts(), newRanks()
		if _, ok := receipts.get("user_1"); ok {
			t.Fatal("an empty table has a receipt")
		}
		if _, ok := ranks.get("user_1"); ok {
			t.Fatal("an empty table has an erasure")
		}
		maybe := func(name string) *int64 { return rapid.Ptr(rapid.Int64(), true).Draw(t, name) }
		want := schemas.Receipt{
			ClerkID: "user_1", Epoch: rapid.Int32().Draw(t, "epoch"), Version: rapid.Int64().Draw(t, "version"),
			Outcome: schemas.Outcome(rapid.String().Draw(t, "outcome")), DoneAt: rapid.Int64().Draw(t, "done"),
			ConfirmedAt: maybe("confirmed"), WaivedAt: maybe("waived"), Reason: rapid.Ptr(rapid.String(), true).Draw(t, "reason"),
		}
		named := want
		named.Sink = "crm"
		receipts.set(named)
		ranks.set("user_1", receiptVersion(want))
		if got, ok := receipts.get("user_1"); !ok || !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v, want %+v", got, want)
		}
		if got, ok := ranks.get("user_1"); !ok || got != receiptVersion(want) {
			t.Fatalf("got rank %v, want %v", got, receiptVersion(want))
		}
		receipts.delete("user_1")
		ranks.delete("user_1")
		_, receipt := receipts.get("user_1")
		if _, rank := ranks.get("user_1"); receipt || rank || receipts.len() != 0 {
			t.Fatal("what was deleted is there")
		}
	})
}

// What erasures and receipts come to when a partition is taken over.
func TestRestore_WhatIsOwed(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	b.create(topics.SinkState(sinkName), topics.DeadLetters(sinkName))
	demand := func(id string, version int64) {
		b.write(erasure(id, &schemas.Erasure{ClerkID: id, Epoch: 1, Version: version, Origin: schemas.OriginReconcile, Inferred: true}))
	}
	done := func(id string, version int64, confirmedAt *int64) {
		b.write(word(id, &schemas.Receipt{ClerkID: id, Sink: sinkName, Epoch: 1, Version: version, Outcome: schemas.OutcomeDeleted, DoneAt: 1, ConfirmedAt: confirmedAt}))
	}
	for name, test := range map[string]struct {
		write             func(id string)
		owed, unconfirmed bool
		rank              int64 // 0: none
	}{
		"asked for":             {func(id string) { demand(id, 2) }, true, false, 2},
		"done":                  {func(id string) { demand(id, 2); done(id, 2, nil) }, false, true, 2},
		"confirmed":             {func(id string) { demand(id, 2); done(id, 2, new(int64(2))) }, false, false, 2},
		"waived":                {func(id string) { demand(id, 2); b.write(waiver(id, 2)) }, false, false, 2},
		"asked for again":       {func(id string) { demand(id, 2); done(id, 2, nil); demand(id, 3) }, true, false, 3},
		"again, and done":       {func(id string) { demand(id, 2); demand(id, 3); done(id, 3, nil) }, false, true, 3},
		"withdrawn":             {func(id string) { demand(id, 2); b.write(erasure(id, nil)) }, false, false, 0},
		"done, and withdrawn":   {func(id string) { demand(id, 2); done(id, 2, nil); b.write(erasure(id, nil)) }, false, false, 0},
		"withdrawn, once again": {func(id string) { demand(id, 2); b.write(erasure(id, nil)); demand(id, 4) }, true, false, 4},
		"of no user":            {func(string) { b.write(&kgo.Record{Topic: topics.Erasures(), Key: []byte(schemas.TickKey)}) }, false, false, 0},
	} {
		test.write(name)
		p := bare(t, newConfirming(t, 0))
		p.options.Client = b.client
		m, err := p.restore(t.Context(), schemas.Partition(name, partitions))
		if err != nil {
			t.Fatal(err)
		}
		rank, _ := m.erased.get(name)
		if owed, unconfirmed := m.debts[name] != nil, m.unconfirmed[name] != nil; owed != test.owed || unconfirmed != test.unconfirmed || rank.Number != test.rank {
			t.Errorf("%s: owed %t, unconfirmed %t, rank %v; want %t, %t, %d", name, owed, unconfirmed, rank, test.owed, test.unconfirmed, test.rank)
		}
	}
}

package audit

import "testing"

// TestDigest: hashes that another program has made of what row.go describes,
// so that the form cannot change unseen:
//
//	printf '28:clerk-connect audit client 1,4:00ff,11:203.0.113.7,~,' | sha256sum
func TestDigest(t *testing.T) {
	t.Parallel()
	c := client{salt: "00ff", ip: new("203.0.113.7")}
	if got, want := c.digest(), "9afd07ba1608ed2698743a31d70f57508117f112152f25a62f57550ef4ef569b"; got != want {
		t.Errorf("client: got %s, want %s", got, want)
	}
	r := Row{
		Chain: "users-3", Seq: 1, Format: 1, Entry: "user_é/7/1/USER_CREATED", RecordedAt: 1_800_000_000_123, Action: ActionCreated,
		ClerkID: "user_é", Epoch: 7, Version: 1, EventID: new("msg_1"), EventType: new("user.created"), Origin: new("WEBHOOK"),
		InstanceID: new("ins_1"), TopicOffset: new(int64(101)), OccurredAt: new(int64(1_700_000_000_001)),
		ChangedFields: new("first_name"), PolicyHash: new("p1"), PrevHash: genesis,
	}
	if got, want := r.Digest(), "d3c4d8588724e3e839b759dfe582f248ab904797b30a914d91712317e0c070a4"; got != want {
		t.Errorf("row: got %s, want %s", got, want)
	}
	if r.Hash = r.Digest(); r.Digest() != r.Hash {
		t.Error("the hash is part of what it is of")
	}
	nothing, empty := r, r
	nothing.ChangedFields, empty.ChangedFields = nil, new("")
	if nothing.Digest() == empty.Digest() {
		t.Error("not known and none hash alike")
	}
}

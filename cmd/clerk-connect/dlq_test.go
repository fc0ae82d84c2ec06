package main

import (
	"encoding/json"
	"reflect"
	"testing"

	"clerkconnect/schemas"
)

// TestAvroNames: what dlq show prints is read beside the topic.
func TestAvroNames(t *testing.T) {
	t.Parallel()
	change := &schemas.UserChange{ClerkID: "user_1", Version: 7, User: schemas.User{
		FirstName: new("Jane"), EmailAddresses: &[]schemas.EmailAddress{{EmailAddress: "jane@example.com"}},
	}}
	text, err := json.Marshal(avroNames(reflect.ValueOf(change)))
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		ClerkID string `json:"clerk_id"`
		Version int64  `json:"version"`
		User    struct {
			FirstName      string  `json:"first_name"`
			LastName       *string `json:"last_name"`
			EmailAddresses []struct {
				EmailAddress string `json:"email_address"`
			} `json:"email_addresses"`
		} `json:"user"`
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if got.ClerkID != "user_1" || got.Version != 7 || got.User.FirstName != "Jane" || got.User.LastName != nil ||
		len(got.User.EmailAddresses) != 1 || got.User.EmailAddresses[0].EmailAddress != "jane@example.com" {
		t.Errorf("got %s", text)
	}
}

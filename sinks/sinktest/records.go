package sinktest

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
)

// at returns a version of the first epoch.
func at(number int64) schemas.Version { return schemas.Version{Epoch: 1, Number: number} }

// upsert is a tracked record that states what a user looks like.
func upsert(id string, v schemas.Version, u *schemas.User) sinks.Record {
	return sinks.Track(sinks.Record{ClerkID: id, Version: v, Change: &schemas.UserChange{
		ClerkID: id, Operation: schemas.ChangeUpdate, Epoch: v.Epoch, Version: v.Number,
		EventID: fmt.Sprintf("msg_%d", v.Number), EventType: "user.updated", Origin: schemas.OriginWebhook, User: *u,
		ClientIP: new("203.0.113.7"), UserAgent: new("Mozilla/5.0 (X11; Linux x86_64)"),
	}})
}

// tombstone is an erasure of which nothing but the version is known.
func tombstone(id string, v schemas.Version) sinks.Record {
	return sinks.Track(sinks.Record{ClerkID: id, Version: v})
}

// erasure is a tombstone together with the sequencer's word of it.
func erasure(id string, v schemas.Version, inferred bool) sinks.Record {
	r := tombstone(id, v)
	r.Erasure = &schemas.Erasure{ClerkID: id, Epoch: v.Epoch, Version: v.Number, Origin: schemas.OriginWebhook, Inferred: inferred}
	return r
}

// FullUser returns a user with a value in every field, other values for other
// seeds. Benchmarks use it too.
func FullUser(seed int) *schemas.User {
	u := &schemas.User{}
	fill(reflect.ValueOf(u).Elem(), seed)
	return u
}

// plainUser returns a user as the default policy keeps it.
func plainUser(name string) *schemas.User {
	email, created := address(name), int64(1700000000123)
	return &schemas.User{
		FirstName: &name, PrimaryEmailAddress: &email, CreatedAt: &created, UpdatedAt: &created,
		EmailAddresses: &[]schemas.EmailAddress{{EmailAddress: email}},
	}
}

// address returns an e-mail address that any tool takes, the same for names that
// differ only in characters that none takes.
func address(name string) string {
	local := strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' {
			return c
		}
		return -1
	}, strings.ToLower(name))
	return "u" + local + "@example.com"
}

func fill(v reflect.Value, seed int) {
	for i := range v.NumField() {
		name, field := v.Type().Field(i).Tag.Get("avro"), v.Field(i)
		if field.Kind() == reflect.Pointer {
			field.Set(reflect.New(field.Type().Elem()))
			field = field.Elem()
		}
		switch field.Kind() {
		case reflect.String:
			field.SetString(sample(name, seed))
		case reflect.Bool:
			field.SetBool((seed+i)%2 == 0)
		case reflect.Int64:
			field.SetInt(int64(i + seed))
			if strings.HasSuffix(name, "_at") {
				field.SetInt(1700000000000 + int64(seed)*1000 + int64(i))
			}
		case reflect.Slice:
			field.Set(reflect.MakeSlice(field.Type(), 2, 2))
			fill(field.Index(0), seed)
			fill(field.Index(1), seed+1)
		}
	}
}

func sample(name string, seed int) string {
	switch {
	case name == "primary_email_address" || name == "email_address":
		return fmt.Sprintf("address-%d@example.com", seed)
	case !slices.Contains(JSONFields, name):
		return fmt.Sprintf("%s-%d", name, seed)
	case name == "scim" || strings.HasSuffix(name, "_metadata"):
		return fmt.Sprintf(`{"z":[1,2.50,null,true],"a":{"plan":"p%d","quoted":"\"\\u0000\""}}`, seed)
	default:
		return fmt.Sprintf(`[{"id":"%s_%d","provider":"x"}]`, name, seed)
	}
}

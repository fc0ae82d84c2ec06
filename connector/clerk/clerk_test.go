package clerk_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"clerkconnect/connector/clerk"
	"clerkconnect/schemas"
)

// shared returns a file of the folder that CLERK_CONNECT_SHARED names, by
// default ../shared beside the repository. Without it the test is skipped,
// except where CI=true.
func shared(t testing.TB, elements ...string) string {
	t.Helper()
	root := os.Getenv("CLERK_CONNECT_SHARED")
	if root == "" {
		_, file, _, _ := runtime.Caller(0)
		root = filepath.Join(filepath.Dir(file), "..", "..", "..", "shared")
	}
	path := filepath.Join(append([]string{root}, elements...)...)
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("fixtures are missing: %v; set CLERK_CONNECT_SHARED", err)
		}
		t.Skipf("fixtures are missing: %v; set CLERK_CONNECT_SHARED to run this test", err)
	}
	return path
}

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	body, err := os.ReadFile(shared(t, "fixtures", name))
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func newPolicy(t testing.TB, include ...string) *clerk.Policy {
	t.Helper()
	p, err := clerk.NewPolicy(clerk.PolicyConfig{Include: include})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var receivedAt = time.UnixMilli(1_764_300_000_000)

// eventOf decodes body and makes its record.
func eventOf(p *clerk.Policy, body string) (*schemas.UserEvent, error) {
	env, err := clerk.DecodeEnvelope([]byte(body))
	if err != nil {
		return nil, err
	}
	return p.Event(env, "msg_1", receivedAt)
}

func mustEvent(t testing.TB, p *clerk.Policy, body string) *schemas.UserEvent {
	t.Helper()
	event, err := eventOf(p, body)
	if err != nil {
		t.Fatalf("Event: %v", err)
	}
	return event
}

// envelope wraps a user object.
func envelope(kind, data string) string {
	return `{"type":"` + kind + `","timestamp":1764200000123,"instance_id":"ins_1","data":` + data + `}`
}

// roundTrip encodes and decodes a record.
func roundTrip(t testing.TB, event *schemas.UserEvent) (*schemas.UserEvent, []byte) {
	t.Helper()
	var codec schemas.Codec
	bytes, err := codec.Encode(event)
	if err != nil {
		t.Fatalf("Encode: %v", err)
	}
	var back schemas.UserEvent
	if err := codec.Decode(context.Background(), bytes, &back); err != nil {
		t.Fatalf("Decode: %v", err)
	}
	return &back, bytes
}

func show(v any) string {
	text, _ := json.MarshalIndent(v, "", " ")
	return string(text)
}

func TestEvent_Fixtures(t *testing.T) {
	t.Parallel()
	type want struct {
		err             error
		sample          bool
		operation       schemas.EventOperation
		id, primary     string
		updated, stated int64
		publicMetadata  string
		emails          int
	}
	const ada = "user_2xLb3QmVtR8nKpZ5wJhCdEfGy7S"
	pro := `{"plan":"pro","seats":4}`
	wants := map[string]want{
		"organization.created.json":           {err: clerk.ErrUnsupportedType},
		"organizationMembership.created.json": {err: clerk.ErrUnsupportedType},
		"session.created.json":                {err: clerk.ErrUnsupportedType},
		"unknown.event_type.json":             {err: clerk.ErrUnsupportedType},
		"user.deleted.no_id.json":             {err: clerk.ErrMissingID},
		"user.created.dashboard_example_seconds.json": {sample: true, operation: schemas.EventUpsert, id: "user_2g7np7Hrk0SN6kj5EDMLDaKNL0S",
			updated: 1716883200000, stated: 1716883200000, publicMetadata: "{}"},
		"user.created.json": {operation: schemas.EventUpsert, id: ada, primary: "ada.okafor@example.com",
			updated: 1763942400151, stated: 1763942400187, publicMetadata: "{}", emails: 1},
		"user.created.oauth_unicode_metadata.json": {operation: schemas.EventUpsert, id: "user_2xRt8HnBvGfCdXsZaQwErTyUiO1", primary: "soren+news@exämple.example",
			updated: 1763960000650, stated: 1763960000710, emails: 1,
			publicMetadata: `{"plan":"enterprise","flags":["beta","α-tester"],"limits":{"seats":250,"ratio":0.1,"big":9007199254740993},"nested":{"a":{"b":{"c":[1,2,{"d":null}]}}},"empty":{},"note":"line1\nline2\t\"quoted\" \\ \u0001"}`},
		"user.created.phone_only.json": {operation: schemas.EventUpsert, id: "user_2xPq4ZrTyUiOpAsDfGhJkLzXcV6",
			updated: 1763950022933, stated: 1763950022960, publicMetadata: "{}"},
		"user.deleted.json":                {operation: schemas.EventDelete, id: ada, stated: 1764115200777},
		"user.deleted.no_external_id.json": {operation: schemas.EventDelete, id: "user_2xNfB7TgYhUjMkIlOpQwErTyU9v", stated: 1764115201400},
		"user.updated.json": {operation: schemas.EventUpsert, id: ada, primary: "ada@okafor.example", emails: 2,
			updated: 1764028811342, stated: 1764028811390, publicMetadata: pro},
		"user.updated.nul_in_metadata.json": {operation: schemas.EventUpsert, id: ada, primary: "ada@okafor.example", emails: 2,
			updated: 1764201000000, stated: 1764201000050, publicMetadata: pro},
		"user.updated.stale_out_of_order.json": {operation: schemas.EventUpsert, id: ada, primary: "ada.okafor@example.com", emails: 1,
			updated: 1764028805000, stated: 1764028805050, publicMetadata: pro},
		"user.updated.unknown_fields.json": {operation: schemas.EventUpsert, id: ada, primary: "ada.okafor@example.com", emails: 1,
			updated: 1763942400151, stated: 1764200000000, publicMetadata: "{}"},
	}
	paths, _ := filepath.Glob(filepath.Join(shared(t, "fixtures"), "*.json"))
	for _, path := range paths {
		name := filepath.Base(path)
		if strings.HasPrefix(name, "bapi.") || strings.HasPrefix(name, "v1_") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, known := wants[name]
			if !known {
				t.Fatalf("fixture %s has no expectation: add one", name)
			}
			env, err := clerk.DecodeEnvelope(fixture(t, name))
			if err != nil {
				t.Fatal(err)
			}
			if got := clerk.IsSample(env); got != w.sample {
				t.Errorf("IsSample: got %v, want %v", got, w.sample)
			}
			event, err := newPolicy(t).Event(env, "msg_1", receivedAt)
			if !errors.Is(err, w.err) {
				t.Fatalf("Event: got error %v, want %v", err, w.err)
			}
			if err != nil {
				return
			}
			if event.ClerkID != w.id || event.Operation != w.operation || event.UpdatedAt != w.updated || event.StatedAt != w.stated || event.OccurredAt != w.stated {
				t.Errorf("Event: got %s", show(event))
			}
			back, _ := roundTrip(t, event)
			if show(back) != show(event) {
				t.Errorf("round trip: got %s, want %s", show(back), show(event))
			}
			if w.operation == schemas.EventDelete {
				if event.User != nil || event.Fingerprint != 0 {
					t.Errorf("deletion carries %s", show(event))
				}
				return
			}
			if got := value(event.User.PrimaryEmailAddress); got != w.primary {
				t.Errorf("primary_email_address: got %q, want %q", got, w.primary)
			}
			if got := len(*event.User.EmailAddresses); got != w.emails {
				t.Errorf("email_addresses: got %d, want %d", got, w.emails)
			}
			if got := value(event.User.PublicMetadata); got != w.publicMetadata {
				t.Errorf("public_metadata: got %s, want %s", got, w.publicMetadata)
			}
		})
	}
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func TestEvent_KeepsNULEscape(t *testing.T) {
	t.Parallel()
	event := mustEvent(t, newPolicy(t, "unsafe_metadata"), string(fixture(t, "user.updated.nul_in_metadata.json")))
	if got, want := value(event.User.UnsafeMetadata), `{"bio":"a\u0000b"}`; got != want {
		t.Errorf("unsafe_metadata: got %s, want %s", got, want)
	}
}

func TestRow_Page(t *testing.T) {
	t.Parallel()
	var page []json.RawMessage
	if err := json.Unmarshal(fixture(t, "v1_users.list_page.json"), &page); err != nil {
		t.Fatal(err)
	}
	date := time.Date(2025, 11, 28, 0, 0, 0, 0, time.UTC)
	version := int64(7)
	for _, row := range page {
		event, err := newPolicy(t).Row(row, clerk.ReadAt{Date: date, ReceivedAt: receivedAt, Origin: schemas.OriginSnapshot, InstanceID: "ins_1", Snapshot: "s1", IfVersion: &version})
		if err != nil {
			t.Fatal(err)
		}
		if event.StatedAt != date.Add(-time.Minute).UnixMilli() || event.OccurredAt != event.UpdatedAt || event.ReceivedAt != receivedAt.UnixMilli() ||
			event.Operation != schemas.EventUpsert || event.Origin != schemas.OriginSnapshot || value(event.Snapshot) != "s1" ||
			event.EventID != "snapshot/s1/"+event.ClerkID || event.InstanceID != "ins_1" || *event.IfVersion != 7 || event.EventType != "" {
			t.Errorf("Row: got %s", show(event))
		}
	}
	_, err := newPolicy(t).Row(json.RawMessage(`{"id":"user_1","updated_at":`+fmt.Sprint(date.Add(11*time.Minute).UnixMilli())+`}`), clerk.ReadAt{Date: date, ReceivedAt: receivedAt})
	if !errors.Is(err, clerk.ErrTooFarAhead) {
		t.Errorf("Row with an updated_at ahead of Clerk's clock: got %v", err)
	}
}

// everything is a user with every field of Clerk's, in no good order.
const everything = `{
 "object": "user", "id": "user_1", "unknown": {"phone": "x"},
 "external_id": "e1", "username": "u1", "first_name": "F", "last_name": "", "locale": "da-DK", "image_url": "https://img", "profile_image_url": "https://old", "has_image": true,
 "primary_email_address_id": "idn_2", "primary_phone_number_id": "idn_3", "primary_web3_wallet_id": "idn_4",
 "email_addresses": [
  {"id": "idn_1", "object": "email_address", "email_address": "a@example.com", "reserved": false, "verification": null, "linked_to": [], "created_at": 1, "updated_at": 2},
  {"id": "idn_2", "email_address": "b@example.com", "verification": {"status": "verified", "strategy": "email_code", "attempts": 1}, "created_at": 3, "updated_at": 4}],
 "phone_numbers": [{"id": "idn_3", "phone_number": "+4512345678", "backup_codes": ["secret-code"], "reserved_for_second_factor": true, "default_second_factor": false, "verification": {"status": "unverified"}, "created_at": 5, "updated_at": 6}],
 "web3_wallets": [{"id": "idn_4", "web3_wallet": "0xAB", "verification": {"nonce": "n"}, "created_at": 7, "updated_at": 8}],
 "passkeys": [{"id": "idn_5", "name": "Mac", "last_used_at": 9, "verification": {"status": "verified"}}],
 "external_accounts": [{"provider": "google", "email_address": "c@example.com", "n": 1.0}],
 "saml_accounts": [], "enterprise_accounts": [{"id": "x"}], "organization_memberships": [ {"id" : "o" } ], "scim": {"directory_id": "d"},
 "public_metadata": {"b": 9007199254740993, "a": 1e400, "a": "\u0000\u00e9é<&>"}, "private_metadata": {"p": 1}, "unsafe_metadata": null,
 "password_enabled": true, "two_factor_enabled": false, "totp_enabled": true, "backup_code_enabled": false,
 "mfa_enabled_at": 10, "mfa_disabled_at": null, "password_last_updated_at": 11, "last_sign_in_at": 12, "last_active_at": 13, "legal_accepted_at": 14,
 "banned": false, "locked": true, "deprovisioned": false, "lockout_expires_in_seconds": 15, "verification_attempts_remaining": 16,
 "delete_self_enabled": true, "create_organization_enabled": false, "create_organizations_limit": 0, "bypass_client_trust": true,
 "created_at": 17, "updated_at": 1764100000000}`

func ptr[T any](v T) *T { return &v }

func everyField() *schemas.User {
	return &schemas.User{
		ExternalID: ptr("e1"), Username: ptr("u1"), FirstName: ptr("F"), LastName: ptr(""), Locale: ptr("da-DK"), ImageURL: ptr("https://img"), HasImage: ptr(true),
		PrimaryEmailAddress: ptr("b@example.com"), PrimaryEmailAddressID: ptr("idn_2"), PrimaryPhoneNumberID: ptr("idn_3"), PrimaryWeb3WalletID: ptr("idn_4"),
		EmailAddresses: &[]schemas.EmailAddress{
			{ID: ptr("idn_1"), EmailAddress: "a@example.com", CreatedAt: ptr[int64](1), UpdatedAt: ptr[int64](2)},
			{ID: ptr("idn_2"), EmailAddress: "b@example.com", VerificationStatus: ptr("verified"), CreatedAt: ptr[int64](3), UpdatedAt: ptr[int64](4)},
		},
		PhoneNumbers: &[]schemas.PhoneNumber{{ID: ptr("idn_3"), PhoneNumber: "+4512345678", VerificationStatus: ptr("unverified"),
			ReservedForSecondFactor: ptr(true), DefaultSecondFactor: ptr(false), CreatedAt: ptr[int64](5), UpdatedAt: ptr[int64](6)}},
		Web3Wallets:      &[]schemas.Web3Wallet{{ID: ptr("idn_4"), Web3Wallet: "0xAB", CreatedAt: ptr[int64](7), UpdatedAt: ptr[int64](8)}},
		Passkeys:         &[]schemas.Passkey{{ID: ptr("idn_5"), Name: ptr("Mac"), VerificationStatus: ptr("verified"), LastUsedAt: ptr[int64](9)}},
		ExternalAccounts: ptr(`[{"provider":"google","email_address":"c@example.com","n":1.0}]`),
		SAMLAccounts:     ptr(`[]`), EnterpriseAccounts: ptr(`[{"id":"x"}]`), OrganizationMemberships: ptr(`[{"id":"o"}]`), SCIM: ptr(`{"directory_id":"d"}`),
		PublicMetadata:  ptr(`{"b":9007199254740993,"a":1e400,"a":"\u0000\u00e9é<&>"}`),
		PrivateMetadata: ptr(`{"p":1}`),
		PasswordEnabled: ptr(true), TwoFactorEnabled: ptr(false), TOTPEnabled: ptr(true), BackupCodeEnabled: ptr(false),
		MFAEnabledAt: ptr[int64](10), PasswordLastUpdatedAt: ptr[int64](11), LastSignInAt: ptr[int64](12), LastActiveAt: ptr[int64](13), LegalAcceptedAt: ptr[int64](14),
		Banned: ptr(false), Locked: ptr(true), Deprovisioned: ptr(false), LockoutExpiresInSeconds: ptr[int64](15), VerificationAttemptsRemaining: ptr[int64](16),
		DeleteSelfEnabled: ptr(true), CreateOrganizationEnabled: ptr(false), CreateOrganizationsLimit: ptr[int64](0), BypassClientTrust: ptr(true),
		CreatedAt: ptr[int64](17), UpdatedAt: ptr[int64](1764100000000),
	}
}

func TestEvent_EveryField(t *testing.T) {
	t.Parallel()
	body := `{"type":"user.updated","timestamp":1764100001,"instance_id":"ins_1","data":` + everything +
		`,"event_attributes":{"http_request":{"client_ip":"192.0.2.1","user_agent":"UA"}}}`
	got := mustEvent(t, newPolicy(t, clerk.FieldNames()...), body)
	want := &schemas.UserEvent{
		ClerkID: "user_1", Operation: schemas.EventUpsert, Origin: schemas.OriginWebhook, EventID: "msg_1", EventType: "user.updated", InstanceID: "ins_1",
		UpdatedAt: 1764100000000, StatedAt: 1764100001000, OccurredAt: 1764100001000, ReceivedAt: receivedAt.UnixMilli(),
		Fingerprint: clerk.Fingerprint(everyField()), PolicyHash: newPolicy(t, clerk.FieldNames()...).Hash(),
		ClientIP: ptr("192.0.2.1"), UserAgent: ptr("UA"), User: everyField(),
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Event: got %s\nwant %s", show(got), show(want))
	}
	for i, user := 0, reflect.ValueOf(got.User).Elem(); i < user.NumField(); i++ {
		name := user.Type().Field(i).Name
		if user.Field(i).IsNil() && name != "UnsafeMetadata" && name != "MFADisabledAt" {
			t.Errorf("%s is nil: the field is not taken", name)
		}
	}
	if back, bytes := roundTrip(t, got); !reflect.DeepEqual(back, got) || strings.Contains(string(bytes), "secret-code") {
		t.Errorf("round trip: got %s", show(back))
	}
}

func TestEvent_DefaultPolicy(t *testing.T) {
	t.Parallel()
	body := `{"type":"user.updated","data":` + everything + `,"event_attributes":{"http_request":{"client_ip":"192.0.2.1","user_agent":"UA"}}}`
	got := mustEvent(t, newPolicy(t), body)
	all := everyField()
	want := &schemas.User{
		ExternalID: all.ExternalID, Username: all.Username, FirstName: all.FirstName, LastName: all.LastName, ImageURL: all.ImageURL, HasImage: all.HasImage,
		PrimaryEmailAddress: all.PrimaryEmailAddress, PrimaryEmailAddressID: all.PrimaryEmailAddressID, EmailAddresses: all.EmailAddresses,
		PublicMetadata: all.PublicMetadata, Banned: all.Banned, Locked: all.Locked, CreatedAt: all.CreatedAt, UpdatedAt: all.UpdatedAt,
	}
	if !reflect.DeepEqual(got.User, want) || got.ClientIP != nil || got.UserAgent != nil {
		t.Errorf("Event: got %s\nwant user %s", show(got), show(want))
	}
	if got.StatedAt != got.UpdatedAt {
		t.Errorf("stated_at without an envelope timestamp: got %d, want updated_at", got.StatedAt)
	}
	if got.Fingerprint != clerk.Fingerprint(want) {
		t.Error("the fingerprint is not that of the minimised user")
	}
}

func TestEvent_Times(t *testing.T) {
	t.Parallel()
	now := receivedAt.UnixMilli()
	user := `{"id":"user_1","updated_at":1764100000000}`
	for _, test := range []struct {
		name, kind, timestamp, data string
		want                        int64
	}{
		{"milliseconds", "user.updated", "1764100000500", user, 1764100000500},
		{"seconds", "user.updated", "1764100001", user, 1764100001000},
		{"none", "user.updated", "null", user, 1764100000000},
		{"zero", "user.updated", "0", user, 1764100000000},
		{"negative", "user.updated", "-5", user, 1764100000000},
		{"ahead", "user.updated", fmt.Sprint(now + 5000), user, now},
		{"deletion", "user.deleted", "1764100001", `{"id":"user_1"}`, 1764100001000},
		{"deletion without a time", "user.deleted", "null", `{"id":"user_1"}`, now},
		{"deletion ahead", "user.deleted", "9223372036854775807", `{"id":"user_1"}`, now},
		{"updated_at a little ahead", "user.updated", "0", fmt.Sprintf(`{"id":"user_1","updated_at":%d}`, now+600_000), now},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			event := mustEvent(t, newPolicy(t), `{"type":"`+test.kind+`","timestamp":`+test.timestamp+`,"data":`+test.data+`}`)
			if event.StatedAt != test.want || event.OccurredAt != test.want || event.ReceivedAt != now {
				t.Errorf("Event: got %s, want stated_at %d", show(event), test.want)
			}
		})
	}
	_, err := eventOf(newPolicy(t), envelope("user.updated", fmt.Sprintf(`{"id":"user_1","updated_at":%d}`, now+600_001)))
	var ahead *clerk.TooFarAheadError
	if !errors.Is(err, clerk.ErrTooFarAhead) || !errors.As(err, &ahead) || ahead.ClerkID != "user_1" || ahead.UpdatedAt != now+600_001 {
		t.Errorf("updated_at over 10 minutes ahead: got %v", err)
	}
}

func TestEvent_Malformed(t *testing.T) {
	t.Parallel()
	user := func(members string) string { return envelope("user.updated", `{"id":"user_1",`+members+`}`) }
	for _, test := range []struct {
		name, body    string
		reason, field string
		id            string
		where         string // what the offset is that of; empty: not compared
	}{
		{name: "empty", body: "", reason: clerk.ReasonJSON},
		{name: "cut off", body: `{"type":"user.updated","data":{"id":"user_1"`, reason: clerk.ReasonJSON},
		{name: "not UTF-8", body: user(`"first_name":"` + "\xff" + `"`), reason: clerk.ReasonJSON, id: "user_1", where: "\xff"},
		{name: "not UTF-8, another object", body: `{"type":"session.created","data":{"id":"sess_` + "\xff" + `"}}`, reason: clerk.ReasonJSON},
		{name: "array", body: `[1]`, reason: clerk.ReasonEnvelope},
		{name: "null", body: `null`, reason: clerk.ReasonEnvelope},
		{name: "no type", body: `{"data":{"id":"user_1"}}`, reason: clerk.ReasonEnvelope, field: "type", id: "user_1"},
		{name: "type in other case", body: `{"Type":"user.updated","data":{"id":"user_1"}}`, reason: clerk.ReasonEnvelope, field: "type", id: "user_1"},
		{name: "number as type", body: `{"type":7,"data":{"id":"user_1"}}`, reason: clerk.ReasonEnvelope, field: "type", id: "user_1", where: "7"},
		{name: "no type, another object", body: `{"data":{"id":"org_1"}}`, reason: clerk.ReasonEnvelope, field: "type"},
		{name: "fraction as timestamp", body: `{"type":"user.updated","timestamp":1.5,"data":{"id":"user_1"}}`, reason: clerk.ReasonEnvelope, field: "timestamp", id: "user_1", where: "1.5"},
		{name: "no data", body: `{"type":"user.updated"}`, reason: clerk.ReasonJSON},
		{name: "data is an array", body: envelope("user.updated", `[]`), reason: clerk.ReasonUser},
		{name: "number as id", body: envelope("user.updated", `{"id":12345}`), reason: clerk.ReasonUser, field: "id", where: "12345"},
		{name: "slash in id", body: envelope("user.deleted", `{"id":"a/b"}`), reason: clerk.ReasonUser, field: "id", where: `"a/b"`},
		{name: "id longer than a key of ours", body: envelope("user.deleted", `{"id":"`+strings.Repeat("u", 129)+`"}`), reason: clerk.ReasonUser, field: "id", where: `"uuu`},
		{name: "tick as id", body: envelope("user.deleted", `{"id":"`+schemas.TickKey+`"}`), reason: clerk.ReasonUser, field: "id", where: `"__`},
		{name: "no updated_at", body: user(`"first_name":"x"`), reason: clerk.ReasonUser, field: "updated_at", id: "user_1"},
		{name: "updated_at 0", body: user(`"updated_at":0`), reason: clerk.ReasonUser, field: "updated_at", id: "user_1", where: "0}"},
		{name: "updated_at negative", body: user(`"updated_at":-1`), reason: clerk.ReasonUser, field: "updated_at", id: "user_1", where: "-1}"},
		{name: "updated_at as text", body: user(`"updated_at":"2025"`), reason: clerk.ReasonUser, field: "updated_at", id: "user_1", where: `"2025"`},
		{name: "updated_at beyond int64", body: user(`"updated_at":9223372036854775808`), reason: clerk.ReasonUser, field: "updated_at", id: "user_1", where: "9223"},
		{name: "number as name", body: user(`"updated_at":1,"first_name": 5`), reason: clerk.ReasonUser, field: "first_name", id: "user_1", where: "5}"},
		{name: "text as boolean", body: user(`"updated_at":1,"banned":"true"`), reason: clerk.ReasonUser, field: "banned", id: "user_1", where: `"true"`},
		{name: "e-mail list of text", body: user(`"updated_at":1,"email_addresses":["a@b"]`), reason: clerk.ReasonUser, field: "email_addresses", id: "user_1", where: `["a@b"]`},
		{name: "e-mail entry null", body: user(`"updated_at":1,"email_addresses":[null]`), reason: clerk.ReasonUser, field: "email_addresses", id: "user_1", where: `[null]`},
		{name: "passkey null", body: user(`"updated_at":1,"passkeys":[null]`), reason: clerk.ReasonUser, field: "passkeys", id: "user_1", where: `[null]`},
		{name: "e-mail entry without address", body: user(`"updated_at":1,"email_addresses":[{"id":"x"}]`), reason: clerk.ReasonUser, field: "email_addresses", id: "user_1", where: `[{"id":"x"}]`},
		{name: "verification of another type", body: user(`"updated_at":1,"email_addresses":[{"email_address":"a@b","verification":1}]`), reason: clerk.ReasonUser, field: "email_addresses", id: "user_1", where: `[{`},
		{name: "too many entries", body: user(`"updated_at":1,"email_addresses":[` + strings.Repeat(`{"email_address":""},`, 10_000) + `{"email_address":""}]`), reason: clerk.ReasonUser, field: "email_addresses", id: "user_1", where: `[{`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := eventOf(newPolicy(t, "passkeys"), test.body)
			var malformed *clerk.MalformedError
			if !errors.As(err, &malformed) {
				t.Fatalf("got error %v, want a *MalformedError", err)
			}
			if malformed.Reason != test.reason || malformed.Field != test.field || malformed.ClerkID != test.id {
				t.Errorf("got %+v", malformed)
			}
			if want := int64(strings.Index(test.body, test.where)); test.where != "" && malformed.Offset != want {
				t.Errorf("Offset: got %d, want %d", malformed.Offset, want)
			}
			for _, data := range []string{"12345", "a@b", "a/b", "2025"} {
				if strings.Contains(err.Error(), data) {
					t.Errorf("the error quotes the body: %v", err)
				}
			}
		})
	}
	if _, err := eventOf(newPolicy(t), envelope("user.created", `{"updated_at":1}`)); !errors.Is(err, clerk.ErrMissingID) {
		t.Errorf("user without id: got %v", err)
	}
	if _, err := eventOf(newPolicy(t), envelope("user.deleted", `{"id":null}`)); !errors.Is(err, clerk.ErrMissingID) {
		t.Errorf("deletion without id: got %v", err)
	}
}

func TestEvent_LeavesMalformedFieldsThatAreNotKept(t *testing.T) {
	t.Parallel()
	event := mustEvent(t, newPolicy(t), envelope("user.updated", `{"id":"user_1","updated_at":1,"phone_numbers":{"x":1},"last_active_at":"soon","First_Name":"x","FIRST_NAME":5}`))
	if event.User.PhoneNumbers != nil || event.User.FirstName != nil {
		t.Errorf("got %s", show(event.User))
	}
}

func TestEvent_PrimaryEmail(t *testing.T) {
	t.Parallel()
	addresses := `"email_addresses":[{"id":"idn_1","email_address":"first@example.com"},{"id":"idn_2","email_address":"second@example.com"},{"email_address":"no-id@example.com"}]`
	for _, test := range []struct{ name, members, want string }{
		{"not the first", addresses + `,"primary_email_address_id":"idn_2"`, "second@example.com"},
		{"dangling", addresses + `,"primary_email_address_id":"idn_9"`, ""},
		{"dangling, no addresses", `"email_addresses":[],"primary_email_address_id":"idn_1"`, ""},
		{"none", addresses + `,"primary_email_address_id":null`, ""},
		{"repeated names", `"primary_email_address_id":"idn_1",` + addresses + `,"primary_email_address_id":"idn_2"`, "second@example.com"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			event := mustEvent(t, newPolicy(t), envelope("user.updated", `{"id":"user_1","updated_at":1,`+test.members+`}`))
			if got := value(event.User.PrimaryEmailAddress); got != test.want {
				t.Errorf("primary_email_address: got %q, want %q", got, test.want)
			}
		})
	}
	for _, exclude := range []string{"email_addresses", "primary_email_address_id"} {
		p, err := clerk.NewPolicy(clerk.PolicyConfig{Exclude: []string{exclude}})
		if err != nil {
			t.Fatal(err)
		}
		event := mustEvent(t, p, envelope("user.updated", `{"id":"user_1","updated_at":1,"primary_email_address_id":"idn_2",`+addresses+`}`))
		if event.User.PrimaryEmailAddress != nil {
			t.Errorf("without %s: primary_email_address is %q", exclude, *event.User.PrimaryEmailAddress)
		}
	}
}

func TestPolicy_Fields(t *testing.T) {
	t.Parallel()
	want := []string{"banned", "created_at", "email_addresses", "external_id", "first_name", "has_image", "id", "image_url",
		"last_name", "locked", "primary_email_address_id", "public_metadata", "updated_at", "username"}
	if got := newPolicy(t).Fields(); !slices.Equal(got, want) {
		t.Errorf("Fields: got %v, want %v", got, want)
	}
	p, err := clerk.NewPolicy(clerk.PolicyConfig{Include: []string{" phone_numbers ", ""}, Exclude: []string{"image_url", "has_image", "scim"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Fields(); slices.Contains(got, "image_url") || !slices.Contains(got, "phone_numbers") {
		t.Errorf("Fields: got %v", got)
	}
	if p.Hash() == newPolicy(t).Hash() || len(p.Hash()) != 16 {
		t.Errorf("Hash: got %s for both policies", p.Hash())
	}
	if a, b := newPolicy(t, "scim", "locale"), newPolicy(t, "locale", "scim", "scim", "banned"); a.Hash() != b.Hash() {
		t.Error("Hash depends on the order of the names")
	}
}

func TestNewPolicy_Errors(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		cfg  clerk.PolicyConfig
		want []string
	}{
		{"misspelt", clerk.PolicyConfig{Include: []string{"emial_addresses"}}, []string{"POLICY_INCLUDE", `"emial_addresses"`, "write email_addresses"}},
		{"part of a name", clerk.PolicyConfig{Include: []string{"phone"}}, []string{"phone_numbers or primary_phone_number_id"}},
		{"old name", clerk.PolicyConfig{Exclude: []string{"profile_image_url"}}, []string{"POLICY_EXCLUDE", "write image_url"}},
		{"derived", clerk.PolicyConfig{Exclude: []string{"primary_email_address"}}, []string{"write primary_email_address_id"}},
		{"nonsense", clerk.PolicyConfig{Include: []string{"qqqqqqqqqq"}}, []string{"write one of backup_code_enabled, ", "web3_wallets"}},
		{"upper case", clerk.PolicyConfig{Include: []string{"BANNED"}}, []string{"write banned"}},
		{"key", clerk.PolicyConfig{Exclude: []string{"id"}}, []string{"id cannot be left out: it is the key"}},
		{"order", clerk.PolicyConfig{Exclude: []string{"updated_at", "created_at"}}, []string{"updated_at cannot be left out: it orders", "created_at cannot be left out"}},
		{"both", clerk.PolicyConfig{Include: []string{"scim"}, Exclude: []string{"scim"}}, []string{"scim is in both"}},
		{"all problems at once", clerk.PolicyConfig{Include: []string{"usrname"}, Exclude: []string{"sacm", "id"}}, []string{"username", "scim", "key"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := clerk.NewPolicy(test.cfg)
			if err == nil || test.cfg.Validate() == nil {
				t.Fatal("got no error")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %q, want it to contain %q", err, want)
				}
			}
		})
	}
}

func TestIsSample(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]bool{
		envelope("user.updated", `{"id":"user_29w83sxmDNGwOuEthce5gg56FcC"}`):                            true,
		envelope("user.deleted", `{"deleted":true,"id":"user_29wBMCtzATuFJut8jO2VNTVekS4"}`):             true,
		envelope("user.deleted", `{"id":"user_1","external_id":"user_29wBMCtzATuFJut8jO2VNTVekS4"}`):     false,
		envelope("user.updated", `{"id":"user_1"}`):                                                      false,
		`{"type":"email.created","instance_id":"ins_2g7np7Hrk0SN6kj5EDMLDaKNL0S","data":{"id":"ema_1"}}`: true,
		`{"type":"user.created","data":"user_29w83sxmDNGwOuEthce5gg56FcC"}`:                              false,
		`{"type":"user.created"}`: false,
	} {
		env, err := clerk.DecodeEnvelope([]byte(body))
		if err != nil {
			t.Fatal(err)
		}
		if got := clerk.IsSample(env); got != want {
			t.Errorf("IsSample(%s): got %v, want %v", body, got, want)
		}
	}
}

func BenchmarkEvent(b *testing.B) {
	p := newPolicy(b)
	body := []byte(envelope("user.updated", everything))
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		env, err := clerk.DecodeEnvelope(body)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := p.Event(env, "msg_1", receivedAt); err != nil {
			b.Fatal(err)
		}
	}
}

package clerk

import (
	"bytes"
	"encoding/json"
	"strings"

	"clerkconnect/schemas"
)

// Types of the events that are taken.
const (
	TypeUserCreated = "user.created"
	TypeUserUpdated = "user.updated"
	TypeUserDeleted = "user.deleted"
)

// Types returns the types of the events that are taken.
func Types() []string { return []string{TypeUserCreated, TypeUserUpdated, TypeUserDeleted} }

// secondsBelow tells the unit of an envelope's timestamp: Clerk documents
// milliseconds, but its own examples carry seconds. 1e11 seconds are in the
// year 5138, 1e11 milliseconds were in 1973.
const secondsBelow = 100_000_000_000

// Envelope is a webhook's body, not yet minimised: it must not leave the
// process, neither in a record nor in a log.
type Envelope struct {
	Type       string
	Timestamp  int64 // Unix milliseconds; 0: Clerk sent none
	InstanceID string
	Data       json.RawMessage
	ClientIP   *string
	UserAgent  *string

	body []byte // for positions of errors; nil: unknown
}

// DecodeEnvelope reads a webhook's body, whose signature has been verified.
// body must not be changed as long as the envelope is used. Errors are a
// *MalformedError, which names the user if the body does.
func DecodeEnvelope(body []byte) (Envelope, error) {
	o, ok, err := parse(body)
	if err != nil {
		return Envelope{}, named(err, namedUser(body))
	}
	if !ok {
		return Envelope{}, &MalformedError{Reason: ReasonEnvelope, Want: wantObject}
	}
	env := Envelope{Data: o["data"], body: body}
	var kind, instance *string
	var timestamp *int64
	for _, m := range []struct {
		name string
		into any
	}{{"type", &kind}, {"timestamp", &timestamp}, {"instance_id", &instance}} {
		if want := decode(o[m.name], m.into); want != "" {
			return Envelope{}, &MalformedError{Reason: ReasonEnvelope, Field: m.name, Want: want,
				Offset: position(body, m.name), ClerkID: namedUser(body)}
		}
	}
	if kind == nil || *kind == "" {
		return Envelope{}, &MalformedError{Reason: ReasonEnvelope, Field: "type", Want: "a string",
			Offset: position(body, "type"), ClerkID: namedUser(body)}
	}
	env.Type = *kind
	if instance != nil {
		env.InstanceID = *instance
	}
	if timestamp != nil && *timestamp > 0 {
		env.Timestamp = *timestamp
		if env.Timestamp < secondsBelow {
			env.Timestamp *= 1000
		}
	}
	env.ClientIP, env.UserAgent = request(o["event_attributes"])
	return env, nil
}

// request reads the address and the program of the request that caused an
// event. They are an extra: what is not as Clerk describes it is left out.
func request(attributes json.RawMessage) (clientIP, userAgent *string) {
	var outer, inner object
	if isNull(attributes) || json.Unmarshal(attributes, &outer) != nil {
		return nil, nil
	}
	if raw := outer["http_request"]; isNull(raw) || json.Unmarshal(raw, &inner) != nil {
		return nil, nil
	}
	decode(inner[fieldClientIP], &clientIP)
	decode(inner[fieldUserAgent], &userAgent)
	return clientIP, userAgent
}

// namedUser returns the id of the user that a malformed body is about, or "".
// Where the type cannot be read, the id must look like a user's.
func namedUser(body []byte) string {
	var envelope object
	if json.Unmarshal(body, &envelope) != nil {
		return ""
	}
	var kind *string
	decode(envelope["type"], &kind)
	id := readableID(envelope["data"])
	if kind != nil && strings.HasPrefix(*kind, "user.") || kind == nil && strings.HasPrefix(id, "user_") {
		return id
	}
	return ""
}

// readableID returns the id in a user object that is not UTF-8 or otherwise
// refused, or "".
func readableID(data []byte) string {
	var o object
	if json.Unmarshal(data, &o) != nil {
		return ""
	}
	id, _ := clerkID(o)
	return id
}

// maxIDBytes bounds a Clerk ID; real ones have 32 bytes.
const maxIDBytes = 128

// clerkID reads the id. It is empty if there is none; want says what was
// expected if it is not one: letters, digits, "_" and "-", since it becomes a
// record's key and a part of others, and not the one key that is not a user's.
func clerkID(o object) (id, want string) {
	var value *string
	if want := decode(o[fieldID], &value); want != "" || value == nil {
		return "", want
	}
	ok := len(*value) <= maxIDBytes && *value != schemas.TickKey
	for _, c := range []byte(*value) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-')
	}
	if !ok {
		return "", "a Clerk ID"
	}
	return *value, ""
}

// samples are the ids in the payloads behind the dashboard's "Send Example"
// button: those of Clerk's webhook description of 2025-04-15, and those that
// the button sent from 2022 on.
var samples = map[string]bool{
	"user_2g7np7Hrk0SN6kj5EDMLDaKNL0S": true,
	"user_29w83sxmDNGwOuEthce5gg56FcC": true,
	"user_29wBMCtzATuFJut8jO2VNTVekS4": true,
}

// sampleInstance is the instance of those payloads.
const sampleInstance = "ins_2g7np7Hrk0SN6kj5EDMLDaKNL0S"

// IsSample is true for an event that the dashboard's "Send Example" button
// made up. It is signed like a real one, but its user does not exist.
func IsSample(env Envelope) bool {
	if env.InstanceID == sampleInstance {
		return true
	}
	for id := range samples {
		if bytes.Contains(env.Data, []byte(id)) {
			data, _, _ := parse(env.Data)
			id, _ := clerkID(data)
			return samples[id]
		}
	}
	return false
}

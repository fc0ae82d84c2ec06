package contact

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/mapping"
)

// TimeFormat is how a tool takes a moment.
type TimeFormat int

// The formats of a moment.
const (
	ISO8601     TimeFormat = iota // "2006-01-02T15:04:05.000Z", UTC: Salesforce, Segment
	UnixSeconds                   // a number: Customer.io, Intercom
	UnixMillis                    // a number: HubSpot, there as a string
)

// Form is the form in which a tool takes values. The zero value is JSON's own
// types, objects and lists as their text, and times in ISO 8601.
type Form struct {
	Time TimeFormat
	// Strings makes a string of every value, a number and a bool too.
	Strings bool
	// Nested leaves objects and lists of metadata what they are, for a tool that
	// takes them. Not with Strings.
	Nested bool
}

// Properties are what a tool is given of a user, by property. A value is nil
// where the user has none; else a string, a bool, an int64, or a
// [json.RawMessage] as Form says.
type Properties map[string]any

// Mapping makes properties of users. Safe for concurrent use.
type Mapping struct {
	list []mapping.Assignment
	form Form
}

// NewMapping returns the mapping of a list that [ParseProperties] has read.
func NewMapping(list []mapping.Assignment, form Form) Mapping { return Mapping{list, form} }

// Names returns the properties in the order of the setting.
func (m Mapping) Names() []string {
	names := make([]string, len(m.list))
	for i, a := range m.list {
		names[i] = a.Target
	}
	return names
}

// Assignments returns the mapping in the order of the setting; it is not to be
// changed.
func (m Mapping) Assignments() []mapping.Assignment { return m.list }

// Properties returns the properties of a user.
func (m Mapping) Properties(clerkID string, u *schemas.User) Properties {
	properties := make(Properties, len(m.list))
	for _, a := range m.list {
		properties[a.Target] = m.form.value(a.Expression, clerkID, u)
	}
	return properties
}

func (f Form) value(e mapping.Expression, clerkID string, u *schemas.User) any {
	value := e.Value(clerkID, u)
	switch v := value.(type) {
	case time.Time:
		return f.moment(v)
	case bool:
		if f.Strings {
			return strconv.FormatBool(v)
		}
	case int64:
		if f.Strings {
			return strconv.FormatInt(v, 10)
		}
	case string:
		if kind := e.Kind(); !f.Strings && (kind == mapping.Part || kind == mapping.JSON) {
			return f.document(e.JSON(clerkID, u), v)
		}
	}
	return value
}

// document returns a part of metadata with the type that it has there.
func (f Form) document(raw, text string) any {
	compound := strings.HasPrefix(raw, "{") || strings.HasPrefix(raw, "[")
	if strings.HasPrefix(raw, `"`) || compound && !f.Nested {
		return text
	}
	return json.RawMessage(raw)
}

func (f Form) moment(at time.Time) any {
	var n int64
	switch f.Time {
	case UnixSeconds:
		n = at.Unix()
	case UnixMillis:
		n = at.UnixMilli()
	default:
		return at.UTC().Format("2006-01-02T15:04:05.000Z")
	}
	if f.Strings {
		return strconv.FormatInt(n, 10)
	}
	return n
}

// Email returns the user's primary address without spaces around it, "" if he
// has none: an e-mail tool skips him then ([sinks.Record.Skipped]).
func Email(u *schemas.User) string {
	if u.PrimaryEmailAddress == nil {
		return ""
	}
	return strings.TrimSpace(mapping.CleanText(*u.PrimaryEmailAddress))
}

// Step is what is to be done of one change.
type Step struct {
	Memory Memory // as it was before
	// All are the properties of the user as he is now.
	All Properties
	// Changed are those that differ from what was sent last, nil values among
	// them: all of them if nothing was sent yet, also the nil ones, since a call
	// whose answer was lost may have set them.
	Changed Properties
	// New tells that the effect for new users is due.
	New bool
}

// Plan compares a change with what was sent last.
func (m Mapping) Plan(r sinks.Record) Step {
	memory := Recall(r.State)
	if memory.Erased {
		memory = Memory{}
	}
	step := Step{Memory: memory, All: m.Properties(r.ClerkID, &r.Change.User), Changed: Properties{}, New: r.New && !memory.Welcomed}
	for name, value := range step.All {
		if memory.Sent[name] != hash(value) {
			step.Changed[name] = value
		}
	}
	return step
}

// Nothing reports whether the tool has all of it already.
func (s Step) Nothing() bool {
	return len(s.Changed) == 0 && !s.New && !s.Memory.Creating && s.Memory.RemoteID != ""
}

// Sent returns the memory of a contact to which all of the step was sent.
func (s Step) Sent(remoteID, email string) Memory {
	m := Memory{RemoteID: remoteID, Email: email, Welcomed: s.Memory.Welcomed || s.New, Sent: make(map[string]string, len(s.All))}
	for name, value := range s.All {
		m.Sent[name] = hash(value)
	}
	return m
}

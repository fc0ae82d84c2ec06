package sinktest

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"reflect"
	"slices"
	"strings"

	"clerkconnect/schemas"
)

// Row is a user as a destination shows it, by the field names of user.avsc: a
// string, a bool, an int64 (times in Unix milliseconds), or JSON text for what
// JSONFields names. A field that is null is missing.
type Row map[string]any

// JSONFields names the fields of a [Row] that are JSON text: compared as
// values, because databases reorder keys.
var JSONFields = []string{
	"email_addresses", "phone_numbers", "web3_wallets", "passkeys", "external_accounts", "saml_accounts",
	"enterprise_accounts", "organization_memberships", "scim", "public_metadata", "private_metadata", "unsafe_metadata",
}

// RowOf returns u as a destination that holds every field must show it.
func RowOf(u *schemas.User) Row {
	row := Row{}
	for name, value := range fields(reflect.ValueOf(u).Elem()) {
		if _, list := value.([]any); list {
			text, err := json.Marshal(value)
			if err != nil {
				panic(err) // strings, booleans and integers
			}
			value = string(text)
		}
		if value != nil {
			row[name] = value
		}
	}
	return row
}

// row returns u as the destination of h must show it.
func (h Harness) row(u *schemas.User) Row {
	row := RowOf(u)
	if h.Fields != nil {
		maps.DeleteFunc(row, func(name string, _ any) bool { return !slices.Contains(h.Fields, name) })
	}
	return row
}

// fields returns the fields of a struct of package schemas under their Avro
// names.
func fields(v reflect.Value) map[string]any {
	all := map[string]any{}
	for i := range v.NumField() {
		all[v.Type().Field(i).Tag.Get("avro")] = plain(v.Field(i))
	}
	return all
}

func plain(v reflect.Value) any {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return plain(v.Elem())
	case reflect.Slice:
		items := make([]any, v.Len())
		for i := range items {
			items[i] = fields(v.Index(i))
		}
		return items
	default:
		return v.Interface()
	}
}

// diff says in what got differs from r, "" if in nothing. It names fields only.
func (r Row) diff(got Row) string {
	var different []string
	for _, name := range slices.Sorted(maps.Keys(r)) {
		if !reflect.DeepEqual(normal(name, r[name]), normal(name, got[name])) {
			different = append(different, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if _, wanted := r[name]; !wanted {
			different = append(different, name+" (want null)")
		}
	}
	if len(different) == 0 {
		return ""
	}
	return "wrong fields: " + strings.Join(different, ", ")
}

// normal returns a field's value so that equal ones are deeply equal.
func normal(name string, value any) any {
	text, ok := value.(string)
	if !ok || !slices.Contains(JSONFields, name) {
		return value
	}
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var decoded any
	if err := decoder.Decode(&decoded); err != nil {
		return fmt.Sprintf("not JSON: %d bytes", len(text))
	}
	return exact(decoded)
}

// exact replaces the numbers of decoded JSON by what can be compared digit for
// digit.
func exact(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, ok := new(big.Rat).SetString(v.String()); ok {
			return n.RatString()
		}
	case []any:
		for i := range v {
			v[i] = exact(v[i])
		}
	case map[string]any:
		for key := range v {
			v[key] = exact(v[key])
		}
	}
	return v
}

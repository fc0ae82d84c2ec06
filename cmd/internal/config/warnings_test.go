package config

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestWarnings(t *testing.T) {
	t.Parallel()
	const columns = "a = locale, b = phone_numbers.0.phone_number ?? username, c = email, d = full_name, e = unsafe_metadata.plan, f = 'x', g = locale ?? 'en', h = id, i = public_metadata.plan"
	for _, test := range []struct {
		name  string
		given map[string]string
		roles []Role
		want  []string // columns that are emptied
	}{
		{"the default policy", nil, Roles(), []string{"a", "e"}},
		{"what was asked for", map[string]string{"POLICY_INCLUDE": "locale,unsafe_metadata"}, Roles(), nil},
		{"addresses without the primary one's id", map[string]string{"POLICY_EXCLUDE": "primary_email_address_id"}, Roles(), []string{"a", "c", "e"}},
		{"no addresses, and one name of two", map[string]string{"POLICY_EXCLUDE": "email_addresses,first_name"}, Roles(), []string{"a", "c", "e"}},
		{"neither name, every alternative", map[string]string{"POLICY_EXCLUDE": "first_name,last_name,username,public_metadata"}, Roles(), []string{"a", "b", "d", "e", "i"}},
		{"another process has the policy", nil, []Role{RoleSequencer, RoleSinks}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			environ := complete()
			environ["SINK_CRM_TABLE"], environ["SINK_CRM_COLUMNS"] = "users", columns
			maps.Copy(environ, test.given)
			c, err := Load(environ, test.roles)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, warning := range c.Warnings(test.roles) {
				_, rest, ok := strings.Cut(warning, "SINK_CRM_COLUMNS: the policy leaves out all that ")
				if !ok {
					t.Errorf("got the warning %q, of something else", warning)
				}
				column, _, _ := strings.Cut(rest, " ")
				got = append(got, column)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("columns that are emptied: got %q, want %q", got, test.want)
			}
		})
	}
}

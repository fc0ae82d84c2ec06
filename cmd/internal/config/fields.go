package config

import (
	"encoding"
	"errors"
	"fmt"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
)

// field is one setting: a member of a Config struct that has an env tag.
type field struct {
	name    string // of the variable, with all prefixes
	doc     string
	preset  string // default, "" if none
	secret  bool
	value   reflect.Value // where it is kept
	tags    reflect.StructTag
	source  string // where the value came from: default, environment, file; "" if not set
	problem bool   // what was given could not be used

	elsewhere bool // only roles that are not ours need it: not read
}

// secretName finds settings that are secret whatever their tags say: a
// forgotten tag must not print a password.
var secretName = regexp.MustCompile(`(^|_)(SECRET|SECRETS|PASSWORD|TOKEN|DSN|CREDENTIALS|API_KEY|SECRET_KEY|SIGNING_SECRET)$`)

// fieldsOf lists the settings of a struct that caarlos0/env would fill, in
// order. v is the struct, prefix stands before every name.
func fieldsOf(v reflect.Value, prefix string) []*field {
	var list []*field
	for i := range v.NumField() {
		member := v.Type().Field(i)
		name, _, _ := strings.Cut(member.Tag.Get("env"), ",")
		switch {
		case !member.IsExported() || name == "-":
		case name != "":
			preset := member.Tag.Get("envDefault")
			list = append(list, &field{
				name:   prefix + name,
				doc:    member.Tag.Get("doc"),
				preset: preset,
				secret: member.Tag.Get("secret") == "true" || secretName.MatchString(name),
				value:  v.Field(i),
				tags:   member.Tag,
			})
		case member.Type.Kind() == reflect.Struct:
			list = append(list, fieldsOf(v.Field(i), prefix+member.Tag.Get("envPrefix"))...)
		}
	}
	return list
}

// fill sets the field from the variables, its default if there is none, and
// nothing if there is no default either. What cannot be used leaves the
// default. A secret is never part of the error.
func (f *field) fill(environ map[string]string) error {
	text, source, given := environ[f.name], "environment", environ[f.name] != ""
	if path := environ[f.fileName()]; f.secret && path != "" {
		if given {
			return f.refuse("both %s and %s are set: set one", f.name, f.fileName())
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return f.refuse("%s: %w", f.fileName(), err)
		}
		text, source, given = strings.TrimRight(string(content), "\r\n"), "file", true
		if text == "" {
			return f.refuse("%s is %s, which is empty: give a file that holds the value", f.fileName(), path)
		}
	}
	if !given {
		if f.preset == "" {
			return nil
		}
		text, source = f.preset, "default"
	}
	if err := f.set(text); err != nil {
		shown := fmt.Sprintf("is %q", text)
		if f.secret {
			shown = "cannot be read"
		}
		return errors.Join(f.refuse("%s %s: give %s", f.name, shown, f.kind()), f.setDefault())
	}
	f.source = source
	return nil
}

func (f *field) fileName() string { return f.name + "_FILE" }

func (f *field) refuse(format string, args ...any) error {
	f.problem = true
	return fmt.Errorf(format, args...)
}

func (f *field) setDefault() error {
	if f.preset == "" {
		return nil
	}
	f.source = "default"
	return f.set(f.preset)
}

// set converts text as caarlos0/env does, which it is given as a struct of
// this one member: so its errors are about one variable that we can name.
func (f *field) set(text string) error {
	const name = "V"
	tag := reflect.StructTag(fmt.Sprintf(`env:"%s" envSeparator:%q`, name, f.separator()))
	probe := reflect.New(reflect.StructOf([]reflect.StructField{{Name: name, Type: f.value.Type(), Tag: tag}}))
	if err := env.ParseWithOptions(probe.Interface(), env.Options{Environment: map[string]string{name: text}}); err != nil {
		return err
	}
	value := probe.Elem().Field(0)
	if list, ok := value.Interface().([]string); ok {
		value = reflect.ValueOf(clean(list))
	}
	f.value.Set(value)
	return nil
}

func (f *field) separator() string {
	if s := f.tags.Get("envSeparator"); s != "" {
		return s
	}
	return ","
}

// clean drops what spaces after a comma and a comma at the end leave.
func clean(list []string) []string {
	for i := range list {
		list[i] = strings.TrimSpace(list[i])
	}
	return slices.DeleteFunc(list, func(s string) bool { return s == "" })
}

// kind says in words what may be written.
func (f *field) kind() string {
	switch f.value.Interface().(type) {
	case time.Duration:
		return "a duration, as 500ms, 10s or 24h"
	case url.URL, *url.URL:
		return "a URL"
	case encoding.TextUnmarshaler:
		return "another value: " + f.doc
	}
	switch k := f.value.Kind(); {
	case k == reflect.Bool:
		return "true or false"
	case k >= reflect.Int && k <= reflect.Int64:
		return "a whole number"
	case k >= reflect.Uint && k <= reflect.Uint64:
		return "a whole number, 0 or more"
	case k == reflect.Float32 || k == reflect.Float64:
		return "a number, as 0.5"
	case k == reflect.Slice:
		return "a list, separated by commas"
	}
	return "another value: " + f.doc
}

// show renders the value for people, without secrets.
func (f *field) show() string {
	switch {
	case f.value.IsZero() && f.source == "":
		return ""
	case f.secret:
		return "(secret, set)"
	}
	if list, ok := f.value.Interface().([]string); ok {
		return strings.Join(list, ",")
	}
	text := fmt.Sprint(f.value.Interface())
	if u, err := url.Parse(text); err == nil && u.User != nil {
		return u.Redacted()
	}
	return text
}

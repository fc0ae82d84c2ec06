package config

import (
	"fmt"
	"io"
	"reflect"
	"strings"
	"text/tabwriter"

	"clerkconnect/cmd/internal/kinds"
	"clerkconnect/sinks/runner"
)

// Show writes the effective configuration for people: each variable, its value
// without secrets, and where it came from.
func (c *Config) Show(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range c.fields {
		value, source := f.show(), f.source
		if source == "" {
			value, source = "-", "not set"
			switch {
			case f.elsewhere:
				source = "not for these roles"
			case f.name == "INSTANCE_NAME":
				value, source = c.InstanceName, "host name"
			}
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", f.name, value, source)
	}
	return table.Flush()
}

// sections are the parts of the reference: variables by prefix.
var sections = []struct{ prefix, title string }{
	{"KAFKA_", "Kafka"},
	{"SCHEMA_REGISTRY_", "Schema Registry"},
	{"TOPIC_", "Topics"},
	{"CLERK_", "Clerk"},
	{"WEBHOOK_", "Webhook receiver"},
	{"SNAPSHOT_", "Snapshot"},
	{"POLICY_", "Privacy policy"},
	{"SINKS", "Sinks"},
	{"ERASURE_", "Erasures"},
	{"ADMIN_", "Metrics and health"},
	{"LOG_", "Logs"},
	{"INSTANCE_", "Process"},
}

// Reference writes the configuration reference as Markdown, from the same
// struct tags by which the program reads its settings.
func Reference(w io.Writer) error {
	c := New()
	text := &strings.Builder{}
	for _, s := range sections {
		var fields []*field
		for _, f := range c.fields {
			if strings.HasPrefix(f.name, s.prefix) {
				fields = append(fields, f)
			}
		}
		if len(fields) > 0 {
			referenceTable(text, s.title, fields)
		}
	}
	const sink = "SINK_<NAME>_"
	referenceTable(text, "Every sink", fieldsOf(reflect.ValueOf(&runner.Config{}).Elem(), sink))
	for _, kind := range kinds.Table {
		referenceTable(text, "Sinks of kind "+kind.Name, fieldsOf(reflect.ValueOf(kind.Settings()).Elem(), sink))
	}
	_, err := io.WriteString(w, strings.TrimRight(text.String(), "\n")+"\n")
	return err
}

// Marks of the section of the README that holds the reference.
const (
	beginReference = "<!-- begin: configuration reference, written by make reference -->\n"
	endReference   = "<!-- end: configuration reference -->"
)

// InsertReference returns the text with the reference between its marks. It
// fails if they are not there.
func InsertReference(text string) (string, error) {
	before, rest, begun := strings.Cut(text, beginReference)
	_, after, ended := strings.Cut(rest, endReference)
	if !begun || !ended {
		return "", fmt.Errorf("no lines %q and %q between which the reference belongs", strings.TrimSpace(beginReference), endReference)
	}
	var reference strings.Builder
	if err := Reference(&reference); err != nil {
		return "", err
	}
	return before + beginReference + "\n" + reference.String() + "\n" + endReference + after, nil
}

func referenceTable(w *strings.Builder, title string, fields []*field) {
	fmt.Fprintf(w, "#### %s\n\n| Variable | Default | Meaning |\n|---|---|---|\n", title)
	for _, f := range fields {
		preset := "-"
		if f.preset != "" {
			preset = "`" + f.preset + "`"
		}
		name := "`" + f.name + "`"
		if f.secret {
			name += "<br>`" + f.fileName() + "`"
		}
		fmt.Fprintf(w, "| %s | %s | %s |\n", name, preset, strings.ReplaceAll(f.doc, "|", `\|`))
	}
	w.WriteString("\n")
}

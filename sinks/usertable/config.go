package usertable

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"clerkconnect/sinks/mapping"
)

// Deletion is what an erasure does to a user's row.
type Deletion string

// The policies of deletion. Each is idempotent, and no late change undoes it.
const (
	// DeletionHard deletes the row.
	DeletionHard Deletion = "hard"
	// DeletionSoft sets the time of the deletion and keeps all else: the
	// user's data stays.
	DeletionSoft Deletion = "soft"
	// DeletionAnonymize overwrites every column of ours with what
	// [Plan.Anonymous] says and sets the time of the deletion.
	DeletionAnonymize Deletion = "anonymize"
	// DeletionAuto anonymises where rows of other tables refer to the user's,
	// and deletes the row elsewhere.
	DeletionAuto Deletion = "auto"
)

// Deletions lists every policy.
func Deletions() []Deletion {
	return []Deletion{DeletionHard, DeletionSoft, DeletionAnonymize, DeletionAuto}
}

// Config are the settings that the SQL sinks have in common. A sink's own
// Config embeds it.
type Config struct {
	Table            string   `env:"TABLE" envDefault:"clerk_users" doc:"Name of the users table: one of clerk-connect's making, or one that is there."`
	KeyColumn        string   `env:"KEY_COLUMN" envDefault:"id" doc:"Column of the users table that holds the Clerk ID; it must be unique."`
	Columns          string   `env:"COLUMNS" doc:"What to write where, for a table that is there: column = expression, by comma, as email = email, name = full_name ?? 'Unknown', plan = public_metadata.plan, role = 'member'. Without it every field has a column of its own name. Only these columns are ever written."`
	InsertColumns    string   `env:"INSERT_COLUMNS" doc:"Like COLUMNS, for what is written only when a row is inserted and belongs to the application from then on, as id = uuid, role = 'member'."`
	PlaceholderEmail string   `env:"PLACEHOLDER_EMAIL" doc:"E-mail address for users who have none, where the column must have one, as {id}@no-email.invalid; {id} becomes the Clerk ID. Without it such a user is a dead letter if the column takes no null."`
	Deletion         Deletion `env:"DELETION" envDefault:"hard" doc:"What an erasure does to the row: hard deletes it; soft sets DELETED_AT_COLUMN and keeps the data; anonymize overwrites every column of ours and sets DELETED_AT_COLUMN; auto anonymises where rows of other tables refer to it, else deletes."`
	DeletedAtColumn  string   `env:"DELETED_AT_COLUMN" envDefault:"deleted_at" doc:"Column that soft, anonymize and auto set to the time of the deletion."`
	References       []string `env:"REFERENCES" doc:"Tables that auto looks into besides those with a foreign key to the users table, as orders.user_id (which holds the Clerk ID) or orders.user_id=id (which holds the users table's column id); by comma."`
	CreateTable      bool     `env:"CREATE_TABLE" envDefault:"true" doc:"Create the users table, unless COLUMNS says that it is the application's, and its side table if they are not there, by what sink init makes."`
	UniqueEmail      bool     `env:"UNIQUE_EMAIL" doc:"Whether a created users table refuses the same e-mail address for two users that are not deleted. Two users hold one for a while when it moves from one to the other, which the sink settles."`
}

// WithDefaults returns c with the defaults of settings that are empty, for
// programs that do not fill it from its tags.
func (c Config) WithDefaults() Config {
	for setting, preset := range map[*string]string{&c.Table: DefaultTable, &c.KeyColumn: "id", &c.DeletedAtColumn: "deleted_at"} {
		if *setting == "" {
			*setting = preset
		}
	}
	if c.Deletion == "" {
		c.Deletion = DeletionHard
	}
	return c
}

// Validate returns every problem of c, each under the name of its variable
// behind the sink's own prefix.
func (c Config) Validate() error {
	c = c.WithDefaults()
	var problems []error
	if err := CheckTable(c.Table); err != nil {
		problems = append(problems, fmt.Errorf("TABLE is %q: %w; name a table, as %s", c.Table, err, DefaultTable))
	}
	for variable, name := range map[string]string{"KEY_COLUMN": c.KeyColumn, "DELETED_AT_COLUMN": c.DeletedAtColumn} {
		if err := CheckName(name); err != nil {
			problems = append(problems, fmt.Errorf("%s is %q: %w; name a column", variable, name, err))
		}
	}
	if !slices.Contains(Deletions(), c.Deletion) {
		problems = append(problems, fmt.Errorf("DELETION is %q: use hard, soft, anonymize or auto", c.Deletion))
	}
	if c.PlaceholderEmail != "" && !strings.Contains(c.PlaceholderEmail, "{id}") {
		problems = append(problems, fmt.Errorf("PLACEHOLDER_EMAIL is %q: two users would share it; put {id} into it, as {id}@no-email.invalid", c.PlaceholderEmail))
	}
	_, err := c.references()
	return errors.Join(append(problems, err, c.checkColumns())...)
}

// Mapping returns what a person has mapped, and by which variable.
func (c Config) Mapping() (variable string, list []mapping.Assignment) {
	list, _ = mapping.ParseAssignments(c.Columns) // Validate tells what is wrong with it
	return "COLUMNS", list
}

// checkColumns returns what is wrong with the two mappings.
func (c Config) checkColumns() error {
	var problems []error
	taken := map[string]string{c.KeyColumn: "KEY_COLUMN"}
	if c.Deletion != DeletionHard {
		taken[c.DeletedAtColumn] = "DELETED_AT_COLUMN"
	}
	for _, setting := range []struct{ variable, text string }{{"COLUMNS", c.Columns}, {"INSERT_COLUMNS", c.InsertColumns}} {
		list, err := mapping.ParseAssignments(setting.text)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s cannot be read: %w", setting.variable, err))
		}
		for _, a := range list {
			if err := CheckName(a.Target); err != nil {
				problems = append(problems, fmt.Errorf("%s names the column %q: %w", setting.variable, a.Target, err))
			}
			if other := taken[a.Target]; other != "" {
				problems = append(problems, fmt.Errorf("%s names the column %q, which %s has: give a column one meaning", setting.variable, a.Target, other))
			}
			taken[a.Target] = setting.variable
		}
	}
	return errors.Join(problems...)
}

// Reference is what of another table may refer to a user: a column, or several
// of a foreign key that a sink has found.
type Reference struct {
	Table   []string // qualified by a schema or not
	Columns []string
	Refers  []string // as many columns of the users table, whose values they hold
	Setting string   // as it was written; "" if it was found in the catalogue
}

// Name returns the table's name as it stands in a reason.
func (r Reference) Name() string { return r.Table[len(r.Table)-1] }

// references reads REFERENCES.
func (c Config) references() ([]Reference, error) {
	var list []Reference
	var problems []error
	for _, text := range c.References {
		other, refers, given := strings.Cut(text, "=")
		names := strings.Split(strings.TrimSpace(other), ".")
		if !given {
			refers = c.KeyColumn
		}
		last := len(names) - 1
		if last < 1 || slices.Contains(names, "") || strings.TrimSpace(refers) == "" {
			problems = append(problems, fmt.Errorf("REFERENCES has %q: write table.column or table.column=column of the users table", text))
			continue
		}
		list = append(list, Reference{Table: names[:last], Columns: names[last:], Refers: []string{strings.TrimSpace(refers)}, Setting: text})
	}
	return list, errors.Join(problems...)
}

package usertable

import (
	"strings"

	"clerkconnect/sinks/mapping"
)

// Step is one thing that an initialised database has.
type Step struct {
	Comment string // a sentence or two
	// Name is that of the table, index or view that Statement makes, not
	// quoted: what is there already is left as it is.
	Name      string
	Statement string // without a semicolon at its end
	// Advice marks what only a person may want to run, because it alters a
	// table of the application's or costs something: Init leaves it out, and
	// the script has it as a comment.
	Advice bool
}

// Dialect is how a database says what [Plan.Steps] makes.
type Dialect struct {
	Quote   func(name string) string // of a column
	Qualify func(name string) string // of a table, an index that is created, or a view
	Key     string                   // type of the Clerk ID
	Types   map[mapping.Kind]string
	// Epoch, Version and Deleted are the types of the side table's columns.
	Epoch, Version, Deleted string
	Users, Side             string // what stands behind the closing parenthesis of the two tables
	// View and Index are how a view and an index are created, so that it does
	// no harm to do it again if the database can say that: CREATE OR REPLACE
	// VIEW, INDEX IF NOT EXISTS.
	View, Index string
	// Week is the expression of the Monday (UTC) of a week, $ the column with
	// a time in it.
	Week string
	// EmailIndex returns the index by which users are found by their address,
	// and which with UNIQUE_EMAIL refuses one for two users that are not
	// deleted; nil: a plain or a partial one.
	EmailIndex func(p Plan, email string) []Step
}

// Steps returns what Init makes, in its order. A table of the application's is
// left alone: only its side table is ours to make.
func (p Plan) Steps(d Dialect) []Step {
	side := Step{
		Comment: "What was heard of each user, for ever: no personal data.", Name: p.Versions,
		Statement: "CREATE TABLE IF NOT EXISTS " + d.Qualify(p.Versions) + " (\n  " + d.Quote("id") + " " + d.Key + " NOT NULL PRIMARY KEY,\n  " +
			d.Quote("epoch") + " " + d.Epoch + " NOT NULL,\n  " + d.Quote("version") + " " + d.Version + " NOT NULL,\n  " +
			d.Quote("deleted") + " " + d.Deleted + " NOT NULL\n)" + d.Side,
	}
	if p.Mapped {
		unique := p.Table + "_" + p.Key + "_key"
		return []Step{side, {
			Comment: "The Clerk ID must be unique in the application's table. Where it is not yet:", Name: unique, Advice: true,
			Statement: "CREATE UNIQUE " + d.Index + " " + d.Quote(unique) + " ON " + d.Qualify(p.Table) + " (" + d.Quote(p.Key) + ")",
		}}
	}
	steps := []Step{{
		Comment: "The users. Whatever Clerk may leave out may be null, and two users may hold one e-mail address for a while.",
		Name:    p.Table, Statement: p.createUsers(d),
	}, side}
	if email := p.ColumnOf("email"); email != "" {
		steps = append(steps, p.emailIndex(d, email)...)
	}
	if created := p.ColumnOf("created_at"); created != "" {
		view, column := p.Table+"_signups_per_week", d.Quote(created)
		steps = append(steps, Step{
			Comment: "A sample query: how many users signed up in each week, by its Monday (UTC).", Name: view,
			Statement: d.View + " " + d.Qualify(view) + " AS\nSELECT " + strings.ReplaceAll(d.Week, "$", column) + " AS week, count(*) AS signups\nFROM " +
				d.Qualify(p.Table) + "\nWHERE " + column + " IS NOT NULL\nGROUP BY 1\nORDER BY 1",
		})
	}
	return steps
}

func (p Plan) createUsers(d Dialect) string {
	var ddl strings.Builder
	ddl.WriteString("CREATE TABLE IF NOT EXISTS " + d.Qualify(p.Table) + " (\n  " + d.Quote(p.Key) + " " + d.Key + " NOT NULL PRIMARY KEY")
	for _, c := range append(p.Columns[:len(p.Columns):len(p.Columns)], p.Inserts...) {
		ddl.WriteString(",\n  " + d.Quote(c.Name) + " " + d.Types[c.Kind()])
	}
	if p.DeletedAt != "" {
		ddl.WriteString(",\n  " + d.Quote(p.DeletedAt) + " " + d.Types[mapping.Time])
	}
	ddl.WriteString("\n)" + d.Users)
	return ddl.String()
}

// emailIndex returns the index by which users are found by their address.
func (p Plan) emailIndex(d Dialect, email string) []Step {
	if d.EmailIndex != nil {
		return d.EmailIndex(p, email)
	}
	step := Step{Comment: "To find users by their e-mail address, which two may share for a while.", Name: p.Table + "_" + email + "_idx"}
	unique, live := "", ""
	if p.UniqueEmail {
		step.Comment, step.Name, unique = "No two users with one e-mail address, deleted ones apart.", p.Table+"_"+email+"_active_key", "UNIQUE "
		if p.DeletedAt != "" {
			live = " WHERE " + d.Quote(p.DeletedAt) + " IS NULL"
		}
	}
	step.Statement = "CREATE " + unique + d.Index + " " + d.Quote(step.Name) + " ON " + d.Qualify(p.Table) + " (" + d.Quote(email) + ")" + live
	return []Step{step}
}

// Script returns steps as a script: each with its comment, statements ended by
// semicolons, advice commented out.
func Script(head string, steps []Step) string {
	var script strings.Builder
	script.WriteString(comment(head))
	for _, s := range steps {
		text := s.Statement + ";\n"
		if s.Advice {
			text = comment(text)
		}
		script.WriteString("\n" + comment(s.Comment) + text)
	}
	return script.String()
}

func comment(text string) string {
	return "-- " + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n-- ") + "\n"
}

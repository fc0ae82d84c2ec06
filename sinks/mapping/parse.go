package mapping

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"clerkconnect/schemas"
)

// Assignment gives a target, a column, a path or a property, its expression.
type Assignment struct {
	Target     string
	Expression Expression
}

// ParseAssignments reads a list of "target = expression", separated by commas
// or line ends. An empty text is an empty list. No target may stand twice.
func ParseAssignments(text string) ([]Assignment, error) {
	p := &parser{text: text}
	var list []Assignment
	for p.skip(" \t\r\n,"); !p.done(); p.skip(" \t\r\n,") {
		target, err := p.target()
		if err != nil {
			return nil, err
		}
		if p.skip(" \t"); !p.take("=") {
			return nil, p.fail("after the target %q there is no =: write target = expression", target)
		}
		expression, err := p.expression()
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(list, func(a Assignment) bool { return a.Target == target }) {
			return nil, fmt.Errorf("the target %q stands twice", target)
		}
		list = append(list, Assignment{target, expression})
		if p.skip(" \t\r"); !p.done() && !strings.ContainsRune(",\n", rune(p.text[p.at])) {
			return nil, p.fail("a comma is missing before %q", p.rest())
		}
	}
	return list, nil
}

// Parse reads one expression.
func Parse(text string) (Expression, error) {
	p := &parser{text: text}
	expression, err := p.expression()
	if err != nil {
		return Expression{}, err
	}
	if p.skip(" \t\r\n"); !p.done() {
		return Expression{}, p.fail("more text after the expression: %q", p.rest())
	}
	return expression, nil
}

// Must is Parse of a text that is known to be right.
func Must(text string) Expression {
	expression, err := Parse(text)
	if err != nil {
		panic(err)
	}
	return expression
}

// parser reads from left to right.
type parser struct {
	text string
	at   int
}

func (p *parser) done() bool { return p.at >= len(p.text) }

func (p *parser) rest() string { return p.text[p.at:min(len(p.text), p.at+20)] }

func (p *parser) fail(format string, args ...any) error {
	return fmt.Errorf("at character %d: "+format, append([]any{p.at + 1}, args...)...)
}

func (p *parser) skip(characters string) {
	for !p.done() && strings.IndexByte(characters, p.text[p.at]) >= 0 {
		p.at++
	}
}

func (p *parser) take(token string) bool {
	if !strings.HasPrefix(p.text[p.at:], token) {
		return false
	}
	p.at += len(token)
	return true
}

func letter(c byte) bool { return c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }
func digit(c byte) bool  { return '0' <= c && c <= '9' }

// word takes characters as long as allowed says so.
func (p *parser) word(allowed func(byte) bool) string {
	start := p.at
	for !p.done() && allowed(p.text[p.at]) {
		p.at++
	}
	return p.text[start:p.at]
}

func (p *parser) target() (string, error) {
	if !p.done() && p.text[p.at] == '"' {
		return p.quoted('"')
	}
	name := p.word(func(c byte) bool { return letter(c) || digit(c) || strings.IndexByte(".$-", c) >= 0 || c >= 0x80 })
	if name == "" {
		return "", p.fail("a target is missing before %q: write target = expression", p.rest())
	}
	return name, nil
}

// quoted takes a text in quotes; the quote itself is written twice inside.
func (p *parser) quoted(quote byte) (string, error) {
	var text strings.Builder
	for i := p.at + 1; i < len(p.text); i++ {
		switch {
		case p.text[i] != quote:
			text.WriteByte(p.text[i])
		case i+1 < len(p.text) && p.text[i+1] == quote:
			text.WriteByte(quote)
			i++
		default:
			p.at = i + 1
			return text.String(), nil
		}
	}
	return "", p.fail("the quote that begins here is not closed")
}

func (p *parser) expression() (Expression, error) {
	p.skip(" \t")
	start := p.at
	var e Expression
	for {
		t, err := p.term()
		if err != nil {
			return Expression{}, err
		}
		if t.value != nil {
			e.terms = append(e.terms, t)
		}
		end := p.at
		if p.skip(" \t"); !p.take("??") {
			p.at = end
			break
		}
		p.skip(" \t")
	}
	e.text = strings.TrimSpace(p.text[start:p.at])
	return e, e.unify()
}

// unify makes alternatives of one kind: a constant text that is JSON may stand
// in for JSON.
func (e *Expression) unify() error {
	for i := range e.terms {
		t, kind := &e.terms[i], e.terms[0].kind
		switch {
		case t.kind == kind, kind == Text && t.kind == Part, kind == Part && t.kind == Text:
		case kind == JSON && t.kind == Text && t.constant && json.Valid([]byte(t.value("", nil).(string))):
			t.kind = JSON
		case kind == JSON && t.kind == Part:
			raw := t.raw
			t.kind, t.raw = JSON, nil
			t.value = func(_ string, u *schemas.User) any {
				if text := raw(u); text != "" {
					return text
				}
				return nil
			}
		default:
			return fmt.Errorf("%s: the alternatives are not of one kind", e.text)
		}
	}
	return nil
}

// term reads one alternative. The one without a value is null.
func (p *parser) term() (term, error) {
	switch {
	case p.done():
		return term{}, p.fail("an expression is missing")
	case p.text[p.at] == '"':
		return term{}, p.fail("text stands between ' and ', not between double quotes")
	case p.text[p.at] == '\'':
		text, err := p.quoted('\'')
		return constant(Text, CleanText(text)), err
	case digit(p.text[p.at]), p.text[p.at] == '-':
		return p.number()
	}
	name := p.word(func(c byte) bool { return letter(c) || digit(c) })
	switch name {
	case "":
		return term{}, p.fail("an expression is missing before %q", p.rest())
	case "null":
		return term{}, nil
	case "true", "false":
		return constant(Bool, name == "true"), nil
	}
	return p.field(name)
}

func constant(kind Kind, value any) term {
	return term{constant: true, kind: kind, value: func(string, *schemas.User) any { return value }}
}

func (p *parser) number() (term, error) {
	start := p.at
	p.take("-")
	p.word(digit)
	number, err := strconv.ParseInt(p.text[start:p.at], 10, 64)
	if err != nil || !p.done() && p.text[p.at] == '.' {
		return term{}, p.fail("%q is no whole number of 64 bits: put other numbers in quotes", p.text[start:p.at])
	}
	return constant(Integer, number), nil
}

// derived are the expressions that are no field.
var derived = map[string]term{
	"id":        {name: "id", kind: Text, value: func(clerkID string, _ *schemas.User) any { return CleanText(clerkID) }},
	"full_name": {name: "full_name", kind: Text, value: fullName},
	"uuid": {name: "uuid", kind: Text, value: func(clerkID string, _ *schemas.User) any {
		return uuid.NewSHA1(uuidSpace, []byte(clerkID)).String()
	}},
}

// uuidSpace is the name space of the expression uuid (RFC 9562, version 5). It
// must never change: keys follow from it.
var uuidSpace = uuid.MustParse("5f1d6c0e-6a0b-5c52-9f0e-2d6a4b8e7c31")

// errNoPath is for a step into something that has no inside.
var errNoPath = errors.New("only JSON has parts")

func (p *parser) field(name string) (term, error) {
	if name == "primary_email_address" {
		name = "email"
	}
	if t, ok := derived[name]; ok {
		return t, nil
	}
	all := Fields()
	at := slices.IndexFunc(all, func(f Field) bool { return f.Name == name })
	if at < 0 {
		p.at -= len(name) // where it begins
		return term{}, p.fail("there is no field %q: use one of id, full_name, uuid, %s", name, names(all))
	}
	f := all[at]
	path, err := p.path()
	switch {
	case err != nil:
		return term{}, err
	case len(path) == 0:
		return term{name: f.Name, kind: f.Kind, value: func(_ string, u *schemas.User) any { return f.Value(u) }}, nil
	case f.Kind != JSON:
		return term{}, p.fail("%s.%s: %w", name, path[0], errNoPath)
	}
	raw := part(f.Value, path)
	return term{name: f.Name + "." + strings.Join(path, "."), kind: Part, raw: raw, value: func(_ string, u *schemas.User) any { return scalar(raw(u)) }}, nil
}

func (p *parser) path() (path []string, err error) {
	for p.take(".") {
		step := ""
		if !p.done() && p.text[p.at] == '"' {
			if step, err = p.quoted('"'); err != nil {
				return nil, err
			}
		} else if step = p.word(func(c byte) bool { return letter(c) || digit(c) || c == '-' || c >= 0x80 }); step == "" {
			return nil, p.fail("a key is missing after the dot")
		}
		path = append(path, step)
	}
	return path, nil
}

func names(fields []Field) string {
	list := make([]string, len(fields))
	for i, f := range fields {
		list[i] = f.Name
	}
	return strings.Join(list, ", ")
}

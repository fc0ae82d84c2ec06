package sqlite

import "strings"

// readIndex takes the terms and the predicate out of the statement that created
// an index: CREATE UNIQUE INDEX name ON table (terms) WHERE predicate. Both are
// empty for the index of a constraint, which has no statement.
func readIndex(statement string) (terms []string, predicate string) {
	depth, start := 0, 0
	text := withoutComments(statement)
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quotes[c] != 0:
			i += quoted(text[i:]) - 1
		case c == '(':
			if depth++; depth == 1 {
				start = i + 1
			}
		case c == ',' && depth == 1, c == ')' && depth == 1:
			terms = append(terms, withoutOrder(text[start:i]))
			if start = i + 1; c == ')' {
				const where = "WHERE"
				if predicate = strings.TrimSpace(text[start:]); len(predicate) > len(where) && strings.EqualFold(predicate[:len(where)], where) {
					return terms, strings.TrimSpace(predicate[len(where):])
				}
				return terms, ""
			}
		case c == ')':
			depth--
		}
	}
	return nil, ""
}

// quotes has the end of what each character begins.
var quotes = [256]byte{'\'': '\'', '"': '"', '`': '`', '[': ']'}

// quoted returns how long the quoted text at the start of text is. A quote
// written twice is two texts side by side, which comes to the same here.
func quoted(text string) int {
	if end := strings.IndexByte(text[1:], quotes[text[0]]); end >= 0 {
		return end + 2
	}
	return len(text)
}

// withoutComments replaces comments by spaces.
func withoutComments(text string) string {
	var out strings.Builder
	for i := 0; i < len(text); {
		n, rest := 1, text[i:]
		switch {
		case quotes[text[i]] != 0:
			n = quoted(rest)
		case strings.HasPrefix(rest, "--"):
			n, rest = span(rest, "\n"), " "
		case strings.HasPrefix(rest, "/*"):
			n, rest = span(rest, "*/"), " "
		}
		out.WriteString(rest[:min(n, len(rest))])
		i += n
	}
	return out.String()
}

// span returns how long text is up to the end of an end mark.
func span(text, end string) int {
	if at := strings.Index(text, end); at >= 0 {
		return at + len(end)
	}
	return len(text)
}

// withoutOrder returns a term without ASC or DESC.
func withoutOrder(term string) string {
	term = strings.TrimSpace(term)
	for _, order := range []string{"ASC", "DESC"} {
		at := len(term) - len(order)
		if at > 0 && strings.EqualFold(term[at:], order) && strings.IndexByte(" \t\r\n)", term[at-1]) >= 0 {
			return strings.TrimSpace(term[:at])
		}
	}
	return term
}

// mentions reports whether an expression names a column, quoted or not.
func mentions(expression, column string) bool {
	expression, column = strings.ToLower(expression), strings.ToLower(column)
	part := func(c byte) bool {
		return c == '_' || c == '$' || c >= 0x80 || '0' <= c && c <= '9' || 'a' <= c && c <= 'z'
	}
	for start := 0; ; {
		at := strings.Index(expression[start:], column)
		if at < 0 {
			return false
		}
		at += start
		end := at + len(column)
		if (at == 0 || !part(expression[at-1])) && (end == len(expression) || !part(expression[end])) {
			return true
		}
		start = end
	}
}

package mapping

import (
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

const replacement = "\uFFFD"

// CleanText returns s with U+0000, and bytes that are not UTF-8, replaced by
// U+FFFD.
func CleanText(s string) string {
	if strings.IndexByte(s, 0) >= 0 {
		s = strings.ReplaceAll(s, "\x00", replacement)
	}
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, replacement)
	}
	return s
}

// CleanJSON returns the JSON text s with the escapes \u0000 and those of
// halves of surrogate pairs replaced by \ufffd, and bytes that are not UTF-8 by
// U+FFFD. An escaped backslash before u0000 is no such escape. All else stays
// byte for byte, numbers above all. s must be valid JSON.
func CleanJSON(s string) string {
	s = CleanText(s)
	if !strings.Contains(s, `\u`) {
		return s
	}
	var out strings.Builder
	out.Grow(len(s))
	for len(s) > 0 {
		at := strings.IndexByte(s, '\\')
		if at < 0 || at+1 == len(s) {
			break
		}
		out.WriteString(s[:at])
		n := escapeLength(s[at:])
		if n == 0 {
			out.WriteString(`\ufffd`)
			n = 6
		} else {
			out.WriteString(s[at : at+n])
		}
		s = s[at+n:]
	}
	out.WriteString(s)
	return out.String()
}

// escapeLength returns how many bytes the escape at the start of s takes, a
// whole surrogate pair counted as one, and 0 if it must be replaced.
func escapeLength(s string) int {
	first, ok := unit(s)
	switch {
	case !ok:
		return 2 // \n, \\ and the like
	case first == 0:
		return 0
	case !utf16.IsSurrogate(first):
		return 6
	}
	if second, ok := unit(s[6:]); ok && utf16.DecodeRune(first, second) != utf8.RuneError {
		return 12
	}
	return 0
}

// unit reads an escape of the form \uXXXX at the start of s.
func unit(s string) (rune, bool) {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(s[2:6], 16, 16)
	return rune(n), err == nil
}

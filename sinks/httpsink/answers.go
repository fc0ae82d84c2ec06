package httpsink

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"clerkconnect/sinks"
	"clerkconnect/sinks/rest"
)

// answers are statuses and codes of errors, as a setting lists them. The zero
// value has none.
type answers struct {
	statuses []int
	classes  []int // 5 for 5xx
	codes    []string
}

var (
	statusWords = regexp.MustCompile(`^[1-5][0-9][0-9]$`)
	classWords  = regexp.MustCompile(`^[1-5]xx$`)
)

// parseAnswerList reads a list of answers. The error names the setting.
func parseAnswerList(variable, text string) (answers, error) {
	var list answers
	for word := range strings.FieldsFuncSeq(text, func(c rune) bool { return c == ',' || c == ' ' || c == '\n' }) {
		switch {
		case statusWords.MatchString(word):
			status, _ := strconv.Atoi(word)
			list.statuses = append(list.statuses, status)
		case classWords.MatchString(word):
			list.classes = append(list.classes, int(word[0]-'0'))
		case rest.PlainCode(word) != "":
			list.codes = append(list.codes, word)
		default:
			return answers{}, fmt.Errorf("%s has %q: use statuses (404), classes of them (5xx) or codes of errors", variable, word)
		}
	}
	return list, nil
}

func (a answers) has(status int, code string) bool {
	return slices.Contains(a.statuses, status) || slices.Contains(a.classes, status/100) || code != "" && slices.Contains(a.codes, code)
}

// judgement is what the settings say of answers.
type judgement struct{ success, retry, gone, conflict answers }

func (c Config) parseAnswers() (judgement, error) {
	var j judgement
	var problems []error
	for _, setting := range []struct {
		variable, text string
		into           *answers
	}{{"SUCCESS", c.Success, &j.success}, {"RETRY", c.Retry, &j.retry}, {"GONE", c.Gone, &j.gone}, {"CONFLICT", c.Conflict, &j.conflict}} {
		list, err := parseAnswerList(setting.variable, setting.text)
		*setting.into = list
		problems = append(problems, err)
	}
	return j, errors.Join(problems...)
}

// classify is for rest.Config.
func (j judgement) classify(f rest.Failure) error {
	switch {
	case j.retry.has(f.Status, f.Code):
		return sinks.RetryAfter(sinks.ReasonUnavailable, f.After, f.Err())
	case j.conflict.has(f.Status, f.Code):
		return sinks.HeldBy("", f.Err())
	}
	return nil
}

// at returns what stands at a path in JSON, as data.0.id, as a text; "" if nothing
// does.
func at(body []byte, path string) string {
	switch found := lookUp(body, path).(type) {
	case string:
		return found
	case json.Number:
		return found.String()
	}
	return "" // an object or a list is no id
}

// lookUp returns what stands at a path in JSON, nil if nothing does.
func lookUp(body []byte, path string) any {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var value any
	if decoder.Decode(&value) != nil {
		return nil
	}
	for step := range strings.SplitSeq(path, ".") {
		switch inside := value.(type) {
		case map[string]any:
			value = inside[step]
		case []any:
			place, err := strconv.Atoi(step)
			if err != nil || place < 0 || place >= len(inside) {
				return nil
			}
			value = inside[place]
		default:
			return nil
		}
	}
	return value
}

// failureAt returns the code of an error that stands at a path in JSON, "failed" if
// it is none, and "" if nothing, false, or nothing but empty stands there.
func failureAt(body []byte, path string) string {
	switch found := lookUp(body, path).(type) {
	case nil:
		return ""
	case bool:
		if !found {
			return ""
		}
	case string:
		if code := rest.PlainCode(found); code != "" || found == "" {
			return code
		}
	case []any:
		if len(found) == 0 {
			return ""
		}
	case map[string]any:
		if len(found) == 0 {
			return ""
		}
	}
	return "failed"
}

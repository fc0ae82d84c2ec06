package contact

import (
	"encoding/json"
	"fmt"
)

// ScriptRequest is one request of an InitScript, for a person to make. body has
// nothing that JSON cannot hold.
func ScriptRequest(url string, body any) string {
	text, err := json.MarshalIndent(body, "", "  ")
	if err != nil {
		panic(err) // strings and bools
	}
	return fmt.Sprintf("POST %s\n%s\n\n", url, text)
}

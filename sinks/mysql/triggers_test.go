package mysql_test

import (
	"strings"
	"testing"

	"clerkconnect/sinks"
	"clerkconnect/sinks/sinktest"
	"clerkconnect/sinks/usertable"
	"clerkconnect/sinks/usertable/usertabletest"
)

// TestTriggers has a trigger of the application's write back what an erasure
// takes out of a row: that the user is not gone is told with the trigger's name,
// until the trigger is.
func TestTriggers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		body   string
		policy usertable.Deletion
	}{
		"the old address":         {"NEW.email = OLD.email", usertable.DeletionAnonymize},
		"the time of each change": {"NEW.updated_at = now()", usertable.DeletionAnonymize},
		"no time of deletion":     {"NEW.deleted_at = NULL", usertable.DeletionSoft},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			s.exec(t, "CREATE TABLE users (id varchar(64) PRIMARY KEY, email varchar(255), updated_at datetime, deleted_at datetime)")
			s.exec(t, "CREATE TRIGGER keep_users BEFORE UPDATE ON users FOR EACH ROW SET "+test.body)
			cfg := s.config()
			cfg.Table, cfg.Columns, cfg.Deletion = "users", "email = email, updated_at = updated_at", test.policy
			sink := open(t, cfg)
			sinktest.MustApply(t, sink, usertabletest.Person("user_1", 1, "a@example.com"))
			if gone, err := sink.Confirm(t.Context(), "user_1", nil); gone || err != nil {
				t.Errorf("Confirm of a user who is not erased: got %v, %v", gone, err)
			}
			erase := usertabletest.Erasure("user_1", 2, 1700000000000, false)
			sinktest.MustApply(t, sink, erase)
			gone, err := sink.Confirm(t.Context(), "user_1", nil)
			sinktest.ExpectClass(t, "Confirm", err, sinks.ClassPermanent, sinks.ReasonMisconfigured)
			if gone || err != nil && !strings.Contains(err.Error(), "(keep_users)") {
				t.Errorf("Confirm: got %v, %v, want a word about keep_users", gone, err)
			}
			s.exec(t, "DROP TRIGGER keep_users")
			if gone, err := sink.Confirm(t.Context(), "user_1", nil); gone || err != nil {
				t.Errorf("Confirm without the trigger: got %v, %v", gone, err)
			}
			sinktest.MustApply(t, sink, erase)
			if gone, err := sink.Confirm(t.Context(), "user_1", nil); !gone || err != nil {
				t.Errorf("Confirm after another erasure: got %v, %v", gone, err)
			}
		})
	}
}

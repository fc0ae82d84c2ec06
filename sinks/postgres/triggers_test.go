package postgres_test

import (
	"strings"
	"testing"

	"clerkconnect/sinks"
	"clerkconnect/sinks/sinktest"
	"clerkconnect/sinks/usertable"
	"clerkconnect/sinks/usertable/usertabletest"
)

// TestTriggers has a trigger of the application's keep the row of an erased
// user: that it is not gone is told with the trigger's name, until the trigger
// is.
func TestTriggers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, event, body string
		policy            usertable.Deletion
	}{
		{"lets nothing be deleted", "DELETE", "RETURN NULL", usertable.DeletionHard},
		{"lets nothing be deleted, nor changed", "DELETE OR UPDATE", "RETURN NULL", usertable.DeletionAuto},
		{"lets nothing be marked", "UPDATE", "RETURN NULL", usertable.DeletionSoft},
		{"writes the old address back", "UPDATE", "NEW.email := OLD.email; RETURN NEW", usertable.DeletionAnonymize},
		{"writes the time of each change", "UPDATE", "NEW.updated_at := now(); RETURN NEW", usertable.DeletionAnonymize},
	} {
		for _, partitioned := range []bool{false, true} {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel()
				s := newServer(t)
				of := "users"
				s.exec(t, "CREATE TABLE %.users (id text PRIMARY KEY, email text, updated_at timestamptz, deleted_at timestamptz) PARTITION BY HASH (id);"+
					"CREATE TABLE %.part PARTITION OF %.users FOR VALUES WITH (MODULUS 1, REMAINDER 0)")
				if partitioned {
					of = "part"
				}
				s.exec(t, "CREATE FUNCTION %.keep() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN "+test.body+"; END$$;"+
					"CREATE TRIGGER keep_users BEFORE "+test.event+" ON %."+of+" FOR EACH ROW EXECUTE FUNCTION %.keep();"+
					"CREATE TRIGGER switched_off BEFORE DELETE OR UPDATE ON %.part FOR EACH ROW EXECUTE FUNCTION %.keep();"+
					"ALTER TABLE %.part DISABLE TRIGGER switched_off")
				cfg := s.config()
				cfg.Table, cfg.Columns, cfg.Deletion = "users", "email = email, updated_at = updated_at", test.policy
				sink := open(t, cfg)
				sinktest.MustApply(t, sink, usertabletest.Person("user_1", 1, "a@example.com"))
				if gone, err := sink.Confirm(t.Context(), "user_1", nil); gone || err != nil {
					t.Errorf("Confirm of a user who is not erased: got %v, %v", gone, err)
				}
				erase := usertabletest.Erasure("user_1", 2, 5, false)
				sinktest.MustApply(t, sink, erase)
				gone, err := sink.Confirm(t.Context(), "user_1", nil)
				sinktest.ExpectClass(t, "Confirm", err, sinks.ClassPermanent, sinks.ReasonMisconfigured)
				if gone || err != nil && !strings.Contains(err.Error(), "(keep_users)") {
					t.Errorf("Confirm: got %v, %v, want a word about keep_users alone", gone, err)
				}
				s.exec(t, "DROP TRIGGER keep_users ON %."+of)
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
}

// TestOpen_EraseRefused shows that what keeps every user from being erased is
// found before there is one.
func TestOpen_EraseRefused(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.exec(t, "CREATE TABLE %.users (id text PRIMARY KEY, email text); CREATE RULE keep_users AS ON DELETE TO %.users DO INSTEAD NOTHING")
	cfg := s.config()
	cfg.Table, cfg.Columns = "users", "email = email"
	sink := newSink(t, cfg)
	defer sink.Close() //nolint:errcheck // it is not open
	if err := sink.Open(t.Context()); err == nil || !strings.Contains(err.Error(), "has it a rule") {
		t.Errorf("Open: got %v, want a word about the rule", err)
	}
}

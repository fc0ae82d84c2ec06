package mysql_test

import (
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	"clerkconnect/schemas"
	"clerkconnect/sinks"
	"clerkconnect/sinks/mapping"
	"clerkconnect/sinks/mysql"
	"clerkconnect/sinks/sinktest"
	"clerkconnect/sinks/usertable"
)

// outcomes are what the suite's erasures come to. Nothing refers to its users,
// so that auto deletes them.
var outcomes = map[usertable.Deletion]schemas.Outcome{
	usertable.DeletionHard: schemas.OutcomeDeleted, usertable.DeletionSoft: schemas.OutcomeSoftDeleted,
	usertable.DeletionAnonymize: schemas.OutcomeAnonymized, usertable.DeletionAuto: schemas.OutcomeDeleted,
}

// TestSink runs the suite on the table that the sink makes, by every policy.
func TestSink(t *testing.T) {
	columns := map[string]string{} // by the names of user.avsc
	for _, f := range mapping.Fields() {
		columns[f.Name] = f.Name
	}
	columns["primary_email_address"] = "email"
	delete(columns, "email")
	for policy, outcome := range outcomes {
		t.Run(string(policy), func(t *testing.T) {
			sinktest.Run(t, sinktest.Harness{Erased: outcome, New: func(t testing.TB) sinktest.Destination {
				s := newServer(t)
				cfg := s.config()
				cfg.Deletion = policy
				open(t, cfg)
				return s.destination(t, cfg, columns)
			}})
		})
	}
}

// TestSink_Prisma runs the suite on a table as Prisma makes it, by every policy.
// The suite has users who differ by case alone, who share an address, and of
// whom there are no times.
func TestSink_Prisma(t *testing.T) {
	columns := map[string]string{
		"primary_email_address": "email", "first_name": "firstName", "last_name": "lastName", "image_url": "imageUrl",
		"public_metadata": "metadata", "created_at": "signedUpAt",
	}
	for policy, outcome := range outcomes {
		t.Run(string(policy), func(t *testing.T) {
			sinktest.Run(t, sinktest.Harness{Fields: slices.Collect(maps.Keys(columns)), Erased: outcome, New: func(t testing.TB) sinktest.Destination {
				s := newServer(t)
				s.exec(t, strings.NewReplacer(
					"`clerkId` VARCHAR(191)", "`clerkId` VARCHAR(191) COLLATE utf8mb4_bin", "`email` VARCHAR(191) NOT NULL", "`email` VARCHAR(255) NULL",
					"`firstName` VARCHAR(191)", "`firstName` VARCHAR(255)", "UNIQUE INDEX `User_email_key`", "INDEX `User_email_key`", "`updatedAt` DATETIME(3) NOT NULL", "`updatedAt` DATETIME(3) NULL, `signedUpAt` DATETIME(3) NULL",
				).Replace(prismaTable))
				s.exec(t, prismaOrders)
				cfg := s.with(prismaSettings())
				cfg.Columns = "email = email, firstName = first_name, lastName = last_name, imageUrl = image_url, metadata = public_metadata, signedUpAt = created_at"
				cfg.Deletion, cfg.PlaceholderEmail = policy, ""
				return s.destination(t, cfg, columns)
			}})
		})
	}
}

// destination is a database behind a proxy, whose users table refuses the name
// "poison" with an error that quotes the user.
func (s server) destination(t testing.TB, cfg mysql.Config, columns map[string]string) sinktest.Destination {
	cfg.Config = cfg.WithDefaults()
	proxy := sinktest.NewProxy(t, s.address.Host)
	cfg.DSN = s.dsn(func(u *url.URL) { u.Host = proxy.Address })
	name := columns["first_name"]
	for _, when := range []string{"INSERT", "UPDATE"} {
		s.exec(t, "CREATE TRIGGER refuse_"+when+" BEFORE "+when+" ON `"+cfg.Table+"` FOR EACH ROW IF NEW."+name+` = 'poison' THEN
			SET @message = concat('cannot take ', NEW.`+columns["last_name"]+"); SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = @message; END IF")
	}
	return sinktest.Destination{
		Sink:   func(t testing.TB) sinks.Sink { return newSink(t, cfg) },
		Read:   func(t testing.TB, ids ...string) map[string]sinktest.Row { return s.read(t, cfg, columns, ids) },
		Dump:   s.dump,
		Break:  func(testing.TB) func() { return proxy.Cut() },
		Poison: func(u *schemas.User) { u.FirstName, u.LastName = new("poison"), u.FirstName },
	}
}

// read reads the rows of users that are not erased as the suite wants them.
func (s server) read(t testing.TB, cfg mysql.Config, columns map[string]string, ids []string) map[string]sinktest.Row {
	t.Helper()
	kinds := map[string]mapping.Kind{"primary_email_address": mapping.Text}
	for _, f := range mapping.Fields() {
		kinds[f.Name] = f.Kind
	}
	names := slices.Sorted(maps.Keys(columns))
	query := "SELECT `" + cfg.KeyColumn + "`"
	for _, name := range names {
		query += ", `" + columns[name] + "`"
	}
	query += " FROM `" + cfg.Table + "` WHERE `" + cfg.KeyColumn + "` IN (''" + strings.Repeat(", ?", len(ids)) + ")"
	if cfg.Deletion != usertable.DeletionHard {
		query += " AND `" + cfg.DeletedAtColumn + "` IS NULL"
	}
	args := make([]any, len(ids))
	for i, id := range ids {
		args[i] = id
	}
	rows := map[string]sinktest.Row{}
	s.each(t, query, func(values []any) {
		row := sinktest.Row{}
		for i, name := range names {
			if value := values[1+i]; value != nil {
				row[name] = fromColumn(t, kinds[name], value)
			}
		}
		rows[string(values[0].([]byte))] = row
	}, args...)
	return rows
}

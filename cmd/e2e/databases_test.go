package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-sql-driver/mysql"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

// database is where one sink of a deployment writes, seen round the sink.
type database struct {
	sink string // its name, as SINKS has it: name=kind where these differ
	// settings are those of the sink over a network; nil: without one.
	settings func(over *network) []string
	// dump returns every value of every table, as raw as can be had.
	dump func() []byte
}

func (d database) name() string {
	name, _, _ := strings.Cut(d.sink, "=")
	return name
}

// databases are those of a deployment with a sink of every kind. Each is of the
// test's own.
func (s *stack) databases() []database {
	s.t.Helper()
	return []database{s.sqliteFile("sqlite"), s.postgresSchema(), s.mysqlDatabase(), s.mongoDatabase()}
}

// sqliteFile is a file of a sink of kind sqlite, dumped with its write-ahead
// log.
func (s *stack) sqliteFile(name string, settings ...string) database {
	file := map[string]string{"sqlite": "users.db"}[name] // which settle compares
	if file == "" {
		file = name + ".db"
	}
	path := filepath.Join(s.folder, file)
	prefix := "SINK_" + strings.ToUpper(name) + "_"
	sink := name
	if name != "sqlite" {
		sink += "=sqlite"
	}
	return database{
		sink: sink,
		settings: func(*network) []string {
			all := []string{prefix + "PATH=" + path}
			for _, setting := range settings {
				all = append(all, prefix+setting)
			}
			return all
		},
		dump: func() (dump []byte) {
			for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
				data, err := os.ReadFile(path + suffix)
				if err != nil && !os.IsNotExist(err) {
					s.t.Fatal(err)
				}
				dump = append(dump, data...)
			}
			return dump
		},
	}
}

func (s *stack) postgresSchema() database {
	address := parsed(s.t, "TEST_POSTGRES_DSN")
	db := s.postgres()
	s.t.Cleanup(func() { db.Close() })
	return database{
		sink: "postgres",
		settings: func(over *network) []string {
			return []string{"SINK_POSTGRES_DSN=" + through(s.t, over, address), "SINK_POSTGRES_SCHEMA=" + s.schema}
		},
		dump: func() []byte {
			return s.dumpTables(db, "SELECT table_name FROM information_schema.tables WHERE table_schema = '"+s.schema+"' AND table_type = 'BASE TABLE'", s.schema+".")
		},
	}
}

func (s *stack) mysqlDatabase() database {
	address := parsed(s.t, "TEST_MYSQL_DSN")
	cfg := mysql.NewConfig()
	cfg.Net, cfg.Addr, cfg.User = "tcp", address.Host, address.User.Username()
	cfg.Passwd, _ = address.User.Password()
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	db := sql.OpenDB(connector)
	name := "e2e_" + strings.ToLower(rand.Text()[:10])
	if _, err := db.Exec("CREATE DATABASE " + name); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_, _ = db.Exec("DROP DATABASE " + name)
		db.Close()
	})
	address.Path = "/" + name
	return database{
		sink:     "mysql",
		settings: func(over *network) []string { return []string{"SINK_MYSQL_DSN=" + through(s.t, over, address)} },
		dump: func() []byte {
			return s.dumpTables(db, "SELECT table_name FROM information_schema.tables WHERE table_schema = '"+name+"' AND table_type = 'BASE TABLE'", name+".")
		},
	}
}

// dumpTables returns every value of the tables that a query names.
func (s *stack) dumpTables(db *sql.DB, names, prefix string) []byte {
	s.t.Helper()
	var dump bytes.Buffer
	each := func(text string, row func([]sql.NullString)) {
		rows, err := db.Query(text)
		if err != nil {
			s.t.Fatal(err)
		}
		defer rows.Close()
		columns, err := rows.Columns()
		if err != nil {
			s.t.Fatal(err)
		}
		values, into := make([]sql.NullString, len(columns)), make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		for rows.Next() {
			if err := rows.Scan(into...); err != nil {
				s.t.Fatal(err)
			}
			row(values)
		}
		if err := rows.Err(); err != nil {
			s.t.Fatal(err)
		}
	}
	var tables []string
	each(names, func(values []sql.NullString) { tables = append(tables, values[0].String) })
	for _, table := range tables {
		each("SELECT * FROM "+prefix+table, func(values []sql.NullString) {
			for _, value := range values {
				fmt.Fprintln(&dump, value.String)
			}
		})
	}
	return dump.Bytes()
}

func (s *stack) mongoDatabase() database {
	address := parsed(s.t, "TEST_MONGODB_URI")
	client, err := mongo.Connect(options.Client().ApplyURI(address.String()))
	if err != nil {
		s.t.Fatal(err)
	}
	db := client.Database("e2e_" + strings.ToLower(rand.Text()[:10]))
	s.t.Cleanup(func() {
		_ = db.Drop(context.Background())
		_ = client.Disconnect(context.Background())
	})
	return database{
		sink: "mongodb",
		settings: func(over *network) []string {
			reached := *address
			if over != nil { // else what the network holds back could be the driver's question whether anybody is there
				query := reached.Query()
				query.Set("serverMonitoringMode", "poll")
				query.Set("heartbeatFrequencyMS", "3600000")
				reached.RawQuery = query.Encode()
			}
			return []string{"SINK_MONGODB_URI=" + through(s.t, over, &reached), "SINK_MONGODB_DATABASE=" + db.Name()}
		},
		dump: func() (dump []byte) {
			names, err := db.ListCollectionNames(context.Background(), bson.D{{Key: "type", Value: "collection"}})
			if err != nil {
				s.t.Fatal(err)
			}
			for _, name := range names {
				var found []bson.Raw
				cursor, err := db.Collection(name).Find(context.Background(), bson.D{})
				if err == nil {
					err = cursor.All(context.Background(), &found)
				}
				if err != nil {
					s.t.Fatal(err)
				}
				for _, document := range found {
					dump = append(dump, document...)
				}
			}
			return dump
		},
	}
}

func parsed(t testing.TB, variable string) *url.URL {
	t.Helper()
	address, err := url.Parse(required(t, variable))
	if err != nil {
		t.Fatalf("%s is no URL", variable)
	}
	return address
}

// through returns an address as it is reached over a network; nil: directly.
func through(t testing.TB, over *network, address *url.URL) string {
	t.Helper()
	if over == nil {
		return address.String()
	}
	far := *address
	far.Host = over.before(t, address.Host)
	return far.String()
}

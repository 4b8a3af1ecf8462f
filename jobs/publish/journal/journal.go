// Package journal remembers, in a file on this machine, how far each publication came, so that one that was killed at any call
// goes on from there.
//
// An Entry is one image's way to one target. Each of its steps is written before it begins and after it ended. A step that ended
// is never done again: its kept result is returned. One that began and did not end is done again, and told so: whether
// the cloud did it before the process died, only the cloud knows, so a step asks there first, by the name, tag or client token
// that it would use.
//
// A step that sends much, block by block, keeps Marks of the blocks that have come, and goes on from there when it is done again.
//
// A journal makes publications cheaper to resume; it is never needed. One that is lost is rebuilt by running the same
// command: each step finds its work done. No secret is ever written to it: results are identifiers, and of errors only
// the text is kept, without the queries of URLs, in which clouds put signatures.
package journal

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// version is the schema's, kept as SQLite's user_version.
const version = 1

const schema = `
CREATE TABLE step (
	target TEXT NOT NULL,
	digest TEXT NOT NULL,
	image  TEXT NOT NULL,
	name   TEXT NOT NULL,
	tries  INTEGER NOT NULL,
	began  TEXT NOT NULL,
	ended  TEXT,
	result TEXT,
	error  TEXT,
	PRIMARY KEY (target, digest, image, name)
) WITHOUT ROWID;
PRAGMA user_version = 1;`

// Journal is an open journal. Its methods may be called from several goroutines.
type Journal struct {
	path string
	db   *sql.DB
	busy Busy
}

// Busy says what an Entry does that someone else has.
type Busy int

const (
	Wait Busy = iota // until the other one is done, with a message
	Stop             // with an error of kind fault.Outside
)

// Open opens the journal at path and makes it, and its directory, where there is none. The error for a file that is no journal,
// or a broken one, is of kind fault.Input and says that it can be removed.
func Open(ctx context.Context, path string, busy Busy) (*Journal, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fault.Inputf("the journal %s cannot be made: %w", path, err)
	}
	// One file: a rollback journal exists only while something is written, and CI can keep the file between two jobs.
	source := "file:" + (&url.URL{Path: path}).EscapedPath() + "?_pragma=journal_mode(DELETE)&_pragma=synchronous(FULL)&_pragma=busy_timeout(60000)&_txlock=immediate"
	db, err := sql.Open("sqlite", source)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	j := &Journal{path: path, db: db, busy: busy}
	if err := j.prepare(ctx); err != nil {
		db.Close()
		return nil, j.explain(ctx, err)
	}
	return j, nil
}

// prepare makes the table in a new file and reads all of an old one.
func (j *Journal) prepare(ctx context.Context) error {
	tx, err := j.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	var have, tables int
	if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&have); err != nil {
		return err
	}
	if err := tx.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&tables); err != nil {
		return err
	}
	switch {
	case have == 0 && tables == 0:
		if _, err := tx.ExecContext(ctx, schema); err != nil {
			return err
		}
		return tx.Commit()
	case have != version:
		return fmt.Errorf("it is of version %d, where this program writes %d", have, version)
	}
	var found string
	if err := tx.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&found); err != nil {
		return err
	}
	if found != "ok" {
		return errors.New(found)
	}
	return nil
}

// explain makes one sentence of what SQLite says of a file.
func (j *Journal) explain(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	text := strings.Join(strings.Fields(err.Error()), " ")
	if strings.Contains(text, "SQLITE_FULL") || strings.Contains(text, "SQLITE_IOERR") || strings.Contains(text, "SQLITE_BUSY") {
		return fault.Outsidef("the journal %s cannot be written: %s", j.path, text)
	}
	return fault.WithHint(fault.Inputf("the journal %s cannot be used: %s", j.path, text),
		"remove it and run the same command again: what is done already is found at the provider and not done twice")
}

// Close closes the file. Entries that are still locked must be unlocked before.
func (j *Journal) Close() error { return j.db.Close() }

// Status is one step as the journal knows it.
type Status struct {
	Key
	Step  string
	Tries int // how often it began
	Began time.Time
	Ended time.Time // zero: it did not end
	Error string    // why the last try failed, "" where it did not or the process died
}

// Status lists all steps, by target and image, in the order in which they began.
func (j *Journal) Status(ctx context.Context) ([]Status, error) {
	rows, err := j.db.QueryContext(ctx, "SELECT target, digest, image, name, tries, began, coalesce(ended, ''), coalesce(error, '') FROM step ORDER BY target, image, digest, began, name")
	if err != nil {
		return nil, j.explain(ctx, err)
	}
	defer rows.Close()
	var all []Status
	for rows.Next() {
		var s Status
		var began, ended string
		if err := rows.Scan(&s.Target, &s.Digest, &s.Image, &s.Step, &s.Tries, &began, &ended, &s.Error); err != nil {
			return nil, j.explain(ctx, err)
		}
		s.Began, s.Ended = parseTime(began), parseTime(ended)
		all = append(all, s)
	}
	return all, j.explain(ctx, rows.Err())
}

const timeForm = "2006-01-02T15:04:05.000000Z"

func now() string { return time.Now().UTC().Format(timeForm) }

func parseTime(text string) time.Time {
	t, _ := time.Parse(timeForm, text) // "" is the zero time
	return t
}

// Package hostlog is the executor's log for the people who run the host: the journal, or a file. It is never standard
// error, which Runner shows to whoever watches the job.
package hostlog

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	slogjournal "github.com/systemd/slog-journal"

	"salsa.debian.org/cloud-team/debcloud/executor/settings"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// Open returns the log that the settings ask for: a file of JSON lines, which several processes may append to at once,
// else the journal, which drops everything on a host that has none. Attributes are fields of the journal:
// "job" is DEBCLOUD_JOB there.
func Open(s settings.Log) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(s.Level)); err != nil {
		return nil, fault.Inputf("log level: %w", err)
	}
	if s.File != "" {
		f, err := openFile(s.File)
		if err != nil {
			return nil, err
		}
		// A line is one write, and O_APPEND keeps the writes of processes apart.
		return slog.New(slog.NewJSONHandler(f, &slog.HandlerOptions{Level: level})), nil
	}
	h, err := slogjournal.NewHandler(&slogjournal.Options{
		Level:        level,
		ReplaceAttr:  func(_ []string, a slog.Attr) slog.Attr { a.Key = field(a.Key); return a },
		ReplaceGroup: field,
	})
	if err != nil {
		return nil, fault.Outsidef("log of the executor: journal: %w", err)
	}
	return slog.New(h), nil
}

func openFile(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fault.Outsidef("log of the executor: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return nil, fault.Outsidef("log of the executor: %w", err)
	}
	return f, nil
}

// field makes a name that the journal takes: upper case, digits and _ (systemd.journal-fields(7)). The prefix keeps it
// apart from the journal's own.
func field(key string) string {
	return "DEBCLOUD_" + strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' {
			return r - 'a' + 'A'
		}
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, key)
}

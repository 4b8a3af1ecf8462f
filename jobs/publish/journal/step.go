package journal

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/lazyregexp"
)

// Step does one step of e, or returns the result of an earlier try that ended, without calling do.
//
// again tells do that an earlier try began and did not end: what do makes may be there already. T must survive
// encoding/json, and holds no secret. Steps of one Entry may run side by side under different names. An error of do is returned as it is.
func Step[T any](ctx context.Context, e *Entry, name string, do func(ctx context.Context, again bool) (T, error)) (T, error) {
	var zero T
	kept, tries, err := e.begin(ctx, name)
	if err != nil {
		return zero, err
	}
	if kept != nil {
		var result T
		if err := json.Unmarshal([]byte(*kept), &result); err != nil {
			return zero, e.journal.explain(ctx, fmt.Errorf("the result of step %q is not one of this program's: %w", name, err))
		}
		return result, nil
	}
	result, err := do(ctx, tries > 1)
	if err != nil {
		if unwritten := e.fail(name, err); unwritten != nil {
			slog.WarnContext(ctx, "journal does not tell why a step failed", "step", name, "error", unwritten)
		}
		return zero, err
	}
	text, err := json.Marshal(result)
	if err != nil {
		return zero, fmt.Errorf("keep the result of step %q: %w", name, err)
	}
	return result, e.end(name, string(text))
}

// StandingStep does one step like Step, and asks with stands whether what an earlier run made is still there. Where it is not, the step is done anew.
func StandingStep[T any](ctx context.Context, e *Entry, name string, stands func(context.Context, T) (bool, error), do func(context.Context) (T, error)) (T, error) {
	for {
		fresh := false
		result, err := Step(ctx, e, name, func(ctx context.Context, _ bool) (T, error) {
			fresh = true
			return do(ctx)
		})
		if err != nil || fresh {
			return result, err
		}
		ok, err := stands(ctx, result)
		if err != nil || ok {
			return result, err
		}
		if err := e.Forget(ctx, name); err != nil {
			return result, err
		}
	}
}

// Known returns the result of a step that ended, and false where the journal has none. It begins nothing.
func Known[T any](ctx context.Context, e *Entry, name string) (T, bool, error) {
	var result T
	kept, err := e.kept(ctx, name)
	if kept == nil || err != nil {
		return result, false, err
	}
	if err := json.Unmarshal([]byte(*kept), &result); err != nil {
		return result, false, e.journal.explain(ctx, fmt.Errorf("the result of step %q is not one of this program's: %w", name, err))
	}
	return result, true, nil
}

// kept is the result of a step that ended, nil where there is none.
func (e *Entry) kept(ctx context.Context, name string) (kept *string, err error) {
	err = e.journal.db.QueryRowContext(ctx, "SELECT result FROM step WHERE target = ? AND digest = ? AND image = ? AND name = ? AND ended IS NOT NULL",
		e.Target, e.Digest, e.Image, name).Scan(&kept)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return kept, e.journal.explain(ctx, err)
}

// begin writes that the step begins, and leaves what Marks kept of an earlier try. kept is the result of a step that ended.
func (e *Entry) begin(ctx context.Context, name string) (kept *string, tries int, err error) {
	if ctx.Err() != nil {
		return nil, 0, context.Cause(ctx)
	}
	if kept, err := e.kept(ctx, name); kept != nil || err != nil {
		return kept, 0, err
	}
	err = e.journal.db.QueryRowContext(ctx, `INSERT INTO step (target, digest, image, name, tries, began) VALUES (?, ?, ?, ?, 1, ?)
		ON CONFLICT DO UPDATE SET tries = tries + 1, began = excluded.began, ended = NULL, error = NULL RETURNING tries`,
		e.Target, e.Digest, e.Image, name, now()).Scan(&tries)
	return nil, tries, e.journal.explain(ctx, err)
}

// end writes the result, also when the context has ended meanwhile: the step did.
func (e *Entry) end(name, result string) error {
	return e.write("UPDATE step SET ended = ?, result = ? WHERE target = ? AND digest = ? AND image = ? AND name = ?", now(), result, e.Target, e.Digest, e.Image, name)
}

func (e *Entry) fail(name string, why error) error {
	return e.write("UPDATE step SET error = ? WHERE target = ? AND digest = ? AND image = ? AND name = ?", WithoutQueries(why.Error()), e.Target, e.Digest, e.Image, name)
}

func (e *Entry) write(query string, args ...any) error {
	if _, err := e.journal.db.ExecContext(context.Background(), query, args...); err != nil {
		return fault.Outsidef("the journal %s cannot be written: %w", e.journal.path, err)
	}
	return nil
}

var queryForm = lazyregexp.New(`([a-z][a-z0-9+.-]*://[^\s"'?]*)\?[^\s"']*`)

// WithoutQueries takes the queries out of all URLs in a text: clouds put signatures there.
func WithoutQueries(text string) string { return queryForm.ReplaceAllString(text, "$1?…") }

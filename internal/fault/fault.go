// Package fault sorts errors by who has to act on them, so that the program's exit code can tell.
//
// An error that carries no kind is a failure of the work itself: a test that failed, a build that broke.
package fault

import (
	"errors"
	"fmt"
	"strings"
)

// Kind says who has to act on an error.
type Kind int

const (
	Work    Kind = iota // the work failed: look at its result
	Input               // bad usage or bad input: change it
	Outside             // something outside failed: a retry may help
)

// Error is an error of a kind. Its text is one sentence that quotes the value; Hint, where there is one, says what to do.
type Error struct {
	Kind Kind
	Err  error
	Hint string
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Inputf reports bad usage or bad input. The format's verbs are those of fmt.Errorf, %w included.
func Inputf(format string, args ...any) error {
	return &Error{Kind: Input, Err: fmt.Errorf(format, args...)}
}

// Outsidef reports that something outside failed and that a retry may help.
func Outsidef(format string, args ...any) error {
	return &Error{Kind: Outside, Err: fmt.Errorf(format, args...)}
}

// WithHint keeps err's text and kind and adds what the user can do about it.
func WithHint(err error, format string, args ...any) error {
	return &Error{Kind: KindOf(err), Err: err, Hint: fmt.Sprintf(format, args...)}
}

// KindOf returns the kind of the outermost Error in err's chain, Work if there is none.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Work
}

// HintOf returns the outermost hint in err's chain, or "".
func HintOf(err error) string {
	for e, ok := errors.AsType[*Error](err); ok; e, ok = errors.AsType[*Error](e.Err) {
		if e.Hint != "" {
			return e.Hint
		}
	}
	return ""
}

// reworded is an error told in other words.
type reworded struct {
	text string
	err  error
}

func (r *reworded) Error() string { return r.text }
func (r *reworded) Unwrap() error { return r.err }

// Reword tells err in these words. What it was stays in its chain: an SDK's own text has request numbers and addresses in it.
func Reword(err error, text string) error { return &reworded{text, err} }

// Cause is the first line of the innermost error's text.
func Cause(err error) string {
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(err) {
		err = next
	}
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

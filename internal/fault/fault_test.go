package fault_test

import (
	"errors"
	"fmt"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

func TestKindAndHint(t *testing.T) {
	cause := errors.New("no route")
	outside := fault.Outsidef("mirror %q: %w", "http://mirror.example", cause)
	hinted := fault.WithHint(outside, "try %s", "again")
	wrapped := fmt.Errorf("build: %w", hinted)
	for _, row := range []struct {
		summary string
		err     error
		kind    fault.Kind
		hint    string
		text    string
	}{
		{"an ordinary error is failed work", cause, fault.Work, "", "no route"},
		{"a kind stays through wrapping", wrapped, fault.Outside, "try again", `build: mirror "http://mirror.example": no route`},
		{"the outer kind decides, the inner hint stays", fault.Inputf("config: %w", hinted), fault.Input, "try again", `config: mirror "http://mirror.example": no route`},
		{"of two hints the outer one is told", fault.WithHint(hinted, "or later"), fault.Outside, "or later", `mirror "http://mirror.example": no route`},
	} {
		if got := fault.KindOf(row.err); got != row.kind {
			t.Errorf("%s: kind %v", row.summary, got)
		}
		if got := fault.HintOf(row.err); got != row.hint {
			t.Errorf("%s: hint %q", row.summary, got)
		}
		if row.err.Error() != row.text {
			t.Errorf("%s: %q", row.summary, row.err)
		}
		if !errors.Is(row.err, cause) {
			t.Errorf("%s: the cause is lost", row.summary)
		}
	}
}

package build

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// The logs in testdata are those of builds that were made to fail; their mirrors have got names that do not exist.
func TestCauseOf(t *testing.T) {
	for _, test := range []struct {
		log  string
		kind fault.Kind
		says []string
	}{
		{"missing-package.log", fault.Input, []string{`"linux-image-nonsense"`, "package_config"}},
		{"script-failed.log", fault.Work, []string{`"GENERIC/50-broken"`, "exit code 7", "the widget is missing"}},
		{"script-silent.log", fault.Work, []string{`"GENERIC/50-silent"`, "exit code 1", "printed nothing"}},
		{"mirror-unreachable.log", fault.Outside, []string{"mirror.invalid"}},
		{"mirror-unreachable-plain.log", fault.Outside, []string{"mirror.invalid"}},
		{"security-unreachable.log", fault.Outside, []string{"security.invalid"}},
		{"postinst-failed.log", fault.Work, []string{`"broken-package"`}},
		{"no-space.log", fault.Outside, []string{"No space left on device"}},
		{"good.log", fault.Work, nil},
	} {
		t.Run(test.log, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("testdata", test.log))
			if err != nil {
				t.Fatal(err)
			}
			cause := causeOf(string(text))
			if test.says == nil {
				if cause != nil {
					t.Errorf("a good build is said to have failed: %v", cause)
				}
				return
			}
			if cause == nil {
				t.Fatal("no cause was found")
			}
			if got := fault.KindOf(cause); got != test.kind {
				t.Errorf("kind %v, want %v", got, test.kind)
			}
			for _, s := range test.says {
				if !strings.Contains(cause.Error(), s) {
					t.Errorf("%q does not say %q", cause, s)
				}
			}
			if strings.Contains(cause.Error(), "\n") {
				t.Errorf("%q is not one line", cause)
			}
		})
	}
}

func TestExplainWithoutCause(t *testing.T) {
	log := filepath.Join(t.TempDir(), "build.log")
	if err := os.WriteFile(log, []byte("one\ntwo\nthree\nfour\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := &build{}
	if err := b.explain(nil, log); err != nil {
		t.Errorf("a good log gives %v", err)
	}
	err := b.explain(errors.New("exit status 99"), log)
	if err == nil || !strings.Contains(err.Error(), "two; three; four") || !strings.Contains(fault.HintOf(err), log) {
		t.Errorf("got %v, hint %q", err, fault.HintOf(err))
	}
}

package salsa

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

func TestLint(t *testing.T) {
	d := newDouble(t)
	d.lint = func(in lintRequest) map[string]any {
		if *in.Content != "build:\n  script: [\"ä\"]\n" || !in.DryRun || in.Ref != "main" {
			t.Errorf("linted %q, %t, %q", *in.Content, in.DryRun, in.Ref)
		}
		return map[string]any{
			"valid": false, "merged_yaml": "--- {}", "includes": []any{},
			"errors":   []string{"jobs:build config\nshould implement a script", "second\x1b[31m"},
			"warnings": []string{"jobs:build may allow multiple pipelines"},
		}
	}
	r, err := d.client().Lint(t.Context(), "build:\n  script: [\"ä\"]\n", LintOptions{Ref: "main", DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	if r.Valid || !slices.Equal(r.Errors, []string{"jobs:build config should implement a script", "second[31m"}) || len(r.Warnings) != 1 {
		t.Errorf("result %+v", r)
	}
	d.lint = func(in lintRequest) map[string]any {
		if in.DryRun || in.Ref != "" {
			t.Errorf("by default linted %t, %q", in.DryRun, in.Ref)
		}
		return map[string]any{"valid": true, "errors": []string{}, "warnings": []string{}}
	}
	if r, err := d.client().Lint(t.Context(), "a: b", LintOptions{}); err != nil || !r.Valid {
		t.Errorf("a valid one: %+v, %v", r, err)
	}
}

func TestLintRefusesJobToken(t *testing.T) {
	d := newDouble(t)
	_, err := d.client(func(o *Options) { o.Token = "" }).Lint(t.Context(), "a: b", LintOptions{})
	if fault.KindOf(err) != fault.Input || len(d.requests) > 0 {
		t.Errorf("error %v after %v", err, d.requests)
	}
}

func TestReadConfiguration(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	big := write("big.yml", "")
	if err := os.Truncate(big, maxConfiguration+1); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ path, want string }{
		{filepath.Join(dir, "none.yml"), "no such file"},
		{dir, "no regular file"},
		{big, "more than"},
		{write("latin1.yml", "a: \xe4"), "UTF-8"},
	} {
		_, err := ReadConfiguration(row.path)
		if fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), row.want) || !strings.Contains(err.Error(), row.path) {
			t.Errorf("%s: %v", row.path, err)
		}
	}
	if text, err := ReadConfiguration(write("ok.yml", "a: ä")); err != nil || text != "a: ä" {
		t.Errorf("%q, %v", text, err)
	}
}

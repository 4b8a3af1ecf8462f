package generator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// lintText lints a file of its own and returns the problems one a line, without the file's name.
func lintText(t testing.TB, text string, o LintOptions) (string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "p.yml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // hundreds of times what the largest takes
	defer cancel()
	problems, err := Lint(ctx, path, o)
	var lines []string
	for _, p := range problems {
		lines = append(lines, strings.TrimPrefix(p.String(), path))
	}
	return strings.Join(lines, "\n"), err
}

func manyNeeds(n int) string {
	var b strings.Builder
	b.WriteString("all:\n  script: [x]\n  needs:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - j%d\n", i)
	}
	for i := range n {
		fmt.Fprintf(&b, "j%d: {script: [x]}\n", i)
	}
	return b.String()
}

// chain has a job over n levels of hidden ones.
func chain(n int) string {
	var b strings.Builder
	b.WriteString(".l0: {script: [x]}\n")
	for i := 1; i < n; i++ {
		fmt.Fprintf(&b, ".l%d: {extends: .l%d}\n", i, i-1)
	}
	return b.String() + fmt.Sprintf("one: {extends: .l%d}\n", n-1)
}

// ways has 100^n ways from .a0 to .aN.
func ways(n int) string {
	var b strings.Builder
	for i := n - 1; i >= 0; i-- {
		fmt.Fprintf(&b, ".a%d: {extends: [%s]}\n", i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf(".a%d, ", i+1), 100), ", "))
	}
	return b.String()
}

// crowd has n jobs, each with the line that job makes of its number.
func crowd(n int, job string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, strings.ReplaceAll(job, "%d", "%[1]d")+"\n", i)
	}
	return b.String()
}

// largeCircle has n jobs that need the next one and the first.
func largeCircle(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "j%d: {script: [x], needs: [j%d, j0]}\n", i, i+1)
	}
	return b.String() + fmt.Sprintf("j%d: {script: [x]}\n", n)
}

// large are pipelines that take minutes, or gigabytes, if any check looks at all jobs, or at all that one extends, for each job.
var large = []struct{ summary, text, want string }{
	{"a long chain of extends", chain(8000), `:13: job ".l12": it extends over 12 levels, GitLab's limit is 11`},
	{"many extends of nothing", crowd(6000, `"build trixie generic%d amd64": {script: [x], extends: "boild trixie ganeric5%d amd64"}`), `:1: job "build trixie generic0 amd64": it extends "boild trixie ganeric50 amd64", which does not exist`},
	{"many needs of nothing", crowd(4000, `"build trixie generic%d amd64": {script: [x], needs: ["boild trixie ganeric5%d amd64"]}`), `:1: job "build trixie generic0 amd64": it needs "boild trixie ganeric50 amd64", which does not exist`},
	{"many stages", "stages:\n" + crowd(8000, "- s%d") + crowd(5000, "j%d: {script: [x], stage: t%d}"), `:8002: job "j0": its stage "t0" is none of .pre, s0,`},
	{"many needs inherited", ".b:\n  script: [x]\n  needs:\n" + crowd(3000, "  - n%d") + crowd(5000, "j%d: {extends: .b}"), ": there are more than 10000 problems"},
	{"many dependencies inherited", ".b:\n  script: [x]\n  dependencies:\n" + crowd(3000, "  - j%d") + crowd(3000, "j%d: {extends: .b}"), ": its jobs name each other more than 2000000 times: the rest is not checked"},
	{"many tags inherited", ".b:\n  script: [x]\n  tags:\n" + crowd(3000, "  - t%d") + crowd(3000, "j%d: {extends: .b}"), ": its jobs name each other more than 2000000 times: the rest is not checked"},
	{"a large circle with many ways back", largeCircle(10_500), ": there are more than 10000 problems: the others are not listed"},
}

// TestLintLarge: the time that lint takes does not grow with the square of a file.
func TestLintLarge(t *testing.T) {
	for _, row := range large {
		got, err := lintText(t, row.text, LintOptions{Runners: [][]string{{"x"}}})
		if err != nil || !strings.HasPrefix(got, row.want) {
			t.Errorf("%s:\ngot  %.300s %v\nwant %s", row.summary, got, err, row.want)
		}
	}
}

// TestLintCancelled: lint ends with its context, before it begins and between two jobs.
func TestLintCancelled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.yml")
	if err := os.WriteFile(path, []byte(crowd(5000, "j%d: {script: [x]}")), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if problems, err := Lint(ctx, path, LintOptions{}); !errors.Is(err, context.Canceled) || problems != nil {
		t.Errorf("%v, %v", problems, err)
	}
	asked := 0
	l := linter{file: path, jobs: map[string]*node{}, resolved: map[string]*resolvedJob{}, lists: map[*node][]need{}, takes: map[*node]bool{}}
	l.cancelled = func() error {
		if asked++; asked > 3 {
			return context.Canceled
		}
		return nil
	}
	if err := l.lint([]byte(crowd(5000, "j%d: {script: [x]}")), LintOptions{}); !errors.Is(err, context.Canceled) || l.steps >= 5000 {
		t.Errorf("%v after %d steps", err, l.steps)
	}
}

func TestLint(t *testing.T) {
	for _, row := range []struct{ summary, text, want string }{
		{"a good pipeline", "stages: [a, b]\n.base: {script: [x]}\none: {extends: .base, stage: a}\ntwo: {extends: [.base], stage: b, needs: [one]}\n", ""},
		{"no job", "stages: [a]\n.hidden: {script: [x]}\n", ": there is no job: GitLab refuses an empty pipeline"},
		{"a job of nothing", "one: {stage: test}\n", `:1: job "one": it has neither script, run nor trigger`},
		{"a stage that is not declared", "stages: [a]\none: {script: [x], stage: b}\n", `:2: job "one": its stage "b" is none of .pre, a, .post`},
		{"the default stage is not declared", "stages: [a]\none: {script: [x]}\n", `:2: job "one": its stage "test" is none of .pre, a, .post`},
		{"needs of nothing", "one: {script: [x], needs: [twoo]}\ntwo: {script: [x]}\n", `:1: job "one": it needs "twoo", which does not exist: did you mean "two"?`},
		{"needs with the name misspelt", "first: {script: [x]}\none:\n  script: [x]\n  needs:\n  - job: frist\n", `:5: job "one": it needs "frist", which does not exist: did you mean "first"?`},
		{"an optional need may be missing", "one: {script: [x], needs: [{job: two, optional: true}]}\n", ""},
		{"a need of another pipeline is not ours", "one: {script: [x], needs: [{pipeline: $P, job: generate}]}\n", ""},
		{"a hidden job never runs", ".two: {script: [x]}\none: {script: [x], needs: [.two]}\n", `:2: job "one": it needs ".two", which is hidden and never runs`},
		{"needs itself", "one: {script: [x], needs: [one]}\n", `:1: job "one": it needs itself`},
		{"needs of a later stage", "stages: [a, b]\none: {script: [x], stage: a, needs: [two]}\ntwo: {script: [x], stage: b}\n", `:2: job "one": it needs "two", which is in a later stage`},
		{"needs in a circle", "one: {script: [x], needs: [two]}\ntwo: {script: [x], needs: [three]}\nthree: {script: [x], needs: [one]}\n",
			`:1: job "one": needs go in a circle: "one" → "two" → "three" and back`},
		{"50 needs", manyNeeds(50), ""},
		{"51 needs", manyNeeds(51), `:4: job "all": it needs 51 jobs, GitLab's limit is 50`},
		{"a need that is no list", "one: {script: [x], needs: {job: two}}\n", `:1: job "one": it needs "two", which does not exist`},
		{"a need twice", "one: {script: [x]}\ntwo: {script: [x], needs: [one, one, one]}\n", `:2: job "two": it needs "one" twice`},
		{"two parts of a need", "one: {script: [x], parallel: {matrix: [{A: [x, y]}]}}\ntwo: {script: [x], needs: [{job: one, parallel: {matrix: [{A: x}]}}, {job: one, parallel: {matrix: [{A: y}]}}]}\n", ""},
		{"needs in rules", "one: {script: [x]}\ntwo:\n  script: [x]\n  rules:\n  - {if: $A, needs: [one]}\n  - {if: $B, needs: [onee, {job: three, optional: true}]}\n",
			`:6: job "two": it needs "onee", which does not exist: did you mean "one"?`},
		{"jobs of a matrix", "ruby: {script: [x], parallel: {matrix: [{V: [2.7], P: [aws]}]}}\none: {script: [x], dependencies: ['ruby: [2.7, aws]']}\ntwo: {script: [x], needs: ['ruby: [2.7, aws]']}\n", ""},
		{"jobs of no matrix", "ruby: {script: [x]}\none: {script: [x], needs: ['ruby: [2.7, aws]']}\n", `:2: job "one": it needs "ruby: [2.7, aws]", which does not exist`},
		{"jobs in parallel", "a: {script: [x], parallel: 2}\none: {script: [x], needs: [a 1/2, a 2/2], dependencies: [a 1/2]}\n", ""},
		{"more jobs in parallel than there are", "a b: {script: [x], parallel: 2}\none: {script: [x], needs: [a b 3/2]}\n", `:2: job "one": it needs "a b 3/2", which does not exist`},
		{"an environment that no job stops", "one: {script: [x], environment: {name: e, on_stop: stopp}}\nstop: {script: [x], environment: {name: e, action: stop}}\n",
			`:1: job "one": its environment is stopped by job "stopp", which does not exist: did you mean "stop"?`},
		{"a job that is a list", ".a: [x]\none: {script: !reference [.a]}\nb: [script]\n", `:3: job "b": it is a list where an object is needed`},
		{"inputs before the pipeline", "spec:\n  inputs:\n    stage: {default: test}\n---\none: {script: [x], stage: '$[[ inputs.stage ]]', needs: [two]}\n", `:5: job "one": it needs "two", which does not exist`},
		{"a circle of extends hides no other problem", ".a: {extends: .b}\n.b: {extends: .a}\none: {extends: .a, needs: [two]}\n", ":1: job \".a\": extends go in a circle: \".a\" → \".b\" and back\n:3: job \"one\": it needs \"two\", which does not exist"},
		{"needs inherited", ".b: {script: [x], needs: [nothing]}\none: {extends: .b}\n", `:1: job "one": it needs "nothing", which does not exist`},
		{"extends of nothing", "one: {extends: .bse}\n.base: {script: [x]}\n", `:1: job "one": it extends ".bse", which does not exist: did you mean ".base"?`},
		{"extends in a circle", ".a: {extends: .b}\n.b: {extends: .a}\none: {script: [x]}\n", `:1: job ".a": extends go in a circle: ".a" → ".b" and back`},
		{"merge keys are read", "one: &one {script: [x]}\ntwo: {<<: *one, needs: [one]}\n", ""},
		{"merge keys deeper down are read", ".v: &v {A: b}\none: {script: [x], variables: {<<: *v}, <<: {needs: [two]}}\n", `:2: job "one": it needs "two", which does not exist`},
		{"references are followed", ".a: {n: [z]}\none: {script: [x], needs: !reference [.a, n]}\n", `:1: job "one": it needs "z", which does not exist`},
		{"references in a list are spliced in", ".a: {n: [one, z]}\none: {script: [x]}\ntwo:\n  script: [!reference [.a, n], x]\n  needs: [one, !reference [.a, n]]\n", ":1: job \"two\": it needs \"one\" twice\n:1: job \"two\": it needs \"z\", which does not exist"},
		{"a reference to nothing", "one:\n  script: [x]\n  needs: !reference [.a, n]\n", `:3: job "one": !reference [.a, n] stands for nothing that exists`},
		{"references in a circle", ".a: {n: !reference [.a, n]}\none: {script: [x]}\n", `:1: job ".a": !reference [.a, n]: GitLab follows at most 10 references behind one another`},
		{"extends over 11 levels", chain(11), ""},
		{"extends over 12 levels", chain(12), `:13: job "one": it extends over 12 levels, GitLab's limit is 11`},
		{"many ways to one job", ".a9: {x: y}\n" + ways(9) + "one: {extends: .a0, script: [x]}\n", ""},
		{"artifacts of a job that is none", "one: {script: [x], dependencies: [twoo]}\ntwo: {script: [x]}\n", `:1: job "one": it depends on "twoo", which does not exist: did you mean "two"?`},
		{"artifacts of a job that is not needed", "one: {script: [x]}\ntwo: {script: [x], needs: [], dependencies: [one]}\n", `:2: job "two": it depends on "one", which is none of its needs`},
		{"a name beyond the limit", strings.Repeat("n", 256) + ": {script: [x]}\n", fmt.Sprintf(`:1: job "%s": its name has 256 bytes, GitLab's limit is 255`, strings.Repeat("n", 256))},
		{"an include that cannot be read hides names", "include: [{project: p, file: f}]\none: {extends: .elsewhere, needs: [there]}\n", ""},
		{"a job twice", "one: {script: [x]}\none: {script: [y]}\n", `:2: job "one": it is defined twice in this file: GitLab takes the last`},
		{"parallel over the limit", "one: {script: [x], parallel: 201}\n", `:1: job "one": parallel makes 201 jobs, GitLab's limit is 200`},
		{"a matrix over the limit", "one: {script: [x], parallel: {matrix: [{A: [" + strings.Repeat("1,", 20) + "], B: [" + strings.Repeat("1,", 11) + "]}]}}\n", `:1: job "one": parallel makes 220 jobs, GitLab's limit is 200`},
		{"four files of a child", "one: {trigger: {include: [{local: a}, {local: b}, {local: c}, {local: d}]}}\n", `:1: job "one": trigger:include has 4 files, GitLab's limit is 3`},
		{"a child of no job", "one: {trigger: {include: [{artifact: c.yml, job: generat}]}}\ngenerate: {script: [x]}\n", `:1: job "one": its child is an artifact of job "generat", which does not exist: did you mean "generate"?`},
		{"151 includes", "include: [" + strings.Repeat("{template: x},", 151) + "]\n", ":1: more than 150 includes, GitLab's limit"},
		{"a runner for each tag, none for both", "one: {script: [x], tags: [kvm, arm64]}\n", `:1: job "one": no runner has all of its tags kvm, arm64`},
		{"tags by default", "default: {tags: [s390x]}\none: {script: [x]}\n", `:1: job "one": no runner has all of its tags s390x`},
		{"tags that a runner has", ".b: {tags: [amd64]}\none: {extends: .b, script: [x]}\n", ""},
		{"tags that a variable tells", "one: {script: [x], tags: [$ARCH]}\n", ""},
		{"too large", "one: {script: [x]}\n#" + strings.Repeat("x", maxYAMLSize), fmt.Sprintf(": the file has %d bytes, GitLab's limit is 2097152", maxYAMLSize+20)},
	} {
		got, err := lintText(t, row.text, LintOptions{Runners: [][]string{{"kvm", "amd64"}, {"arm64"}}})
		if err != nil || got != row.want {
			t.Errorf("%s:\ngot  %s %v\nwant %s", row.summary, got, err, row.want)
		}
	}
}

// TestLintInclude: the jobs of local includes are known and checked; a problem in one names its file.
func TestLintInclude(t *testing.T) {
	for _, row := range []struct {
		summary, main, other string
		want                 []string
	}{
		{"jobs and stages of another file", "include: {local: ci/jobs.yml}\none: {extends: .base, needs: [two, three], stage: a}\n",
			"stages: [a]\n.base: {script: [x]}\ntwo: {extends: .base, stage: a}\n", []string{`.gitlab-ci.yml:2: job "one": it needs "three", which does not exist`}},
		{"a problem in the other file", "include: /ci/jobs.yml\none: {script: [x]}\n", "two:\n  script: [x]\n  needs: [onee]\n",
			[]string{`ci/jobs.yml:3: job "two": it needs "onee", which does not exist: did you mean "one"?`}},
		{"a job of both is merged", "include: ci/jobs.yml\none: {needs: []}\n", "one: {script: [x], needs: [nothing]}\n", nil},
		{"a file that is not there", "include: [ci/jobs.yml, ci/none.yml]\none: {script: [x]}\n", "", []string{`.gitlab-ci.yml:1: include "ci/none.yml": there is no such file`}},
		{"a file that may not be there", "include: [{local: ci/none.yml, rules: [{exists: [ci/none.yml]}]}]\none: {extends: .x}\n", "", nil},
		{"a file that is no YAML", "include: ci/jobs.yml\none: {script: [x]}\n", "two: [", []string{`.gitlab-ci.yml:1: include "ci/jobs.yml": line 2:`}},
		{"a file outside", "include: ../../secret.yml\none: {script: [x]}\n", "", []string{`.gitlab-ci.yml:1: include "../../secret.yml": there is no such file`}},
		{"files that include each other", "include: ci/jobs.yml\none: {script: [x]}\n", "include: ci/jobs.yml\n", []string{"ci/jobs.yml:1: more than 150 includes, GitLab's limit"}},
		{"a pattern hides names", "include: ci/*.yml\none: {extends: .elsewhere}\n", "", nil},
	} {
		dir := t.TempDir()
		for name, text := range map[string]string{".git/HEAD": "", ".gitlab-ci.yml": row.main, "ci/jobs.yml": row.other + "# end\n.z: {a: b}\n"} {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		problems, err := Lint(t.Context(), filepath.Join(dir, ".gitlab-ci.yml"), LintOptions{})
		good := err == nil && len(problems) == len(row.want)
		for i := range min(len(problems), len(row.want)) {
			good = good && strings.HasPrefix(strings.TrimPrefix(problems[i].String(), dir+"/"), row.want[i])
		}
		if !good {
			t.Errorf("%s: %v %v, want %q", row.summary, problems, err, row.want)
		}
	}
}

func TestLintSchema(t *testing.T) {
	schema := upstream(t, "../gitlab-ci-schema.json")
	for _, row := range []struct{ summary, text, want string }{
		{"good", "one: {script: [x]}\n", ""},
		{"an unknown key of a job", "one:\n  script: [x]\n  tag: [a]\n", `:2: job "one": : Additional property tag is not allowed`},
		{"a retry that GitLab does not know", "one:\n  script: [x]\n  retry:\n    max: 3\n", `:4: job "one": retry.max:`},
	} {
		got, err := lintText(t, row.text, LintOptions{Schema: schema})
		if err != nil || !strings.HasPrefix(got, row.want) || row.want == "" && got != "" {
			t.Errorf("%s:\ngot  %s %v\nwant %s", row.summary, got, err, row.want)
		}
	}
	_, err := lintText(t, "one: {script: [x]}\n", LintOptions{Schema: "nowhere.json"})
	wantInput(t, "no schema", err, "--schema nowhere.json")
	for _, row := range []struct{ summary, schema, want string }{
		{"no JSON", "{", "unexpected end of JSON input"},
		{"a draft that is not known whole", `{"$schema": "https://json-schema.org/draft/2020-12/schema"}`, `it is written in "https://json-schema.org/draft/2020-12/schema"`},
		{"a reference to elsewhere", `{"$ref": "http://127.0.0.1:1/x.json"}`, "it refers to http://127.0.0.1:1/x.json, and nothing is loaded from elsewhere"},
		{"a reference to a file", `{"properties": {"one": {"$ref": "file:///etc/hostname"}}}`, "it refers to file:///etc/hostname, and nothing is loaded from elsewhere"},
		{"a keyword of the wrong type", `{"required": 5}`, "required"},
	} {
		file := filepath.Join(t.TempDir(), "schema.json")
		if err := os.WriteFile(file, []byte(row.schema), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := lintText(t, "one: {script: [x]}\n", LintOptions{Schema: file})
		wantInput(t, row.summary, err, row.want)
	}
}

func TestLintRefuses(t *testing.T) {
	for _, row := range []struct{ summary, text, want string }{
		{"no YAML", "one: [", "p.yml:"},
		{"a list", "- one\n", "p.yml:1: it is a list where an object is needed"},
		{"three documents", "spec: {}\n---\none: {script: [x]}\n---\ntwo: {script: [x]}\n", "the file holds more than one YAML document"},
		{"two documents without inputs", "one: {script: [x]}\n---\ntwo: {script: [x]}\n", "the file holds more than one YAML document"},
		{"a bomb", bomb, "once its aliases are followed"},
		{"nested deep", strings.Repeat("[", 300) + strings.Repeat("]", 300), "nested more than"},
	} {
		_, err := lintText(t, row.text, LintOptions{})
		wantInput(t, row.summary, err, row.want)
	}
}

// FuzzLint: no input panics or hangs; what cannot be read is an input error.
func FuzzLint(f *testing.F) {
	f.Add([]byte("one: {script: [x], needs: [two], extends: [.a, .b], parallel: {matrix: [{A: [1, 2]}]}}\ntwo: &a {trigger: {include: x}}\n.a: {<<: *a}\n"))
	f.Add([]byte("stages: [a]\ninclude: [a, {local: b}]\ndefault: {tags: [x]}\none: {stage: a, tags: x, retry: 1}\n"))
	f.Add([]byte(bomb))
	f.Add([]byte("a: &a {<<: *a}"))
	f.Add([]byte("spec: {inputs: {x: }}\n---\na: {script: [x], parallel: 2}\nb: {script: [x], needs: {job: a 1/2}, rules: [{needs: [a]}], environment: {on_stop: c}}\n"))
	f.Add([]byte(chain(8000)))
	f.Add([]byte("j0: {script: [x], needs: [j99]}\n" + crowd(99, "j%d: {script: [x], needs: [j0, k%d], stage: s%d}")))
	f.Add([]byte(".a: {n: !reference [.b, n]}\n.b: {n: [!reference [.a, n], !reference [.a, n], x]}\none: {script: !reference [.a, n], dependencies: [.a]}\n"))
	f.Fuzz(func(t *testing.T, source []byte) {
		if _, err := lintText(t, string(source), LintOptions{Runners: [][]string{{"x"}}}); err != nil && fault.KindOf(err) != fault.Input {
			t.Error(err)
		}
	})
}

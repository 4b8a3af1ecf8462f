package executor

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor/settings"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/guest"
	"salsa.debian.org/cloud-team/debcloud/internal/process"
)

func readJob(t *testing.T, text string) (Job, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "response.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return ReadJob(path)
}

// respond makes a job response with git_info and variables, each "key=value".
func respond(gitInfo string, variables ...string) string {
	var list []string
	for _, v := range variables {
		key, value, _ := strings.Cut(v, "=")
		list = append(list, fmt.Sprintf(`{"key":%q,"value":%q}`, key, value))
	}
	return fmt.Sprintf(`{"id":4711,"job_info":{"name":"build","project_id":12},"git_info":{"repo_url":"https://gitlab-ci-token:secret@salsa.example/cloud-team/images.git",%s},
		"runner_info":{"timeout":3600},"variables":[%s]}`, gitInfo, strings.Join(list, ","))
}

// Whose code a job runs is told by GitLab; what the job's author says as well can only make it less trusted.
func TestClass(t *testing.T) {
	for _, row := range []struct {
		summary, response, class string
	}{
		{"a protected branch", respond(`"ref":"main","protected":true`), settings.Protected},
		{"an unprotected branch", respond(`"ref":"topic","protected":false`), settings.Unprotected},
		{"its author says that it is protected", respond(`"ref":"topic","protected":false`, "CI_COMMIT_REF_PROTECTED=true"), settings.Unprotected},
		{"an older GitLab, protected", respond(`"ref":"main"`, "CI_COMMIT_REF_PROTECTED=true"), settings.Protected},
		{"an older GitLab, and the author says more", respond(`"ref":"topic"`, "CI_COMMIT_REF_PROTECTED=false", "CI_COMMIT_REF_PROTECTED=true"), settings.Unprotected},
		{"an older GitLab that says nothing", respond(`"ref":"topic"`), settings.Unprotected},
		{"a merge request of the project", respond(`"ref":"refs/merge-requests/3/head","protected":false`, "CI_MERGE_REQUEST_SOURCE_PROJECT_ID=12"), settings.Unprotected},
		{"a merge request of a fork", respond(`"ref":"refs/merge-requests/3/head","protected":false`, "CI_MERGE_REQUEST_SOURCE_PROJECT_ID=13"), settings.Fork},
		{"a fork whose author claims to be the project", respond(`"ref":"refs/merge-requests/3/head","protected":false`, "CI_MERGE_REQUEST_SOURCE_PROJECT_ID=13", "CI_MERGE_REQUEST_SOURCE_PROJECT_ID=12"), settings.Fork},
		{"a merge request of nobody knows where", respond(`"ref":"refs/merge-requests/3/head","protected":true`), settings.Fork},
	} {
		j, err := readJob(t, row.response)
		if err != nil || j.Class != row.class {
			t.Errorf("%s: %q, want %q (%v)", row.summary, j.Class, row.class, err)
		}
	}
}

func TestReadJob(t *testing.T) {
	j, err := readJob(t, respond(`"ref":"main","protected":true`, "CI_PROJECT_PATH=somebody/else", "DEBCLOUD_CPUS=2", "DEBCLOUD_MEMORY=3GiB", "DEBCLOUD_CPUS=4"))
	if err != nil {
		t.Fatal(err)
	}
	if j.ID != 4711 || j.Project != "cloud-team/images" || j.Server != "salsa.example" || j.ProjectID != 12 || j.Timeout != time.Hour {
		t.Errorf("%+v", j)
	}
	if j.Asked != (settings.Machine{CPUs: 4, Memory: 3 << 30}) {
		t.Errorf("asked for %+v", j.Asked)
	}
	for _, row := range []struct{ summary, response, says string }{
		{"processors in words", respond(`"ref":"main"`, "DEBCLOUD_CPUS=many"), `"many"`},
		{"less than none", respond(`"ref":"main"`, "DEBCLOUD_CPUS=-1"), `"-1"`},
		{"memory by shell", respond(`"ref":"main"`, "DEBCLOUD_MEMORY=$(reboot)"), `"$(reboot)"`},
	} {
		_, err := readJob(t, row.response)
		if fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), row.says) {
			t.Errorf("%s: %v", row.summary, err)
		}
	}
	if _, err := readJob(t, "{"); fault.KindOf(err) != fault.Outside {
		t.Errorf("half a response: %v", err)
	}
	if _, err := ReadJob(""); fault.KindOf(err) != fault.Input {
		t.Errorf("no response: %v", err)
	}
}

func TestReadEnvironment(t *testing.T) {
	e, err := ReadEnvironment([]string{"TMPDIR=/tmp/custom-executor1", "CUSTOM_ENV_CI_JOB_IMAGE=trixie", "CUSTOM_ENV_TMPDIR=/", "SYSTEM_FAILURE_EXIT_CODE=7"})
	if err != nil || e != (Environment{BuildFailure: 1, SystemFailure: 7, TempDir: "/tmp/custom-executor1", Image: "trixie"}) {
		t.Errorf("%+v %v", e, err)
	}
	for _, row := range []string{"", "TMPDIR=/t BUILD_FAILURE_EXIT_CODE=0", "TMPDIR=/t BUILD_FAILURE_EXIT_CODE=no", "TMPDIR=/t SYSTEM_FAILURE_EXIT_CODE=256"} {
		if _, err := ReadEnvironment(strings.Fields(row)); err == nil {
			t.Errorf("%q was taken", row)
		}
	}
}

// Only a script's own end, and what a retry cannot change, is the job's fault.
func TestExitCode(t *testing.T) {
	e := Environment{BuildFailure: 1, SystemFailure: 2}
	for _, row := range []struct {
		err  error
		code int
	}{
		{nil, 0}, {&ScriptFailure{Code: 42}, 1}, {fmt.Errorf("stage: %w", &ScriptFailure{Code: 2}), 1}, {refusal{errors.New("no such image")}, 1},
		{errors.New("plain"), 2}, {fault.Inputf("settings"), 2}, {fault.Outsidef("libvirt"), 2}, {&guest.ExitError{Code: 1}, 2},
	} {
		if got := e.ExitCode(row.err); got != row.code {
			t.Errorf("%v: %d, want %d", row.err, got, row.code)
		}
	}
	if got := (Environment{}).ExitCode(errors.New("x")); got != 2 {
		t.Errorf("without an environment: %d", got)
	}
}

func TestMark(t *testing.T) {
	m := Mark{
		For: forJob, Job: 4711, JobName: `<&"`, Project: "a/b", Class: settings.Fork, Attempt: "/tmp/x", Created: time.Now().UTC(), Deadline: time.Now().Add(time.Hour).UTC(),
		Runner: process.This(), Secret: guest.NewSecret(), Testbed: true,
	}
	element, err := m.element()
	if err != nil {
		t.Fatal(err)
	}
	// libvirt hands it back without the namespace.
	got, err := parseMark([]byte(strings.Replace(string(element), ` xmlns="`+Namespace+`"`, "", 1)))
	if err != nil {
		t.Fatal(err)
	}
	got.XMLName = m.XMLName
	if fmt.Sprint(got) != fmt.Sprint(m) || got.Secret != m.Secret {
		t.Errorf("%+v\nbecame %+v\nby %s", m, got, element)
	}
}

func TestOver(t *testing.T) {
	here := t.TempDir()
	alive := Mark{For: forJob, Attempt: here, Runner: process.This(), Deadline: time.Now().Add(time.Hour)}
	with := func(change func(*Mark)) Mark {
		m := alive
		change(&m)
		return m
	}
	for _, row := range []struct {
		summary string
		mark    Mark
		over    bool
	}{
		{"a running job", alive, false},
		{"its deadline has passed", with(func(m *Mark) { m.Deadline = time.Now().Add(-time.Second) }), true},
		{"its Runner was killed", with(func(m *Mark) { m.Runner.Start-- }), true},
		{"Runner has removed its directory", with(func(m *Mark) { m.Attempt = here + "/gone" }), true},
		{"a warm one has no Runner", Mark{For: forPool, Runner: process.This(), Deadline: time.Now().Add(time.Hour)}, false},
		{"a warm one grows old", Mark{For: forPool, Runner: process.This(), Deadline: time.Now().Add(-time.Second)}, true},
		{"nobody looks after a warm one", Mark{For: forPool, Deadline: time.Now().Add(time.Hour)}, true},
		{"a sibling whose job is gone", with(func(m *Mark) { m.For, m.Of = forTestbed, "gone" }), true},
		{"what cannot be read", Mark{}, false},
	} {
		if why := over(machine{Mark: row.mark}, nil, false); (why != "") != row.over {
			t.Errorf("%s: %q", row.summary, why)
		}
	}
	if why := over(machine{Mark: Mark{For: forPool, Deadline: time.Now().Add(time.Hour)}}, nil, true); why != "" {
		t.Errorf("a warm one whose service was killed, and another looks after it: %q", why)
	}
}

func TestEar(t *testing.T) {
	for _, row := range []struct {
		stage  string
		writes []string
		heard  bool
	}{
		{"upload_artifacts_on_success", []string{"\x1b[31mMissing gitlab-runner. Uploading artifacts is disabled.\n"}, true},
		{"archive_cache", []string{"Missing git", "lab-runner. Creating cache", " is disabled."}, true},
		{"upload_artifacts_on_success", []string{"Uploading artifacts...\n"}, false},
		{"build_script", []string{"Missing gitlab-runner. says the author\n"}, false},
		{"step_release", []string{"Missing gitlab-runner.\n"}, false},
	} {
		e := &ear{stage: row.stage}
		for _, w := range row.writes {
			_, _ = e.Write([]byte(w))
		}
		if e.heard != row.heard {
			t.Errorf("%s %q: %v", row.stage, row.writes, e.heard)
		}
	}
}

// Both outputs of a stage are listened to while both are written.
func TestListen(t *testing.T) {
	const missing = "Missing gitlab-runner."
	for _, row := range []struct {
		summary, stdout, stderr string
		heard                   bool
	}{
		{"on stdout", missing, "", true},
		{"on stderr", "", missing, true},
		{"nowhere", strings.Repeat("x", len(missing)), strings.Repeat("y", len(missing)), false},
		{"one half each", missing[:11], missing[11:], false},
	} {
		var out, errs bytes.Buffer
		stdout, stderr, heard := (&Driver{Stdout: &out, Stderr: &errs}).listen("get_sources")
		var both sync.WaitGroup
		for to, text := range map[io.Writer]string{stdout: row.stdout, stderr: row.stderr} {
			both.Go(func() { _, _ = io.WriteString(to, text) })
		}
		both.Wait()
		if heard() != row.heard || out.String() != row.stdout || errs.String() != row.stderr {
			t.Errorf("%s: heard %v, %q, %q", row.summary, heard(), out.String(), errs.String())
		}
	}
}

func TestPlain(t *testing.T) {
	if got := plain("\x1b[31;1mred\x1b[0m \x07bell\x00 section_start:1:x\r\x1b[0K ü\x9b"); got != "red bell section_start:1:x ü" {
		t.Errorf("%q", got)
	}
}

// The reaper removes what a Runner left, and no other directory, whatever a note says.
func TestRemoveAttemptDir(t *testing.T) {
	dir := t.TempDir()
	for name, removed := range map[string]bool{"custom-executor123": true, "home": false} {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := removeAttemptDir(path); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(path); os.IsNotExist(err) != removed {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNotes(t *testing.T) {
	n := notes{filepath.Join(t.TempDir(), "attempts")}
	a := attempt{Dir: "/tmp/custom-executor1", Job: 1, Runner: process.This()}
	if err := n.write(a); err != nil {
		t.Fatal(err)
	}
	if got, ok := n.read(a.Dir); !ok || got.Job != 1 || len(n.all()) != 1 {
		t.Errorf("%+v %v", got, ok)
	}
	if err := errors.Join(n.remove(a.Dir), n.remove(a.Dir)); err != nil || len(n.all()) != 0 {
		t.Error(err)
	}
}

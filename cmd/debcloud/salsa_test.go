package main

import (
	"archive/zip"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// salsaServer answers what is in answers, by "METHOD path", and keeps what it was sent. What GitLab itself does is tested in jobs/salsa.
type salsaServer struct {
	*httptest.Server
	mu      sync.Mutex
	answers map[string]any
	sent    []string
}

func newSalsaServer(t *testing.T, answers map[string]any) *salsaServer {
	s := &salsaServer{answers: answers}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		body, _ := io.ReadAll(r.Body)
		request := r.Method + " " + strings.TrimPrefix(r.URL.Path, "/api/v4")
		if r.Header.Get("Private-Token") != "glpat-SECRET" {
			t.Errorf("%s comes with the token %q", request, r.Header.Get("Private-Token"))
		}
		s.sent = append(s.sent, request+" "+string(body))
		answer, ok := s.answers[request]
		archive, isArchive := answer.([]byte)
		switch code, isCode := answer.(int); {
		case !ok:
			t.Errorf("unexpected %s", request)
			http.NotFound(w, r)
		case isCode:
			http.Error(w, fmt.Sprint(r.Header), code)
		case isArchive:
			w.Write(archive)
		default:
			json.NewEncoder(w).Encode(answer)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// salsa runs the real program against s as a CI job would, and returns its exit code and what it printed.
func (s *salsaServer) salsa(t *testing.T, dir string, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	program, err := exec.LookPath("debcloud")
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	c := exec.CommandContext(t.Context(), program, append([]string{"--log-level", "debug", "salsa"}, args...)...)
	c.Dir, c.Stdout, c.Stderr = dir, &out, &errs
	c.Env = append(os.Environ(), "CI_API_V4_URL="+s.URL+"/api/v4", "CI_PROJECT_ID=5", "CI_JOB_TOKEN=glcbt-SECRET", "DEBCLOUD_SALSA_TOKEN=glpat-SECRET")
	c.Env = append(c.Env, env...)
	if err := c.Run(); err != nil && c.ProcessState == nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String()+errs.String(), "SECRET") {
		t.Errorf("a token is in\n%s\n%s", &out, &errs)
	}
	return c.ProcessState.ExitCode(), out.String(), errs.String()
}

func TestSalsaLintExitCodes(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ci.yml"), []byte("a: b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	lint := "POST /projects/5/ci/lint"
	for _, row := range []struct {
		summary string
		answer  any
		code    int
		stdout  string
	}{
		{"valid, with a warning", map[string]any{"valid": true, "warnings": []string{"two\nlines"}}, 0, "warning: two lines\n"},
		{"not valid", map[string]any{"valid": false, "errors": []string{"one", "two"}, "warnings": []string{"three"}}, 1, "error: one\nerror: two\nwarning: three\n"},
		{"a token that is refused", 401, 2, ""},
		{"no such project", 404, 2, ""},
		{"not implemented, a server's trouble that no retry mends", 501, 3, ""},
	} {
		s := newSalsaServer(t, map[string]any{lint: row.answer})
		code, stdout, stderr := s.salsa(t, dir, nil, "lint", "ci.yml", "--dry-run", "--ref", "main")
		if code != row.code || stdout != row.stdout {
			t.Errorf("%s: exit code %d, stdout %q, stderr %s", row.summary, code, stdout, stderr)
		}
		if want := lint + ` {"content":"a: b\n","dry_run":true,"ref":"main"}`; len(s.sent) != 1 || s.sent[0] != want {
			t.Errorf("%s: sent %q", row.summary, s.sent)
		}
	}
}

func TestSalsaSchedulesDryRun(t *testing.T) {
	dir := t.TempDir()
	config := `{"apiVersion": "cloud.debian.org/v1alpha1", "kind": "ImageConfig", "archs": [{"name": "amd64"}],
"releases": [{"name": "trixie", "basename": "trixie", "id": "13", "baseid": "13"}], "vendors": [{"name": "ec2", "size": 8}],
"types": [{"name": "dev", "outputName": "x", "outputVersion": "x", "outputVersionAzure": "x"}], "publicTypes": [{"name": "dev"}],
"schedules": [{"name": "daily", "cron": "17 3 * * *", "ref": "main", "variables": {"PIPELINE_TYPE": "daily"}}]}`
	if err := os.WriteFile(filepath.Join(dir, "c.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newSalsaServer(t, map[string]any{
		"GET /user":                          map[string]any{"id": 7},
		"GET /projects/5/pipeline_schedules": []map[string]any{{"id": 1, "description": "old (debcloud:old)"}, {"id": 2, "description": "by hand"}},
	})
	code, stdout, stderr := s.salsa(t, dir, nil, "schedules", "apply", "--config", "c.json", "--dry-run")
	want := `create schedule daily
    cron: "17 3 * * *" in UTC on main, active: true
    variable PIPELINE_TYPE = "daily"
remove schedule old
    it is declared no more
`
	if code != 0 || stdout != want {
		t.Errorf("exit code %d, stdout %s, stderr %s", code, stdout, stderr)
	}
}

const salsaReport = `{"apiVersion": "cloud.debian.org/v1alpha1", "kind": "Report", "metadata": {
"annotations": {"cloud.debian.org/digest": "sha512:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},
"labels": {"debian.org/release": "trixie", "cloud.debian.org/vendor": "ec2", "debian.org/arch": "amd64"}},
"data": {"suites": [{"name": "boot", "started": "2026-01-02T03:04:05Z", "checks": [{"id": "bios/23-running", "name": "runs", "result": "passed"}],
"boots": [{"firmware": "bios", "accelerator": "tcg", "times": {"ssh": 1}, "console": "login:"}]}]}}`

func TestSalsaReportInMergeRequest(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "x.report.json"), []byte(salsaReport), 0o600); err != nil {
		t.Fatal(err)
	}
	sha := strings.Repeat("0123456789", 4)
	s := newSalsaServer(t, map[string]any{
		"GET /user":                                               map[string]any{"id": 7},
		"GET /projects/9/merge_requests/3/notes":                  []any{},
		"POST /projects/9/merge_requests/3/notes":                 map[string]any{"id": 1},
		"GET /projects/5/repository/commits/" + sha + "/statuses": []any{},
		"POST /projects/5/statuses/" + sha:                        map[string]any{"id": 2},
		"GET /projects/5/jobs":                                    []any{},
	})
	code, stdout, stderr := s.salsa(t, dir, []string{
		"CI_COMMIT_SHA=" + sha, "CI_PIPELINE_ID=500", "CI_PIPELINE_SOURCE=merge_request_event", "CI_JOB_URL=https://gitlab.example/a/b/-/jobs/4",
		"CI_MERGE_REQUEST_IID=3", "CI_MERGE_REQUEST_PROJECT_ID=9",
	}, "report", "--dir", ".", "--suites", "boot", "--baseline-ref", "main")
	if code != 0 || stdout != "note in !3: created\ncommit statuses: 1 set, 0 as they were\n" {
		t.Errorf("exit code %d, stdout %q, stderr %s", code, stdout, stderr)
	}
	sent := strings.Join(s.sent, "\n")
	for _, part := range []string{"debcloud:report pipeline=500", "jobs/4/artifacts/file/consoles/trixie-ec2-amd64-boot1.txt", `"name":"debcloud/trixie ec2 amd64"`, `"pipeline_id":500`} {
		if !strings.Contains(sent, part) {
			t.Errorf("%s is not in\n%s", part, sent)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "consoles", "trixie-ec2-amd64-boot1.txt")); err != nil {
		t.Error(err)
	}
}

// TestSalsaReportOfParts: the job of a plan that was split, with the documents of an image that a part tested and one that none built.
func TestSalsaReportOfParts(t *testing.T) {
	sha := strings.Repeat("0123456789", 4)
	var archive bytes.Buffer
	z := zip.NewWriter(&archive)
	w, err := z.Create("out/x.report.json")
	if err == nil {
		_, err = io.WriteString(w, salsaReport)
	}
	if err := cmp.Or(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	part := func(arch string) string {
		return fmt.Sprintf(`{"check": {"variables": {"DEBCLOUD_RELEASE": "trixie", "DEBCLOUD_VENDOR": "ec2", "DEBCLOUD_ARCH": %q}}}`, arch)
	}
	reads := map[string]any{
		"GET /projects/5/pipelines/501/bridges": []any{
			map[string]any{"name": "images 1", "pipeline": map[string]any{"project_id": 5}, "downstream_pipeline": map[string]any{"id": 601, "project_id": 5}},
			map[string]any{"name": "images 2", "pipeline": map[string]any{"project_id": 5}, "downstream_pipeline": nil},
		},
		"GET /projects/5/pipelines/601/jobs": []any{map[string]any{"id": 9, "name": "boot trixie ec2 amd64", "status": "failed",
			"artifacts_file": map[string]any{"filename": "artifacts.zip", "size": archive.Len()}}},
		"GET /projects/5/jobs/9/artifacts": archive.Bytes(),
	}
	writes := map[string]any{
		"GET /user":                                               map[string]any{"id": 7},
		"GET /projects/9/merge_requests/3/notes":                  []any{},
		"POST /projects/9/merge_requests/3/notes":                 map[string]any{"id": 1},
		"GET /projects/5/pipelines":                               []any{map[string]any{"id": 500}},
		"GET /projects/5/repository/commits/" + sha + "/statuses": []any{},
		"POST /projects/5/statuses/" + sha:                        map[string]any{"id": 2},
		"GET /projects/5/jobs":                                    []any{},
	}
	env := []string{
		"CI_COMMIT_SHA=" + sha, "CI_PIPELINE_ID=501", "CI_PIPELINE_SOURCE=parent_pipeline", "CI_JOB_URL=https://gitlab.example/a/b/-/jobs/4",
		"CI_MERGE_REQUEST_IID=3", "CI_MERGE_REQUEST_PROJECT_ID=9",
	}
	command := []string{"report", "--downstream", "--cells-of", "p.1.yml", "--cells-of", "p.2.yml", "--suites", "boot", "--baseline-ref", "main"}
	run := func(answers map[string]any, env []string) (code int, stdout, sent, dir string) {
		dir = t.TempDir()
		write(t, filepath.Join(dir, "p.1.yml"), part("amd64"))
		write(t, filepath.Join(dir, "p.2.yml"), part("arm64"))
		s := newSalsaServer(t, answers)
		code, stdout, stderr := s.salsa(t, dir, env, command...)
		if code != 0 {
			t.Error(stderr)
		}
		return code, stdout, strings.Join(s.sent, "\n"), dir
	}
	all := maps.Clone(reads)
	maps.Copy(all, writes)
	code, stdout, sent, dir := run(all, env)
	if code != 0 || stdout != "note in !3: created\ncommit statuses: 2 set, 0 as they were\n" {
		t.Errorf("exit code %d, stdout %q", code, stdout)
	}
	for _, part := range []string{
		"debcloud:report pipeline=501", "1 of 2 cells passed", "jobs/4/artifacts/file/consoles/trixie-ec2-amd64-boot1.txt",
		"`trixie ec2 arm64` | **no**: `not built", `"name":"debcloud/trixie ec2 amd64"`, `"name":"debcloud/trixie ec2 arm64"`, `"pipeline_id":500`,
	} {
		if !strings.Contains(sent, part) {
			t.Errorf("%s is not in\n%s", part, sent)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "consoles", "trixie-ec2-amd64-boot1.txt")); err != nil {
		t.Error(err)
	}
	code, stdout, _, _ = run(reads, append(env, dryRunVariable+"=1"))
	if code != 0 || !strings.Contains(stdout, "### debcloud: 1 of 2 cells passed") {
		t.Errorf("in a dry run: exit code %d, stdout %q", code, stdout)
	}
}

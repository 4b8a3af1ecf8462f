package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"salsa.debian.org/cloud-team/debcloud/generator"
)

// TestCI runs this project's .gitlab-ci.yml in a dry run with gitlab-ci-local: the parent's jobs, and the children that it
// generates, to their end. DEBCLOUD_TEST_CI is the folder with the npm packages of packaging/ci.
func TestCI(t *testing.T) {
	modules := os.Getenv("DEBCLOUD_TEST_CI")
	if modules == "" {
		t.Skip("DEBCLOUD_TEST_CI is not set: run make test")
	}
	binary := filepath.Join(t.TempDir(), "debcloud")
	buildProgram(t, binary)
	for _, row := range []struct {
		summary   string
		variables []string
		want      []string // in the order in which they are printed
		not       []string
	}{
		{
			"a schedule publishes the dailies of two vendors",
			[]string{"CI_PIPELINE_SOURCE=schedule", "DEBCLOUD_SELECTION=--release trixie --vendor ec2 --vendor genericcloud --arch amd64"},
			[]string{
				"would let FAI install debian-trixie-", "would look into the file systems of debian-trixie-", "would boot and test debian-trixie-",
				"would publish debian-13-", "stage private", "stage public", "would list the images", "would tell 0 listeners what is new",
			},
			[]string{"would let FAI install debian-trixie-ec2-arm64", "### debcloud"},
		},
		{
			"a merge request builds what it changes and gets a note",
			[]string{"CI_PIPELINE_SOURCE=merge_request_event", "CI_MERGE_REQUEST_IID=7", "CI_MERGE_REQUEST_DIFF_BASE_SHA=BASE", "DEBCLOUD_SELECTION=--release trixie --arch amd64"},
			[]string{"would let FAI install debian-trixie-ec2-amd64-dev-", "would boot and test", "### debcloud: 1 of 1 cell passed"},
			[]string{"install debian-trixie-generic", "would publish"},
		},
		{
			"a push to the default branch builds what it changes, and has no note",
			[]string{"CI_PIPELINE_SOURCE=push", "CI_COMMIT_BRANCH=main", "CI_DEFAULT_BRANCH=main", "CI_COMMIT_BEFORE_SHA=BASE", "DEBCLOUD_SELECTION=--release trixie --arch amd64"},
			[]string{"would let FAI install debian-trixie-ec2-amd64-dev-", "would boot and test"},
			[]string{"install debian-trixie-generic", "would publish", "### debcloud"},
		},
		{
			"a tag publishes the tested daily that it names as a release, and builds nothing",
			[]string{"CI_PIPELINE_SOURCE=push", "CI_COMMIT_TAG=release/20260814-2204", "DEBCLOUD_SELECTION=--release trixie --vendor ec2 --arch amd64"},
			[]string{"trixie/daily/20260814-2204", "as a release to directory:", "would list the images", "would tell 0 listeners what is new"},
			[]string{"would let FAI", "### debcloud"},
		},
		{
			"a merge request that changes no image has a child that says so",
			[]string{"CI_PIPELINE_SOURCE=merge_request_event", "CI_MERGE_REQUEST_IID=7", "CI_MERGE_REQUEST_DIFF_BASE_SHA=HEAD"},
			[]string{"none of the 0 files that changed since"},
			[]string{"would let FAI"},
		},
	} {
		t.Run(row.summary, func(t *testing.T) {
			dir := ciProject(t, binary)
			base := strings.TrimSpace(mustRun(t, dir, "git", "rev-parse", "HEAD~1"))
			variables := append(row.variables, "CI_COMMIT_REF_PROTECTED=true", "DEBCLOUD_TEMPLATES=ci/templates", "DEBCLOUD_TREE="+filepath.Join(dir, "tree"), "DEBCLOUD_DRY_RUN=1")
			var file strings.Builder
			for _, v := range variables {
				name, value, _ := strings.Cut(strings.Replace(v, "=BASE", "="+base, 1), "=")
				fmt.Fprintf(&file, "%s: %q\n", name, value)
			}
			write(t, filepath.Join(dir, ".gitlab-ci-local-variables.yml"), file.String())
			out, err := gitlabCILocal(t, modules, dir)
			if err != nil {
				t.Errorf("%v", err)
			}
			rest := out
			for _, want := range row.want {
				_, after, found := strings.Cut(rest, want)
				if !found {
					t.Errorf("no %q, or too early", want)
				}
				rest = after
			}
			for _, not := range append(row.not, "FAI: started", "virtual machine started") {
				if strings.Contains(out, not) {
					t.Errorf("it says %q", not)
				}
			}
			if _, err := os.Stat(filepath.Join(dir, "tree")); err == nil {
				t.Error("the public tree was written to")
			}
			if t.Failed() {
				t.Logf("%s", out)
			}
		})
	}
}

// TestCIAutoCancel: only a merge request's and a branch's pipelines give way to newer commits. A push to the branch of a schedule would
// end its dailies otherwise, for as long as no job has begun that must not be interrupted.
func TestCIAutoCancel(t *testing.T) {
	const path = "../../.gitlab-ci.yml"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var ci struct {
		Workflow struct {
			Rules []struct {
				If, When   string
				AutoCancel struct {
					OnNewCommit string `json:"on_new_commit"`
				} `json:"auto_cancel"`
			}
		}
	}
	if err := yaml.Unmarshal(text, &ci); err != nil {
		t.Fatal(err)
	}
	givesWay := `$CI_PIPELINE_SOURCE == "merge_request_event" || ($CI_PIPELINE_SOURCE == "push" && $CI_COMMIT_BRANCH)`
	for _, r := range ci.Workflow.Rules {
		if stays := r.AutoCancel.OnNewCommit == "none" || r.When == "never"; stays == (r.If == givesWay) {
			t.Errorf("a newer commit ends what %q lets be: %v", r.If, !stays)
		}
	}
	if n := len(ci.Workflow.Rules); n == 0 || ci.Workflow.Rules[n-1].If != "" {
		t.Error("nothing is said of all other pipelines")
	}
	schema := "../../../shared/data/gitlab-ci-schema.json"
	if _, err := os.Stat(schema); err != nil {
		t.Skipf("no schema: %v", err)
	}
	if problems, err := generator.Lint(t.Context(), path, generator.LintOptions{Schema: schema}); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

// ciProject returns a copy of this project as a repository of its own, with a second commit that changes a class of vendor ec2.
// Its jobs take binary in the place of building it anew each, and end at once where they are in no dry run.
func ciProject(t *testing.T, binary string) string {
	t.Helper()
	dir := t.TempDir()
	root := strings.TrimSpace(mustRun(t, ".", "git", "rev-parse", "--show-toplevel"))
	for name := range strings.SplitSeq(strings.Trim(mustRun(t, root, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"), "\x00"), "\x00") {
		if _, err := os.Lstat(filepath.Join(root, name)); err != nil {
			continue // removed, but not committed yet
		}
		mustRun(t, root, "cp", "-P", "--parents", name, dir)
	}
	write(t, filepath.Join(dir, "ci/templates/settings.libsonnet"), fmt.Sprintf(
		"(import 'debcloud/settings.libsonnet') + { prepare: ['test \"$DEBCLOUD_DRY_RUN\" = 1', 'cp %s debcloud'] }", binary))
	git := func(args ...string) {
		mustRun(t, dir, "git", append([]string{"-c", "user.name=test", "-c", "user.email=test@debcloud.example", "-c", "commit.gpgsign=false"}, args...)...)
	}
	git("init", "-q", "-b", "main")
	git("add", "-A")
	git("commit", "-q", "-m", "start")
	write(t, filepath.Join(dir, "vmimages/config_space/package_config/EC2"), "PACKAGES install\n")
	git("commit", "-q", "-a", "-m", "change ec2")
	git("remote", "add", "origin", "git@gitlab.example:cloud-team/debcloud.git")
	return dir
}

// gitlabCILocal runs the whole pipeline of dir. The shell executor takes its environment, so that even a job that was not
// given the project's variables is in the dry run.
func gitlabCILocal(t *testing.T, modules, dir string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Minute) // generous: it links the program, beside other tests
	defer cancel()
	nodes, err := filepath.Glob(filepath.Join(modules, "node-linux-*/bin/node"))
	if err != nil || len(nodes) != 1 {
		t.Fatalf("%s has %d node programs, %v: run make test again", modules, len(nodes), err)
	}
	cmd := exec.CommandContext(ctx, nodes[0], filepath.Join(modules, "gitlab-ci-local/dist/index.js"),
		"--force-shell-executor", "--shell-isolation", "--concurrency", "2", "--home", t.TempDir())
	cmd.Dir = dir
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "CI") || strings.HasPrefix(v, "MAKE") || strings.HasPrefix(v, "DEBCLOUD_")
	}),
		dryRunVariable+"=1", "PATH="+filepath.Dir(nodes[0])+":"+os.Getenv("PATH"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	left, _ := filepath.Glob("/tmp/gitlab-ci-local-file-variables-undefined-*") // of jobs of a repository without a remote, wherever TMPDIR is
	for _, dir := range left {
		_ = os.RemoveAll(dir)
	}
	return string(out), err
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// buildProgram builds this program as make does, but for the commit that it says.
func buildProgram(t *testing.T, path string) {
	t.Helper()
	mustRun(t, ".", "env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, ".")
}

func mustRun(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s", cmd, err, stderr.String())
	}
	return string(out)
}

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor/runnertest"
)

// TestLongExecutorEndToEnd takes one cell through the jobs of a generated child pipeline, each in a VM of its own of the runner
// image: the first builds with FAI, the next one checks, and the last one boots the image as a sibling. Artifacts go over HTTP.
//
// The jobs take debcloud from the tools disk, by an overlay of the templates; the rest of the pipeline is as it is generated.
func TestLongExecutorEndToEnd(t *testing.T) {
	p := newPlayedPipeline(t)
	for _, kind := range []string{"build", "check", "boot"} {
		p.play(t, kind)
	}
	if n := p.store.Artifacts(); n != 3 {
		t.Errorf("%d artifacts were stored, want 3", n)
	}
}

// TestLongExecutorBoots takes the image of the other tests through the jobs after its build, which under emulation takes most of the time.
func TestLongExecutorBoots(t *testing.T) {
	built := os.Getenv("DEBCLOUD_TEST_IMAGE")
	if built == "" {
		t.Skip("DEBCLOUD_TEST_IMAGE is not set: run make test-long")
	}
	p := newPlayedPipeline(t)
	dir := t.TempDir()
	base := strings.TrimSuffix(built, ".build.json")
	mustRun(t, dir, "sh", "-c", `mkdir out && cp --sparse=always "$1.build.json" "$1.raw" out/`, "sh", base)
	p.ids["build "+playedCell] = nextJob
	mustRun(t, dir, filepath.Join(p.programs, "gitlab-runner"), "artifacts-uploader", "--url", p.server, "--token", "secret", "--id", fmt.Sprint(nextJob), "--path", "out")
	for _, kind := range []string{"check", "boot"} {
		p.play(t, kind)
	}
}

// TestLongExecutorUEFI boots the runner image by UEFI, twice: its firmware's variables go with each VM.
func TestLongExecutorUEFI(t *testing.T) {
	if !longTests() {
		t.Skip("it boots a Debian on emulated firmware: run make test-long")
	}
	r := newRunnerImage(t, runnertest.Options{More: "images: {runner: {firmware: uefi}}\n"})
	for range 2 {
		o := r.runner.Play(t.Context(), runnerJob(script("build_script", "test -d /sys/firmware/efi/efivars && echo by UEFI\n")))
		if o.State != "success" || !strings.Contains(o.Log, "by UEFI") {
			t.Fatal(o)
		}
		nothingLeft(t, r.bed)
	}
}

// TestLongExecutorPanic: a kernel that dies ends its job at once. Without the panic device it starts again, and its job ends with that.
func TestLongExecutorPanic(t *testing.T) {
	if !longTests() {
		t.Skip("it boots a Debian: run make test-long")
	}
	r := newRunnerImage(t, runnertest.Options{More: "images: {runner: {}}\n"})
	play := func(stages ...runnertest.Stage) runnertest.Outcome {
		return r.runner.Play(t.Context(), runnerJob(stages...))
	}
	expect(t, r.bed, play(script("build_script", "echo c >/proc/sysrq-trigger; sleep 1000\n")), "failed", "runner_system_failure", "has stopped (crashed)", "Kernel panic - not syncing: sysrq triggered crash")
	expect(t, r.bed, play(script("build_script", "modprobe -r pvpanic_mmio; echo c >/proc/sysrq-trigger; sleep 1000\n")), "failed", "runner_system_failure", "build_script was cut off")
}

// runnerImage is a Runner for jobs in an image that takes its agent from the tools disk.
type runnerImage struct {
	bed      *runnertest.Bed
	runner   *runnertest.Runner
	programs string // directory of those that are on the tools disk
}

// newRunnerImage takes the image that DEBCLOUD_TEST_RUNNER names, or builds it, as image "runner".
func newRunnerImage(t testing.TB, o runnertest.Options) runnerImage {
	t.Helper()
	return newImportedImage(t, o, "runner", os.Getenv("DEBCLOUD_TEST_RUNNER"))
}

// newImportedImage imports the image at a path, or builds the runner image, under a name that the settings have.
func newImportedImage(t testing.TB, o runnertest.Options, name, path string) runnerImage {
	t.Helper()
	programs, err := guestPrograms()
	if err != nil {
		t.Fatal(err)
	}
	o.More += "gitlab_runner: " + filepath.Join(programs, "gitlab-runner") + "\n"
	r := runnerImage{bed: runnertest.NewBed(t, o), programs: programs}
	r.bed.Import(t, name, path)
	r.runner = newRunner(t, r.bed)
	r.runner.Driver[0] = filepath.Join(programs, "debcloud") // static, so it is the agent, too
	return r
}

// runnerJob is a job in a VM of the runner image.
func runnerJob(stages ...runnertest.Stage) runnertest.Job {
	j := newJob(stages...)
	j.Image = "runner"
	for key, value := range map[string]string{"DEBCLOUD_CPUS": "2", "DEBCLOUD_MEMORY": "1GiB", "DEBCLOUD_DISK": "6GiB"} {
		j.Variables = append(j.Variables, runnertest.Variable{Key: key, Value: value, Public: true})
	}
	return j
}

const playedCell = "trixie genericcloud amd64"

// playedPipeline is a generated child pipeline and all that its jobs run on.
type playedPipeline struct {
	*pipeline
	runnerImage
	store  *runnertest.Coordinator
	server string // URL of the store, on the host
}

func newPlayedPipeline(t *testing.T) *playedPipeline {
	t.Helper()
	if !longTests() {
		t.Skip("it takes an image through emulated VMs: run make test-long")
	}
	r := newRunnerImage(t, runnertest.Options{Network: "user", More: `images: {runner: {}}
testbed: {unprotected: true, projects: [cloud-team/*], budget: {vms: 2, cpus: 4, memory: 4GiB, disk: 20GiB}}
`})
	p := &playedPipeline{pipeline: generatePipeline(t, strings.Fields(playedCell)), runnerImage: r, store: &runnertest.Coordinator{Dir: t.TempDir()}}
	mux := http.NewServeMux()
	mux.Handle("/repository.git/", http.StripPrefix("/repository.git/", http.FileServer(http.Dir(bareRepository(t)))))
	mux.Handle("/api/v4/jobs/", p.store)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	p.server, p.url = server.URL, strings.Replace(server.URL, "127.0.0.1", "10.0.2.2", 1)
	return p
}

// play demands that the job of a kind succeeds and leaves nothing.
func (p *playedPipeline) play(t *testing.T, kind string) {
	t.Helper()
	begun := time.Now()
	o := p.runner.Play(t.Context(), p.job(t, kind+" "+playedCell))
	for _, c := range o.Calls {
		t.Logf("%-32s exit %d after %v, CPU %v", c.Name, c.Exit, c.Took.Round(100*time.Millisecond), c.CPU.Round(time.Millisecond))
	}
	t.Logf("%s took %v; its log:\n%s", kind, time.Since(begun).Round(time.Second), o.Log)
	if o.State != "success" {
		log, _ := os.ReadFile(p.bed.Log)
		t.Fatalf("%s: %s %s; the host's log:\n%s", kind, o.State, o.Reason, log[max(0, len(log)-5000):])
	}
	nothingLeft(t, p.bed)
}

// pipeline is a generated child pipeline, as GitLab sees it.
type pipeline struct {
	jobs map[string]json.RawMessage
	ids  map[string]int64 // of the jobs that were made
	url  string           // of GitLab, as the jobs reach it
}

// pipelineJob is what of a job counts here.
type pipelineJob struct {
	Extends   string            `json:"extends"`
	Image     string            `json:"image"`
	Needs     []json.RawMessage `json:"needs"`
	Variables map[string]string `json:"variables"`
	Before    []string          `json:"before_script"`
	Script    []string          `json:"script"`
	Artifacts struct {
		Paths []string `json:"paths"`
	} `json:"artifacts"`
}

func generatePipeline(t *testing.T, cell []string) *pipeline {
	t.Helper()
	templates := t.TempDir()
	overlay := `(import 'debcloud/settings.libsonnet') + { program: null, prepare: ['ln -s "$(command -v debcloud)" debcloud'] }`
	if err := os.WriteFile(filepath.Join(templates, "settings.libsonnet"), []byte(overlay), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("debcloud", "pipeline", "--release", cell[0], "--vendor", cell[1], "--arch", cell[2], "--templates", templates).Output()
	if err != nil {
		t.Fatal(err)
	}
	p := &pipeline{ids: make(map[string]int64)}
	if err := json.Unmarshal(out, &p.jobs); err != nil {
		t.Fatal(err)
	}
	return p
}

// resolve reads a job after the hidden one that it extends: what it says itself goes over that, and variables are joined.
func (p *pipeline) resolve(t *testing.T, name string) pipelineJob {
	t.Helper()
	text, ok := p.jobs[name]
	if !ok {
		t.Fatalf("the pipeline has no job %q, but %q", name, slices.Sorted(maps.Keys(p.jobs)))
	}
	var own pipelineJob
	if err := json.Unmarshal(text, &own); err != nil {
		t.Fatal(err)
	}
	base := p.jobs[own.Extends]
	var j pipelineJob
	for _, text := range []json.RawMessage{base, text} {
		if err := json.Unmarshal(text, &j); err != nil {
			t.Fatal(err)
		}
	}
	return j
}

// job makes of a job what Runner makes of it: its scripts in their stages.
func (p *pipeline) job(t *testing.T, name string) runnertest.Job {
	t.Helper()
	j := p.resolve(t, name)
	made := newJob()
	made.Image, made.Timeout = j.Image, 2*time.Hour
	p.ids[name] = made.ID
	project := path.Join("/builds", made.Project)
	variables := map[string]string{
		"CI_PIPELINE_CREATED_AT": "2026-08-14T04:00:00Z", "CI_PIPELINE_IID": "4711", "CI_PROJECT_PATH_SLUG": "cloud-team-images", "CI_COMMIT_REF_SLUG": "main",
		"CI_PROJECT_DIR": project, "DEBCLOUD_CPUS": "2", "DEBCLOUD_MEMORY": "4GiB", "DEBCLOUD_DISK": "20GiB",
	}
	maps.Copy(variables, j.Variables)
	var exports strings.Builder
	for _, key := range slices.Sorted(maps.Keys(variables)) {
		made.Variables = append(made.Variables, runnertest.Variable{Key: key, Value: variables[key], Public: true})
		fmt.Fprintf(&exports, "export %s='%s'\n", key, variables[key])
	}
	stage := func(name, directory string, lines ...string) {
		text := "set -eo pipefail\n" + exports.String() + "cd " + directory + "\n" + strings.Join(lines, "\n") + "\n"
		made.Stages = append(made.Stages, script(name, text))
	}
	transfer := func(verb string, id int64) string {
		return fmt.Sprintf("gitlab-runner artifacts-%s --url %s --token secret --id %d", verb, p.url, id)
	}
	stage("get_sources", "/", "git clone -q "+p.url+"/repository.git "+project)
	stage("download_artifacts", project, p.downloads(t, j, transfer)...)
	stage("step_script", project, append(slices.Clone(j.Before), j.Script...)...)
	stage("upload_artifacts_on_success", project, transfer("uploader", made.ID)+" --path '"+strings.Join(j.Artifacts.Paths, "' --path '")+"'")
	return made
}

// downloads are the lines that get the artifacts of the jobs that j needs.
func (p *pipeline) downloads(t *testing.T, j pipelineJob, transfer func(string, int64) string) []string {
	t.Helper()
	var lines []string
	for _, need := range j.Needs {
		var name string
		if json.Unmarshal(need, &name) != nil {
			continue // an object says that it wants none
		}
		id, ok := p.ids[name]
		if !ok {
			t.Fatalf("it needs %q, which did not run", name)
		}
		lines = append(lines, transfer("downloader", id))
	}
	return lines
}

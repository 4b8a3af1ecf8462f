package runnertest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Coordinator plays the part of GitLab that a real Runner speaks to: it hands out jobs, takes their logs, results and
// artifacts. It is an http.Handler for a server on loopback.
type Coordinator struct {
	// URL is the server's, as Runner and the guest reach it.
	URL string
	// Dir is where archives are kept.
	Dir string

	mu        sync.Mutex
	queue     []Request
	jobs      map[int64]*Result
	artifacts map[string]string // paths of archives, by the job
	next      int64
}

// Request is a job for a real Runner.
type Request struct {
	// RepoURL is cloned by get_sources; SHA and Ref are checked out.
	RepoURL, Ref, SHA string
	Script            []string
	AfterScript       []string
	Image             string
	Timeout           time.Duration // 0: an hour
	Variables         []Variable
	// Artifacts are paths that are uploaded on success.
	Artifacts []string
	// Dependency is a job whose artifacts are downloaded. 0: none.
	Dependency int64
}

// Result is what Runner told of a job.
type Result struct {
	ID       int64
	State    string // "running", "success", "failed"
	Reason   string
	ExitCode int
	Log      string

	cancel string // what Job-Status says: "", "canceling" or "canceled"
	done   chan struct{}
}

// Enqueue adds a job and returns its number.
func (c *Coordinator) Enqueue(r Request) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.jobs == nil {
		c.jobs, c.next = make(map[int64]*Result), 1000
	}
	c.next++
	c.queue = append(c.queue, r)
	c.jobs[c.next] = &Result{ID: c.next, State: "pending", done: make(chan struct{})}
	return c.next
}

// Cancel ends a job: "canceling" gracefully, "canceled" at once.
func (c *Coordinator) Cancel(id int64, how string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.jobs[id].cancel = how
}

// Done is closed when Runner has told a job's final state.
func (c *Coordinator) Done(id int64) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.jobs[id].done
}

// Result returns what is known of a job.
func (c *Coordinator) Result(id int64) Result {
	c.mu.Lock()
	defer c.mu.Unlock()
	return *c.jobs[id]
}

// Artifacts returns how many archives were stored.
func (c *Coordinator) Artifacts() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.artifacts)
}

// ServeHTTP answers the requests of https://docs.gitlab.com/api/jobs/ and of Runner's own interface.
func (c *Coordinator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rest, ours := strings.CutPrefix(r.URL.Path, "/api/v4/")
	parts := strings.Split(rest, "/")
	switch {
	case !ours:
		http.NotFound(w, r)
	case rest == "runners/verify":
		w.WriteHeader(http.StatusOK)
		_, _ = io.WriteString(w, `{"id":1,"token":"runner-token"}`)
	case rest == "jobs/request":
		c.request(w)
	case len(parts) == 3 && parts[2] == "trace" && r.Method == http.MethodPatch:
		c.trace(w, r, parts[1])
	case len(parts) == 3 && parts[2] == "artifacts" && r.Method == http.MethodPost:
		c.store(w, r, parts[1])
	case len(parts) == 3 && parts[2] == "artifacts":
		c.load(w, r, parts[1])
	case len(parts) == 2 && r.Method == http.MethodPut:
		c.update(w, r, parts[1])
	default:
		http.NotFound(w, r)
	}
}

func (c *Coordinator) request(w http.ResponseWriter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	r := c.queue[0]
	id := c.next - int64(len(c.queue)) + 1
	c.queue = c.queue[1:]
	c.jobs[id].State = "running"
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(c.response(id, r))
}

// response is a job as GitLab sends it.
func (c *Coordinator) response(id int64, r Request) map[string]any {
	limit := 3600
	if r.Timeout > 0 {
		limit = int(r.Timeout.Seconds())
	}
	v := map[string]any{
		"id": id, "token": fmt.Sprintf("job-token-%d", id), "allow_git_fetch": true,
		"job_info":    map[string]any{"name": "test job", "stage": "test", "project_id": 12, "project_name": "images"},
		"git_info":    map[string]any{"repo_url": r.RepoURL, "ref": r.Ref, "sha": r.SHA, "before_sha": strings.Repeat("0", 40), "ref_type": "branch", "refspecs": []string{"+refs/heads/*:refs/remotes/origin/*"}, "depth": 0},
		"runner_info": map[string]any{"timeout": limit},
		"variables":   append([]Variable{{Key: "CI_SERVER_URL", Value: c.URL}, {Key: "CI_JOB_TOKEN", Value: fmt.Sprintf("job-token-%d", id)}}, r.Variables...),
		"features":    map[string]any{"trace_sections": true, "failure_reasons": []string{"script_failure", "runner_system_failure", "job_execution_timeout"}},
		"steps":       steps(r, limit),
	}
	if r.Image != "" {
		v["image"] = map[string]any{"name": r.Image}
	}
	if len(r.Artifacts) > 0 {
		v["artifacts"] = []any{map[string]any{"name": "default", "paths": r.Artifacts, "when": "on_success", "artifact_type": "archive", "artifact_format": "zip"}}
	}
	if r.Dependency != 0 {
		v["dependencies"] = []any{map[string]any{"id": r.Dependency, "name": "before", "token": fmt.Sprintf("job-token-%d", r.Dependency), "artifacts_file": map[string]any{"filename": "artifacts.zip", "size": 1}}}
	}
	return v
}

func steps(r Request, limit int) []any {
	all := []any{map[string]any{"name": "script", "script": r.Script, "timeout": limit, "when": "on_success"}}
	if len(r.AfterScript) > 0 {
		all = append(all, map[string]any{"name": "after_script", "script": r.AfterScript, "timeout": limit, "when": "always", "allow_failure": true})
	}
	return all
}

func (c *Coordinator) known(w http.ResponseWriter, number string) *Result {
	id, _ := strconv.ParseInt(number, 10, 64)
	j := c.jobs[id]
	if j == nil {
		w.WriteHeader(http.StatusForbidden)
		return nil
	}
	if j.cancel != "" {
		w.Header().Set("Job-Status", j.cancel)
	} else {
		w.Header().Set("Job-Status", j.State)
	}
	return j
}

func (c *Coordinator) trace(w http.ResponseWriter, r *http.Request, number string) {
	text, _ := io.ReadAll(r.Body)
	c.mu.Lock()
	defer c.mu.Unlock()
	j := c.known(w, number)
	if j == nil {
		return
	}
	from, _, _ := strings.Cut(r.Header.Get("Content-Range"), "-")
	if at, err := strconv.Atoi(from); err == nil && at <= len(j.Log) {
		j.Log = j.Log[:at] + string(text)
	}
	w.Header().Set("Range", fmt.Sprintf("0-%d", len(j.Log)))
	w.Header().Set("X-GitLab-Trace-Update-Interval", "1")
	w.WriteHeader(http.StatusAccepted)
}

func (c *Coordinator) update(w http.ResponseWriter, r *http.Request, number string) {
	var said struct {
		State    string `json:"state"`
		Reason   string `json:"failure_reason"`
		ExitCode int    `json:"exit_code"`
	}
	_ = json.NewDecoder(r.Body).Decode(&said)
	c.mu.Lock()
	defer c.mu.Unlock()
	j := c.known(w, number)
	if j == nil {
		return
	}
	if said.State == "success" || said.State == "failed" {
		if j.State == "running" {
			close(j.done)
		}
		j.State, j.Reason, j.ExitCode = said.State, said.Reason, said.ExitCode
	}
	w.WriteHeader(http.StatusOK)
}

func (c *Coordinator) store(w http.ResponseWriter, r *http.Request, number string) {
	path, err := c.receive(r, number)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.artifacts == nil {
		c.artifacts = make(map[string]string)
	}
	c.artifacts[number] = path
	w.WriteHeader(http.StatusCreated)
	_, _ = io.WriteString(w, "{}")
}

// receive writes the archive of a form to a file: one with an image is too large for memory.
func (c *Coordinator) receive(r *http.Request, number string) (string, error) {
	parts, err := r.MultipartReader()
	if err != nil {
		return "", err
	}
	for {
		part, err := parts.NextPart()
		if err != nil {
			return "", fmt.Errorf("no file: %w", err)
		}
		if part.FormName() != "file" {
			continue
		}
		f, err := os.CreateTemp(c.Dir, "artifacts-"+filepath.Base(number)+"-*.zip")
		if err != nil {
			return "", err
		}
		_, err = io.Copy(f, part)
		return f.Name(), errors.Join(err, f.Close())
	}
}

func (c *Coordinator) load(w http.ResponseWriter, r *http.Request, number string) {
	c.mu.Lock()
	path, ok := c.artifacts[number]
	c.mu.Unlock()
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	http.ServeFile(w, r, path)
}

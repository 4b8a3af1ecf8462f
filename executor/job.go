package executor

import (
	"encoding/json"
	"io"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"salsa.debian.org/cloud-team/debcloud/executor/settings"
	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// Job is who a job is and what it asks for, from the response of GitLab that Runner has received. Its author cannot
// change what it is trusted by.
type Job struct {
	ID        int64
	Name      string
	Server    string // host of the GitLab instance
	ProjectID int64
	Project   string // full path
	Ref       string
	// Class is whose code runs: settings.Protected, Unprotected or Fork.
	Class   string
	URL     string // of the job's page
	Timeout time.Duration
	// Asked is the size that the job's variables ask for. Zero values: nothing.
	Asked settings.Machine
	// Testbed tells that the job asks for one.
	Testbed bool
}

// Variables by which a job asks for its machine.
const (
	cpusVariable    = "DEBCLOUD_CPUS"
	memoryVariable  = "DEBCLOUD_MEMORY"
	diskVariable    = "DEBCLOUD_DISK"
	testbedVariable = "DEBCLOUD_SIBLINGS"
)

// response is what the driver reads of the job response. https://docs.gitlab.com/runner/executors/custom/
type response struct {
	ID      int64 `json:"id"`
	JobInfo struct {
		Name      string `json:"name"`
		ProjectID int64  `json:"project_id"`
	} `json:"job_info"`
	GitInfo struct {
		RepoURL   string `json:"repo_url"`
		Ref       string `json:"ref"`
		Protected *bool  `json:"protected"` // nil: an older GitLab
	} `json:"git_info"`
	RunnerInfo struct {
		Timeout int `json:"timeout"`
	} `json:"runner_info"`
	Variables []struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	} `json:"variables"`
}

// maxResponse bounds what is read of a job. GitLab's own limit for one pipeline's YAML is 2 MB.
const maxResponse = 32 << 20

// ReadJob reads a job response file.
func ReadJob(path string) (Job, error) {
	if path == "" {
		return Job{}, fault.WithHint(fault.Inputf("JOB_RESPONSE_FILE is not set: whose job this is cannot be told"), "GitLab Runner sets it from version 14.10 on")
	}
	f, err := os.Open(path)
	if err != nil {
		return Job{}, fault.Outsidef("the job cannot be read: %w", err)
	}
	defer f.Close()
	var r response
	if err := json.NewDecoder(io.LimitReader(f, maxResponse)).Decode(&r); err != nil {
		return Job{}, fault.Outsidef("the job in %s cannot be read: %w", path, err)
	}
	return r.job()
}

func (r response) job() (Job, error) {
	if r.ID <= 0 {
		return Job{}, fault.Outsidef("the job has the number %d", r.ID)
	}
	j := Job{
		ID: r.ID, Name: r.JobInfo.Name, ProjectID: r.JobInfo.ProjectID, Ref: r.GitInfo.Ref, Class: r.class(),
		URL: r.last("CI_JOB_URL"), Timeout: time.Duration(r.RunnerInfo.Timeout) * time.Second,
	}
	// The path in the URL of the repository is the only one that no variable can change.
	if u, err := url.Parse(r.GitInfo.RepoURL); err == nil {
		j.Server = u.Host
		j.Project = strings.TrimSuffix(strings.Trim(u.Path, "/"), ".git")
	}
	var err error
	j.Asked, err = r.asked()
	j.Testbed = r.last(testbedVariable) != "" && r.last(testbedVariable) != "0"
	return j, err
}

// class believes in a protected ref only where GitLab itself says so. Older instances say it in a predefined variable only,
// before which an author can put nothing and after which anything: so all that is said must agree.
func (r response) class() string {
	protected := r.GitInfo.Protected != nil && *r.GitInfo.Protected
	if r.GitInfo.Protected == nil {
		protected = r.allSay("CI_COMMIT_REF_PROTECTED", "true")
	}
	mergeRequest := strings.HasPrefix(r.GitInfo.Ref, "refs/merge-requests/")
	own := r.allSay("CI_MERGE_REQUEST_SOURCE_PROJECT_ID", strconv.FormatInt(r.JobInfo.ProjectID, 10))
	switch {
	case mergeRequest && !own, r.says("CI_MERGE_REQUEST_SOURCE_PROJECT_ID") && !own:
		return settings.Fork
	case protected:
		return settings.Protected
	default:
		return settings.Unprotected
	}
}

func (r response) says(key string) bool {
	for _, v := range r.Variables {
		if v.Key == key {
			return true
		}
	}
	return false
}

// allSay tells that a variable is set and that every setting of it has the value.
func (r response) allSay(key, value string) bool {
	for _, v := range r.Variables {
		if v.Key == key && v.Value != value {
			return false
		}
	}
	return r.says(key)
}

// last is the value that the job's script sees.
func (r response) last(key string) string {
	value := ""
	for _, v := range r.Variables {
		if v.Key == key {
			value = v.Value
		}
	}
	return value
}

func (r response) asked() (settings.Machine, error) {
	var m settings.Machine
	if text := r.last(cpusVariable); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return m, fault.Inputf("the variable %s is %q, which is no number of processors", cpusVariable, text)
		}
		m.CPUs = n
	}
	for name, field := range map[string]*settings.Size{memoryVariable: &m.Memory, diskVariable: &m.Disk} {
		text := r.last(name)
		if text == "" {
			continue
		}
		size, err := settings.ParseSize(text)
		if err != nil {
			return m, fault.Inputf("the variable %s is %q, which is no size such as 4GiB: %w", name, text, err)
		}
		*field = size
	}
	return m, nil
}

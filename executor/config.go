package executor

import (
	"context"
	"encoding/json"
	"time"
)

// configuration is what Runner reads from config. https://docs.gitlab.com/runner/executors/custom/#config
type configuration struct {
	BuildsDir         string            `json:"builds_dir"`
	CacheDir          string            `json:"cache_dir"`
	BuildsDirIsShared bool              `json:"builds_dir_is_shared"`
	Hostname          string            `json:"hostname"`
	Driver            driverInfo        `json:"driver"`
	JobEnv            map[string]string `json:"job_env"`
	Shell             string            `json:"shell"`
}

type driverInfo struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// Config tells Runner on Stdout how jobs run here, and notes that the attempt has begun.
func (d *Driver) Config(ctx context.Context) error {
	job, err := ReadJob(d.Environment.JobResponseFile)
	if err != nil && job.ID == 0 {
		return err // a job that asks for what cannot be is refused by prepare, which can say so finally
	}
	a := attempt{Dir: d.Environment.TempDir, Runner: runner(), Job: job.ID, Project: job.Project, Started: time.Now()}
	if err := d.notes().write(a); err != nil {
		return err
	}
	d.Log.DebugContext(ctx, "an attempt begins", "job", job.ID, "project", job.Project, "directory", a.Dir)
	return json.NewEncoder(d.Stdout).Encode(configuration{
		BuildsDir: d.Settings.Guest.BuildsDir,
		CacheDir:  d.Settings.Guest.CacheDir,
		Hostname:  a.domainName(),
		Driver:    driverInfo{Name: "debcloud", Version: d.Version},
		JobEnv:    map[string]string{},
		Shell:     "bash",
	})
}

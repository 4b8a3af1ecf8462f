package salsa

import (
	"context"

	gitlab "gitlab.com/gitlab-org/api/client-go/v2"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// StatusPrefix begins the name of every external commit status of ours; the cell follows.
const StatusPrefix = "debcloud/"

// SetStatuses sets one external commit status a cell on the job's commit and returns how many had to be set. GitLab makes a second
// status of a name rather than changing one that has ended (Ci::CreateCommitStatusService), so statuses that already say
// the same are left alone.
func (c *Client) SetStatuses(ctx context.Context, f Findings) (set int, err error) {
	if err := c.demandAccess("an external commit status"); err != nil {
		return 0, err
	}
	if f.Job.CommitSHA == "" {
		return 0, fault.WithHint(fault.Inputf("no commit is given"), "use --commit SHA; in a CI job CI_COMMIT_SHA says it")
	}
	s := &statuses{c, ctx, f.Job.CommitSHA, 0}
	if s.pipeline, err = c.statusPipeline(ctx, f.Job); err != nil {
		return 0, c.explain(ctx, err, "find the pipeline of commit %s", f.Job.CommitSHA)
	}
	there, err := s.there()
	if err != nil {
		return 0, c.explain(ctx, err, "list the statuses of commit %s", f.Job.CommitSHA)
	}
	for _, cell := range f.Cells {
		want := statusOf(cell, f)
		if saysAlready(there[*want.Name], want) {
			continue
		}
		err := c.createOnce(ctx, func() error { return s.set(want) }, func() (bool, error) {
			now, err := s.there()
			return saysAlready(now[*want.Name], want), err
		})
		if err != nil {
			return set, c.explain(ctx, err, "set the status %s", *want.Name)
		}
		set++
	}
	return set, nil
}

// statusOf is what the cell's status shall be. GitLab refuses target URLs and descriptions of more than 255 characters.
func statusOf(cell Cell, f Findings) *gitlab.SetCommitStatusOptions {
	name, state := StatusPrefix+cell.String(), gitlab.Failed
	ok, why := cell.verdict(f.Suites)
	if ok {
		state = gitlab.Success
	}
	why = shorten(why, 255)
	want := &gitlab.SetCommitStatusOptions{State: state, Name: &name, Description: &why}
	if target := f.Job.URL; target != "" && len(target) <= 255 {
		want.TargetURL = &target
	}
	return want
}

func saysAlready(there *gitlab.CommitStatus, want *gitlab.SetCommitStatusOptions) bool {
	return there != nil && there.Status == string(want.State) && there.Description == *want.Description &&
		(want.TargetURL == nil || there.TargetURL == *want.TargetURL)
}

// statusPipeline finds the pipeline to which statuses are added: the job's own or, as GitLab adds none to a child pipeline, the commit's
// newest that is no child, which is what its API lists. 0 means that there is none and GitLab will make one.
func (c *Client) statusPipeline(ctx context.Context, j Job) (int64, error) {
	if j.PipelineID != 0 && j.PipelineSource != "parent_pipeline" {
		return j.PipelineID, nil
	}
	order, sort := "id", "desc"
	o := &gitlab.ListProjectPipelinesOptions{ListOptions: gitlab.ListOptions{PerPage: 1}, OrderBy: &order, Sort: &sort, SHA: &j.CommitSHA}
	found, _, err := c.api.Pipelines.ListProjectPipelines(c.project, o, gitlab.WithContext(ctx))
	if err != nil || len(found) == 0 {
		return 0, err
	}
	return found[0].ID, nil
}

// statuses are those of one commit in one pipeline.
type statuses struct {
	c        *Client
	ctx      context.Context
	commit   string
	pipeline int64
}

// there lists the last status of each name.
func (s *statuses) there() (map[string]*gitlab.CommitStatus, error) {
	all, err := collect(func(page gitlab.PaginationOptionFunc) ([]*gitlab.CommitStatus, *gitlab.Response, error) {
		o := &gitlab.GetCommitStatusesOptions{ListOptions: gitlab.ListOptions{PerPage: 100}}
		if s.pipeline != 0 {
			o.PipelineID = &s.pipeline
		}
		return s.c.api.Commits.GetCommitStatuses(s.c.project, s.commit, o, gitlab.WithContext(s.ctx), page)
	})
	last := map[string]*gitlab.CommitStatus{}
	for _, status := range all {
		if s.pipeline != 0 && status.PipelineID != s.pipeline {
			continue
		}
		if old := last[status.Name]; old == nil || old.ID < status.ID {
			last[status.Name] = status
		}
	}
	return last, err
}

func (s *statuses) set(want *gitlab.SetCommitStatusOptions) error {
	request := *want
	if s.pipeline != 0 {
		request.PipelineID = &s.pipeline
	}
	_, _, err := s.c.api.Commits.SetCommitStatus(s.c.project, s.commit, &request, gitlab.WithContext(s.ctx))
	return err
}

package salsa

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	gitlab "gitlab.com/gitlab-org/api/client-go/v2"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// documentKinds are the jobs whose artifacts are documents alone. What a lower one kept counts: boot goes on with the report of check.
var documentKinds = map[string]int{"boot": 1, "test": 1, "check": 2}

// Downstream downloads the documents of cells from the pipelines that another one started, its children, where their check and boot
// jobs kept them, failed ones too. A cell of which no job kept any is left out. One whose documents cannot be had, or not within the
// given time, or not be read, comes without them and says why, so that it keeps the others from no report.
func (c *Client) Downstream(ctx context.Context, pipeline int64, cells []Cell, within time.Duration) ([]Cell, error) {
	// gitlab.com/gitlab-org/gitlab/-/issues/554448
	if err := c.demandAccess("a list of the pipelines that a pipeline started"); err != nil {
		return nil, err
	}
	if pipeline == 0 {
		return nil, fault.WithHint(fault.Inputf("no pipeline is given"), "use --pipeline NUMBER; in a CI job CI_PIPELINE_ID says it")
	}
	end := time.Now().Add(within)
	jobs, err := c.downstreamJobs(ctx, pipeline, cells)
	if err != nil {
		return nil, err
	}
	var found []Cell
	for _, cell := range cells {
		kept := jobs[cell.String()]
		if len(kept) == 0 {
			continue
		}
		if !time.Now().Before(end) {
			cell.Lost = fmt.Sprintf("they were not downloaded within %s", within)
		} else if err := c.readKept(ctx, &cell, kept); err != nil {
			return nil, err
		}
		if cell.Lost != "" {
			slog.WarnContext(ctx, "the report goes without the documents of a cell", "cell", cell.String(), "why", cell.Lost)
		}
		if cell.Build != nil || cell.Report != nil || cell.Lost != "" {
			found = append(found, cell)
		}
	}
	return found, nil
}

// downstreamJobs lists the jobs that may have kept documents, by the name of the cell, in the order in which they are looked into.
func (c *Client) downstreamJobs(ctx context.Context, pipeline int64, cells []Cell) (map[string][]*gitlab.Job, error) {
	children, err := c.children(ctx, pipeline)
	if err != nil {
		return nil, err
	}
	index := cellsByWords(cells)
	kind := func(j *gitlab.Job) int { k, _ := index.of(j.Name); return documentKinds[k] }
	jobs := map[string][]*gitlab.Job{}
	for _, child := range children {
		list, err := c.pipelineJobs(ctx, child, gitlab.Success, gitlab.Failed)
		if err != nil {
			return nil, err
		}
		for _, j := range list {
			if k, cell := index.of(j.Name); documentKinds[k] != 0 {
				jobs[cell.String()] = append(jobs[cell.String()], j)
			}
		}
	}
	for _, of := range jobs {
		slices.SortFunc(of, func(a, b *gitlab.Job) int { return cmp.Or(cmp.Compare(kind(a), kind(b)), cmp.Compare(b.ID, a.ID)) })
	}
	return jobs, nil
}

// children are the pipelines that the jobs of a pipeline started in its project.
func (c *Client) children(ctx context.Context, pipeline int64) ([]int64, error) {
	bridges, err := collect(func(page gitlab.PaginationOptionFunc) ([]*gitlab.Bridge, *gitlab.Response, error) {
		o := &gitlab.ListJobsOptions{ListOptions: gitlab.ListOptions{PerPage: 100}}
		return c.api.Jobs.ListPipelineBridges(c.project, pipeline, o, gitlab.WithContext(ctx), page)
	})
	if err != nil {
		return nil, c.explain(ctx, err, "list the pipelines that pipeline %d started", pipeline)
	}
	var children []int64
	for _, b := range bridges {
		switch p := b.DownstreamPipeline; {
		case p == nil:
			slog.WarnContext(ctx, "a job started no pipeline", "job", oneLine(b.Name), "status", oneLine(b.Status))
		case p.ProjectID == b.Pipeline.ProjectID:
			children = append(children, p.ID)
		}
	}
	slices.Sort(children)
	return slices.Compact(children), nil
}

// readKept fills in what the first of jobs has, and what it lacks from the others. Errors are of GitLab and of this machine.
func (c *Client) readKept(ctx context.Context, cell *Cell, jobs []*gitlab.Job) error {
	var lost []string
	for _, j := range jobs {
		if cell.Report != nil {
			break
		}
		kept, err := c.keptBy(ctx, j, *cell)
		if unfit, ok := errors.AsType[*unfitError](err); ok {
			lost = append(lost, fmt.Sprintf("artifacts of job %d: %s", j.ID, unfit.why))
			continue
		}
		if err != nil {
			return err
		}
		cell.Build, cell.Report = cmp.Or(cell.Build, kept.Build), kept.Report
	}
	if cell.Build == nil && cell.Report == nil {
		cell.Lost = strings.Join(lost, "; ")
	}
	return nil
}

// keptBy reads the documents of the cell among the artifacts of a job, of which there may be none. What is wrong with them is an
// unfitError.
func (c *Client) keptBy(ctx context.Context, j *gitlab.Job, cell Cell) (Cell, error) {
	switch a := j.ArtifactsFile; {
	case a.Filename == "" && j.ArtifactsExpireAt != nil:
		return Cell{}, &unfitError{"its artifacts have expired"}
	case a.Filename == "":
		return Cell{}, nil
	case a.Size > smallArchive:
		return Cell{}, &unfitError{fmt.Sprintf("the archive has %d bytes, more than documents may have (%d)", a.Size, smallArchive)}
	}
	dir, err := os.MkdirTemp("", "debcloud-downstream-")
	if err != nil {
		return Cell{}, fmt.Errorf("documents: %w", err)
	}
	defer os.RemoveAll(dir)
	u := &unpacker{dir: dir, left: unpackedSmall, want: isDocument}
	var damage error
	err = c.withArchive(ctx, source{j.ID, j.Name, j.ArtifactsFile.Size}, os.TempDir(), smallArchive, func(f *os.File) error {
		damage = u.unpack(ctx, f)
		return nil
	})
	switch {
	case err != nil:
		return Cell{}, err
	case ctx.Err() != nil:
		return Cell{}, context.Cause(ctx)
	case errors.Is(damage, syscall.ENOSPC):
		return Cell{}, damage
	case damage != nil:
		return Cell{}, &unfitError{strings.ReplaceAll(damage.Error(), dir, "artifacts")}
	}
	cells, err := ReadCells(dir)
	if err != nil {
		return Cell{}, &unfitError{strings.ReplaceAll(err.Error(), dir, "artifacts")}
	}
	return byName(cells)[cell.String()], nil
}

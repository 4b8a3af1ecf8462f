package salsa

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	gitlab "gitlab.com/gitlab-org/api/client-go/v2"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/lazyregexp"
)

// LatestOptions say which artifacts are wanted.
type LatestOptions struct {
	Release, Vendor, Arch string
	Ref                   string   // branch or tag that the pipeline ran for
	Suites                []string // that the report must have passed
	MaxBytes              int64    // of everything that is unpacked
}

func (o LatestOptions) cell() Cell { return Cell{Release: o.Release, Vendor: o.Vendor, Arch: o.Arch} }

const (
	maxCandidates = 5         // tested pipelines of one cell that are looked into
	maxJobPages   = 100       // of a hundred jobs: about a month of dailies of the whole matrix
	smallArchive  = 32 << 20  // bytes; where only documents are wanted, larger archives hold an image and are passed over
	unpackedSmall = 256 << 20 // bytes that small archives may unpack to
)

// Latest downloads the last tested artifacts of a cell into dir and returns the path of the Build document. dir is made, or replaced
// as a whole if an earlier Latest made it; when it already holds these artifacts nothing is done. dir appears only when all is verified:
// the report has passed and is on the build's digest, and so has the image, if there is one among the artifacts.
func (c *Client) Latest(ctx context.Context, o LatestOptions, dir string) (string, error) {
	if err := o.check(); err != nil {
		return "", err
	}
	if err := checkTarget(dir); err != nil {
		return "", err
	}
	seen := 0
	for tested, err := range c.testedJobs(ctx, o.Ref, []Cell{o.cell()}) {
		if err != nil {
			return "", c.explain(ctx, err, "find the last jobs of %s", o.cell())
		}
		sources, err := c.sources(ctx, tested.job, o.cell())
		if err != nil {
			return "", err
		}
		if holds(dir, sources) {
			if path, err := verify(ctx, dir, o); err == nil {
				slog.InfoContext(ctx, "the last tested artifacts are already there", "cell", o.cell().String(), "directory", dir)
				return path, nil
			}
		}
		path, err := c.fetch(ctx, o, sources, dir)
		if unfit, ok := errors.AsType[*unfitError](err); ok && seen+1 < maxCandidates {
			slog.WarnContext(ctx, "an earlier pipeline is tried", "cell", o.cell().String(), "pipeline", tested.job.Pipeline.ID, "why", unfit.Error())
			seen++
			continue
		}
		return path, err
	}
	return "", fmt.Errorf("no job of %s on %s has tested artifacts", o.cell(), o.Ref)
}

func (o LatestOptions) check() error {
	if o.Ref == "" {
		return fault.Inputf("no ref is given")
	}
	return o.cell().CheckWords()
}

// unfitError says why the artifacts of one pipeline cannot be used, although an earlier one's may.
type unfitError struct{ why string }

func (e *unfitError) Error() string { return e.why }

// jobKinds are the jobs of a cell whose artifacts belong together, in the order in which they run. The value tells whether its
// success makes the cell tested.
var jobKinds = map[string]bool{"build": false, "check": false, "boot": true, "test": true}

var nameWords = lazyregexp.New(`[a-z0-9][a-z0-9.+_-]*`)

// kindOf returns what a job does for the cell, "" if it is another's.
func kindOf(job string, c Cell) string {
	kind, _ := cellsByWords([]Cell{c}).of(job)
	return kind
}

// wordIndex finds the cell that a job is for.
type wordIndex map[[3]string]Cell // by the cell's words, sorted

func cellsByWords(cells []Cell) wordIndex {
	index := wordIndex{}
	for _, c := range cells {
		words := [3]string{c.Release, c.Vendor, c.Arch}
		slices.Sort(words[:])
		index[words] = c
	}
	return index
}

// of returns what a job does, and for which cell: its name has, in any order, the cell's three words and one of jobKinds. Another
// job's kind is "".
func (i wordIndex) of(job string) (string, Cell) {
	words := nameWords.FindAllString(job, -1)
	if len(words) != 4 {
		return "", Cell{}
	}
	for at, kind := range slices.Backward(words) {
		if _, is := jobKinds[kind]; !is {
			continue
		}
		rest := [3]string(slices.Concat(words[:at], words[at+1:]))
		slices.Sort(rest[:])
		if c, known := i[rest]; known {
			return kind, c
		}
	}
	return "", Cell{}
}

type testedJob struct {
	cell Cell
	job  *gitlab.Job
}

// testedJobs lists the successful testing jobs of cells on ref, the newest first. It stops after maxJobPages.
func (c *Client) testedJobs(ctx context.Context, ref string, cells []Cell) iter.Seq2[testedJob, error] {
	scope := []gitlab.BuildStateValue{gitlab.Success}
	o := &gitlab.ListJobsOptions{ListOptions: gitlab.ListOptions{Pagination: "keyset", OrderBy: "id", Sort: "desc", PerPage: 100}, Scope: &scope}
	pages := 0
	jobs := gitlab.Scan2(func(page gitlab.PaginationOptionFunc) ([]*gitlab.Job, *gitlab.Response, error) {
		if pages++; pages > maxJobPages {
			return nil, &gitlab.Response{}, nil
		}
		return c.api.Jobs.ListProjectJobs(c.project, o, gitlab.WithContext(ctx), page)
	})
	index := cellsByWords(cells)
	return func(yield func(testedJob, error) bool) {
		for job, err := range jobs {
			if err != nil {
				yield(testedJob{}, err)
				return
			}
			if job.Ref != ref || job.Status != string(gitlab.Success) {
				continue
			}
			if kind, cell := index.of(job.Name); jobKinds[kind] && !yield(testedJob{cell, job}, nil) {
				return
			}
		}
	}
}

// source is an archive of artifacts.
type source struct {
	Job  int64  `json:"job"`
	Name string `json:"name"`
	size int64  // bytes, as GitLab says
}

// sources are the archives of the cell's jobs in tested's pipeline, in the order in which the jobs were made: what a later one holds counts.
func (c *Client) sources(ctx context.Context, tested *gitlab.Job, cell Cell) ([]source, error) {
	jobs, err := c.pipelineJobs(ctx, tested.Pipeline.ID, gitlab.Success)
	if err != nil {
		return nil, err
	}
	var found []source
	for _, j := range jobs {
		if kindOf(j.Name, cell) != "" && j.ArtifactsFile.Filename != "" {
			found = append(found, source{j.ID, oneLine(j.Name), j.ArtifactsFile.Size})
		}
	}
	slices.SortFunc(found, func(a, b source) int { return int(a.Job - b.Job) })
	return slices.CompactFunc(found, func(a, b source) bool { return a.Job == b.Job }), nil
}

// pipelineJobs lists the jobs of a pipeline that ended so. Of one that was tried again it is the last try.
func (c *Client) pipelineJobs(ctx context.Context, pipeline int64, ended ...gitlab.BuildStateValue) ([]*gitlab.Job, error) {
	jobs, err := collect(func(page gitlab.PaginationOptionFunc) ([]*gitlab.Job, *gitlab.Response, error) {
		o := &gitlab.ListJobsOptions{ListOptions: gitlab.ListOptions{PerPage: 100}, Scope: &ended}
		return c.api.Jobs.ListPipelineJobs(c.project, pipeline, o, gitlab.WithContext(ctx), page)
	})
	return jobs, c.explain(ctx, err, "list the jobs of pipeline %d", pipeline)
}

// Documents downloads the documents of the last tested artifacts of each cell, as a baseline. Cells without any are left out, with a warning.
// Archives that are large enough to hold an image are not downloaded. With an error, that of the time being over among them, comes what
// was found before it.
func (c *Client) Documents(ctx context.Context, cells []Cell, ref string, suites []string, within time.Duration) ([]Cell, error) {
	if len(cells) == 0 {
		return nil, nil // nothing to look for on every page of jobs
	}
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("it took more than %s", within))
	defer cancel()
	missing := slices.Clone(cells)
	tries := map[string]int{}
	var found []Cell
	for tested, err := range c.testedJobs(ctx, ref, missing) {
		if err != nil {
			return found, c.explain(ctx, err, "find the last jobs on %s", ref)
		}
		name := tested.cell.String()
		if !slices.ContainsFunc(missing, func(m Cell) bool { return m.String() == name }) || tries[name] >= maxCandidates {
			continue
		}
		tries[name]++
		cell, err := c.documents(ctx, tested, ref, suites)
		if unfit, ok := errors.AsType[*unfitError](err); ok {
			slog.WarnContext(ctx, "a baseline is passed over", "cell", name, "pipeline", tested.job.Pipeline.ID, "why", unfit.Error())
			continue
		}
		if err != nil {
			return found, err
		}
		found = append(found, cell)
		missing = slices.DeleteFunc(missing, func(m Cell) bool { return m.String() == name })
		if len(missing) == 0 {
			break
		}
	}
	for _, m := range missing {
		slog.WarnContext(ctx, "the target branch has no tested artifacts to compare with", "cell", m.String(), "ref", ref)
	}
	return found, nil
}

func (c *Client) documents(ctx context.Context, tested testedJob, ref string, suites []string) (Cell, error) {
	sources, err := c.sources(ctx, tested.job, tested.cell)
	if err != nil {
		return Cell{}, err
	}
	sources = slices.DeleteFunc(sources, func(s source) bool { return s.size > smallArchive })
	dir, err := os.MkdirTemp("", "debcloud-baseline-")
	if err != nil {
		return Cell{}, fmt.Errorf("baseline: %w", err)
	}
	defer os.RemoveAll(dir)
	u := &unpacker{dir: dir, left: unpackedSmall, want: isDocument}
	if err := c.unpackAll(ctx, sources, u, smallArchive); err != nil {
		return Cell{}, err
	}
	cells, err := ReadCells(dir)
	if err != nil {
		return Cell{}, &unfitError{strings.ReplaceAll(err.Error(), dir, "artifacts")}
	}
	for _, cell := range cells {
		if ok, why := cell.verdict(suites); cell.String() == tested.cell.String() && cell.Build != nil {
			if !ok {
				return Cell{}, &unfitError{why}
			}
			if cell.Build.Metadata.DryRun() || cell.Report.Metadata.DryRun() {
				return Cell{}, &unfitError{"it is of a dry run"}
			}
			return cell, nil
		}
	}
	return Cell{}, &unfitError{"its small archives hold no Build document of the cell on " + ref}
}

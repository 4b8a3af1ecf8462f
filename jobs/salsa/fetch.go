package salsa

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	gitlab "gitlab.com/gitlab-org/api/client-go/v2"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/internal/pause"
	"salsa.debian.org/cloud-team/debcloud/internal/progress"
)

// originName is a file in every directory that Latest makes. It says what the directory was made of, and that it may be replaced.
const originName = "latest.json"

type origin struct {
	Sources []source `json:"sources"`
}

// checkTarget refuses a directory that holds someone's files.
func checkTarget(dir string) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if parent, err := os.Stat(filepath.Dir(filepath.Clean(dir))); err != nil || !parent.IsDir() {
			return fault.Inputf("%s is no directory, so %s cannot be made in it", filepath.Dir(filepath.Clean(dir)), filepath.Base(dir))
		}
		return nil
	case err != nil:
		return fault.Inputf("%s cannot be used: %w", dir, err)
	case len(entries) > 0 && readOrigin(dir) == nil:
		return fault.WithHint(fault.Inputf("directory %s is not empty and was not made by this command", dir), "give a new one with --dir")
	}
	return nil
}

func readOrigin(dir string) *origin {
	text, err := os.ReadFile(filepath.Join(dir, originName))
	if err != nil {
		return nil
	}
	o := new(origin)
	if json.Unmarshal(text, o) != nil {
		return nil
	}
	return o
}

func holds(dir string, sources []source) bool {
	o := readOrigin(dir)
	return o != nil && slices.EqualFunc(o.Sources, sources, func(a, b source) bool { return a.Job == b.Job })
}

// fetch unpacks sources beside dir, verifies what came, and puts it in dir's place.
func (c *Client) fetch(ctx context.Context, o LatestOptions, sources []source, dir string) (_ string, err error) {
	dir = filepath.Clean(dir)
	stage, err := os.MkdirTemp(filepath.Dir(dir), ".debcloud-latest-")
	if err != nil {
		return "", fmt.Errorf("latest: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(stage)) }()
	unpacked := filepath.Join(stage, "artifacts")
	if err := os.Mkdir(unpacked, 0o755); err != nil {
		return "", fmt.Errorf("latest: %w", err)
	}
	if err := c.unpackAll(ctx, sources, &unpacker{dir: unpacked, left: o.MaxBytes}, o.MaxBytes); err != nil {
		return "", err
	}
	path, err := verify(ctx, unpacked, o)
	if err != nil {
		return "", err
	}
	if err := manifest.Write(filepath.Join(unpacked, originName), origin{sources}); err != nil {
		return "", err
	}
	if err := ctx.Err(); err != nil {
		return "", context.Cause(ctx)
	}
	if err := replace(unpacked, dir, filepath.Join(stage, "old")); err != nil {
		return "", fmt.Errorf("latest: %w", err)
	}
	relative, err := filepath.Rel(unpacked, path)
	return filepath.Join(dir, relative), err
}

// replace renames from to dir. What was at dir goes to old, or back if from cannot be moved.
func replace(from, dir, old string) error {
	err := os.Rename(dir, old)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	moved := err == nil
	if err := os.Rename(from, dir); err != nil {
		if moved {
			err = errors.Join(err, os.Rename(old, dir))
		}
		return err
	}
	return nil
}

// verify finds the Build document of the cell below dir and demands a passing report on its digest. An image beside it must have that digest.
// Artifacts that are not there or did not pass are unfit; what contradicts itself is an error.
func verify(ctx context.Context, dir string, o LatestOptions) (string, error) {
	files, err := findDocuments([]string{dir})
	if err != nil {
		return "", err
	}
	var build *manifest.Build
	var path string
	for _, f := range files {
		if !strings.HasSuffix(f, ".build.json") {
			continue
		}
		b, err := manifest.ReadBuild(f)
		if err != nil {
			return "", err
		}
		if i := b.Data.Info; i.Release != o.Release || i.Vendor != o.Vendor || i.Arch != o.Arch {
			continue
		}
		if build != nil {
			return "", fmt.Errorf("the artifacts hold two Build documents of %s", o.cell())
		}
		build, path = b, f
	}
	if build == nil {
		return "", &unfitError{"it has no Build document of " + o.cell().String()}
	}
	return path, verifyBuild(ctx, build, path, o.Suites)
}

func verifyBuild(ctx context.Context, build *manifest.Build, path string, suites []string) error {
	digest, err := build.Metadata.Digest()
	if err != nil {
		return err
	}
	reportPath := manifest.Base(path) + ".report.json"
	if _, err := os.Lstat(reportPath); errors.Is(err, fs.ErrNotExist) {
		return &unfitError{"it has no report"}
	}
	report, err := manifest.ReadReport(reportPath)
	if err != nil {
		return err
	}
	if got, _ := report.Metadata.Digest(); got != digest {
		return fmt.Errorf("the report is on digest %s, the build on %s: one of the artifacts was altered", got, digest)
	}
	if err := report.DemandPassed(digest, suites...); err != nil {
		return &unfitError{err.Error()}
	}
	if build.Metadata.DryRun() || report.Metadata.DryRun() {
		return &unfitError{"it is of a dry run"}
	}
	if _, err := os.Lstat(build.ImagePath(path)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if _, err := build.VerifyImage(ctx, path); err != nil {
		return fmt.Errorf("the artifacts do not hold together: %s", err.Error()) // no longer the user's input: he gave no file
	}
	return nil
}

// unpackAll downloads each archive beside u's directory, unpacks it, and removes it. max bounds an archive, in bytes.
func (c *Client) unpackAll(ctx context.Context, sources []source, u *unpacker, max int64) error {
	if len(sources) == 0 {
		return &unfitError{"it has no archive of artifacts any more"}
	}
	for _, s := range sources {
		err := c.withArchive(ctx, s, filepath.Dir(u.dir), max, func(f *os.File) error { return u.unpack(ctx, f) })
		if err != nil {
			return err
		}
	}
	return nil
}

// withArchive downloads an archive of at most max bytes into dir, lets it be used, and removes it.
func (c *Client) withArchive(ctx context.Context, s source, dir string, max int64, use func(*os.File) error) error {
	f, err := os.CreateTemp(dir, ".debcloud-archive-")
	if err != nil {
		return fmt.Errorf("download: %w", err)
	}
	err = c.download(ctx, s, f, max)
	if err == nil {
		err = use(f)
	}
	f.Close()
	if err = errors.Join(err, os.Remove(f.Name())); err != nil {
		return fmt.Errorf("artifacts of job %d: %w", s.Job, err)
	}
	return nil
}

// download streams the archive of s into f. A download that breaks off begins anew.
func (c *Client) download(ctx context.Context, s source, f *os.File, max int64) error {
	if s.size > max {
		return fault.WithHint(fault.Inputf("the archive has %d bytes, more than the %d that are allowed", s.size, max), "raise --max-size")
	}
	task := progress.Start(ctx, fmt.Sprintf("artifacts of job %d", s.Job), s.size, true)
	defer task.Abort()
	path := fmt.Sprintf("projects/%s/jobs/%d/artifacts", gitlab.PathEscape(c.project), s.Job)
	for attempt := 1; ; attempt++ {
		req, err := c.api.NewRequest(http.MethodGet, path, nil, []gitlab.RequestOptionFunc{gitlab.WithContext(streamed(ctx))})
		if err != nil {
			return fault.Inputf("no request for %s: %w", path, err)
		}
		sink := &sink{file: f, left: max, task: task}
		resp, err := c.api.Do(req, sink)
		switch {
		case err == nil && (resp.ContentLength < 0 || resp.ContentLength == max-sink.left):
			task.Done()
			return nil
		case err == nil:
			err = io.ErrUnexpectedEOF
		case isMissing(err):
			return &unfitError{"its artifacts have expired"}
		case sink.err != nil:
			return sink.err
		}
		if ctx.Err() != nil || !isUnclear(err) || attempt >= c.patience.attempts {
			return c.explain(ctx, err, "download the artifacts of job %d", s.Job)
		}
		if err := c.patience.sleep(ctx, pause.Backoff(attempt, firstWait, longestWait)); err != nil {
			return err
		}
		if err := restart(f); err != nil {
			return fmt.Errorf("download: %w", err)
		}
	}
}

func restart(f *os.File) error {
	_, err := f.Seek(0, io.SeekStart)
	return errors.Join(err, f.Truncate(0))
}

// sink writes a download of bounded size and remembers what went wrong on this side.
type sink struct {
	file *os.File
	left int64
	task *progress.Task
	err  error
}

func (s *sink) Write(p []byte) (int, error) {
	if s.left -= int64(len(p)); s.left < 0 {
		s.err = fault.WithHint(fault.Inputf("the archive is larger than allowed"), "raise --max-size")
		return 0, s.err
	}
	n, err := s.file.Write(p)
	s.err = err
	s.task.Add(int64(n))
	return n, err
}

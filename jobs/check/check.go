// Package check inspects the file systems of a built image without booting or mounting it, and as an ordinary user.
//
// Each check is one function in the catalogue, numbered as in the list of checks that the project keeps for cloud
// images. Together they are the suite "check" of the image's report.
package check

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/internal/progress"
)

// SuiteName is the name of the suite in the report.
const SuiteName = "check"

// Options says what to check.
type Options struct {
	BuildPath string // NAME.build.json
	Only      []int  // numbers of checks, see List; empty means all. The result of a selection is not recorded.
	Again     bool   // check again although the report already has a passed suite for this image
}

// Run checks the image of a build and returns what it found. A failed check is no error: ask the suite. Unless Only
// is set, the suite goes into NAME.report.json and NAME.check.xml beside the Build document.
//
// An image that is not the one that the Build document describes gives an error of kind fault.Input. An image whose
// file systems cannot be read fails check 0.
func Run(ctx context.Context, o Options) (*manifest.Suite, error) {
	build, err := manifest.ReadBuild(o.BuildPath)
	if err != nil {
		return nil, err
	}
	selected, err := selection(o.Only)
	if err != nil {
		return nil, err
	}
	if !o.Again && len(o.Only) == 0 {
		if done := earlier(o.BuildPath, build); done != nil {
			return done, nil
		}
	}
	suite, err := verifyAndRun(ctx, o.BuildPath, build, selected)
	if err != nil || len(o.Only) > 0 {
		return suite, err
	}
	base := manifest.Base(o.BuildPath)
	subject := strings.TrimSuffix(build.Data.Image.Name, ".raw")
	if err := suite.WriteJUnit(base+".check.xml", subject); err != nil {
		return nil, err
	}
	return suite, manifest.RecordSuite(base+".report.json", build, *suite)
}

// selection returns the checks with the given numbers, or all. Check 0 is always among them.
func selection(numbers []int) ([]check, error) {
	if len(numbers) == 0 {
		return catalogue, nil
	}
	for _, n := range numbers {
		if n < 0 || n >= len(catalogue) {
			return nil, fault.WithHint(fault.Inputf("there is no check %d of the file system", n), "debcloud check --list shows them all")
		}
	}
	var selected []check
	for _, c := range catalogue {
		if c.number == 0 || slices.Contains(numbers, c.number) {
			selected = append(selected, c)
		}
	}
	return selected, nil
}

// earlier returns the recorded suite if it is whole, passed, on this image, and the image was not touched since.
func earlier(buildPath string, build *manifest.Build) *manifest.Suite {
	report, err := manifest.ReadReport(manifest.Base(buildPath) + ".report.json")
	if err != nil {
		return nil
	}
	digest, err := build.Metadata.Digest()
	if err != nil || report.DemandPassed(digest, SuiteName) != nil {
		return nil
	}
	i := slices.IndexFunc(report.Data.Suites, func(s manifest.Suite) bool { return s.Name == SuiteName })
	suite := &report.Data.Suites[i]
	image, err := os.Stat(build.ImagePath(buildPath))
	if err != nil || image.Size() != build.Data.Image.Size || image.ModTime().After(suite.Started) {
		return nil
	}
	same := slices.EqualFunc(suite.Checks, catalogue, func(old manifest.Check, now check) bool { return old.ID == now.id() })
	if !same {
		return nil
	}
	return suite
}

// verifyAndRun compares the image with its digest while the checks already read it: the digest alone keeps one
// processor busy for longer than all checks. What they found counts only if the digest matches.
func verifyAndRun(ctx context.Context, buildPath string, build *manifest.Build, selected []check) (*manifest.Suite, error) {
	image, err := os.Stat(build.ImagePath(buildPath))
	if err == nil && image.Size() != build.Data.Image.Size {
		_, err := build.VerifyImage(ctx, buildPath) // says it in its own words, without reading the image
		return nil, err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		_, err := build.VerifyImage(ctx, buildPath)
		return err
	})
	var suite *manifest.Suite
	g.Go(func() (err error) {
		suite, err = runChecks(ctx, build.ImagePath(buildPath), build, selected)
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return suite, nil
}

// runChecks opens the image and runs the selected checks side by side. The error is ctx's.
func runChecks(ctx context.Context, path string, build *manifest.Build, selected []check) (*manifest.Suite, error) {
	suite := &manifest.Suite{Name: SuiteName, Started: time.Now().UTC(), Checks: make([]manifest.Check, len(selected))}
	task := progress.Start(ctx, "check", int64(len(selected)), false)
	defer task.Abort()

	s, closeImage, err := openImage(path, build)
	if err != nil {
		unreadable(suite, selected, err)
	} else {
		defer closeImage()
		var g errgroup.Group
		g.SetLimit(runtime.GOMAXPROCS(0))
		for i, c := range selected {
			g.Go(func() error {
				suite.Checks[i] = c.perform(ctx, s)
				task.Add(1)
				return nil
			})
		}
		g.Wait()
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	suite.Seconds = time.Since(suite.Started).Seconds()
	task.Done()
	return suite, nil
}

// unreadable fails check 0 and skips the others.
func unreadable(suite *manifest.Suite, selected []check, err error) {
	for i, c := range selected {
		suite.Checks[i] = manifest.Check{ID: c.id(), Name: c.name, Result: manifest.Skipped, Evidence: "the file systems cannot be read"}
	}
	suite.Checks[0].Result, suite.Checks[0].Evidence = manifest.Failed, err.Error()
}

// check is one entry of the catalogue.
type check struct {
	number  int
	word    string                  // the rest of its ID
	name    string                  // what must hold, as a sentence
	applies func(s *subject) string // why it does not apply to an image, "" if it does; nil: it always does
	run     func(ctx context.Context, s *subject, f *findings) error
}

func (c check) id() string { return strconv.Itoa(c.number) + "-" + c.word }

func (c check) perform(ctx context.Context, s *subject) manifest.Check {
	started := time.Now()
	result := manifest.Check{ID: c.id(), Name: c.name}
	if c.applies != nil {
		if why := c.applies(s); why != "" {
			result.Result, result.Evidence = manifest.Skipped, why
			return result
		}
	}
	var f findings
	if err := c.run(ctx, s, &f); err != nil {
		f.wrongf("%s", err)
	}
	result.Result, result.Evidence = manifest.Passed, f.evidence()
	if len(f.wrong) > 0 {
		result.Result = manifest.Failed
	}
	result.Seconds = time.Since(started).Seconds()
	return result
}

// findings collects what a check sees, and among it what must not be.
type findings struct{ wrong, seen []string }

func (f *findings) wrongf(format string, args ...any) {
	f.wrong = append(f.wrong, fmt.Sprintf(format, args...))
}
func (f *findings) sawf(format string, args ...any) {
	f.seen = append(f.seen, fmt.Sprintf(format, args...))
}

// Offences that the evidence names; the rest is counted.
const shownOffences = 25

// evidence puts the first offence and the number of others on the first line, which is what GitLab shows.
func (f *findings) evidence() string {
	lines := slices.Clone(f.wrong)
	if n := len(lines); n > shownOffences {
		lines = append(lines[:shownOffences], fmt.Sprintf("… and %d more", n-shownOffences))
	}
	if n := len(f.wrong); n > 1 {
		lines[0] += fmt.Sprintf(" (and %d more)", n-1)
	}
	return strings.Join(append(lines, f.seen...), "\n")
}

// Entry is a line of List.
type Entry struct {
	Number int
	ID     string
	Name   string
}

// List returns the catalogue, in the order of its numbers.
func List() []Entry {
	entries := make([]Entry, len(catalogue))
	for i, c := range catalogue {
		entries[i] = Entry{c.number, c.id(), c.name}
	}
	return entries
}

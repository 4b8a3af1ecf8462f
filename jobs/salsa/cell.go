package salsa

import (
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/lazyregexp"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// Cell is what is known of one release × vendor × arch: what was built, and what was found when it was tested. One of both may be nil.
type Cell struct {
	Release, Vendor, Arch string
	Build                 *manifest.Build
	Report                *manifest.Report
	Lost                  string // why both are not here although there may be such documents
}

// String returns "trixie genericcloud amd64".
func (c Cell) String() string { return c.Release + " " + c.Vendor + " " + c.Arch }

var word = lazyregexp.New(`^[a-z0-9][a-z0-9.+_-]{0,62}$`)

// CheckWords refuses a cell whose words cannot be those of a release, a vendor and an architecture.
func (c Cell) CheckWords() error {
	for _, w := range []struct{ kind, text string }{{"release", c.Release}, {"vendor", c.Vendor}, {"architecture", c.Arch}} {
		if !word.MatchString(w.text) {
			return fault.Inputf("%s %q is not a word of a-z, 0-9, dot, plus, minus and underscore", w.kind, w.text)
		}
	}
	return nil
}

const (
	maxDocuments = 10_000
	maxDocument  = 64 << 20
)

// ReadCells reads the documents NAME.build.json and NAME.report.json at paths and below the directories among paths.
// Of several documents on one cell, those of the youngest test count. The cells come sorted by name.
func ReadCells(paths ...string) ([]Cell, error) {
	files, err := findDocuments(paths)
	if err != nil {
		return nil, err
	}
	bases := map[string]*Cell{}
	for _, path := range files {
		base := strings.TrimSuffix(strings.TrimSuffix(path, ".build.json"), ".report.json")
		if bases[base] == nil {
			bases[base] = &Cell{}
		}
		if err := bases[base].read(path); err != nil {
			return nil, err
		}
	}
	cells := map[string]Cell{}
	for _, base := range sortedKeys(bases) {
		c := *bases[base]
		if err := c.name(); err != nil {
			return nil, fmt.Errorf("%s: %w", base, err)
		}
		if old, twice := cells[c.String()]; twice {
			slog.Warn("two tests of one cell, the younger counts", "cell", c.String(), "document", base)
			if c.tested().Before(old.tested()) {
				continue
			}
		}
		cells[c.String()] = c
	}
	var sorted []Cell
	for _, name := range sortedKeys(cells) {
		sorted = append(sorted, cells[name])
	}
	return sorted, nil
}

// Planned adds to cells those of the named ones, "trixie genericcloud amd64", that no document tells of: they were not built.
func Planned(cells []Cell, names []string) ([]Cell, error) {
	known := byName(cells)
	for _, name := range names {
		words := strings.Split(name, " ")
		if len(words) != 3 {
			return nil, fault.Inputf("%q is not RELEASE VENDOR ARCH", name)
		}
		c := Cell{Release: words[0], Vendor: words[1], Arch: words[2]}
		if err := c.CheckWords(); err != nil {
			return nil, err
		}
		if _, there := known[name]; !there {
			known[name] = c
		}
	}
	var all []Cell
	for _, name := range sortedKeys(known) {
		all = append(all, known[name])
	}
	return all, nil
}

func isDocument(path string) bool {
	return strings.HasSuffix(path, ".build.json") || strings.HasSuffix(path, ".report.json")
}

func findDocuments(paths []string) ([]string, error) {
	var files []string
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, fault.Inputf("the documents cannot be read: %w", err)
		}
		if !info.IsDir() {
			if !isDocument(path) {
				return nil, fault.Inputf("%s is neither NAME.build.json nor NAME.report.json", path)
			}
			files = append(files, filepath.Clean(path))
			continue
		}
		err = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && isDocument(p) {
				files = append(files, p)
			}
			if len(files) > maxDocuments {
				return fmt.Errorf("there are more than %d documents", maxDocuments)
			}
			return err
		})
		if err != nil {
			return nil, fault.Inputf("the documents below %s cannot be read: %w", path, err)
		}
	}
	slices.Sort(files)
	return slices.Compact(files), nil
}

func (c *Cell) read(path string) (err error) {
	if info, err := os.Stat(path); err == nil && info.Size() > maxDocument {
		return fault.Inputf("%s has %d bytes, more than a document may have (%d)", path, info.Size(), maxDocument)
	}
	if strings.HasSuffix(path, ".build.json") {
		c.Build, err = manifest.ReadBuild(path)
	} else {
		c.Report, err = manifest.ReadReport(path)
	}
	return err
}

// name fills in the words, from the build or else from the report's labels.
func (c *Cell) name() error {
	if c.Build != nil {
		i := c.Build.Data.Info
		c.Release, c.Vendor, c.Arch = i.Release, i.Vendor, i.Arch
	} else {
		l := c.Report.Metadata.Labels
		c.Release, c.Vendor, c.Arch = l[manifest.LabelRelease], l[manifest.LabelVendor], l[manifest.LabelArch]
	}
	return c.CheckWords()
}

// tested is when the last suite began.
func (c Cell) tested() (last time.Time) {
	for _, s := range c.suites() {
		if s.Started.After(last) {
			last = s.Started
		}
	}
	return last
}

func (c Cell) suites() []manifest.Suite {
	if c.Report == nil {
		return nil
	}
	return c.Report.Data.Suites
}

// verdict tells whether the cell's image passed each of the named suites, and says so, or what is missing, in a line.
func (c Cell) verdict(suites []string) (bool, string) {
	switch {
	case c.Lost != "":
		return false, "its documents are missing: " + oneLine(c.Lost)
	case c.Report == nil && c.Build == nil:
		return false, "not built: there are no documents of it"
	case c.Report == nil:
		return false, "there is no report: it was not tested"
	}
	digest := c.Report.Metadata.Annotations[manifest.AnnotationDigest]
	if c.Build != nil && c.Build.Metadata.Annotations[manifest.AnnotationDigest] != digest {
		return false, "the report is on another image than the build"
	}
	var passed, skipped int
	var failed, missing []string
	for _, name := range suites {
		if !slices.ContainsFunc(c.suites(), func(s manifest.Suite) bool { return s.Name == name && len(s.Checks) > 0 }) {
			missing = append(missing, name)
		}
	}
	for _, s := range c.suites() {
		for _, check := range s.Checks {
			switch check.Result {
			case manifest.Passed:
				passed++
			case manifest.Skipped:
				skipped++
			default:
				failed = append(failed, oneLine(check.ID))
			}
		}
	}
	switch {
	case len(failed) > 0:
		return false, fmt.Sprintf("%s failed: %s", count(len(failed), "check"), strings.Join(failed, ", "))
	case len(missing) > 0:
		return false, "not run: " + strings.Join(missing, ", ")
	default:
		return true, fmt.Sprintf("%s passed, %d skipped", count(passed, "check"), skipped)
	}
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

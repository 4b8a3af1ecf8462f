package generator

import (
	"cmp"
	"compress/flate"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/templates"
)

// Limits of GitLab that a pipeline is kept inside.
const (
	maxPipelineSize = 1_900_000 // bytes of one file; GitLab's limit is 2 MB (ci_max_total_yaml_size_bytes)
	cellsPerFile    = 150       // so many of our jobs evaluate in 40 MiB and fill a fifth of a file
	maxArtifactSize = 5 << 20   // bytes, packed, of the artifact that carries the files to the pipeline (Gitlab::Ci::ArtifactFileReader)
)

// Emit takes a file of a pipeline. The last has the name "", because the caller chooses it; it names the others.
type Emit func(name string, json []byte) error

// Layout makes pipelines of plans by the templates.
type Layout struct {
	Templates string        // folder that overlays the built-in templates, or ""
	Version   image.Version // of all images; of a plan of type release, the daily version that it promotes
	Config    string        // ImageConfig document of the plan as the jobs see it, or "" for the built-in matrix
	PartName  string        // what the names of further files begin with: child-pipeline

	ahead        func() *library // from Prepare
	fileSize     int             // bytes; maxPipelineSize where 0
	artifactSize int             // bytes, packed; maxArtifactSize where 0
}

// Prepare begins to parse the built-in templates, so that they are ready when the plan is. A team's own wait for Lay, which bounds what they may take.
func (l *Layout) Prepare() {
	if l.Templates != "" {
		return
	}
	l.ahead = sync.OnceValue(func() *library {
		builtIn := newLibrary(overlay{nil}, builtInTemplates)
		names, _ := fs.Glob(templates.Files, "*.*sonnet") // no error: the pattern is well-formed
		for _, name := range names {
			builtIn.parse(name)
		}
		return builtIn
	})
	go l.ahead()
}

// templateContext is the argument of pipeline.jsonnet.
type templateContext struct {
	Type     image.UploadType  `json:"type"`
	Version  string            `json:"version"`
	Config   string            `json:"config"`
	Releases []templateRelease `json:"releases"`
	Parts    []templatePart    `json:"parts"`
	Last     bool              `json:"last"`
	Why      string            `json:"why"`
}

type templateRelease struct {
	Name  string         `json:"name"`
	Cells []templateCell `json:"cells"`
}

// templateCell leaves out of a cell what no job tells, its classes.
type templateCell struct {
	manifest.PlanCell
	Name      string            `json:"name"`
	Variables map[string]string `json:"variables"` // of its jobs
	// These hide promoted fields: the group is there when it is empty, too, and the others are large.
	UploadGroup string   `json:"uploadGroup"`
	Classes     []string `json:"classes,omitempty"`
	Why         []string `json:"why,omitempty"`
}

type templatePart struct {
	Name string `json:"name"`
	File string `json:"file"`
}

// Lay lays out a plan in one file, or in several of which the last starts the others. An empty plan becomes one job that says
// why it is empty.
func (l Layout) Lay(ctx context.Context, plan *manifest.Plan, emit Emit) error {
	switch plan.Data.Type {
	case image.Dev, image.Daily, image.Published:
	default:
		return fault.WithHint(fault.Inputf("layout debcloud has no jobs for type %q", plan.Data.Type), "use one of the types dev, daily and release")
	}
	if plan.Data.Type == image.Published && l.Version == (image.Version{}) {
		return fault.WithHint(fault.Inputf("a release promotes a daily version, and none is named"), "name a tested one: --version YYYYMMDD-N")
	}
	e, err := l.evaluator(plan.Data.Type)
	if err != nil {
		return err
	}
	defer e.close()
	e.context.Why = plan.Data.Why
	l.fileSize, l.artifactSize = cmp.Or(l.fileSize, maxPipelineSize), cmp.Or(l.artifactSize, maxArtifactSize)
	groups := groupCells(plan.Data.Cells, cellsPerFile)
	if len(groups) == 1 {
		text, err := e.file(ctx, plan.Data.Cells, nil, true)
		if err != nil || len(text) <= l.fileSize {
			if err != nil {
				return err
			}
			return emit("", text)
		}
	}
	return l.split(ctx, e, groups, emit)
}

// split lays a large plan out over several files. The jobs of a release stay together where they fit.
func (l Layout) split(ctx context.Context, e *evaluator, groups [][]manifest.PlanCell, emit Emit) error {
	var parts []templatePart
	var artifact packed
	for len(groups) > 0 {
		text, err := e.file(ctx, groups[0], nil, false)
		if err != nil {
			return err
		}
		if len(text) > l.fileSize {
			half := len(groups[0]) / 2
			if half == 0 {
				return fault.Inputf("the jobs of one image alone have %d bytes, more than the %d of a file: make the templates smaller", len(text), l.fileSize)
			}
			groups = append([][]manifest.PlanCell{groups[0][:half], groups[0][half:]}, groups[1:]...)
			continue
		}
		n := len(parts) + 1
		file := fmt.Sprintf("%s.%d.yml", l.PartName, n)
		parts = append(parts, templatePart{Name: fmt.Sprintf("images %d", n), File: file})
		artifact.add(text)
		if err := emit(file, text); err != nil {
			return err
		}
		groups = groups[1:]
	}
	text, err := e.file(ctx, nil, parts, true)
	if err != nil {
		return err
	}
	artifact.add(text)
	if artifact.size > l.artifactSize {
		return fault.Inputf("the pipeline's %d files have %d bytes when they are packed, and GitLab's limit of the artifact that carries them is %d: select fewer images", len(parts)+1, artifact.size, l.artifactSize)
	}
	if len(text) > l.fileSize {
		return fault.Inputf("the pipeline has %d files, so many that the list of them has %d bytes: select fewer images", len(parts), len(text))
	}
	return emit("", text)
}

// packed counts what files have when a runner packs each into an archive.
type packed struct {
	size   int
	packer *flate.Writer
}

// Write counts what the packer writes.
func (p *packed) Write(b []byte) (int, error) {
	p.size += len(b)
	return len(b), nil
}

func (p *packed) add(text []byte) {
	if p.packer == nil {
		p.packer, _ = flate.NewWriter(p, flate.BestSpeed) // no error: the level is one of package flate's own
	} else {
		p.packer.Reset(p)
	}
	_, _ = p.packer.Write(text) // Write above never fails
	_ = p.packer.Close()
}

// groupCells packs whole releases into groups of at most size cells; a larger release is a group of its own.
func groupCells(cells []manifest.PlanCell, size int) [][]manifest.PlanCell {
	byRelease := map[string][]manifest.PlanCell{}
	var order []string
	for _, c := range cells {
		if byRelease[c.Release] == nil {
			order = append(order, c.Release)
		}
		byRelease[c.Release] = append(byRelease[c.Release], c)
	}
	var groups [][]manifest.PlanCell
	var group []manifest.PlanCell
	for _, r := range order {
		release := byRelease[r]
		if len(group) > 0 && len(group)+len(release) > size {
			groups, group = append(groups, group), nil
		}
		group = append(group, release...)
	}
	return append(groups, group)
}

// builtInTemplates names the embedded templates in messages.
const builtInTemplates = "templates"

// evaluator evaluates the templates for one pipeline.
type evaluator struct {
	library *library
	context templateContext
	close   func()
}

func (l Layout) evaluator(t image.UploadType) (*evaluator, error) {
	e := &evaluator{context: templateContext{Type: t, Config: l.Config}, close: func() {}}
	if l.Version != (image.Version{}) {
		e.context.Version = l.Version.String()
	}
	switch {
	case l.ahead != nil:
		e.library = l.ahead()
	case l.Templates == "":
		e.library = newLibrary(overlay{nil}, builtInTemplates)
	default:
		root, err := os.OpenRoot(l.Templates)
		if err != nil {
			return nil, fault.Inputf("--templates %s: %w", l.Templates, bare(err))
		}
		e.library, e.close = newLibrary(overlay{root.FS()}, l.Templates), func() { root.Close() }
	}
	return e, nil
}

// file returns the pipeline of some cells or parts as JSON.
func (e *evaluator) file(ctx context.Context, cells []manifest.PlanCell, parts []templatePart, last bool) ([]byte, error) {
	c := e.context
	c.Releases, c.Parts, c.Last = releasesOf(cells), append([]templatePart{}, parts...), last
	argument, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	text, err := e.library.call(ctx, "pipeline.jsonnet", string(argument))
	if err == nil && !strings.HasPrefix(text, "{") {
		err = fault.WithHint(fault.Inputf("pipeline.jsonnet of %s yields %.40q, which is no object", e.library.label, strings.Join(strings.Fields(text), " ")), "let it yield the pipeline, an object with a field for each job")
	}
	return []byte(text), err
}

// releasesOf groups cells by their release, of which the first comes first.
func releasesOf(cells []manifest.PlanCell) []templateRelease {
	releases := []templateRelease{}
	at := map[string]int{}
	for _, c := range cells {
		i, known := at[c.Release]
		if !known {
			i = len(releases)
			at[c.Release], releases = i, append(releases, templateRelease{Name: c.Release})
		}
		releases[i].Cells = append(releases[i].Cells, templateCell{PlanCell: c, Name: cellKey(c), UploadGroup: c.UploadGroup, Variables: map[string]string{
			"DEBCLOUD_RELEASE": c.Release, "DEBCLOUD_VENDOR": c.Vendor, "DEBCLOUD_ARCH": c.Arch,
		}})
	}
	return releases
}

// overlay is a team's templates over the built-in ones. The built-in ones are in folder debcloud, too.
type overlay struct{ team fs.FS }

func (o overlay) Open(name string) (fs.File, error) {
	if original, ok := strings.CutPrefix(name, "debcloud/"); ok {
		return templates.Files.Open(original)
	}
	if o.team != nil {
		if f, err := o.team.Open(name); !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
	}
	return templates.Files.Open(name)
}

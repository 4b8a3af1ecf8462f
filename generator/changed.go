package generator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing/fstest"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// reach says which cells a changed file can affect.
type reach int

const (
	reachNone      reach = iota // none: no image is made of it
	reachAll                    // every cell
	reachClass                  // cells with the FAI class that the pattern captures; of A+B with both
	reachMatrix                 // cells that the matrix describes in another way than before
	reachPublished              // every cell of a pipeline that publishes
	reachVendor                 // cells of the vendors that the rule names, of a pipeline that publishes
)

// changeRule is a row of the table. The first row whose pattern matches a path decides.
type changeRule struct {
	pattern func() *regexp.Regexp // compiled when it is needed: every start of the program would pay for it
	reach   reach
	why     string // %s is the class
	vendors []string
}

func changes(pattern string, r reach, why string, vendors ...string) changeRule {
	return changeRule{sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile("^(?:" + pattern + ")$") }), r, why, vendors}
}

// FAI keys files by class (fai-guide, "The configuration space and its subdirectories").
const faiClass = `([A-Z0-9_+-]+)`

// changeRules decides which images a change asks to be built and tested again. A path that no row knows affects all.
var changeRules = []changeRule{
	changes(`vmimages/matrix\.jsonnet`, reachMatrix, "the matrix describes it in another way"),
	changes(`vmimages/config_space/(?:class|package_config|debconf|disk_config)/`+faiClass+`(?:\.[a-z]+)?`, reachClass, "class %s"),
	changes(`vmimages/config_space/basefiles/`+faiClass+`\.[a-z.]+`, reachClass, "class %s"),
	changes(`vmimages/config_space/files/.+/`+faiClass, reachClass, "class %s"),
	changes(`vmimages/config_space/scripts/`+faiClass+`/[^/]+`, reachClass, "class %s"),
	changes(`vmimages/config_space/hooks/[a-z]+\.`+faiClass+`(?:\.[a-z]+)?`, reachClass, "class %s"),
	changes(`vmimages/config_space/.*`, reachAll, "what all images share"),
	changes(`(.*/)?(testdata/.*|[^/]*_test\.go)|jobs/publish/(publishtest|memory)/.*`, reachNone, "tests"),
	changes(`.*\.md|LICENSE|docs/.*|\.gitignore`, reachNone, "documentation"),
	changes(`(packaging|executor|vmimages/runner)/.*`, reachNone, "the executor runs jobs and is in no image"),
	changes(`jobs/publish/aws/.*`, reachVendor, "how it is published", "ec2"),
	changes(`jobs/publish/azure/.*`, reachVendor, "how it is published", "azure"),
	changes(`jobs/publish/google/.*`, reachVendor, "how it is published", "gce"),
	changes(`jobs/(publish|index|notify|prune)/.*|cmd/debcloud/(publish|targets|index|notify|prune)\.go`, reachPublished, "how images are published"),
	changes(`jobs/salsa/.*|cmd/debcloud/(finder|salsa|executor|guest|lint|plan)\.go`, reachNone, "a command that makes and tests no image"),
	changes(`jobs/(build|check|boot)/.*`, reachAll, "how images are made and tested"),
	changes(`(cmd|internal|generator|templates)/.*|go\.(mod|sum)|Makefile|\.gitlab-ci\.yml|\.ci/.*`, reachAll, "the program or its pipeline"),
	changes(`.*`, reachAll, "a file that no rule knows"),
}

// Since selects by change: what differs between a commit and the working tree.
type Since struct {
	Ref string // commit, branch or tag
	Dir string // the repository's root, or a folder in it
}

// Restrict leaves in a plan only the cells that the changed files can affect, each with the reasons. Where none is left, the
// plan says so. An unreadable ref is an input error.
func (c *Config) Restrict(ctx context.Context, plan *manifest.Plan, s Since) error {
	files, err := s.files(ctx)
	if err != nil {
		return err
	}
	m := matrixChange{path: s.matrixPath(ctx, c)}
	if slices.Contains(files, m.path) {
		if m.before, err = s.matrixBefore(ctx, m.path, plan.Data.Type); err != nil {
			return err
		}
		m.now = c.descriptions(plan.Data.Type)
	}
	kept := plan.Data.Cells[:0]
	for _, cell := range plan.Data.Cells {
		for _, file := range files {
			if why := affects(file, cell, plan.Data.Type, m); why != "" {
				cell.Why = append(cell.Why, file+": "+why)
			}
		}
		if len(cell.Why) > 0 {
			kept = append(kept, cell)
		}
	}
	plan.Data.Cells = kept
	if len(kept) == 0 && plan.Data.Why == "" {
		plan.Data.Why = fmt.Sprintf("none of the %d files that changed since %s affects an image of the selection", len(files), s.Ref)
	}
	return nil
}

// builtInPath is where the built-in matrix stands in the repository.
const builtInPath = "vmimages/matrix.jsonnet"

// matrixChange is what the matrix says of each cell, where it is among the changed files. before is nil where the ref has none
// that can be read: then all cells count as changed.
type matrixChange struct {
	path        string
	before, now map[string]string
}

func (m matrixChange) affects(c manifest.PlanCell) bool {
	key := cellKey(c)
	return m.before == nil || m.before[key] != m.now[key]
}

// affects says why a changed file affects a cell, or "" if it does not.
func affects(file string, c manifest.PlanCell, t image.UploadType, m matrixChange) string {
	published := t == image.Daily || t == image.Published
	r, class := ruleOf(file, m.path)
	yes, why := false, r.why
	switch r.reach {
	case reachAll:
		yes = true
	case reachClass:
		yes, why = hasClass(c, class), fmt.Sprintf(r.why, class)
	case reachMatrix:
		yes = file == m.path && m.affects(c)
	case reachPublished:
		yes = published
	case reachVendor:
		yes = published && slices.Contains(r.vendors, c.Vendor)
	}
	if !yes {
		return ""
	}
	return why
}

// ruleOf returns the first rule that matches a path, and the class in it. The configuration in use counts as the matrix, whatever
// its path.
func ruleOf(file, matrix string) (r *changeRule, class string) {
	if file == matrix {
		file = builtInPath
	}
	for i := range changeRules {
		r = &changeRules[i]
		if m := r.pattern().FindStringSubmatch(file); m != nil {
			if r.reach == reachClass {
				class = m[1]
			}
			return r, class
		}
	}
	return r, "" // not reached: the last rule matches every path
}

func hasClass(c manifest.PlanCell, class string) bool {
	for part := range strings.SplitSeq(class, "+") {
		if !slices.Contains(c.Classes, part) {
			return false
		}
	}
	return true
}

func cellKey(c manifest.PlanCell) string { return c.Release + " " + c.Vendor + " " + c.Arch }

// descriptions are all that the configuration says of each cell of a type.
func (c *Config) descriptions(t image.UploadType) map[string]string {
	plan, err := c.Plan(t, Selection{})
	if err != nil {
		return nil
	}
	planned := map[string]manifest.PlanCell{}
	for _, cell := range plan.Data.Cells {
		planned[cellKey(cell)] = cell
	}
	buildType, _ := c.BuildType(buildTypeOf(t)) // none where none is declared
	all := map[string]string{}
	for cell := range c.cells() {
		if p, ok := planned[cell.String()]; ok {
			text, _ := json.Marshal([]any{p, cell, buildType}) // strings, numbers and booleans
			all[cell.String()] = string(text)
		}
	}
	return all
}

// files lists what differs between the ref and the working tree, relative to the repository's root: both names of what was renamed,
// what was removed, and what git does not know yet but images could be made of.
func (s Since) files(ctx context.Context) ([]string, error) {
	if _, err := s.git(ctx, "rev-parse", "--verify", "--end-of-options", s.Ref+"^{commit}"); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, s.unreadable(err)
	}
	changed, err := s.git(ctx, "diff", "--name-only", "--no-renames", "--no-relative", "--ignore-submodules=none", "-z", "--end-of-options", s.Ref, "--", ":/")
	if err != nil {
		return nil, fmt.Errorf("list what changed since %s: %w", s.Ref, err)
	}
	args := []string{"ls-files", "--others", "--exclude-standard", "--full-name", "-z", "--"}
	unknown, err := s.git(ctx, append(args, sourceFolders...)...)
	if err != nil {
		return nil, fmt.Errorf("list what is new since %s: %w", s.Ref, err)
	}
	files := strings.FieldsFunc(string(changed)+string(unknown), func(r rune) bool { return r == 0 })
	slices.Sort(files)
	return slices.Compact(files), nil
}

// sourceFolders are those whose files become part of the program or of images although git may not know them yet.
var sourceFolders = []string{":/cmd", ":/generator", ":/internal", ":/jobs", ":/templates", ":/vmimages"}

// unreadable is the input error of a ref that git cannot follow, with what git says.
func (s Since) unreadable(err error) error {
	var refused *gitError
	if !errors.As(err, &refused) {
		return err
	}
	if strings.Contains(refused.said, "not a git repository") || strings.Contains(refused.said, "dubious ownership") {
		return fault.WithHint(fault.Inputf("--changed-since %q cannot be followed: %s", s.Ref, refused.said), "run it in a clone of the project that belongs to you")
	}
	return fault.WithHint(fault.Inputf("--changed-since %q names no commit that this clone has", s.Ref), "git fetch origin %s; in a shallow clone set GIT_DEPTH to 0", s.Ref)
}

// matrixPath is where the configuration stands in the repository; "" where it is outside.
func (s Since) matrixPath(ctx context.Context, c *Config) string {
	if c.source == builtIn {
		return builtInPath
	}
	top, err := s.git(ctx, "rev-parse", "--show-toplevel")
	if err != nil {
		return ""
	}
	path, err := filepath.Abs(c.source)
	if err != nil {
		return ""
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	inside, err := filepath.Rel(strings.TrimSpace(string(top)), path)
	if err != nil || !filepath.IsLocal(inside) {
		return ""
	}
	return filepath.ToSlash(inside)
}

// matrixBefore returns what the ref's configuration said of each cell; nil where it has none that can be read.
func (s Since) matrixBefore(ctx context.Context, file string, t image.UploadType) (map[string]string, error) {
	source, err := s.git(ctx, "show", s.Ref+":"+file)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, nil
	}
	old, err := s.parseBefore(ctx, file, source)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, nil
	}
	return old.descriptions(t), nil
}

func (s Since) parseBefore(ctx context.Context, file string, source []byte) (*Config, error) {
	if path.Ext(file) != ".jsonnet" {
		return parse(file, source)
	}
	name := path.Base(file)
	return loadJsonnet(ctx, fstest.MapFS{name: {Data: source}}, s.Ref+":"+path.Dir(file), name)
}

// git runs git in the repository and returns what it prints.
func (s Since) git(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = s.Dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "GIT_OPTIONAL_LOCKS=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, fault.WithHint(fault.Inputf("git is not installed"), "apt-get install git")
	}
	if err != nil {
		said, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n")
		return nil, &gitError{args[0], err, said}
	}
	return out, nil
}

// gitError is a git command that failed.
type gitError struct {
	command string
	cause   error
	said    string // the first line
}

func (e *gitError) Error() string { return fmt.Sprintf("git %s: %v: %s", e.command, e.cause, e.said) }
func (e *gitError) Unwrap() error { return e.cause }

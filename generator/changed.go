package generator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
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
	pattern *regexp.Regexp
	reach   reach
	why     string // %s is the class
	vendors []string
}

func changes(pattern string, r reach, why string, vendors ...string) changeRule {
	return changeRule{regexp.MustCompile("^(?:" + pattern + ")$"), r, why, vendors}
}

// FAI keys files by class (fai-guide, "The configuration space and its subdirectories").
const faiClass = `([A-Z0-9_+-]+)`

// changeRules decides which images a change asks to be built and tested again. A path that no row knows affects all.
var changeRules = []changeRule{
	changes(`(.*/)?(testdata/.*|[^/]*_test\.go)`, reachNone, "tests"),
	changes(`.*\.md|LICENSE|docs/.*|\.gitignore`, reachNone, "documentation"),
	changes(`(packaging|executor|vmimages/runner)/.*`, reachNone, "the executor runs jobs and is in no image"),
	changes(`vmimages/matrix\.jsonnet`, reachMatrix, "the matrix describes it in another way"),
	changes(`vmimages/config_space/(?:class|package_config|debconf|disk_config)/`+faiClass+`(?:\.[a-z]+)?`, reachClass, "class %s"),
	changes(`vmimages/config_space/basefiles/`+faiClass+`\.[a-z.]+`, reachClass, "class %s"),
	changes(`vmimages/config_space/files/.+/`+faiClass, reachClass, "class %s"),
	changes(`vmimages/config_space/scripts/`+faiClass+`/[^/]+`, reachClass, "class %s"),
	changes(`vmimages/config_space/hooks/[a-z]+\.`+faiClass+`(?:\.[a-z]+)?`, reachClass, "class %s"),
	changes(`vmimages/config_space/.*`, reachAll, "what all images share"),
	changes(`jobs/publish/aws/.*`, reachVendor, "how it is published", "ec2"),
	changes(`jobs/publish/azure/.*`, reachVendor, "how it is published", "azure"),
	changes(`jobs/publish/google/.*`, reachVendor, "how it is published", "gce"),
	changes(`jobs/(publish|index|notify|prune)/.*`, reachPublished, "how images are published"),
	changes(`jobs/salsa/.*|cmd/debcloud/(publish|index|finder|notify|prune|salsa|executor|executor_image|guest|lint|plan)\.go`, reachNone, "a command that makes and tests no image"),
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
	var before map[string]string
	if slices.Contains(files, matrixPath) {
		if before, err = s.matrixBefore(ctx, plan.Data.Type); err != nil {
			return err
		}
	}
	kept := plan.Data.Cells[:0]
	for _, cell := range plan.Data.Cells {
		for _, file := range files {
			if why := affects(file, cell, plan.Data.Type, before); why != "" {
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

const matrixPath = "vmimages/matrix.jsonnet"

// affects says why a changed file affects a cell, or "" if it does not. before holds what the matrix said of each cell.
func affects(file string, c manifest.PlanCell, t image.UploadType, before map[string]string) string {
	published := t == image.Daily || t == image.Published
	for _, r := range changeRules {
		m := r.pattern.FindStringSubmatch(file)
		if m == nil {
			continue
		}
		yes, why := false, r.why
		switch r.reach {
		case reachAll:
			yes = true
		case reachClass:
			yes, why = hasClass(c, m[1]), fmt.Sprintf(r.why, m[1])
		case reachMatrix:
			yes = before == nil || before[cellKey(c)] != describe(c)
		case reachPublished:
			yes = published
		case reachVendor:
			yes = published && slices.Contains(r.vendors, c.Vendor)
		}
		if yes {
			return why
		}
		return ""
	}
	return ""
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

func describe(c manifest.PlanCell) string {
	c.Why = nil
	text, _ := json.Marshal(c) // a PlanCell holds strings, numbers and booleans
	return string(text)
}

// files lists what differs between the ref and the working tree, relative to the repository's root.
func (s Since) files(ctx context.Context) ([]string, error) {
	if _, err := s.git(ctx, "rev-parse", "--verify", "--quiet", "--end-of-options", s.Ref+"^{commit}"); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fault.WithHint(fault.Inputf("--changed-since %q names no commit that this clone has", s.Ref), "git fetch origin %s; in a shallow clone set GIT_DEPTH to 0", s.Ref)
	}
	out, err := s.git(ctx, "diff", "--name-only", "--no-renames", "-z", "--end-of-options", s.Ref, "--", ":/")
	if err != nil {
		return nil, fmt.Errorf("list what changed since %s: %w", s.Ref, err)
	}
	files := strings.FieldsFunc(string(out), func(r rune) bool { return r == 0 })
	return files, nil
}

// matrixBefore returns what the ref's matrix says of each cell; nil where it has none that can be read, so that all
// cells count as changed.
func (s Since) matrixBefore(ctx context.Context, t image.UploadType) (map[string]string, error) {
	source, err := s.git(ctx, "show", s.Ref+":"+matrixPath)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, nil
	}
	old, err := loadJsonnet(ctx, fstest.MapFS{"matrix.jsonnet": {Data: source}}, s.Ref+":vmimages", "matrix.jsonnet")
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, nil
	}
	plan, err := old.Plan(t, Selection{})
	if err != nil {
		return nil, nil
	}
	before := map[string]string{}
	for _, c := range plan.Data.Cells {
		before[cellKey(c)] = describe(c)
	}
	return before, nil
}

// git runs git in the repository and returns what it prints.
func (s Since) git(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = s.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, fault.WithHint(fault.Inputf("git is not installed"), "apt-get install git")
	}
	if err != nil {
		return nil, fmt.Errorf("git %s: %w: %s", args[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}

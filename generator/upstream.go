package generator

import (
	"bytes"
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// The layout of upstream's generator, whose jobs extend the hidden ones of the team's present .gitlab-ci.yml: a build and, where
// the vendor has a cloud, an upload a cell; a post-upload a vendor, or a group of its uploads; an upload a release, which
// publishes its images and needs all of them.

// upstreamJob has its fields in the order of their names, as upstream writes them.
type upstreamJob struct {
	Extends       string            `json:"extends"`
	Needs         []upstreamNeed    `json:"needs,omitzero"` // nil where the job has none; an empty list starts the job at once
	ResourceGroup string            `json:"resource_group,omitempty"`
	Rules         []upstreamRule    `json:"rules"`
	Variables     map[string]string `json:"variables"`
}

type upstreamNeed struct {
	Job      string `json:"job"`
	Optional bool   `json:"optional"`
}

type upstreamRule struct {
	If   string `json:"if,omitempty"`
	When string `json:"when,omitempty"`
}

// upstreamPipeline collects the jobs of a plan.
type upstreamPipeline struct {
	uploadType image.UploadType
	jobs       map[string]*upstreamJob
	variables  map[string]string // of the pipeline
}

// Upstream lays a plan out as upstream's generator does and returns JSON, which is YAML.
func Upstream(plan *manifest.Plan) ([]byte, error) {
	if len(plan.Data.Cells) == 0 {
		return indented(noOp(plan))
	}
	p := upstreamPipeline{uploadType: plan.Data.Type, jobs: map[string]*upstreamJob{}, variables: map[string]string{}}
	for _, c := range plan.Data.Cells {
		if err := p.add(c); err != nil {
			return nil, err
		}
	}
	document := map[string]any{}
	if len(p.variables) > 0 {
		document["variables"] = p.variables
	}
	for _, name := range slices.Sorted(maps.Keys(p.jobs)) {
		if err := p.jobs[name].finish(name); err != nil {
			return nil, err
		}
		document[name] = p.jobs[name]
	}
	return indented(document)
}

// indented is JSON as upstream indents it.
func indented(document map[string]any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(document)
	return b.Bytes(), err
}

// publishes tells whether pipelines of the type end with a publication. Others are started by hand.
func (p *upstreamPipeline) publishes() bool {
	return p.uploadType == image.Daily || p.uploadType == image.Published
}

func (p *upstreamPipeline) add(c manifest.PlanCell) error {
	if c.Upload && !p.publishes() {
		return fault.Inputf("%s %s %s is uploaded by type %q, but in upstream's layout only daily and release upload", c.Release, c.Vendor, c.Arch, p.uploadType)
	}
	toggle := "PIPELINE_RELEASE_" + strings.ToUpper(strings.ReplaceAll(c.Release, "-", "_"))
	rule := upstreamRule{If: "$" + toggle}
	if !p.publishes() {
		rule = upstreamRule{When: "manual"}
	}
	if p.uploadType == image.Daily {
		p.variables[toggle] = "1"
	}
	variables := map[string]string{"CLOUD_ARCH": c.Arch, "CLOUD_RELEASE": c.Release, "CLOUD_VENDOR": c.Vendor}
	if p.publishes() && c.UploadGroup != "" {
		variables["CLOUD_UPLOAD_GROUP"] = c.UploadGroup
	}
	name := c.Vendor + " " + c.Release + " " + c.Arch
	var needs []upstreamNeed // what whatever comes after this cell's build needs
	if c.Build {
		needs = []upstreamNeed{{Job: name + " build"}}
		p.jobs[name+" build"] = &upstreamJob{Extends: ".build", Rules: []upstreamRule{rule}, Variables: variables}
	}
	if p.publishes() {
		p.addUploads(c, name, rule, variables, needs)
	}
	return nil
}

func (p *upstreamPipeline) addUploads(c manifest.PlanCell, name string, rule upstreamRule, variables map[string]string, needs []upstreamNeed) {
	publication := p.shared(c.Release+" upload", ".upload", map[string]string{"CLOUD_RELEASE": c.Release})
	publication.Rules = append(publication.Rules, rule)
	publication.Needs = append(publication.Needs, needs...)
	if !c.Upload {
		return
	}
	queue, groupVariables := c.Vendor, map[string]string{}
	if c.UploadGroup != "" {
		queue, groupVariables["CLOUD_UPLOAD_GROUP"] = c.Vendor+" group-"+c.UploadGroup, c.UploadGroup
	}
	upload := &upstreamJob{Extends: "." + c.Vendor + " upload", Needs: append([]upstreamNeed{}, needs...), Rules: []upstreamRule{rule}, Variables: variables}
	if c.UploadGroup != "" {
		upload.ResourceGroup = queue + " upload"
	}
	p.jobs[name+" upload"] = upload
	publication.Needs = append(publication.Needs, upstreamNeed{Job: name + " upload"})
	after := p.shared(queue+" postupload", "."+c.Vendor+" postupload", groupVariables)
	after.Rules = append(after.Rules, rule)
	after.Needs = append(append(after.Needs, needs...), upstreamNeed{Job: name + " upload", Optional: true})
}

// shared returns a job that stands for many cells, and makes it for the first of them.
func (p *upstreamPipeline) shared(name, extends string, variables map[string]string) *upstreamJob {
	j, ok := p.jobs[name]
	if !ok {
		j = &upstreamJob{Extends: extends, Needs: []upstreamNeed{}, Variables: variables}
		p.jobs[name] = j
	}
	return j
}

// finish sorts lists and drops what stands in them twice. It stops where upstream's generator does, which writes one need less
// than GitLab allows.
func (j *upstreamJob) finish(name string) error {
	slices.SortFunc(j.Needs, func(a, b upstreamNeed) int { return cmp.Compare(a.Job, b.Job) })
	j.Needs = slices.Compact(j.Needs)
	slices.SortFunc(j.Rules, func(a, b upstreamRule) int { return cmp.Compare(a.If, b.If) })
	j.Rules = slices.Compact(j.Rules)
	if len(j.Needs) >= maxNeeds {
		return fault.WithHint(fault.Inputf("job %q needs %d jobs, but upstream's layout allows fewer than %d", name, len(j.Needs), maxNeeds),
			"select fewer releases or vendors, or use --layout debcloud, which splits such jobs")
	}
	return nil
}

// maxNeeds is GitLab's limit of needs of one job (ci_needs_size_limit).
const maxNeeds = 50

// noOp is the pipeline of an empty plan, because GitLab refuses a pipeline without jobs. Its stage is that of the team's .build,
// for the team includes it in a file that has no stage test.
func noOp(plan *manifest.Plan) map[string]any {
	return map[string]any{"nothing to do": map[string]any{
		"stage":     "build",
		"script":    []string{"echo " + shellQuote(plan.Data.Why)},
		"needs":     []string{},
		"timeout":   "5 minutes",
		"variables": map[string]string{"GIT_STRATEGY": "none"},
	}}
}

// shellQuote makes text one word of a shell command.
func shellQuote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

package generator

import (
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// Selection narrows a plan. Each list holds names; an empty one selects everything.
type Selection struct {
	Releases, Vendors, Archs []string
}

func (s Selection) has(c image.Cell) bool {
	return selects(s.Releases, c.Release.Name) && selects(s.Vendors, c.Vendor.Name) && selects(s.Archs, c.Arch.Name)
}

func selects(list []string, name string) bool { return len(list) == 0 || slices.Contains(list, name) }

// cells yields every cell that the rules of its release and vendor let pass, in the order of the document:
// vendors, then releases, then architectures.
func (c *Config) cells() iter.Seq[image.Cell] {
	return func(yield func(image.Cell) bool) {
		for _, v := range c.vendors {
			for _, r := range c.releases {
				for _, a := range c.archs {
					cell := image.Cell{Release: r.Release, Vendor: v.Vendor, Arch: a}
					if excluded(r, v, cell) == "" && !yield(cell) {
						return
					}
				}
			}
		}
	}
}

// Plan lists the cells of one upload type that the selection leaves. A name in the selection that is not declared is an
// input error. Where no cell is left, the plan says why.
func (c *Config) Plan(t image.UploadType, s Selection) (*manifest.Plan, error) {
	public, err := find("type", string(t), c.publicTypes, func(p publicType) string { return string(p.name) })
	if err != nil {
		return nil, err
	}
	if err := c.checkSelection(s); err != nil {
		return nil, err
	}
	buildType, err := c.BuildType(buildTypeOf(t))
	if err != nil {
		// A plan and upstream's pipeline can be made without; debcloud build refuses.
		slog.Warn("images of the type cannot be built", "type", t, "error", err)
		buildType.Name = buildTypeOf(t)
	}
	plan := manifest.NewPlan(t)
	for cell := range c.cells() {
		if verdict := judge(public.rules, cell); verdict.passes && s.has(cell) {
			plan.Data.Cells = append(plan.Data.Cells, c.planCell(cell, buildType, t, verdict))
		}
	}
	if len(plan.Data.Cells) == 0 {
		plan.Data.Why = c.whyEmpty(public, s)
	}
	return plan, nil
}

// buildTypeOf: what is published is built as "official", everything else as "dev".
func buildTypeOf(t image.UploadType) string {
	if t == image.Daily || t == image.Published {
		return "official"
	}
	return "dev"
}

// planCell: a release re-publishes what was built and tested as a daily, so it builds nothing.
func (c *Config) planCell(cell image.Cell, b image.BuildType, t image.UploadType, v verdict) manifest.PlanCell {
	return manifest.PlanCell{
		Release: cell.Release.Name, ReleaseID: cell.Release.ID, Vendor: cell.Vendor.Name, Arch: cell.Arch.Name,
		BuildType: b.Name, Build: t != image.Published, SizeGB: cell.Vendor.SizeGB,
		Upload: v.upload, UploadGroup: v.group, Classes: plainClasses(cell, b),
		Suites: c.demandedSuites(cell.Vendor.Name, v.upload),
	}
}

func (c *Config) checkSelection(s Selection) error {
	for _, name := range s.Releases {
		if _, err := find("release", name, c.releases, func(r release) string { return r.Name }); err != nil {
			return err
		}
	}
	for _, name := range s.Vendors {
		if _, err := find("vendor", name, c.vendors, func(v vendor) string { return v.Name }); err != nil {
			return err
		}
	}
	for _, name := range s.Archs {
		if _, err := find("architecture", name, c.archs, func(a image.Arch) string { return a.Name }); err != nil {
			return err
		}
	}
	return nil
}

// whyEmpty explains a plan without cells. Where the selection names a single cell, its rule is the reason.
func (c *Config) whyEmpty(public publicType, s Selection) string {
	if len(s.Releases) != 1 || len(s.Vendors) != 1 || len(s.Archs) != 1 {
		return fmt.Sprintf("no image of type %s matches%s", public.name, s)
	}
	cell, err := c.cell(s.Releases[0], s.Vendors[0], s.Archs[0])
	if err != nil {
		return err.Error()
	}
	verdict := judge(public.rules, cell)
	return fmt.Sprintf("there is no image %s of type %s: %s", cell, public.name, verdict.why(fmt.Sprintf("type %q", public.name), cell.String(), public.rules))
}

// String returns the selection as the flags that make it.
func (s Selection) String() string {
	var b strings.Builder
	write := func(flag string, names []string) {
		for _, name := range names {
			fmt.Fprintf(&b, " --%s %s", flag, name)
		}
	}
	write("release", s.Releases)
	write("vendor", s.Vendors)
	write("arch", s.Archs)
	return b.String()
}

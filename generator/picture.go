package generator

import (
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

//go:embed picture.html
var pictureSource string

var picturePage = template.Must(template.New("picture").Parse(pictureSource))

// picture is what picture.html shows.
type picture struct {
	Type     image.UploadType
	Images   int
	Vendors  []string
	Releases []pictureRow
	Kinds    []string
	Jobs     []jobRow
}

// pictureRow is a release: for each vendor, each architecture.
type pictureRow struct {
	Name  string
	Cells [][]pictureCell
}

type pictureCell struct {
	Arch   string
	In     bool
	Upload bool
	Note   string // what happens to it, or why it is not there
}

// jobRow is a release, or "all releases": the number of jobs of each kind.
type jobRow struct {
	Name   string
	Counts []int
}

// kindOrder is the way of an image through its jobs.
var kindOrder = []string{"build", "check", "boot", "publish", "cloud test", "promote", "report", "index", "notify", "prune"}

// WriteHTML writes a page of its own with the matrix as a grid, in which each image that is not there says why, and the jobs in
// the order in which they need each other.
func (c *Config) WriteHTML(ctx context.Context, w io.Writer, plan *manifest.Plan) error {
	g, err := graphOf(ctx, plan)
	if err != nil {
		return err
	}
	p := picture{Type: plan.Data.Type, Images: len(plan.Data.Cells)}
	planned := map[string]manifest.PlanCell{}
	for _, cell := range plan.Data.Cells {
		planned[cellKey(cell)] = cell
	}
	for _, v := range c.vendors {
		p.Vendors = append(p.Vendors, v.Name)
	}
	for _, r := range c.releases {
		row := pictureRow{Name: r.Name}
		for _, v := range c.vendors {
			row.Cells = append(row.Cells, c.pictureCells(r, v, plan.Data.Type, planned))
		}
		p.Releases = append(p.Releases, row)
	}
	var order []string
	for _, r := range c.releases {
		order = append(order, r.Name)
	}
	p.Kinds, p.Jobs = g.table(append(order, ""))
	return picturePage.Execute(w, p)
}

func (c *Config) pictureCells(r release, v vendor, t image.UploadType, planned map[string]manifest.PlanCell) []pictureCell {
	var cells []pictureCell
	for _, a := range c.archs {
		cell := image.Cell{Release: r.Release, Vendor: v.Vendor, Arch: a}
		p, in := planned[cell.String()]
		shown := pictureCell{Arch: a.Name, In: in, Upload: p.Upload}
		switch {
		case !in:
			shown.Note = cell.String() + ": " + cmp.Or(excluded(r, v, cell), c.excludedByType(t, cell), "not selected")
		case p.Upload:
			shown.Note = strings.TrimSpace(fmt.Sprintf("%s: uploaded to %s %s", cell, p.Vendor, p.UploadGroup))
		default:
			shown.Note = cell.String()
		}
		if len(p.Why) > 0 {
			shown.Note += " (" + p.Why[0] + ")"
		}
		cells = append(cells, shown)
	}
	return cells
}

func (c *Config) excludedByType(t image.UploadType, cell image.Cell) string {
	for _, p := range c.publicTypes {
		if v := judge(p.rules, cell); p.name == t && !v.passes {
			return v.why(fmt.Sprintf("type %q", t), cell.String(), p.rules)
		}
	}
	return ""
}

// table counts jobs by kind for each of the releases that has any; kinds stand in the order in which they need each other.
func (g *jobGraph) table(releases []string) (kinds []string, rows []jobRow) {
	counts := map[string]map[string]int{}
	seen := map[string]bool{}
	for n, count := range g.nodes {
		kind := n.kind
		for _, k := range kindOrder {
			if kind == k || strings.HasPrefix(kind, k+" ") {
				kind = k
			}
		}
		if counts[n.release] == nil {
			counts[n.release] = map[string]int{}
		}
		counts[n.release][kind] += count
		seen[kind] = true
	}
	for _, k := range kindOrder {
		if seen[k] {
			kinds = append(kinds, k)
		}
	}
	for _, release := range releases {
		if counts[release] == nil {
			continue
		}
		row := jobRow{Name: cmp.Or(release, "once")}
		for _, k := range kinds {
			row.Counts = append(row.Counts, counts[release][k])
		}
		rows = append(rows, row)
	}
	return kinds, rows
}

package manifest

import (
	"slices"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
)

// Plan lists what a pipeline makes: the cells of one upload type.
type Plan struct {
	Header
	Data PlanData `json:"data"`
}

// PlanData lists cells by vendor, release and architecture, in the order of the matrix.
type PlanData struct {
	Type  image.UploadType `json:"type"`
	Cells []PlanCell       `json:"cells"`
	Why   string           `json:"why,omitempty"` // why there are no cells
}

// PlanCell is one cell and what happens to it.
type PlanCell struct {
	Release     string `json:"release"`
	ReleaseID   string `json:"releaseId"`
	Vendor      string `json:"vendor"`
	Arch        string `json:"arch"`
	BuildType   string `json:"buildType"` // dev, official
	Build       bool   `json:"build"`     // false: an image that was built before is published again
	SizeGB      int    `json:"sizeGB"`    // of the disk, GiB
	Upload      bool   `json:"upload"`    // to the vendor's cloud
	UploadGroup string `json:"uploadGroup,omitempty"`
	// Classes are the FAI classes in order, without the combinations that the generator derives from them.
	Classes []string `json:"classes"`
	// Suites are those of a report that must have passed beyond check and boot before the image becomes public.
	Suites []string `json:"suites,omitempty"`
	// Why lists the changes that affect the cell, where the plan was restricted to those.
	Why []string `json:"why,omitempty"`
}

// NewPlan returns an empty plan.
func NewPlan(t image.UploadType) *Plan {
	return &Plan{
		Header: Header{APIVersion: APIVersion, Kind: "Plan", Metadata: Metadata{Labels: map[string]string{LabelUploadType: string(t)}}},
		Data:   PlanData{Type: t, Cells: []PlanCell{}},
	}
}

// ReadPlan reads a Plan document and checks its schema.
func ReadPlan(path string) (*Plan, error) {
	p := new(Plan)
	if err := read(path, "Plan", p, &p.Header); err != nil {
		return nil, err
	}
	return p, nil
}

// DemandCells returns an input error that says why the plan has no cells, if it has none.
func (p *Plan) DemandCells() error {
	if len(p.Data.Cells) == 0 {
		return fault.Inputf("%s", p.Data.Why)
	}
	return nil
}

// Name returns "trixie genericcloud amd64", the words in which commands name a cell.
func (c PlanCell) Name() string { return c.Release + " " + c.Vendor + " " + c.Arch }

// Narrow keeps of the plan the named cells only. A name that the plan does not have is an input error.
func (p *Plan) Narrow(names []string) error {
	var kept []PlanCell
	for _, name := range names {
		i := slices.IndexFunc(p.Data.Cells, func(c PlanCell) bool { return c.Name() == name })
		if i < 0 {
			return fault.Inputf("the plan of type %s has no image %q", p.Data.Type, name)
		}
		kept = append(kept, p.Data.Cells[i])
	}
	p.Data.Cells = kept
	return nil
}

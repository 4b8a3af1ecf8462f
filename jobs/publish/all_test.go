package publish

import (
	"context"
	"slices"
	"strings"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// regional is a Publisher with a region, "west", that fails; "down" fails wholly, and "dark" too, with an empty Publication.
type regional struct {
	west  map[Stage]error
	down  error
	dark  bool
	calls []string
}

func (r *regional) Provider() string { return "regional" }

func (r *regional) Publish(_ context.Context, img *Image, stage Stage) (*Publication, error) {
	arch := img.Build.Data.Info.Arch
	r.calls = append(r.calls, string(stage)+" "+arch)
	if r.down != nil && arch == "arm64" {
		if r.dark {
			return &Publication{}, r.down
		}
		return nil, r.down
	}
	p := &Publication{Changed: true, Uploads: []manifest.Upload{img.CloudUpload("regional", "east", "img-"+arch, "")}}
	err := r.west[stage]
	if err == nil {
		p.Uploads = append(p.Uploads, img.CloudUpload("regional", "west", "img-"+arch, ""))
	}
	return p, err
}

// twoArchs are an image for amd64 and one for arm64, and the plan that has both.
func twoArchs(t *testing.T) ([]string, *manifest.Plan) {
	t.Helper()
	plan := &manifest.Plan{}
	var paths []string
	for _, arch := range []string{"amd64", "arm64"} {
		path, b := makeBuild(t, "official", "20260814-1", passed("check"), passed("boot"))
		b.Data.Info.Arch = arch
		if err := manifest.Write(path, b); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
		plan.Data.Cells = append(plan.Data.Cells, manifest.PlanCell{Release: "trixie", Vendor: "nocloud", Arch: arch})
	}
	return paths, plan
}

func TestARegionThatFailsDoesNotFailTheOthers(t *testing.T) {
	vanished := fault.WithHint(fault.Inputf("no region west"), "take it out")
	both := []string{"private amd64", "private arm64", "public amd64", "public arm64"}
	for _, row := range []struct {
		summary string
		place   *regional
		calls   []string
		kind    fault.Kind
		uploads int    // of each image, 0: there are no results
		text    string // of the error, "": there is none
	}{
		{"at both stages", &regional{west: map[Stage]error{Private: vanished, Public: vanished}}, both, fault.Outside, 1, "2 of 2 images were not published, or not in every region"},
		{"at the private one", &regional{west: map[Stage]error{Private: vanished}}, both, fault.Outside, 2, ""},
		{"at the public one", &regional{west: map[Stage]error{Public: fault.Outsidef("late")}}, both, fault.Outside, 1, "late"},
		{"an image that is nowhere", &regional{down: fault.Inputf("refused"), west: map[Stage]error{Private: vanished}}, both[:2], fault.Input, 0, "nothing becomes public, as only 1 of 2 images are there"},
		{"an image in no region", &regional{down: fault.Inputf("refused"), dark: true}, both[:2], fault.Input, 0, "nothing becomes public"},
		{"an image that may come later", &regional{down: fault.Outsidef("late")}, both[:2], fault.Outside, 0, "nothing becomes public"},
	} {
		t.Run(row.summary, func(t *testing.T) {
			paths, plan := twoArchs(t)
			results, err := All(t.Context(), paths, Options{To: row.place, Plan: plan, Type: "daily"})
			if !slices.Equal(row.place.calls, row.calls) {
				t.Errorf("the calls are %v", row.place.calls)
			}
			if (err == nil) != (row.text == "") || err != nil && (!strings.Contains(err.Error(), row.text) || fault.KindOf(err) != row.kind) {
				t.Errorf("the error is %v, of kind %v", err, fault.KindOf(err))
			}
			if want := min(row.uploads, 1) * len(paths); len(results) != want {
				t.Fatalf("%d results, want %d", len(results), want)
			}
			for _, r := range results {
				if _, uploads, err := manifest.ReadList(r.UploadPath); err != nil || len(r.Uploads) != row.uploads || len(uploads) != row.uploads {
					t.Errorf("%s has %d uploads, its document %d: %v", r.Name, len(r.Uploads), len(uploads), err)
				}
			}
		})
	}
}

func TestOneImageInSomeRegions(t *testing.T) {
	place := &regional{west: map[Stage]error{Private: fault.WithHint(fault.Inputf("no region west"), "take it out")}}
	paths, _ := twoArchs(t)
	results, err := All(t.Context(), paths[:1], Options{To: place, Type: "daily", Stage: Private})
	if len(results) != 1 || fault.KindOf(err) != fault.Outside || fault.HintOf(err) != "take it out" {
		t.Errorf("%d results, %v, of kind %v, hint %q", len(results), err, fault.KindOf(err), fault.HintOf(err))
	}
}

package generator

import (
	"fmt"
	"strings"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
)

func TestJudge(t *testing.T) {
	cell := image.Cell{
		Release: image.Release{Name: "trixie", Basename: "trixie"},
		Vendor:  image.Vendor{Name: "azure"},
		Arch:    image.Arch{Name: "arm64"},
	}
	yes := func(op string) rule { return rule{op: op} }
	for _, row := range []struct {
		summary string
		rules   []rule
		want    string
	}{
		{"no rules let everything pass", nil, "passes by rule -1"},
		{"rules of which none matches exclude", []rule{{op: opEnable, arches: []string{"amd64"}}}, "excluded by rule -1"},
		{"a rule without names matches everything", []rule{yes(opEnable)}, "passes by rule 0"},
		{"a star matches every name", []rule{{op: opEnable, arches: []string{"*"}, vendors: []string{"*"}, releases: []string{"*"}}}, "passes by rule 0"},
		{"every list of names has to match", []rule{{op: opEnable, arches: []string{"arm64"}, vendors: []string{"ec2"}}}, "excluded by rule -1"},
		{"one name of a list is enough", []rule{{op: opEnable, arches: []string{"amd64", "arm64"}}}, "passes by rule 0"},
		{"the first match wins: Disable", []rule{yes(opDisable), yes(opEnable)}, "excluded by rule 0"},
		{"the first match wins: Enable", []rule{yes(opEnable), yes(opDisable)}, "passes by rule 0"},
		{"what does not match is passed over", []rule{{op: opDisable, releases: []string{"sid"}}, yes(opEnable)}, "passes by rule 1"},
		{"EnableUpload lets pass and uploads", []rule{yes(opEnableUpload)}, "passes by rule 0, uploads"},
		{"EnableUpload names a group", []rule{{op: opEnableUpload, group: "debian-13", namesGroup: true}}, "passes by rule 0, uploads in debian-13"},
		{"upload and group are settled by the first rules that speak of them", []rule{yes(opEnable), {op: opEnableUpload, group: "a", namesGroup: true}, {op: opEnable, group: "b", namesGroup: true}}, "passes by rule 0, uploads in a"},
		{"an empty group is none, and settles it", []rule{{op: opEnableUpload, namesGroup: true}, {op: opEnable, group: "b", namesGroup: true}}, "passes by rule 0, uploads"},
		{"DisableUpload excludes", []rule{yes(opDisableUpload), yes(opEnableUpload)}, "excluded by rule 0"},
		{"DisableUpload settles the upload", []rule{yes(opEnable), yes(opDisableUpload), yes(opEnableUpload)}, "passes by rule 0"},
	} {
		v := judge(row.rules, cell)
		got := "excluded"
		if v.passes {
			got = "passes"
		}
		got += fmt.Sprintf(" by rule %d", v.rule)
		if v.passes && v.upload {
			got += ", uploads"
		}
		if v.group != "" {
			got += " in " + v.group
		}
		if got != row.want {
			t.Errorf("%s: %s, want %s", row.summary, got, row.want)
		}
	}
}

// TestWhyNot: a cell that cannot be had is an input error that says why, and what to do.
func TestWhyNot(t *testing.T) {
	c := load(t, "")
	for _, row := range []struct{ summary, release, vendor, arch, want, hint string }{
		{"it exists", "bullseye-backports", "azure", "arm64", "", ""},
		{"excluded by a numbered rule of the vendor", "bullseye", "azure", "arm64",
			`there is no image bullseye azure arm64: vendor "azure" excludes arm64 on bullseye by its 2nd rule (op: Disable)`, "debcloud plan"},
		{"excluded as no rule of the vendor matches", "forky", "ec2", "s390x",
			`there is no image forky ec2 s390x: vendor "ec2" excludes s390x on forky: no rule of its list matches`, "debcloud plan"},
		{"excluded by the release", "bookworm", "generic", "riscv64",
			`there is no image bookworm generic riscv64: release "bookworm" excludes riscv64 for generic: no rule of its list matches`, "debcloud plan"},
		{"release misspelt", "trixi", "generic", "amd64", `unknown release "trixi": it is none of bullseye,`, `did you mean "trixie"?`},
		{"vendor misspelt", "trixie", "genericlcoud", "amd64", `unknown vendor "genericlcoud": it is none of azure,`, `did you mean "genericcloud"?`},
		{"arch under the kernel's name", "trixie", "generic", "x86_64", `unknown architecture "x86_64": it is none of amd64, arm64,`, ""},
		{"nothing near", "jessie", "generic", "amd64", `unknown release "jessie"`, ""},
	} {
		_, err := c.Cell(row.release, row.vendor, row.arch)
		if row.want == "" {
			if err != nil {
				t.Errorf("%s: %v", row.summary, err)
			}
			continue
		}
		wantInput(t, row.summary, err, row.want)
		if hint := fault.HintOf(err); !strings.Contains(hint, row.hint) || row.hint == "" && hint != "" {
			t.Errorf("%s: hint %q, want %q", row.summary, hint, row.hint)
		}
	}
}

func wantInput(t *testing.T, summary string, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: got %v, want %s", summary, err, want)
	} else if fault.KindOf(err) != fault.Input {
		t.Errorf("%s: kind %v, want Input: %v", summary, fault.KindOf(err), err)
	}
}

func TestSelection(t *testing.T) {
	c := load(t, "")
	for _, row := range []struct {
		summary    string
		uploadType image.UploadType
		selection  Selection
		cells      int
		err        string
	}{
		{"one release", image.Dev, Selection{Releases: []string{"sid"}}, 18, ""},
		{"two vendors on one arch", image.Dev, Selection{Vendors: []string{"ec2", "gce"}, Archs: []string{"amd64"}}, 15, ""},
		{"gce has no dailies", image.Daily, Selection{Vendors: []string{"gce"}}, 0, "no image of type daily matches --vendor gce"},
		{"nor has one cell of it", image.Daily, Selection{[]string{"trixie"}, []string{"gce"}, []string{"amd64"}}, 0,
			`there is no image trixie gce amd64 of type daily: type "daily" excludes trixie gce amd64: no rule of its list matches`},
		{"sid is never released", image.Published, Selection{[]string{"sid"}, []string{"ec2"}, []string{"amd64"}}, 0, `type "release" excludes sid ec2 amd64 by its 1st rule (op: Disable)`},
		{"each name has to be known", image.Dev, Selection{Vendors: []string{"ec2", "gcp"}}, 0, `unknown vendor "gcp"`},
		{"a type that does not exist", "weekly", Selection{}, 0, `unknown type "weekly": it is none of dev, daily, release`},
	} {
		plan, err := c.Plan(row.uploadType, row.selection)
		if err == nil {
			err = plan.DemandCells()
		}
		if row.err != "" {
			wantInput(t, row.summary, err, row.err)
		} else if err != nil {
			t.Errorf("%s: %v", row.summary, err)
		} else if len(plan.Data.Cells) != row.cells {
			t.Errorf("%s: %d cells, want %d", row.summary, len(plan.Data.Cells), row.cells)
		}
	}
}

// synthetic returns a configuration of n cells that are built, uploaded and promoted; n is a multiple of 100.
func synthetic(n int) string {
	var b strings.Builder
	b.WriteString("apiVersion: cloud.debian.org/v1alpha1\nkind: ImageConfig\narchs:\n")
	for i := range 5 {
		fmt.Fprintf(&b, "- {name: arch%d, faiClasses: [ARCH%d]}\n", i, i)
	}
	b.WriteString("vendors:\n")
	for i := range 4 {
		fmt.Fprintf(&b, "- {name: vendor%d, size: 3, faiClasses: [CLOUD, VENDOR%d, TIME_SYSTEMD]}\n", i, i)
	}
	b.WriteString("releases:\n")
	for i := range n / 20 {
		fmt.Fprintf(&b, "- {name: release%d, basename: release%d, id: '%d', baseid: '%d', faiClasses: [R%d, EXTRAS]}\n", i, i, i, i, i)
	}
	for _, name := range []string{"dev", "official"} {
		b.WriteString(map[bool]string{true: "types:\n"}[name == "dev"])
		fmt.Fprintf(&b, "- {name: %s, outputName: '{release}', outputVersion: '{version}', outputVersionAzure: '{version}'}\n", name)
	}
	b.WriteString("publicTypes:\n- {name: dev}\n- name: daily\n  matches:\n  - {matchVendors: [vendor0], op: EnableUpload}\n  - op: Enable\n- name: release\n")
	return b.String()
}

func BenchmarkPlan(b *testing.B) {
	for _, n := range []int{100, 1000, 10000} {
		source := []byte(synthetic(n))
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c, err := parse("synthetic.yaml", source)
				if err != nil {
					b.Fatal(err)
				}
				plan, err := c.Plan(image.Daily, Selection{})
				if err != nil || len(plan.Data.Cells) != n {
					b.Fatal(len(plan.Data.Cells), err)
				}
			}
		})
	}
}

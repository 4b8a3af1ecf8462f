package generator

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// TestChangeRules: which cells one changed file affects, row by row of the table.
func TestChangeRules(t *testing.T) {
	c := load(t, "")
	plans := map[image.UploadType]*manifest.Plan{}
	for _, uploadType := range []image.UploadType{image.Dev, image.Daily} {
		plans[uploadType], _ = c.Plan(uploadType, Selection{})
	}
	for _, row := range []struct {
		summary, file string
		dev, daily    int
		only          string // a word that every affected cell has
		why           string
	}{
		{"tests", "generator/plan_test.go", 0, 0, "", ""},
		{"data of tests", "jobs/build/testdata/x", 0, 0, "", ""},
		{"documentation", "README.md", 0, 0, "", ""},
		{"documentation in a folder of code", "templates/README.md", 0, 0, "", ""},
		{"the executor", "executor/driver.go", 0, 0, "", ""},
		{"packages of one vendor", "vmimages/config_space/package_config/AZURE", 15, 15, "azure", "class AZURE"},
		{"variables of one release", "vmimages/config_space/class/SID.var", 18, 17, "sid", "class SID"},
		{"a signing key of one release", "vmimages/config_space/package_config/TRIXIE.asc", 30, 28, "trixie", "class TRIXIE"},
		{"a file of one vendor", "vmimages/config_space/files/etc/chrony/conf.d/azure.conf/AZURE", 15, 15, "azure", "class AZURE"},
		{"a file of two classes together", "vmimages/config_space/files/etc/hosts/SID+EC2", 2, 2, "sid ec2", "class SID+EC2"},
		{"a script of an architecture", "vmimages/config_space/scripts/S390X/10-zipl", 4, 4, "s390x", "class S390X"},
		{"a hook of a vendor", "vmimages/config_space/hooks/instsoft.GCE", 7, 0, "gce", "class GCE"},
		{"a hook in another language", "vmimages/config_space/hooks/updatebase.GCE.sh", 7, 0, "gce", "class GCE"},
		{"a class of all", "vmimages/config_space/scripts/DEBIAN/10-sources", 112, 105, "", "class DEBIAN"},
		{"a class of none", "vmimages/config_space/scripts/HURD/10-x", 0, 0, "", ""},
		{"the base of all images", "vmimages/config_space/class/50-host-classes", 112, 105, "", "what all images share"},
		{"how files are copied", "vmimages/config_space/files/etc/hosts/postinst", 112, 105, "", "what all images share"},
		{"the build", "jobs/build/fai.go", 112, 105, "", "how images are made and tested"},
		{"publishing", "jobs/publish/journal.go", 0, 105, "", "how images are published"},
		{"publishing at one provider", "jobs/publish/aws/snapshot.go", 0, 16, "ec2", "how it is published"},
		{"a command that makes no image", "cmd/debcloud/finder.go", 0, 0, "", ""},
		{"the program", "internal/image/naming.go", 112, 105, "", "the program or its pipeline"},
		{"its libraries", "go.sum", 112, 105, "", "the program or its pipeline"},
		{"something new", "magic/wand", 112, 105, "", "a file that no rule knows"},
	} {
		for uploadType, want := range map[image.UploadType]int{image.Dev: row.dev, image.Daily: row.daily} {
			n := 0
			for _, cell := range plans[uploadType].Data.Cells {
				why := affects(row.file, cell, uploadType, nil)
				if why == "" {
					continue
				}
				n++
				if why != row.why || !strings.Contains(cellKey(cell), row.only) {
					t.Errorf("%s: %s affects %s because of %q, want %q and only %q", row.summary, row.file, cellKey(cell), why, row.why, row.only)
				}
			}
			if n != want {
				t.Errorf("%s: %s affects %d cells of type %s, want %d", row.summary, row.file, n, uploadType, want)
			}
		}
	}
}

// repository makes a git repository with the built-in matrix, and returns a function that writes a file into it.
func repository(t *testing.T) (dir string, write func(name, text string)) {
	t.Helper()
	dir = t.TempDir()
	write = func(name, text string) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	source, err := os.ReadFile(filepath.Join("..", matrixPath))
	if err != nil {
		t.Fatal(err)
	}
	write(matrixPath, string(source))
	write("README.md", "one\n")
	write("vmimages/config_space/package_config/GCE", "one\n")
	for _, args := range [][]string{{"init", "-q"}, {"add", "."}, {"-c", "user.name=t", "-c", "user.email=t@debian.example", "commit", "-q", "-m", "one"}} {
		cmd := exec.Command("git", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
	return dir, write
}

func TestRestrict(t *testing.T) {
	dir, write := repository(t)
	c := load(t, "")
	restrict := func(ref string) (*manifest.Plan, error) {
		plan, err := c.Plan(image.Dev, Selection{})
		if err != nil {
			t.Fatal(err)
		}
		return plan, c.Restrict(t.Context(), plan, Since{Ref: ref, Dir: dir})
	}
	vendors := func(p *manifest.Plan) []string {
		var all []string
		for _, c := range p.Data.Cells {
			all = append(all, c.Vendor)
		}
		return slices.Compact(slices.Sorted(slices.Values(all)))
	}

	plan, err := restrict("HEAD")
	if err != nil || len(plan.Data.Cells) != 0 || plan.Data.Why != "none of the 0 files that changed since HEAD affects an image of the selection" {
		t.Errorf("nothing changed: %d cells, %q, %v", len(plan.Data.Cells), plan.Data.Why, err)
	}

	write("README.md", "two\n")
	write("vmimages/config_space/package_config/GCE", "two\n")
	plan, err = restrict("HEAD")
	if got := vendors(plan); err != nil || len(got) != 1 || got[0] != "gce" || plan.Data.Cells[0].Why[0] != "vmimages/config_space/package_config/GCE: class GCE" {
		t.Errorf("a package list of GCE: %v, %v", got, err)
	}

	// The configuration in hand is today's; the commit's matrix had another size of Azure's disks.
	source, err := os.ReadFile(filepath.Join(dir, matrixPath))
	if err != nil {
		t.Fatal(err)
	}
	write("vmimages/config_space/package_config/GCE", "one\n")
	write(matrixPath, strings.Replace(string(source), "size: 30", "size: 31", 1))
	commit := exec.Command("git", "-c", "user.name=t", "-c", "user.email=t@debian.example", "commit", "-q", "-a", "-m", "two")
	commit.Dir = dir
	if out, err := commit.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	write(matrixPath, string(source))
	plan, err = restrict("HEAD")
	if got := vendors(plan); err != nil || len(got) != 1 || got[0] != "azure" || len(plan.Data.Cells) != 15 {
		t.Errorf("the matrix changed for Azure: %v, %v", got, err)
	}

	for _, ref := range []string{"nowhere", "--output=x", "", "0000000000000000000000000000000000000000"} {
		_, err = restrict(ref)
		wantInput(t, "ref "+ref, err, "names no commit that this clone has")
	}
}

package generator

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
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
	used := map[*changeRule]bool{}
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
		{"packages of one release's base", "vmimages/config_space/debconf/BOOKWORM", 26, 24, "bookworm", "class BOOKWORM"},
		{"a base file", "vmimages/config_space/basefiles/SID.tar.xz", 18, 17, "sid", "class SID"},
		{"an image's own testdata", "vmimages/config_space/files/usr/share/testdata/x/EC2", 16, 16, "ec2", "class EC2"},
		{"Azure's publisher", "jobs/publish/azure/disk.go", 0, 15, "azure", "how it is published"},
		{"Google's publisher", "jobs/publish/google/insert.go", 0, 0, "", ""},
		{"a publisher of any vendor", "jobs/publish/openstack/glance.go", 0, 105, "", "how images are published"},
		{"the publishers' tests", "jobs/publish/publishtest/cases.go", 0, 0, "", ""},
		{"the command that publishes", "cmd/debcloud/publish.go", 0, 105, "", "how images are published"},
		{"a matrix that is not in use", "vmimages/matrix.jsonnet", 0, 0, "", ""},
		{"a path with a line break", "docs/a\nb", 112, 105, "", "a file that no rule knows"},
	} {
		r, _ := ruleOf(row.file, "image.yaml")
		used[r] = true
		for uploadType, want := range map[image.UploadType]int{image.Dev: row.dev, image.Daily: row.daily} {
			n := 0
			for _, cell := range plans[uploadType].Data.Cells {
				why := affects(row.file, cell, uploadType, matrixChange{path: "image.yaml"})
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
	for i := range changeRules {
		if r := &changeRules[i]; !used[r] {
			t.Errorf("no row tests the rule %s", r.pattern())
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
	source, err := os.ReadFile(filepath.Join("..", builtInPath))
	if err != nil {
		t.Fatal(err)
	}
	write(builtInPath, string(source))
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
	source, err := os.ReadFile(filepath.Join(dir, builtInPath))
	if err != nil {
		t.Fatal(err)
	}
	write("vmimages/config_space/package_config/GCE", "one\n")
	write(builtInPath, strings.Replace(string(source), "size: 30", "size: 31", 1))
	commit := exec.Command("git", "-c", "user.name=t", "-c", "user.email=t@debian.example", "commit", "-q", "-a", "-m", "two")
	commit.Dir = dir
	if out, err := commit.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	write(builtInPath, string(source))
	plan, err = restrict("HEAD")
	if got := vendors(plan); err != nil || len(got) != 1 || got[0] != "azure" || len(plan.Data.Cells) != 15 {
		t.Errorf("the matrix changed for Azure: %v, %v", got, err)
	}

	for _, ref := range []string{"nowhere", "--output=x", "", "0000000000000000000000000000000000000000"} {
		_, err = restrict(ref)
		wantInput(t, "ref "+ref, err, "names no commit that this clone has")
	}
}

// git runs git in dir.
func git(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@debian.example", "-c", "protocol.file.allow=always"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git %v: %v: %s", args, err, out)
	}
}

// TestRestrictFiles: each way in which a file can differ from the commit.
func TestRestrictFiles(t *testing.T) {
	const space = "vmimages/config_space/"
	for _, row := range []struct {
		summary string
		change  func(t *testing.T, dir string, write func(name, text string))
		vendors string
		why     string
	}{
		{"a committed change", func(t *testing.T, dir string, write func(name, text string)) {
			write(space+"package_config/GCE", "two\n")
			git(t, dir, "commit", "-q", "-a", "-m", "two")
		}, "gce", space + "package_config/GCE: class GCE"},
		{"a removed file", func(t *testing.T, dir string, _ func(name, text string)) {
			git(t, dir, "rm", "-q", space+"package_config/GCE")
		}, "gce", space + "package_config/GCE: class GCE"},
		{"a renamed file counts under both names", func(t *testing.T, dir string, _ func(name, text string)) {
			git(t, dir, "mv", space+"package_config/GCE", space+"package_config/EC2")
		}, "ec2 gce", space + "package_config/EC2: class EC2"},
		{"a file that git does not know yet", func(t *testing.T, _ string, write func(name, text string)) {
			write(space+"files/etc/motd/AZURE", "new\n")
			write("scratch.txt", "left by a job\n")
		}, "azure", space + "files/etc/motd/AZURE: class AZURE"},
		{"a file whose name has odd letters", func(t *testing.T, dir string, write func(name, text string)) {
			write("docs/ä \"b\".txt", "x")
			write(space+"files/etc/ä b/EC2", "x")
			git(t, dir, "add", ".")
		}, "ec2", space + "files/etc/ä b/EC2: class EC2"},
		{"git's own settings make no difference", func(t *testing.T, dir string, write func(name, text string)) {
			git(t, dir, "config", "diff.relative", "true")
			git(t, dir, "config", "diff.renames", "copies")
			git(t, dir, "config", "color.ui", "always")
			write(space+"package_config/GCE", "two\n")
		}, "gce", space + "package_config/GCE: class GCE"},
	} {
		dir, write := repository(t)
		git(t, dir, "tag", "start")
		row.change(t, dir, write)
		c := load(t, "")
		for _, from := range []string{"", "vmimages"} {
			plan, err := c.Plan(image.Dev, Selection{})
			if err != nil {
				t.Fatal(err)
			}
			err = c.Restrict(t.Context(), plan, Since{Ref: "start", Dir: filepath.Join(dir, from)})
			var vendors, why []string
			for _, cell := range plan.Data.Cells {
				vendors, why = append(vendors, cell.Vendor), append(why, cell.Why...)
			}
			slices.Sort(vendors)
			if got := strings.Join(slices.Compact(vendors), " "); err != nil || got != row.vendors || !slices.Contains(why, row.why) {
				t.Errorf("%s, from folder %q: vendors %q because of %v; %v", row.summary, from, got, why[:min(len(why), 2)], err)
			}
		}
	}
}

// TestRestrictConfig: another configuration in the repository is the matrix, where it is in use.
func TestRestrictConfig(t *testing.T) {
	dir, write := repository(t)
	write("image.yaml", small)
	git(t, dir, "add", ".")
	git(t, dir, "commit", "-q", "-m", "two")
	for _, row := range []struct{ summary, old, new, cells string }{
		{"the size of a disk", "size: 8", "size: 9", "trixie ec2 amd64, trixie ec2 arm64"},
		{"how images are named", "{name: dev, outputName: '{release}'", "{name: dev, outputName: 'x-{release}'", "all"},
		{"a name of an architecture elsewhere", "{name: arm64,", "{name: arm64, ociArch: arm,", "trixie azure arm64, trixie ec2 arm64"},
		{"a comment", "kind: ImageConfig", "kind: ImageConfig # ours", ""},
		{"it could not be read before", "", "", "all"},
	} {
		text := strings.Replace(small, row.old, row.new, 1)
		ref := "HEAD"
		if row.old == "" {
			ref, text = "HEAD~1", small
		}
		write("image.yaml", text)
		c := load(t, filepath.Join(dir, "image.yaml"))
		plan, err := c.Plan(image.Dev, Selection{})
		if err != nil {
			t.Fatal(err)
		}
		all := len(plan.Data.Cells)
		if err := c.Restrict(t.Context(), plan, Since{Ref: ref, Dir: dir}); err != nil {
			t.Fatal(err)
		}
		var cells []string
		for _, cell := range plan.Data.Cells {
			cells = append(cells, cellKey(cell))
		}
		got := strings.Join(cells, ", ")
		if row.cells == "all" && len(cells) == all {
			got = "all"
		}
		if got != row.cells {
			t.Errorf("%s: %q, want %q", row.summary, got, row.cells)
		}
	}
}

// TestRestrictRefuses: what git cannot follow, and what to do.
func TestRestrictRefuses(t *testing.T) {
	dir, write := repository(t)
	write("README.md", "two\n")
	git(t, dir, "commit", "-q", "-a", "-m", "two")
	shallow := t.TempDir()
	git(t, shallow, "clone", "-q", "--depth", "1", "file://"+dir, ".")
	c := load(t, "")
	for _, row := range []struct{ summary, dir, ref, want, hint string }{
		{"a shallow clone lacks the commit", shallow, "HEAD~1", `--changed-since "HEAD~1" names no commit that this clone has`, "GIT_DEPTH"},
		{"no commit but a file", dir, "HEAD:README.md", `--changed-since "HEAD:README.md" names no commit`, "git fetch"},
		{"no repository", t.TempDir(), "HEAD", `--changed-since "HEAD" cannot be followed: fatal: not a git repository`, "clone"},
	} {
		plan, err := c.Plan(image.Dev, Selection{})
		if err != nil {
			t.Fatal(err)
		}
		err = c.Restrict(t.Context(), plan, Since{Ref: row.ref, Dir: row.dir})
		wantInput(t, row.summary, err, row.want)
		if !strings.Contains(fault.HintOf(err), row.hint) {
			t.Errorf("%s: hint %q", row.summary, fault.HintOf(err))
		}
	}
}

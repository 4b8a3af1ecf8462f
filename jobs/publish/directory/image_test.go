package directory

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

// A real image comes back bit for bit from every format. What is written goes beside the image, on a disk that has room.
func TestRealImageComesBack(t *testing.T) {
	publishtest.SkipUnderRaceDetector(t)
	build := os.Getenv("DEBCLOUD_TEST_IMAGE")
	if build == "" {
		t.Skip("DEBCLOUD_TEST_IMAGE is not set: run make test")
	}
	doc, err := manifest.ReadBuild(build)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(manifest.Base(build) + ".report.json"); err != nil {
		t.Skip("the image of DEBCLOUD_TEST_IMAGE has no report yet")
	}
	dir, err := os.MkdirTemp(filepath.Dir(build), "publish-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	linked := linkBuild(t, build, doc, dir)
	tree := filepath.Join(filepath.Dir(filepath.Dir(build)), "public") // where make test-image published it: the same again changes nothing
	if _, err := os.Stat(tree); err != nil {
		tree = filepath.Join(dir, "tree")
	}
	r, err := publish.Publish(t.Context(), publish.Options{BuildPath: linked, To: New(tree)})
	if err != nil && strings.Contains(err.Error(), "did not pass") {
		t.Skipf("the image of DEBCLOUD_TEST_IMAGE did not pass: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	stem := strings.TrimSuffix(r.Place, ".json")
	run(t, dir, "tar", "-xJf", stem+".tar.xz")
	run(t, dir, "cmp", doc.ImagePath(build), "disk.raw")
	run(t, filepath.Dir(stem), "sha512sum", "--strict", "--quiet", "-c", "SHA512SUMS")
	if doc.Data.Info.Vendor == "genericcloud" {
		run(t, dir, "qemu-img", "check", stem+".qcow2")
		run(t, dir, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", doc.ImagePath(build), stem+".qcow2")
	}
	if got := peak(unix.RUSAGE_SELF); got > 200 {
		t.Errorf("the process took %.0f MiB, more than 200", got)
	}
}

// linkBuild lets publishing write beside a build without touching the shared one's directory.
func linkBuild(t *testing.T, build string, doc *manifest.Build, dir string) string {
	t.Helper()
	for _, path := range []string{build, manifest.Base(build) + ".report.json", doc.ImagePath(build)} {
		absolute, err := filepath.Abs(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(absolute, filepath.Join(dir, filepath.Base(path))); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, filepath.Base(build))
}

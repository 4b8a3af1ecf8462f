package publishtest

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
)

// RealImage opens the image of DEBCLOUD_TEST_IMAGE, and skips the test where that names none. How it did in its own tests is not of
// interest here: its report lets it be published. The Image is closed with the test.
func RealImage(t testing.TB) *publish.Image {
	t.Helper()
	SkipUnderRaceDetector(t)
	build := os.Getenv("DEBCLOUD_TEST_IMAGE")
	if build == "" {
		t.Skip("DEBCLOUD_TEST_IMAGE names no Build document: make test makes an image")
	}
	doc, err := manifest.ReadBuild(build)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := filepath.Abs(doc.ImagePath(build))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), filepath.Base(build))
	if err := os.Symlink(raw, doc.ImagePath(path)); err != nil {
		t.Fatal(err)
	}
	if err := manifest.Write(path, doc); err != nil {
		t.Fatal(err)
	}
	for _, suite := range []string{"check", "boot"} {
		s := manifest.Suite{Name: suite, Started: time.Now(), Checks: []manifest.Check{{ID: "1-x", Name: "x", Result: manifest.Passed}}}
		if err := manifest.RecordSuite(manifest.Base(path)+".report.json", doc, s); err != nil {
			t.Fatal(err)
		}
	}
	img, err := publish.Open(publish.Options{BuildPath: path, Stage: publish.Private, Type: "daily"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close() })
	return img
}

// SkipUnderRaceDetector leaves out what takes four times as long under the race detector, and shows it nothing that a small image
// does not. `make test` runs it without.
func SkipUnderRaceDetector(t testing.TB) {
	t.Helper()
	if raceDetector {
		t.Skip("without the race detector: make test runs it a second time")
	}
}

package publish

import (
	"context"
	"crypto/sha512"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// memory is a Publisher that remembers what it was given.
type memory struct {
	images []*Image
	stages []Stage
}

func (m *memory) Provider() string { return "memory" }

func (m *memory) Publish(_ context.Context, img *Image, stage Stage) (*Publication, error) {
	m.images, m.stages = append(m.images, img), append(m.stages, stage)
	return &Publication{Uploads: []manifest.Upload{img.Upload("memory", "ref-1", "raw", img.Digest, 5)}, Changed: true, Place: "memory"}, nil
}

var started = time.Date(2026, 8, 14, 1, 0, 0, 0, time.UTC)

func passed(name string) manifest.Suite {
	return manifest.Suite{Name: name, Started: started, Checks: []manifest.Check{{ID: "1-x", Result: manifest.Passed}}}
}

// makeBuild writes a Build of the given type and version, and a report with suites on it.
func makeBuild(t *testing.T, buildType, version string, suites ...manifest.Suite) (string, *manifest.Build) {
	t.Helper()
	base := filepath.Join(t.TempDir(), "debian-trixie-nocloud-amd64-"+version)
	if err := os.WriteFile(base+".raw", []byte("image"), 0o644); err != nil {
		t.Fatal(err)
	}
	b := &manifest.Build{Header: manifest.Header{APIVersion: manifest.APIVersion, Kind: "Build"}}
	b.Metadata.SetDigest(sha512.Sum512([]byte("image")))
	b.Metadata.Annotations[manifest.AnnotationCommit] = "0123abcd"
	b.Data.Info = manifest.BuildInfo{Arch: "amd64", Release: "trixie", ReleaseID: "13", ReleaseBaseID: "13", Type: buildType, Vendor: "nocloud", Version: version}
	b.Data.Image = &manifest.ImageFile{Name: filepath.Base(base) + ".raw", Size: 5, Allocated: 5}
	if err := manifest.Write(base+".build.json", b); err != nil {
		t.Fatal(err)
	}
	for _, s := range suites {
		if err := manifest.RecordSuite(base+".report.json", b, s); err != nil {
			t.Fatal(err)
		}
	}
	return base + ".build.json", b
}

func TestGates(t *testing.T) {
	failed := passed("boot")
	failed.Checks[0].Result = manifest.Failed
	failed.Checks[0].ID = "bios/23-system-running"
	other := func(t *testing.T, path string) { // the report of another image
		theirs, _ := makeBuild(t, "official", "20260814-1", passed("check"), passed("boot"))
		b, err := manifest.ReadBuild(theirs)
		if err != nil {
			t.Fatal(err)
		}
		b.Metadata.SetDigest(sha512.Sum512([]byte("another")))
		report := manifest.Base(path) + ".report.json"
		os.Remove(report)
		for _, s := range []manifest.Suite{passed("check"), passed("boot")} {
			if err := manifest.RecordSuite(report, b, s); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, row := range []struct {
		summary            string
		buildType, version string
		suites             []manifest.Suite
		spoil              func(*testing.T, string)
		options            Options
		want               string // "" is published
	}{
		{"checked and booted", "official", "20260814-1", []manifest.Suite{passed("check"), passed("boot")}, nil, Options{}, ""},
		{"no report", "official", "20260814-1", nil, nil, Options{}, "has no passing report: no Report document at"},
		{"never booted", "official", "20260814-1", []manifest.Suite{passed("check")}, nil, Options{}, `the report has no suite "boot"`},
		{"never checked", "official", "20260814-1", []manifest.Suite{passed("boot")}, nil, Options{}, `the report has no suite "check"`},
		{"a check failed", "official", "20260814-1", []manifest.Suite{passed("check"), failed}, nil, Options{}, `suite "boot" of the report did not pass: bios/23-system-running`},
		{"a suite without checks proves nothing", "official", "20260814-1", []manifest.Suite{passed("check"), {Name: "boot"}}, nil, Options{}, `suite "boot" of the report did not pass: it has no checks`},
		{"the report is on another image", "official", "20260814-1", nil, other, Options{}, "the report is on the image with digest"},
		{"a dev build is no release", "dev", "20260814-1", []manifest.Suite{passed("check"), passed("boot")}, nil, Options{Type: image.Published}, "a build of type dev cannot be published as release"},
		{"a version that names no day", "official", "20260230-1", []manifest.Suite{passed("check"), passed("boot")}, nil, Options{}, "names a day that does not exist"},
		{"an unknown upload type", "official", "20260814-1", []manifest.Suite{passed("check"), passed("boot")}, nil, Options{Type: "weekly"}, `upload type "weekly" is none of dev, daily, release`},
		{"an unknown stage", "official", "20260814-1", []manifest.Suite{passed("check"), passed("boot")}, nil, Options{Stage: "secret"}, `stage "secret" is neither private nor public`},
		{"no such build", "official", "20260814-1", nil, func(t *testing.T, path string) { os.Remove(path) }, Options{}, "no Build document at"},
		{"another schema", "official", "20260814-1", nil, func(t *testing.T, path string) {
			os.WriteFile(path, []byte(`{"kind":"Build","apiVersion":"cloud.debian.org/v2"}`), 0o644)
		}, Options{}, `schema "cloud.debian.org/v2", where Build of "cloud.debian.org/v1alpha1" is needed`},
	} {
		t.Run(row.summary, func(t *testing.T) {
			path, _ := makeBuild(t, row.buildType, row.version, row.suites...)
			if row.spoil != nil {
				row.spoil(t, path)
			}
			place := &memory{}
			row.options.BuildPath, row.options.To = path, place
			_, err := Publish(t.Context(), row.options)
			if row.want == "" {
				if err != nil || len(place.images) != 1 {
					t.Errorf("not published: %v", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), row.want) || fault.KindOf(err) != fault.Input {
				t.Errorf("error is %v, of kind %v; want %q", err, fault.KindOf(err), row.want)
			}
			if len(place.images) != 0 {
				t.Error("the image reached the publisher")
			}
			if left, _ := filepath.Glob(manifest.Base(path) + ".upload-*"); len(left) != 0 {
				t.Errorf("an upload document was written: %v", left)
			}
		})
	}
}

func TestDefaultsFollowTheBuild(t *testing.T) {
	for _, row := range []struct {
		buildType string
		want      image.UploadType
		name      string
		directory string
	}{
		{"dev", image.Dev, "debian-13-nocloud-amd64-dev-20260814-1", "trixie/dev/20260814-1"},
		{"official", image.Daily, "debian-13-nocloud-amd64-daily-20260814-1", "trixie/daily/20260814-1"},
	} {
		path, _ := makeBuild(t, row.buildType, "20260814-1", passed("check"), passed("boot"))
		place := &memory{}
		r, err := Publish(t.Context(), Options{BuildPath: path, To: place})
		if err != nil {
			t.Fatal(err)
		}
		img := place.images[0]
		if img.Type != row.want || place.stages[0] != Public || r.Name != row.name || img.Directory() != row.directory {
			t.Errorf("a %s build is published as %s, stage %s, %s in %s", row.buildType, img.Type, place.stages[0], r.Name, img.Directory())
		}
	}
}

func TestUploadDocumentTellsWhereTheImageIs(t *testing.T) {
	path, b := makeBuild(t, "official", "20260814-1", passed("check"), passed("boot"))
	r, err := Publish(t.Context(), Options{BuildPath: path, To: &memory{}, Type: image.Published})
	if err != nil {
		t.Fatal(err)
	}
	if want := manifest.Base(path) + ".upload-memory.json"; r.UploadPath != want {
		t.Errorf("written to %s, want %s", r.UploadPath, want)
	}
	builds, uploads, err := manifest.ReadList(r.UploadPath)
	if err != nil || len(builds) != 1 || len(uploads) != 1 {
		t.Fatalf("%d builds, %d uploads: %v", len(builds), len(uploads), err)
	}
	if builds[0].Metadata.Annotations[manifest.AnnotationReport] != "debian-13-nocloud-amd64-20260814-1.report.json" {
		t.Errorf("the build does not name its report: %v", builds[0].Metadata.Annotations)
	}
	u := uploads[0]
	for key, want := range map[string]string{
		manifest.LabelArch: "amd64", manifest.LabelDist: "debian", manifest.LabelRelease: "trixie", manifest.LabelVendor: "nocloud",
		manifest.LabelVersion: "20260814-1", manifest.LabelUploadType: "release", manifest.LabelImageFormat: "raw",
	} {
		if u.Metadata.Labels[key] != want {
			t.Errorf("label %s is %q, want %q", key, u.Metadata.Labels[key], want)
		}
	}
	if a := u.Metadata.Annotations; a[manifest.AnnotationCommit] != "0123abcd" || a[manifest.AnnotationSize] != "5" || a[manifest.AnnotationDigest] != b.Metadata.Annotations[manifest.AnnotationDigest] {
		t.Errorf("annotations are %v", a)
	}
	if u.Metadata.Private() {
		t.Error("a public upload says that it is private")
	}
	before, _ := os.Stat(r.UploadPath)
	if _, err := Publish(t.Context(), Options{BuildPath: path, To: &memory{}, Type: image.Published}); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Stat(r.UploadPath); !os.SameFile(before, after) {
		t.Error("the same document was written again")
	}
}

func TestPrivateDocumentsSaySo(t *testing.T) {
	path, _ := makeBuild(t, "official", "20260814-1", passed("check"), passed("boot"))
	for _, stage := range []Stage{Private, Public} {
		r, err := Publish(t.Context(), Options{BuildPath: path, To: &memory{}, Stage: stage})
		if err != nil {
			t.Fatal(err)
		}
		if _, uploads, err := manifest.ReadList(r.UploadPath); err != nil || len(uploads) != 1 || uploads[0].Metadata.Private() != (stage == Private) {
			t.Errorf("%s: %+v, %v", stage, uploads, err)
		}
	}
}

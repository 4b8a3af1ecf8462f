package manifest_test

import (
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// TestReadsUpstreamsManifests reads what cloud.debian.org really published.
func TestReadsUpstreamsManifests(t *testing.T) {
	dir := filepath.Join("..", "..", "..", "shared", "data", "manifests")
	paths, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) == 0 {
		t.Skip("no real manifests: ../shared/data is missing")
	}
	for _, path := range paths {
		builds, uploads, err := manifest.ReadList(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(builds) != 1 || len(builds[0].Data.Packages) < 300 || len(uploads) != 3 {
			t.Errorf("%s: %d builds, %d uploads", path, len(builds), len(uploads))
		}
		for _, u := range uploads {
			d, err := u.Metadata.Digest()
			if err != nil || d.String() != u.Metadata.Annotations[manifest.AnnotationDigest] {
				t.Errorf("%s: digest %s: %v", path, d, err)
			}
		}
	}
}

func TestParseDigest(t *testing.T) {
	d, err := manifest.DigestOf(strings.NewReader("four\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		summary, text string
		ok            bool
	}{
		{"upstream's form", d.String(), true},
		{"with the padding that other tools add", d.String() + "==", true},
		{"hexadecimal is another form", "sha512:" + d.Hex(), false},
		{"another algorithm", strings.Replace(d.String(), "512", "256", 1), false},
		{"cut short", d.String()[:40], false},
		{"nothing", "", false},
	} {
		got, err := manifest.ParseDigest(row.text)
		if (err == nil) != row.ok || row.ok && got != d {
			t.Errorf("%s: %v, %v", row.summary, got, err)
		}
	}
}

// build writes a Build document with an image of the given content and returns its path.
func build(t *testing.T, content string) (string, *manifest.Build) {
	t.Helper()
	d, err := manifest.DigestOf(strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	b := &manifest.Build{Header: manifest.Header{APIVersion: manifest.APIVersion, Kind: "Build"}}
	b.Metadata.SetDigest(d)
	b.Data.Image = &manifest.ImageFile{Name: "x.raw", Size: int64(len(content))}
	path := filepath.Join(t.TempDir(), "x.build.json")
	if err := manifest.Write(path, b); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), "x.raw"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, b
}

func TestVerifyImage(t *testing.T) {
	for _, row := range []struct {
		summary, now, want string
	}{
		{"the image as it was built", "image", ""},
		{"an image cut short", "imag", "was truncated or altered"},
		{"an image with another byte", "imagE", "was altered"},
	} {
		for _, fingerprint := range []bool{false, true} {
			path, b := build(t, "image")
			image := filepath.Join(filepath.Dir(path), "x.raw")
			if fingerprint {
				_, sum, err := manifest.SumsOfFile(t.Context(), image)
				if err != nil {
					t.Fatal(err)
				}
				b.Metadata.Annotations[manifest.AnnotationFingerprint] = sum
			}
			if err := os.WriteFile(image, []byte(row.now), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := b.VerifyImage(t.Context(), path)
			if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want) || fault.KindOf(err) != fault.Input) {
				t.Errorf("%s, fingerprint %v: %v", row.summary, fingerprint, err)
			}
		}
	}
}

func TestReadBuildRefuses(t *testing.T) {
	path, good := build(t, "image")
	for _, row := range []struct {
		summary string
		spoil   func(*manifest.Build)
		want    string
	}{
		{"another schema", func(b *manifest.Build) { b.APIVersion = "cloud.debian.org/v2" }, `schema "cloud.debian.org/v2"`},
		{"another kind", func(b *manifest.Build) { b.Kind = "Upload" }, `kind "Upload"`},
		{"no image", func(b *manifest.Build) { b.Data.Image = nil }, "names no image"},
		{"an image elsewhere", func(b *manifest.Build) { b.Data.Image = &manifest.ImageFile{Name: "../secret"} }, "not a plain file name"},
		{"no digest", func(b *manifest.Build) { b.Metadata.Annotations = nil }, `digest ""`},
	} {
		b := *good
		row.spoil(&b)
		if err := manifest.Write(path, &b); err != nil {
			t.Fatal(err)
		}
		if _, err := manifest.ReadBuild(path); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v", row.summary, err)
		}
	}
}

func suite(name string, results ...manifest.Result) manifest.Suite {
	s := manifest.Suite{Name: name, Started: time.Unix(0, 0).UTC()}
	for _, r := range results {
		s.Checks = append(s.Checks, manifest.Check{ID: "1-x", Name: "x holds", Result: r, Evidence: "seen\x1b[0m"})
	}
	return s
}

// TestReport follows a report from its first suite to the gate of publishing.
func TestReport(t *testing.T) {
	path, b := build(t, "image")
	report := manifest.Base(path) + ".report.json"
	digest, err := b.Metadata.Digest()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		summary string
		record  manifest.Suite
		want    string // of the gate's error, "" where it opens
	}{
		{"check alone is not enough", suite("check", manifest.Passed), `no suite "boot"`},
		{"a failed boot closes", suite("boot", manifest.Passed, manifest.Failed), `suite "boot" of the report did not pass: 1-x`},
		{"a suite without checks proves nothing", suite("boot"), "it has no checks"},
		{"what does not apply is no failure", suite("boot", manifest.Passed, manifest.Skipped), ""},
		{"a later failure closes again", suite("check", manifest.Failed), `suite "check"`},
		{"a result that nobody knows is no pass", suite("check", "maybe"), `suite "check"`},
	} {
		if err := manifest.RecordSuite(report, b, row.record); err != nil {
			t.Fatal(err)
		}
		r, err := manifest.ReadReport(report)
		if err != nil {
			t.Fatal(err)
		}
		err = r.DemandPassed(digest, "check", "boot")
		if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
			t.Errorf("%s: %v", row.summary, err)
		}
		if err := r.DemandPassed(manifest.Digest{}, "check"); err == nil || !strings.Contains(err.Error(), "not on sha512:") {
			t.Errorf("%s: on another image: %v", row.summary, err)
		}
	}
}

func TestRecordSuiteStartsAnew(t *testing.T) {
	path, b := build(t, "image")
	report := manifest.Base(path) + ".report.json"
	_, other := build(t, "another image")
	for _, step := range []struct {
		of *manifest.Build
		s  manifest.Suite
	}{{other, suite("boot", manifest.Passed)}, {b, suite("check", manifest.Passed)}} {
		if err := manifest.RecordSuite(report, step.of, step.s); err != nil {
			t.Fatal(err)
		}
	}
	r, err := manifest.ReadReport(report)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Data.Suites) != 1 || r.Data.Suites[0].Name != "check" {
		t.Errorf("suites of another image stayed: %+v", r.Data.Suites)
	}
}

// TestWriteJUnit reads the file as GitLab does.
func TestWriteJUnit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.xml")
	s := suite("boot", manifest.Passed, manifest.Failed, manifest.Skipped)
	s.Boots = []manifest.Boot{{Firmware: "bios", Console: "\x1b[2J\x00<&]]> \xff done"}}
	if err := s.WriteJUnit(path, "trixie ec2 amd64"); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Suites []struct {
			Tests    int `xml:"tests,attr"`
			Failures int `xml:"failures,attr"`
			Skipped  int `xml:"skipped,attr"`
			Cases    []struct {
				Class   string    `xml:"classname,attr"`
				Failure *struct{} `xml:"failure"`
				Skipped *struct{} `xml:"skipped"`
			} `xml:"testcase"`
			Out string `xml:"system-out"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	got := doc.Suites[0]
	if got.Tests != 3 || got.Failures != 1 || got.Skipped != 1 || got.Cases[1].Failure == nil || got.Cases[2].Skipped == nil {
		t.Errorf("counts or cases are wrong: %+v", got)
	}
	if got.Cases[0].Class != "trixie ec2 amd64.boot" || !strings.Contains(got.Out, "<&]]>") || !strings.Contains(got.Out, "done") {
		t.Errorf("class %q, console %q", got.Cases[0].Class, got.Out)
	}
}

package build

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/internal/progress"
	"salsa.debian.org/cloud-team/debcloud/jobs/build/disk"
)

func TestDigestOfInputs(t *testing.T) {
	changes := map[string]func(*build){
		"Cell":        func(b *build) { b.Cell.Arch.Name = "arm64" },
		"Type":        func(b *build) { b.Type.Name = "dev" },
		"BuildID":     func(b *build) { b.BuildID = "12" },
		"Version":     func(b *build) { b.Version.Number++ },
		"Classes":     func(b *build) { b.Classes = []string{"LAST", "TINY"} },
		"Mirror":      func(b *build) { b.Mirror.Security = "http://other.example" },
		"ImageMirror": func(b *build) { b.ImageMirror.Debian = "http://other.example" },
		"Time":        func(b *build) { b.Time = b.Time.Add(time.Second) },
		"Commit":      func(b *build) { b.Commit = "2" },
		"ConfigSpace": func(b *build) { b.space = spaceOf("class/TINY.var", "tiny=2\n", 0o644) },
		"Overlay":     func(b *build) { b.space = overlaid{spaceOf("class/MORE.var", "more=1\n", 0o644), b.space} },

		"a file of another name": func(b *build) { b.space = spaceOf("class/HUGE.var", "tiny=1\n", 0o644) },
		"a file's mode":          func(b *build) { b.space = spaceOf("class/TINY.var", "tiny=1\n", 0o755) },
	}
	// What decides neither what is in the image nor its name.
	without := []string{"Output", "Plain", "JobURL"}
	for field := range reflect.TypeFor[Options]().Fields() {
		if _, ok := changes[field.Name]; ok == slices.Contains(without, field.Name) {
			t.Errorf("does option %s belong to the inputs? Say so here", field.Name)
		}
	}
	before := digestOf(t, func(*build) {})
	if again := digestOf(t, func(b *build) { b.Output, b.Plain, b.JobURL = "elsewhere", true, "https://job.example" }); again != before {
		t.Error("the digest depends on something that decides nothing")
	}
	seen := map[string]string{before: "nothing"}
	for name, change := range changes {
		digest := digestOf(t, change)
		if other, ok := seen[digest]; ok {
			t.Errorf("a change of %s gives the same digest as a change of %s", name, other)
		}
		seen[digest] = name
	}
}

func digestOf(t *testing.T, change func(*build)) string {
	t.Helper()
	b := &build{
		Options: Options{Classes: []string{"TINY", "LAST"}, Time: time.Unix(1000, 0), Commit: "1"},
		space:   spaceOf("class/TINY.var", "tiny=1\n", 0o644),
	}
	change(b)
	digest, err := b.digestInputs()
	if err != nil || len(digest) != 64 {
		t.Fatalf("digest %q, %v", digest, err)
	}
	return digest
}

func spaceOf(name, text string, mode fs.FileMode) fs.FS {
	return fstest.MapFS{name: {Data: []byte(text), Mode: mode}}
}

// A script that would fail shows whether FAI ran at all.
func TestSameInputsAgain(t *testing.T) {
	files := map[string]string{"scripts/TINY/50-again": "#!/bin/sh\nexit 9\n"}
	const again = `script "TINY/50-again"`
	for _, row := range []struct {
		summary string
		change  func(t *testing.T, o *Options, b *build)
		builds  bool
	}{
		{"nothing changed", func(*testing.T, *Options, *build) {}, false},
		{"another job, and not the quick way", func(_ *testing.T, o *Options, _ *build) { o.JobURL, o.Plain = "https://job.example/2", true }, false},
		{"what a killed build left beside it", func(t *testing.T, _ *Options, b *build) {
			writeText(t, filepath.Join(b.work, "tree/etc/passwd"), "root::0:0::/:/bin/sh\n")
		}, false},
		{"the image was altered", func(t *testing.T, _ *Options, b *build) { writeText(t, b.base+".raw", "IMAGE") }, true},
		{"the image was truncated", func(t *testing.T, _ *Options, b *build) { writeText(t, b.base+".raw", "imag") }, true},
		{"the image is gone", func(t *testing.T, _ *Options, b *build) { mustRemove(t, b.base+".raw") }, true},
		{"the document is gone", func(t *testing.T, _ *Options, b *build) { mustRemove(t, b.document()) }, true},
		{"the document is none", func(t *testing.T, _ *Options, b *build) { writeText(t, b.document(), "{}") }, true},
		{"another commit", func(_ *testing.T, o *Options, _ *build) { o.Commit = "2" }, true},
		{"another config space", func(t *testing.T, o *Options, _ *build) {
			writeText(t, filepath.Join(o.ConfigSpace, "class/TINY.var"), "tiny=2\n")
		}, true},
	} {
		t.Run(row.summary, func(t *testing.T) {
			o := tinyOptions(t, files)
			b := publishTiny(t, o)
			row.change(t, &o, b)
			path, err := Run(t.Context(), o)
			_, noDocument := os.Stat(b.document())
			_, noLog := os.Stat(b.base + ".build.log")
			_, noWork := os.Stat(b.work)
			if !os.IsNotExist(noWork) {
				t.Errorf("the work directory is left: %v", noWork)
			}
			if row.builds {
				demandFault(t, err, fault.Work, again)
				if !os.IsNotExist(noDocument) {
					t.Error("the document of the image before is still there")
				}
				return
			}
			if err != nil || path != b.document() || noDocument != nil || noLog == nil {
				t.Errorf("got %q, %v; document %v, log %v", path, err, noDocument, noLog)
			}
		})
	}
}

// publishTiny leaves a finished build of o behind, of an image that is five bytes long.
func publishTiny(t *testing.T, o Options) *build {
	t.Helper()
	b, err := prepare(o)
	if err != nil {
		t.Fatal(err)
	}
	raw := filepath.Join(o.Output, "raw")
	writeText(t, raw, "image")
	c := &content{packages: []manifest.Package{{Name: "apt", Version: "3.0.3"}}, kernel: "6.12.41+deb13-amd64"}
	if err := b.publish(t.Context(), raw, c, &disk.Layout{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(raw); !os.IsNotExist(err) {
		t.Errorf("the image was copied, not moved: %v", err)
	}
	return b
}

func writeText(t *testing.T, path, text string) {
	t.Helper()
	if err := writeFile(path, []byte(text), false); err != nil {
		t.Fatal(err)
	}
}

func mustRemove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("CI_JOB_TOKEN", "secret")
	t.Setenv("DEBCLOUD_VENDOR", "another")
	t.Setenv("http_proxy", "http://proxy.example:3128")
	b := &build{Options: Options{
		Time: time.Unix(1767312000, 0), Version: image.Version{Date: "20260102", Number: 3},
		Mirror:      Mirrors{"http://mirror.example/debian", "http://mirror.example/security"},
		ImageMirror: Mirrors{"http://image.example/debian", "http://image.example/security"},
	}}
	b.Cell.Release.Name, b.Cell.Vendor.Name, b.Cell.Arch.Name = "trixie-backports", "ec2", "arm64"
	b.Type.Name, b.Type.OutputVersion = "official", "{date}-{version}"
	env := b.environment()
	for _, want := range []string{
		"DEBCLOUD_CODENAME=trixie", "DEBCLOUD_ARCH=arm64", "DEBCLOUD_VENDOR=ec2", "DEBCLOUD_TYPE=official", "DEBCLOUD_VERSION=20260102-3",
		"DEBCLOUD_MIRROR=http://mirror.example/debian", "DEBCLOUD_SECURITY_MIRROR=http://mirror.example/security",
		"DEBCLOUD_IMAGE_MIRROR=http://image.example/debian", "DEBCLOUD_IMAGE_SECURITY_MIRROR=http://image.example/security",
		"SOURCE_DATE_EPOCH=1767312000", "http_proxy=http://proxy.example:3128",
	} {
		if !slices.Contains(env, want) {
			t.Errorf("%s is missing in %q", want, env)
		}
	}
	if text := strings.Join(env, "\n"); strings.Contains(text, "secret") || strings.Contains(text, "another") {
		t.Errorf("scripts see what is not theirs: %q", env)
	}
}

func TestFollow(t *testing.T) {
	text := "Calling task_instsoft\n\nList of all classes: " + strings.Repeat("BASE+TRIXIE ", 20_000) + "\nno newline at the end"
	var log bytes.Buffer
	task := progress.Start(t.Context(), "FAI", 0, false)
	if err := follow(strings.NewReader(text), &log, task); err != nil {
		t.Fatal(err)
	}
	if got := strings.ReplaceAll(log.String(), "\n", ""); got != strings.ReplaceAll(text, "\n", "") {
		t.Errorf("%d bytes of %d came into the log", len(got), len(text))
	}
}

func TestStageOf(t *testing.T) {
	for line, want := range map[string]string{
		"Calling debootstrap --variant=minbase trixie /mnt/tree": "bootstrapping",
		"Fetched 111 MB in 3s (40.1 MB/s)":                       "unpacking packages",
		"Setting up apt (3.0.3) ...":                             "configuring packages",
		"Calling task_configure":                                 "running scripts",
		"I am Setting up nothing":                                "",
	} {
		if got := stageOf(line); got != want {
			t.Errorf("%q is said to be %q, want %q", line, got, want)
		}
	}
}

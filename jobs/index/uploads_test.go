package index

import (
	"bytes"
	"cmp"
	"crypto/sha512"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"salsa.debian.org/cloud-team/debcloud/internal/holding"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// place is where a cloud has an image.
type place struct{ provider, region, ref string }

// uploaded writes the upload document of an image that has the name, and so the digest, of the tree's.
func uploaded(t testing.TB, dir string, c cell, places ...place) string {
	t.Helper()
	name := image.PublicName(c.id, c.vendor, c.arch, c.kind, c.version)
	b := &manifest.Build{Header: manifest.Header{APIVersion: manifest.APIVersion, Kind: "Build"}}
	b.Metadata.SetDigest(sha512.Sum512([]byte(name)))
	b.Data.Info = manifest.BuildInfo{Arch: c.arch, Release: c.release, ReleaseID: c.id, ReleaseBaseID: c.id, Vendor: c.vendor, Version: c.version, Type: "official"}
	var uploads []manifest.Upload
	for _, p := range places {
		u := manifest.Upload{Header: manifest.Header{APIVersion: manifest.APIVersion, Kind: "Upload"}}
		u.Metadata.Labels = map[string]string{manifest.LabelUploadType: string(c.kind), manifest.LabelRegion: p.region}
		u.Data = manifest.UploadData{Provider: p.provider, Ref: p.ref}
		uploads = append(uploads, u)
	}
	list, err := manifest.NewList(b, uploads)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, c.vendor+"-"+c.arch+".upload-"+places[0].provider+".json")
	if err := manifest.Write(path, list); err != nil {
		t.Fatal(err)
	}
	return path
}

var (
	daily  = cell{"trixie", "13", "ec2", "amd64", image.Daily, "20260814-1", false}
	onAWS  = []place{{"aws.amazon.com", "eu-west-1", "ami-0aaa"}, {"aws.amazon.com", "ap-south-1", "ami-0bbb"}, {"aws.amazon.com", "cn-north-1", "ami-0ccc"}}
	arm    = cell{"trixie", "13", "ec2", "arm64", image.Daily, "20260814-1", false}
	google = place{"cloud.google.com", "", "projects/debian-cloud/global/images/debian-13-v20260814"}
)

func TestUploadsOfClouds(t *testing.T) {
	tree, out := t.TempDir(), t.TempDir()
	publish(t, tree, daily)
	paths := []string{uploaded(t, out, daily, onAWS...), uploaded(t, out, arm, place{"aws.amazon.com", "eu-west-1", "ami-0ddd"}), uploaded(t, out, cell{"trixie", "13", "gce", "amd64", image.Daily, "20260814-1", false}, google), uploaded(t, out, daily, place{"cloud.debian.org", "", "trixie/x.raw"})}
	if err := TakeUploads(t.Context(), tree, paths); err != nil {
		t.Fatal(err)
	}
	r, err := Write(t.Context(), tree)
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]manifest.IndexImage{}
	for _, i := range r.Data.Images {
		byName[i.Name] = i
	}
	i := byName["debian-13-ec2-amd64-daily-20260814-1"]
	if len(i.Files) != 3 || len(i.Uploads) != 3 || i.Uploads[0].Region != "ap-south-1" || i.Uploads[2].Ref != "ami-0aaa" {
		t.Errorf("%+v", i)
	}
	only := byName["debian-13-ec2-arm64-daily-20260814-1"]
	if len(only.Files) != 0 || len(only.Uploads) != 1 || only.Manifest != "uploads/debian-13-ec2-arm64-daily-20260814-1.upload-aws.amazon.com.json" || !strings.Contains(only.Uploads[0].CLI, "t4g.micro") {
		t.Errorf("an image that only the cloud has: %+v", only)
	}
	if g := byName["debian-13-gce-amd64-daily-20260814-1"]; len(g.Uploads) != 1 || g.Uploads[0].HCL != `image = "projects/debian-cloud/global/images/debian-13-v20260814"` {
		t.Errorf("%+v", g)
	}
	if again, err := Write(t.Context(), tree); err != nil || again.Changed {
		t.Errorf("again: changed %v, %v", again.Changed, err)
	}

	// What is gone is no longer listed; another region's stays.
	write(t, filepath.Join(tree, UploadsDir, "broken.upload-aws.amazon.com.json"), []byte("{"))
	if err := DropUploads(t.Context(), tree, []holding.Item{
		{Provider: "aws", Region: "eu-west-1", ID: "ami-0aaa"}, {Provider: "aws", Region: "ap-south-1", ID: "ap-south-1/ami-0bbb"},
		{Provider: "aws", Region: "eu-west-1", ID: "ami-0ccc"}, {Provider: "aws", ID: "ami-0ddd"},
		{Provider: "azure", ID: "projects/debian-cloud/global/images/debian-13-v20260814"},
	}); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(tree, UploadsDir, "broken.upload-aws.amazon.com.json")); err != nil {
		t.Fatal(err)
	}
	r, err = Write(t.Context(), tree)
	if err != nil || len(r.Data.Images) != 2 {
		t.Fatalf("%d images, %v", len(r.Data.Images), err)
	}
	for _, i := range r.Data.Images {
		if i.Vendor == "ec2" && (len(i.Uploads) != 1 || i.Uploads[0].Ref != "ami-0ccc") {
			t.Errorf("%+v", i.Uploads)
		}
	}
}

// TestPrivateUploads: what the public may not use is not in the finder, and takes no public one's place.
func TestPrivateUploads(t *testing.T) {
	tree, out := t.TempDir(), t.TempDir()
	publish(t, tree, daily)
	public := uploaded(t, out, daily, onAWS...)
	text, err := os.ReadFile(public)
	if err != nil {
		t.Fatal(err)
	}
	private := filepath.Join(out, "private.upload-aws.json")
	mark := `"annotations": {"upload.cloud.debian.org/stage": "private"}, "labels": {`
	write(t, private, []byte(strings.ReplaceAll(string(text), `"labels": {`, mark)))
	for _, row := range []struct {
		taken   string
		uploads int
	}{{private, 0}, {public, 3}, {private, 3}} {
		if err := TakeUploads(t.Context(), tree, []string{row.taken}); err != nil {
			t.Fatal(err)
		}
		r, err := Write(t.Context(), tree)
		if err != nil || len(r.Data.Images) != 1 || len(r.Data.Images[0].Uploads) != row.uploads {
			t.Errorf("with %s: %+v, %v", filepath.Base(row.taken), r, err)
		}
	}
	write(t, filepath.Join(tree, UploadsDir, "debian-13-ec2-amd64-daily-20260814-1.upload-aws.amazon.com.json"), []byte(strings.ReplaceAll(string(text), `"labels": {`, mark)))
	if r, err := Write(t.Context(), tree); err != nil || len(r.Data.Images[0].Uploads) != 0 {
		t.Errorf("in the tree: %+v, %v", r, err)
	}
}

// TestWritersWait: whoever reads a tree to write its index, or changes its upload documents, does so alone.
func TestWritersWait(t *testing.T) {
	tree, out := t.TempDir(), t.TempDir()
	publish(t, tree, daily)
	document := uploaded(t, out, daily, onAWS...)
	waits := make(listener, 1)
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(waits, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })
	for _, row := range []struct {
		summary string
		change  func() error
	}{
		{"write", func() error { _, err := Write(t.Context(), tree); return err }},
		{"take", func() error { return TakeUploads(t.Context(), tree, []string{document}) }},
		{"drop", func() error {
			return DropUploads(t.Context(), tree, []holding.Item{{Provider: "aws", Region: "eu-west-1", ID: "ami-0aaa"}})
		}},
	} {
		unlock, err := lock(t.Context(), tree)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- row.change() }()
		select {
		case <-waits:
			unlock()
			err = <-done
		case err = <-done:
			t.Errorf("%s does not wait for another writer", row.summary)
			unlock()
		}
		if err != nil {
			t.Errorf("%s: %v", row.summary, err)
		}
	}
}

// listener hears of a writer that waits for another one.
type listener chan struct{}

func (l listener) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("waiting for another writer")) {
		l <- struct{}{}
	}
	return len(p), nil
}

func TestBadUploads(t *testing.T) {
	tree, out := t.TempDir(), t.TempDir()
	publish(t, tree, daily)
	path := uploaded(t, out, daily, onAWS...)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ summary, text, want string }{
		{"no JSON", "{", "is not a List document"},
		{"another kind", `{"kind":"Build","apiVersion":"v1"}`, "where List of"},
		{"a provider that is a path", strings.ReplaceAll(string(text), "aws.amazon.com", "../../x"), "cannot be part of a file's name"},
	} {
		if err := os.WriteFile(path, []byte(row.text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := TakeUploads(t.Context(), tree, []string{path}); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v", row.summary, err)
		}
	}
	// In the tree already: another image under the name is left out and told, and the index is written.
	digest := manifest.Digest(sha512.Sum512([]byte("debian-13-ec2-amd64-daily-20260814-1")))
	other := manifest.Digest(sha512.Sum512([]byte("other")))
	write(t, filepath.Join(tree, UploadsDir, "x.upload-aws.amazon.com.json"), []byte(strings.ReplaceAll(string(text), digest.String(), other.String())))
	r, err := Write(t.Context(), tree)
	if err == nil || len(r.Broken) != 1 || len(r.Data.Images) != 1 || len(r.Data.Images[0].Uploads) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestWaysToStart(t *testing.T) {
	for _, row := range []struct {
		provider, region, ref string
		launch, cli, hcl      string
		arch                  string // amd64 where it is ""
	}{
		{"aws.amazon.com", "eu-west-1", "ami-1", "https://eu-west-1.console.aws.amazon.com/ec2/home?region=eu-west-1#LaunchInstances:ami=ami-1", "aws ec2 run-instances --region eu-west-1 --image-id ami-1 --instance-type t3.micro --key-name KEY", `ami = "ami-1"`, ""},
		{"aws.amazon.com", "cn-north-1", "ami-1", "https://cn-north-1.console.amazonaws.cn/", "--region cn-north-1", `ami = "ami-1"`, ""},
		{"aws.amazon.com", "us-gov-west-1", "ami-1", "https://console.amazonaws-us-gov.com/", "--region us-gov-west-1", `ami = "ami-1"`, ""},
		{"cloud.google.com", "", "projects/p/global/images/i", "https://console.cloud.google.com/compute/imagesDetail/projects/p/global/images/i", "gcloud compute instances create NAME --image=i --image-project=p", `image = "projects/p/global/images/i"`, ""},
		{"alibabacloud.com", "eu-central-1", "m-1", "", "aliyun ecs RunInstances --RegionId eu-central-1 --ImageId m-1 --InstanceType TYPE", `image_id = "m-1"`, ""},
		{"cloud.google.com", "", "projects/p/global/images/i", "https://", "--image-project=p --machine-type=t2a-standard-1", `image = "projects/p/global/images/i"`, "arm64"},
		{"azure.microsoft.com", "westeurope", "/subscriptions/s/versions/0.1.2", "", "--image /subscriptions/s/versions/0.1.2 --location westeurope", `source_image_id = "/subscriptions/s/versions/0.1.2"`, ""},
		{"azure.microsoft.com", "westeurope", "/subscriptions/s/versions/0.1.2", "", "--image /subscriptions/s/versions/0.1.2 --size Standard_B2pts_v2 --location westeurope", `source_image_id = "/subscriptions/s/versions/0.1.2"`, "arm64"},
		{"aws.amazon.com", "eu-west-1", "ami-1", "https://", "--instance-type t4g.micro", `ami = "ami-1"`, "arm64"},
		{"openstack.org", "", "0b1c", "", "openstack server create --image 0b1c", `image_id = "0b1c"`, ""},
		{"aws.amazon.com", "eu-west-1", `x"; rm -rf $HOME`, "", "", "", ""},
		{"aws.amazon.com", "eu west", "ami-1", "", "", "", ""},
		{"unheard.of", "", "x", "", "", "", ""},
	} {
		u := manifest.Upload{Data: manifest.UploadData{Provider: row.provider, Ref: row.ref}}
		u.Metadata.Labels = map[string]string{manifest.LabelRegion: row.region}
		i := cloudUpload(cmp.Or(row.arch, "amd64"), u)
		if !strings.HasPrefix(i.Launch, row.launch) || (row.launch == "") != (i.Launch == "") || !strings.Contains(i.CLI, row.cli) || (row.cli == "") != (i.CLI == "") || i.HCL != row.hcl {
			t.Errorf("%s in %s: %+v", row.ref, row.region, i)
		}
	}
}

// TestFinderShowsClouds uses the page by keyboard alone.
func TestFinderShowsClouds(t *testing.T) {
	tree, out := t.TempDir(), t.TempDir()
	publish(t, tree, daily)
	if err := TakeUploads(t.Context(), tree, []string{uploaded(t, out, daily, onAWS...), uploaded(t, out, arm, place{"aws.amazon.com", "eu-west-1", "ami-0ddd"})}); err != nil {
		t.Fatal(err)
	}
	if _, err := Write(t.Context(), tree); err != nil {
		t.Fatal(err)
	}
	w := openWindow(t, tree)
	w.open("?q=ami-0bbb")
	if n := w.eval(`document.querySelectorAll("#images > li").length`); n != "1" {
		t.Errorf("%s images have the ID", n)
	}
	if text := w.eval(`document.querySelector(".clouds summary").textContent`); text != "Start it at Amazon EC2 (3 regions)" {
		t.Errorf("the summary is %q", text)
	}
	w.eval(`document.querySelector(".clouds summary").focus()`)
	w.do(chromedp.KeyEvent(kb.Enter))
	w.waitFor(`document.querySelector(".clouds").open`)
	rows := w.eval(`[...document.querySelectorAll(".clouds tbody tr")].map((r) => r.cells[0].textContent + " " + r.querySelector("code").textContent + " " + r.querySelector("a").href).join("\n")`)
	if want := "ap-south-1 ami-0bbb https://ap-south-1.console.aws.amazon.com/ec2/home?region=ap-south-1#LaunchInstances:ami=ami-0bbb"; !strings.HasPrefix(rows, want) || strings.Count(rows, "\n") != 2 {
		t.Errorf("the rows are\n%s", rows)
	}
	for _, key := range []string{"ref", "cli", "hcl"} {
		w.eval(`document.querySelector(".clouds tbody [data-copy=` + key + `]").focus()`)
		w.do(chromedp.KeyEvent(kb.Enter))
		w.waitFor(`document.querySelector(".clouds tbody [data-copy=` + key + `]").classList.contains("done")`)
		if got := w.eval(`navigator.clipboard.readText()`); !strings.Contains(got, "ami-0bbb") {
			t.Errorf("%s copies %q", key, got)
		}
	}
	w.open("?arch=arm64")
	if open := w.eval(`document.querySelector(".clouds").open && document.querySelector(".files") === null`); open != "true" {
		t.Error("an image that only the cloud has does not show where")
	}
	if wide := w.eval(`document.documentElement.scrollWidth > innerWidth`); wide != "false" {
		t.Error("the page is wider than the window")
	}
}

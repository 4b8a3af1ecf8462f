package salsa

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// file is an entry of an archive.
type file struct {
	name, text string
	mode       fs.FileMode
}

func archive(t *testing.T, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, f := range files {
		h := &zip.FileHeader{Name: f.name, Method: zip.Deflate}
		h.SetMode(f.mode | 0o644)
		w, err := z.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (d *double) addJob(id int64, name, ref string, pipeline int64, archive []byte) *job {
	j := &job{ID: id, Name: name, Ref: ref, Status: "success", archive: archive}
	j.Pipeline.ID = pipeline
	if archive != nil {
		j.Artifacts = &struct {
			Filename string `json:"filename"`
			Size     int    `json:"size"`
		}{"artifacts.zip", len(archive)}
	}
	d.jobs = append(d.jobs, j)
	return j
}

func text(t *testing.T, document any) string {
	t.Helper()
	b, err := manifest.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// buildFiles and bootFiles are what the cell's jobs keep. The image of tested cells is the cell's name.
func (c Cell) buildFiles(t *testing.T) []file {
	c.Build.Data.Image.Size = int64(len(c.String()))
	return []file{{"out/", "", fs.ModeDir}, {"out/" + c.file() + ".raw", c.String(), 0}, {"out/" + c.file() + ".build.json", text(t, c.Build), 0}}
}

func (c Cell) bootFiles(t *testing.T) []file {
	return []file{{"out/" + c.file() + ".report.json", text(t, c.Report), 0}, {"out/" + c.file() + ".build.json", text(t, c.Build), 0}}
}

// addPipeline adds a pipeline in which the cell was built and booted, beside others.
func (d *double) addPipeline(t *testing.T, id int64, ref string, c Cell) {
	d.addJob(10*id+1, c.String()+" build", ref, id, archive(t, c.buildFiles(t)...))
	d.addJob(10*id+2, "trixie genericcloud arm64 boot", ref, id, archive(t, file{"x", "of another cell", 0}))
	d.addJob(10*id+3, c.String()+" check", ref, id, nil)
	d.addJob(10*id+4, c.String()+" boot", ref, id, archive(t, c.bootFiles(t)...))
	d.addJob(10*id+5, c.String()+" publish", ref, id, archive(t, file{"x", "of another job", 0}))
}

var wanted = LatestOptions{Release: "trixie", Vendor: "genericcloud", Arch: "amd64", Ref: "main", Suites: bothSuites, MaxBytes: 1 << 20}

// latest runs Latest into a fresh directory and returns its files.
func latest(t *testing.T, d *double, change ...func(*LatestOptions)) (path string, files []string, err error) {
	t.Helper()
	parent := t.TempDir()
	o := wanted
	for _, f := range change {
		f(&o)
	}
	path, err = d.client().Latest(t.Context(), o, filepath.Join(parent, "last"))
	files = tree(t, parent)
	if err != nil && len(files) > 0 {
		t.Errorf("after %v there is %v", err, files)
	}
	return path, files, err
}

func tree(t *testing.T, dir string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if relative, _ := filepath.Rel(dir, p); relative != "." {
			files = append(files, relative)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestLatest(t *testing.T) {
	d := newDouble(t)
	d.page = 3
	cell := tested("trixie", "genericcloud", "amd64")
	old := tested("trixie", "genericcloud", "amd64")
	old.Build.Data.Info.Version = "old"
	d.addPipeline(t, 1, "main", old)
	d.addPipeline(t, 2, "main", cell)
	d.addPipeline(t, 3, "refs/merge-requests/4/head", old)
	d.addJob(41, "genericcloud trixie amd64 build", "main", 4, archive(t, file{"x", "not booted yet", 0}))
	path, files, err := latest(t, d)
	if err != nil {
		t.Fatal(err)
	}
	name := "debian-trixie-genericcloud-amd64"
	if want := []string{"last", "last/latest.json", "last/out", "last/out/" + name + ".build.json", "last/out/" + name + ".raw", "last/out/" + name + ".report.json"}; !slices.Equal(files, want) {
		t.Errorf("files %q, want %q", files, want)
	}
	build, err := manifest.ReadBuild(path)
	if err != nil || build.Data.Info.Version == "old" {
		t.Errorf("%+v, %v", build, err)
	}
	if d.count("jobs/(22|25)/artifacts") > 0 || d.count("jobs/[0-9]+/artifacts") != 2 {
		t.Errorf("sent %v", d.requests)
	}
}

func TestLatestWithJobToken(t *testing.T) {
	d := newDouble(t)
	d.addPipeline(t, 1, "main", tested("trixie", "genericcloud", "amd64"))
	c := d.client(func(o *Options) { o.Token = "" })
	if _, err := c.Latest(t.Context(), wanted, filepath.Join(t.TempDir(), "last")); err != nil {
		t.Error(err)
	}
}

func TestLatestAgain(t *testing.T) {
	d := newDouble(t)
	cell := tested("trixie", "genericcloud", "amd64")
	d.addPipeline(t, 1, "main", cell)
	dir := filepath.Join(t.TempDir(), "last")
	run := func() string {
		t.Helper()
		path, err := d.client().Latest(t.Context(), wanted, dir)
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	path := run()
	downloads := d.count("artifacts")
	if again := run(); again != path || d.count("artifacts") != downloads {
		t.Errorf("the same again: %s after %d downloads", again, d.count("artifacts")-downloads)
	}
	if err := os.WriteFile(strings.TrimSuffix(path, ".build.json")+".raw", []byte(strings.ToUpper(cell.String())), 0o600); err != nil {
		t.Fatal(err)
	}
	if run(); d.count("artifacts") != 2*downloads {
		t.Error("an altered image stays")
	}
	d.addPipeline(t, 2, "main", cell)
	if run(); d.count("artifacts") != 3*downloads {
		t.Error("a newer pipeline does not replace the old one")
	}
	if left := tree(t, filepath.Dir(dir)); len(left) != 6 {
		t.Errorf("there is %v", left)
	}
}

func TestLatestKeepsOthersFiles(t *testing.T) {
	d := newDouble(t)
	d.addPipeline(t, 1, "main", tested("trixie", "genericcloud", "amd64"))
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{dir, filepath.Join(dir, "mine"), filepath.Join(dir, "none", "last")} {
		if _, err := d.client().Latest(t.Context(), wanted, target); fault.KindOf(err) != fault.Input {
			t.Errorf("%s: %v", target, err)
		}
	}
	if left := tree(t, dir); !slices.Equal(left, []string{"mine"}) || len(d.requests) > 0 {
		t.Errorf("there is %v, sent %v", left, d.requests)
	}
}

func TestLatestFallsBack(t *testing.T) {
	captureLog(t)
	cell := func() Cell { return tested("trixie", "genericcloud", "amd64") }
	for _, row := range []struct {
		summary string
		add     func(*double)
	}{
		{"the newest artifacts have expired", func(d *double) {
			d.addJob(21, cell().String()+" boot", "main", 2, archive(t, file{"x", "", 0})).archive = nil
		}},
		{"the newest job kept none", func(d *double) { d.addJob(21, cell().String()+" boot", "main", 2, nil) }},
		{"the newest report did not pass", func(d *double) { d.addPipeline(t, 2, "main", cell().fail(1, 0, "")) }},
		{"the newest was not checked", func(d *double) {
			c := cell()
			c.Report.Data.Suites = c.Report.Data.Suites[1:]
			d.addPipeline(t, 2, "main", c)
		}},
		{"the newest has no report", func(d *double) {
			d.addJob(21, cell().String()+" boot", "main", 2, archive(t, cell().buildFiles(t)...))
		}},
		{"the newest is another's", func(d *double) {
			d.addJob(21, cell().String()+" boot", "main", 2, archive(t, tested("sid", "ec2", "amd64").buildFiles(t)...))
		}},
	} {
		d := newDouble(t)
		d.addPipeline(t, 1, "main", cell())
		row.add(d)
		if _, _, err := latest(t, d); err != nil {
			t.Errorf("%s: %v", row.summary, err)
		}
	}
	d := newDouble(t)
	for id := range int64(20) {
		d.addPipeline(t, id+1, "main", cell().fail(0, 0, ""))
	}
	if _, _, err := latest(t, d); err == nil || d.count("artifacts") != 2*maxCandidates {
		t.Errorf("%v after %d downloads", err, d.count("artifacts"))
	}
}

func TestLatestRefuses(t *testing.T) {
	cell := func() Cell { return tested("trixie", "genericcloud", "amd64") }
	with := func(change func(c *Cell, build, boot *[]file)) func(*double) {
		return func(d *double) {
			c := cell()
			build, boot := c.buildFiles(t), c.bootFiles(t)
			change(&c, &build, &boot)
			d.addJob(11, c.String()+" build", "main", 1, archive(t, build...))
			d.addJob(12, c.String()+" boot", "main", 1, archive(t, boot...))
		}
	}
	extra := func(f ...file) func(*double) {
		return with(func(_ *Cell, build, _ *[]file) { *build = append(*build, f...) })
	}
	for _, row := range []struct {
		summary, want string
		kind          fault.Kind
		add           func(*double)
	}{
		{"no job at all", "no job of trixie genericcloud amd64 on main", fault.Work, func(*double) {}},
		{"an image that was altered", "digest", fault.Work, with(func(_ *Cell, build, _ *[]file) { (*build)[1].text = "TRIXIE genericcloud amd64" })},
		{"an image that was cut", "bytes", fault.Work, with(func(_ *Cell, build, _ *[]file) { (*build)[1].text = "t" })},
		{"a report on another image", "altered", fault.Work, with(func(c *Cell, _, boot *[]file) {
			c.Report.Metadata.SetDigest(manifest.Digest{1})
			(*boot)[0].text = text(t, c.Report)
		})},
		{"a path that leads out", `"../evil"`, fault.Work, extra(file{"../evil", "x", 0})},
		{"an absolute path", `"/tmp/evil"`, fault.Work, extra(file{"/tmp/evil", "x", 0})},
		{"a path through a parent", "no plain path", fault.Work, extra(file{"out/../../evil", "x", 0})},
		{"a backslash", "no plain path", fault.Work, extra(file{`out\evil`, "x", 0})},
		{"a symbolic link", "neither a file nor a directory", fault.Work, extra(file{"link", "/etc", fs.ModeSymlink})},
		{"a device", "neither a file nor a directory", fault.Work, extra(file{"null", "", fs.ModeDevice})},
		{"a name twice", "twice", fault.Work, extra(file{"a", "1", 0}, file{"a", "2", 0})},
		{"a file that is a directory too", "", fault.Work, extra(file{"a", "1", 0}, file{"a/b", "2", 0})},
		{"a bomb", "larger than allowed", fault.Input, extra(file{"bomb", strings.Repeat("\x00", 2<<20), 0})},
		{"no archive", "damaged", fault.Outside, func(d *double) { d.addJob(11, cell().String()+" boot", "main", 1, []byte("<html>")) }},
		{"two builds", "two Build documents", fault.Work, with(func(c *Cell, build, _ *[]file) {
			*build = append(*build, file{"b.build.json", text(t, c.Build), 0})
		})},
		{"a document that is none", "not a Build document", fault.Input, with(func(c *Cell, _, boot *[]file) { (*boot)[1].text = "{" })},
		{"an image whose name leads out", "plain file name", fault.Input, with(func(c *Cell, _, boot *[]file) {
			c.Build.Data.Image.Name = "../../etc/passwd"
			(*boot)[1].text = text(t, c.Build)
		})},
	} {
		d := newDouble(t)
		row.add(d)
		_, _, err := latest(t, d)
		if err == nil || fault.KindOf(err) != row.kind || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v of kind %v", row.summary, err, fault.KindOf(err))
		}
	}
	if _, err := os.Stat("/tmp/evil"); err == nil {
		t.Error("the absolute path was written")
	}
}

func TestLatestTooLarge(t *testing.T) {
	d := newDouble(t)
	d.addPipeline(t, 1, "main", tested("trixie", "genericcloud", "amd64"))
	if _, _, err := latest(t, d, func(o *LatestOptions) { o.MaxBytes = 100 }); fault.KindOf(err) != fault.Input || d.count("artifacts") > 0 {
		t.Errorf("by what GitLab says: %v", err)
	}
	for _, j := range d.jobs {
		if j.Artifacts != nil {
			j.Artifacts.Size = 1
		}
	}
	if _, _, err := latest(t, d, func(o *LatestOptions) { o.MaxBytes = 100 }); fault.KindOf(err) != fault.Input || d.count("artifacts") != 1 {
		t.Errorf("by what comes: %v", err)
	}
}

func TestLatestMeetsTrouble(t *testing.T) {
	for summary, act := range map[string]func(http.ResponseWriter, *http.Request, http.HandlerFunc){
		"bad gateway": says(502), "rate limit": says(429, "Retry-After", "3"), "cut": truncates, "silence": hangs,
		"silence in the middle": func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, "PK")
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
	} {
		d := newDouble(t)
		d.addPipeline(t, 1, "main", tested("trixie", "genericcloud", "amd64"))
		d.inject("GET .*/artifacts", 2, act)
		d.inject("GET .*/jobs$", 1, act)
		c := d.client()
		c.patience.answer, c.patience.silence = 150*time.Millisecond, 150*time.Millisecond
		parent := t.TempDir()
		if _, err := c.Latest(t.Context(), wanted, filepath.Join(parent, "last")); err != nil {
			t.Errorf("%s: %v", summary, err)
		}
		for _, f := range tree(t, parent) {
			if strings.HasPrefix(f, ".") {
				t.Errorf("%s leaves %s", summary, f)
			}
		}
	}
}

func TestLatestCancelled(t *testing.T) {
	d := newDouble(t)
	d.addPipeline(t, 1, "main", tested("trixie", "genericcloud", "amd64"))
	why := errors.New("enough")
	ctx, cancel := cancelCause(t)
	d.inject("GET .*/artifacts", 9, func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
		w.Header().Set("Content-Length", "1000")
		fmt.Fprint(w, "PK")
		http.NewResponseController(w).Flush()
		cancel(why)
		<-r.Context().Done()
	})
	parent := t.TempDir()
	_, err := d.client().Latest(ctx, wanted, filepath.Join(parent, "last"))
	if !errors.Is(err, why) || len(tree(t, parent)) > 0 {
		t.Errorf("%v, left %v", err, tree(t, parent))
	}
}

func TestUnpackKeepsHoles(t *testing.T) {
	body := make([]byte, 8<<20)
	copy(body[5<<20:], "data")
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(archive(t, file{"disk.raw", string(body), 0})); err != nil {
		t.Fatal(err)
	}
	u := &unpacker{dir: t.TempDir(), left: 8 << 20}
	if err := u.unpack(context.Background(), f); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(u.dir, "disk.raw"))
	if err != nil || !bytes.Equal(got, body) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if n := allocated(t, filepath.Join(u.dir, "disk.raw")); n > 1<<20 {
		t.Errorf("%d bytes are on disk", n)
	}
}

func TestDocuments(t *testing.T) {
	captureLog(t)
	d := newDouble(t)
	d.page = 2
	a, b, c := tested("trixie", "genericcloud", "amd64"), tested("sid", "ec2", "arm64"), tested("sid", "nocloud", "amd64")
	d.addPipeline(t, 1, "main", a)
	d.addPipeline(t, 2, "main", b)
	d.addPipeline(t, 3, "main", tested("sid", "ec2", "arm64").fail(0, 0, ""))
	for _, j := range d.jobs {
		if strings.HasSuffix(j.Name, "build") {
			j.Artifacts.Size = smallArchive + 1
		}
	}
	cells, err := d.client().Documents(t.Context(), []Cell{a, b, c}, "main", bothSuites, anHour)
	if err != nil || len(cells) != 2 || byName(cells)[b.String()].Build == nil || byName(cells)[a.String()].Report == nil {
		t.Errorf("%+v, %v", cells, err)
	}
	if d.count("jobs/[123]1/artifacts") > 0 {
		t.Errorf("an image was downloaded: %v", d.requests)
	}
}

// TestDocumentsOfDryRun: a dry run has no packages and no boot times to compare with.
func TestDocumentsOfDryRun(t *testing.T) {
	captureLog(t)
	real, dry := tested("trixie", "genericcloud", "amd64"), tested("trixie", "genericcloud", "amd64")
	dry.Build.Metadata.Annotations[manifest.AnnotationDryRun] = "true"
	dry.Build.Data.Packages = nil
	d := newDouble(t)
	d.addPipeline(t, 1, "main", real)
	d.addPipeline(t, 2, "main", dry)
	cells, err := d.client().Documents(t.Context(), []Cell{real}, "main", bothSuites, anHour)
	if err != nil || len(cells) != 1 || len(cells[0].Build.Data.Packages) != 2 {
		t.Errorf("%+v, %v", cells, err)
	}
}

func TestDocumentsOfNothing(t *testing.T) {
	d := newDouble(t)
	if cells, err := d.client().Documents(t.Context(), nil, "main", bothSuites, anHour); err != nil || len(cells)+len(d.requests) > 0 {
		t.Errorf("%v, %v, sent %v", cells, err, d.requests)
	}
}

// TestDocumentsEnd: a comparison with very many images does not hold the report up.
func TestDocumentsEnd(t *testing.T) {
	d := newDouble(t)
	c := tested("trixie", "ec2", "amd64")
	d.addPipeline(t, 1, "main", c)
	cells, err := d.client().Documents(t.Context(), []Cell{c}, "main", bothSuites, 0)
	if err == nil || !strings.Contains(err.Error(), "it took more than 0s") || len(cells) > 0 {
		t.Errorf("%v, %v", cells, err)
	}
}

// TestVendorOfTheMatrix: what the matrix takes as a name is one here, too.
func TestVendorOfTheMatrix(t *testing.T) {
	d := newDouble(t)
	cell := tested("trixie", "my_ec2", "amd64")
	d.addPipeline(t, 1, "main", cell)
	o := wanted
	o.Vendor = "my_ec2"
	if _, err := d.client().Latest(t.Context(), o, filepath.Join(t.TempDir(), "last")); err != nil {
		t.Error(err)
	}
	dir := t.TempDir()
	cell.save(t, dir)
	cells, err := ReadCells(dir)
	if err != nil || len(cells) != 1 {
		t.Fatal(cells, err)
	}
	demandContains(t, Note(findings(cells...)), "`trixie my_ec2 amd64` | yes")
	if setStatuses(t, d, findings(cells...)); d.statuses[0].Name != "debcloud/trixie my_ec2 amd64" {
		t.Errorf("%+v", d.statuses[0])
	}
}

func TestKindOf(t *testing.T) {
	c := tested("trixie", "genericcloud", "amd64")
	for _, row := range []struct{ job, kind string }{
		{"trixie genericcloud amd64 boot", "boot"},
		{"genericcloud trixie amd64 build", "build"},
		{"boot: [trixie, genericcloud, amd64]", "boot"},
		{"check:trixie genericcloud amd64", "check"},
		{"trixie-backports genericcloud amd64 boot", ""},
		{"trixie generic amd64 boot", ""},
		{"trixie genericcloud amd64", ""},
		{"trixie genericcloud amd64 publish", ""},
		{"trixie genericcloud amd64 boot arm64", ""},
		{"boot build check test", ""},
	} {
		if kind := kindOf(row.job, c); kind != row.kind {
			t.Errorf("%q is %q", row.job, kind)
		}
	}
}

func TestDownload(t *testing.T) {
	d := newDouble(t)
	whole := archive(t, file{"x", strings.Repeat("0123456789abcdef", 64), 0})
	d.addJob(1, "x", "main", 1, whole)
	get := func(c *Client, max int64) ([]byte, error) {
		f, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		err = c.download(t.Context(), source{Job: 1, size: 1}, f, max)
		got, _ := os.ReadFile(f.Name())
		return got, err
	}
	d.inject("GET .*/artifacts", 2, truncates)
	if got, err := get(d.client(), 1<<20); err != nil || !bytes.Equal(got, whole) {
		t.Errorf("after two that were cut: %d bytes of %d, %v", len(got), len(whole), err)
	}
	if got, err := get(d.client(), 10); fault.KindOf(err) != fault.Input || len(got) > 10 {
		t.Errorf("more than allowed: %d bytes, %v", len(got), err)
	}
	d.inject("GET .*/artifacts", 1, func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
		for _, b := range bytes.SplitAfter(whole, []byte{whole[len(whole)/2]}) {
			w.Write(b)
			http.NewResponseController(w).Flush()
			time.Sleep(400 * time.Millisecond / time.Duration(bytes.Count(whole, []byte{whole[len(whole)/2]})))
		}
	})
	slow := d.client()
	slow.patience.silence = 250 * time.Millisecond
	before := d.count("artifacts")
	if got, err := get(slow, 1<<20); err != nil || !bytes.Equal(got, whole) || d.count("artifacts") != before+1 {
		t.Errorf("slow but steady: %d bytes of %d, %v, %d requests", len(got), len(whole), err, d.count("artifacts")-before)
	}
}

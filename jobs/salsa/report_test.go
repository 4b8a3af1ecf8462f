package salsa

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

func post(t *testing.T, d *double, text string) Posted {
	t.Helper()
	p, err := d.client().PostNote(t.Context(), "", 3, text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestOneNote(t *testing.T) {
	d := newDouble(t)
	d.page = 2
	foreign := &note{ID: 1, Body: marker(99) + "\nforged", Author: owner{other, "active"}, mr: "3"}
	d.notes = []*note{
		foreign,
		{ID: 2, Body: "my own remark on debcloud:report", Author: owner{me, "active"}, mr: "3"},
		{ID: 3, Body: marker(1) + "\nin another merge request", Author: owner{me, "active"}, mr: "4"},
		{ID: 4, Body: marker(1), Author: owner{me, "active"}, System: true, mr: "3"},
	}
	first := marker(5) + "\nfirst"
	if p := post(t, d, first); p != "created" || len(d.notes) != 5 || d.notes[4].Body != first {
		t.Errorf("%s, %+v", p, d.notes)
	}
	d.changed()
	if p := post(t, d, first+"\n"); p != "unchanged" || len(d.changed()) > 0 {
		t.Errorf("the same note is %s", p)
	}
	second := marker(6) + "\nsecond"
	if p := post(t, d, second); p != "updated" || d.notes[4].Body != second || !slices.Equal(d.changed(), []string{"PUT /merge_requests/3/notes/101"}) {
		t.Errorf("%s, %+v", p, d.notes[4])
	}
	if p := post(t, d, first); p != "outdated" || d.notes[4].Body != second {
		t.Errorf("an older pipeline's note: %s, %+v", p, d.notes[4])
	}
	d.notes = append(d.notes, &note{ID: 200, Body: marker(7), Author: owner{me, "active"}, mr: "3"})
	if p := post(t, d, marker(8)); p != "updated" || len(d.notes) != 5 {
		t.Errorf("of two notes: %s, %+v", p, d.notes)
	}
	if foreign.Body != marker(99)+"\nforged" {
		t.Errorf("the note of someone else is now %q", foreign.Body)
	}
}

func TestNoteInTheTargetProject(t *testing.T) {
	d := newDouble(t)
	if _, err := d.client().PostNote(t.Context(), "77", 3, marker(1)); err != nil {
		t.Fatal(err)
	}
	if d.count("POST /api/v4/projects/77/merge_requests/3/notes") != 1 {
		t.Errorf("sent %v", d.requests)
	}
}

func TestNoteMeetsTrouble(t *testing.T) {
	for _, row := range []struct {
		summary string
		act     func(http.ResponseWriter, *http.Request, http.HandlerFunc)
		posts   int
	}{
		{"lost before it was made", says(502), 2},
		{"lost after it was made", actsAndSays(504), 1},
		{"the answer was cut", truncates, 1},
		{"rate limit", says(429, "Retry-After", "60"), 2},
	} {
		d := newDouble(t)
		d.inject("POST .*/notes", 1, row.act)
		if _, err := d.client().PostNote(t.Context(), "", 3, marker(1)); err != nil {
			t.Errorf("%s: %v", row.summary, err)
		}
		if len(d.notes) != 1 || d.count("POST .*/notes") != row.posts {
			t.Errorf("%s: %d notes by %v", row.summary, len(d.notes), d.requests)
		}
	}
}

func findings(cells ...Cell) Findings {
	return Findings{Cells: cells, Suites: bothSuites, Job: Job{
		CommitSHA: strings.Repeat("0123456789", 4), PipelineID: 500, PipelineSource: "merge_request_event", URL: "https://gitlab.example/-/jobs/5",
	}}
}

func setStatuses(t *testing.T, d *double, f Findings) int {
	t.Helper()
	n, err := d.client().SetStatuses(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestStatuses(t *testing.T) {
	d := newDouble(t)
	d.page = 1
	f := findings(tested("trixie", "genericcloud", "amd64"), tested("sid", "ec2", "arm64").fail(0, 0, ""))
	if n := setStatuses(t, d, f); n != 2 {
		t.Errorf("%d set", n)
	}
	want := status{101, f.Job.CommitSHA, "debcloud/trixie genericcloud amd64", "success", "3 checks passed, 1 skipped", "https://gitlab.example/-/jobs/5", 500}
	if *d.statuses[0] != want {
		t.Errorf("%+v, want %+v", *d.statuses[0], want)
	}
	if s := d.statuses[1]; s.Name != "debcloud/sid ec2 arm64" || s.Status != "failed" || s.Description != "1 check failed: 1-partition-table" {
		t.Errorf("%+v", s)
	}
	if n := setStatuses(t, d, f); n != 0 || len(d.statuses) != 2 {
		t.Errorf("the second time %d were set", n)
	}
	f.Cells[1] = tested("sid", "ec2", "arm64")
	if n := setStatuses(t, d, f); n != 1 || len(d.statuses) != 3 {
		t.Errorf("after a change %d were set", n)
	}
	d.pipelines = append(d.pipelines, 600)
	f.Job.PipelineID = 600
	if n := setStatuses(t, d, f); n != 2 || d.statuses[4].PipelineID != 600 {
		t.Errorf("in a second pipeline of the commit %d were set", n)
	}
}

// TestPlanned: a cell of the plan without documents failed, in the note and among the statuses, and an older note gives way.
func TestPlanned(t *testing.T) {
	built := tested("trixie", "genericcloud", "amd64")
	for _, row := range []struct {
		cells []Cell
		head  string
		state []string
	}{
		{[]Cell{built}, "1 of 2 cells passed", []string{"failed", "success"}},
		{nil, "0 of 2 cells passed", []string{"failed", "failed"}},
	} {
		cells, err := Planned(row.cells, []string{"trixie genericcloud amd64", "sid ec2 arm64"})
		if err != nil {
			t.Fatal(err)
		}
		d := newDouble(t)
		d.notes = []*note{{ID: 2, Body: marker(499) + "\nall passed", Author: owner{me, "active"}, mr: "3"}}
		f := findings(cells...)
		if p := post(t, d, Note(f)); p != "updated" {
			t.Errorf("the note is %s", p)
		}
		demandContains(t, d.notes[0].Body, row.head, "| `sid ec2 arm64` | **no**: `not built: there are no documents of it` |",
			"`sid ec2 arm64`: `not built: there are no documents of it`")
		setStatuses(t, d, f)
		if len(d.statuses) != 2 || d.statuses[0].Name != "debcloud/sid ec2 arm64" || d.statuses[0].Status != row.state[0] || d.statuses[1].Status != row.state[1] {
			t.Errorf("%+v", d.statuses)
		}
	}
	for _, name := range []string{"trixie ec2", "trixie ec2 amd64 x", "trixie EC2 amd64", ""} {
		if _, err := Planned(nil, []string{name}); fault.KindOf(err) != fault.Input {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestStatusesFromChildPipeline(t *testing.T) {
	d := newDouble(t)
	f := findings(tested("trixie", "genericcloud", "amd64"))
	f.Job.PipelineID, f.Job.PipelineSource = 501, "parent_pipeline"
	if setStatuses(t, d, f); d.statuses[0].PipelineID != 500 {
		t.Errorf("%+v", d.statuses[0])
	}
	if n := setStatuses(t, d, f); n != 0 {
		t.Errorf("the second time %d were set", n)
	}
}

func TestStatusesMeetTrouble(t *testing.T) {
	for _, act := range []func(http.ResponseWriter, *http.Request, http.HandlerFunc){says(502), actsAndSays(502), truncates, says(409), says(429)} {
		d := newDouble(t)
		d.inject("POST .*/statuses/", 1, act)
		setStatuses(t, d, findings(tested("trixie", "ec2", "amd64"), tested("sid", "ec2", "amd64")))
		if len(d.statuses) != 2 {
			t.Errorf("%d statuses", len(d.statuses))
		}
	}
}

func TestLongStatus(t *testing.T) {
	d := newDouble(t)
	f := findings(tested("trixie", "ec2", "amd64").fail(0, 0, ""))
	f.Cells[0].Report.Data.Suites[0].Checks[0].ID = strings.Repeat("ü", 400)
	f.Job.URL = "https://gitlab.example/" + strings.Repeat("x", 300)
	if n := setStatuses(t, d, f); n != 1 {
		t.Errorf("%d set", n)
	}
	if n := setStatuses(t, d, f); n != 0 {
		t.Errorf("the second time %d set", n)
	}
}

func TestReportNeedsAccess(t *testing.T) {
	d := newDouble(t)
	c := d.client(func(o *Options) { o.Token = "" })
	_, noteErr := c.PostNote(t.Context(), "", 1, "x")
	_, statusErr := c.SetStatuses(t.Context(), findings())
	scheduleErr := c.ApplySchedules(t.Context(), nil, true, func(Action) {})
	for _, err := range []error{noteErr, statusErr, scheduleErr} {
		if fault.KindOf(err) != fault.Input || fault.HintOf(err) == "" {
			t.Errorf("error %v", err)
		}
	}
	if len(d.requests) > 0 {
		t.Errorf("sent %v", d.requests)
	}
}

// save writes the documents of c, and its image, below dir.
func (c Cell) save(t *testing.T, dir string) {
	t.Helper()
	base := filepath.Join(dir, c.file())
	for path, document := range map[string]any{base + ".build.json": c.Build, base + ".report.json": c.Report} {
		if err := manifest.Write(path, document); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(base+".raw", []byte(c.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestReadCells(t *testing.T) {
	captureLog(t)
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	tested("trixie", "ec2", "amd64").save(t, dir)
	tested("sid", "ec2", "amd64").save(t, filepath.Join(dir, "sub"))
	cells, err := ReadCells(dir, filepath.Join(dir, "debian-trixie-ec2-amd64.build.json"))
	if err != nil || len(cells) != 2 || cells[0].String() != "sid ec2 amd64" || cells[1].Report == nil || cells[1].Build == nil {
		t.Errorf("%+v, %v", cells, err)
	}
	younger := tested("sid", "ec2", "amd64").fail(0, 0, "")
	younger.Report.Data.Suites[0].Started = younger.tested().AddDate(0, 0, 1)
	later := t.TempDir()
	younger.save(t, later)
	for _, order := range [][]string{{dir, later}, {later, dir}} {
		cells, err := ReadCells(order...)
		if err != nil || len(cells) != 2 {
			t.Fatal(cells, err)
		}
		if ok, _ := cells[0].verdict(bothSuites); ok {
			t.Error("the older test counts")
		}
	}
}

func TestBadDocuments(t *testing.T) {
	for _, row := range []struct{ summary, name, text string }{
		{"another file", "x.txt", ""},
		{"no JSON", "x.report.json", "{"},
		{"another kind", "x.report.json", `{"apiVersion": "cloud.debian.org/v1alpha1", "kind": "Build"}`},
		{"no digest", "x.report.json", `{"apiVersion": "cloud.debian.org/v1alpha1", "kind": "Report"}`},
		{"a list", "x.build.json", "[]"},
		{"nothing", "x.build.json", ""},
	} {
		path := filepath.Join(t.TempDir(), row.name)
		if err := os.WriteFile(path, []byte(row.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadCells(path); fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), row.name) && row.summary != "no digest" {
			t.Errorf("%s: %v", row.summary, err)
		}
	}
	if _, err := ReadCells("none.report.json"); fault.KindOf(err) != fault.Input {
		t.Errorf("a missing file: %v", err)
	}
	hostile := tested("trixie", "ec2", "amd64")
	dir := t.TempDir()
	hostile.Build.Data.Info.Release = "../../x | @all"
	hostile.save(t, dir)
	if _, err := ReadCells(dir); fault.KindOf(err) != fault.Input {
		t.Errorf("a release that is no word: %v", err)
	}
}

func TestWriteConsoles(t *testing.T) {
	t.Chdir(t.TempDir())
	f := findings(tested("trixie", "ec2", "amd64"))
	f.Consoles = "out/consoles"
	if err := WriteConsoles(f); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("out/consoles/trixie-ec2-amd64-boot1.txt")
	if err != nil || string(text) != "[0mLinux\nlogin:\n" {
		t.Errorf("%q, %v", text, err)
	}
	for _, f.Consoles = range []string{"/tmp/x", "../x"} {
		if err := WriteConsoles(f); fault.KindOf(err) != fault.Input {
			t.Errorf("%s: %v", f.Consoles, err)
		}
	}
}

// TestManyConsoles: of logs that no job could keep as artifacts those of the images that failed are kept, and the note links to no other.
func TestManyConsoles(t *testing.T) {
	t.Chdir(t.TempDir())
	log := strings.Repeat("x", maxConsoles/2)
	f := findings()
	f.Consoles = "consoles"
	for _, release := range []string{"bookworm", "trixie", "forky", "sid"} {
		c := tested(release, "ec2", "amd64")
		c.Report.Data.Suites[1].Boots[0].Console = log
		f.Cells = append(f.Cells, c)
	}
	f.Cells[3].fail(0, 0, "")
	if err := WriteConsoles(f); err != nil {
		t.Fatal(err)
	}
	if files := tree(t, "consoles"); !slices.Equal(files, []string{"bookworm-ec2-amd64-boot1.txt", "sid-ec2-amd64-boot1.txt"}) {
		t.Errorf("there is %v", files)
	}
	note := Note(f)
	demandContains(t, note, "consoles/bookworm-ec2-amd64-boot1.txt", "consoles/sid-ec2-amd64-boot1.txt")
	if strings.Contains(note, "consoles/trixie") || strings.Contains(note, "consoles/forky") {
		t.Errorf("a link leads nowhere:\n%s", note)
	}
}

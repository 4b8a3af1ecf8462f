package salsa

import (
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

const anHour = time.Hour

// addPart adds a job of pipeline 501 that started another one, of the same project; 0 is one that started none.
func (d *double) addPart(id, started int64) {
	b := &bridge{ID: id, Name: "images", Status: "failed", Pipeline: pipeline{501, 77}}
	if started != 0 {
		b.Downstream = &pipeline{started, 77}
	}
	d.bridges = append(d.bridges, b)
}

func (c Cell) checkFiles(t *testing.T) []file {
	report := *c.Report
	report.Data.Suites = report.Data.Suites[:1]
	return []file{{"checked/" + c.file() + ".report.json", text(t, report), 0}, {"out/" + c.file() + ".check.xml", "<testsuites/>", 0}}
}

// addTested adds the jobs of a part in which an image was built, checked and booted.
func (d *double) addTested(t *testing.T, id, pipeline int64, c Cell) {
	const ref = "refs/merge-requests/3/head"
	d.addJob(id, "build "+c.String(), ref, pipeline, archive(t, c.buildFiles(t)...))
	d.addJob(id+1, "check "+c.String(), ref, pipeline, archive(t, c.checkFiles(t)...))
	d.addJob(id+2, "boot "+c.String(), ref, pipeline, archive(t, c.bootFiles(t)...))
}

func downstream(t *testing.T, d *double, within time.Duration, cells ...Cell) []Cell {
	t.Helper()
	found, err := d.client().Downstream(t.Context(), 501, cells, within)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range cells {
		names = append(names, c.String())
	}
	all, err := Planned(found, names)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// named are cells of which no more than the name is known.
func named(cells ...Cell) []Cell {
	for i := range cells {
		cells[i].Build, cells[i].Report = nil, nil
	}
	return cells
}

// TestDownstream: one note tells of the images of all parts, over pages of jobs and of parts, whatever their jobs ended with.
func TestDownstream(t *testing.T) {
	captureLog(t)
	d := newDouble(t)
	d.page = 2
	good, bad, unbooted, unbuilt, unstarted := tested("trixie", "ec2", "amd64"), tested("sid", "ec2", "amd64").fail(1, 0, "panic"),
		tested("sid", "ec2", "arm64").fail(0, 0, "no GPT"), tested("sid", "gce", "amd64"), tested("forky", "ec2", "amd64")
	for i, started := range []int64{601, 602, 0, 603} {
		d.addPart(int64(10+i), started)
	}
	d.bridges = append(d.bridges,
		&bridge{ID: 20, Pipeline: pipeline{500, 77}, Downstream: &pipeline{701, 77}}, // of another pipeline
		&bridge{ID: 21, Pipeline: pipeline{501, 77}, Downstream: &pipeline{702, 78}}) // in another project
	d.addTested(t, 1010, 601, good)
	d.addTested(t, 1020, 602, bad)
	d.jobs[len(d.jobs)-1].Status = "failed"
	d.addJob(1030, "check "+unbooted.String(), "x", 603, archive(t, unbooted.checkFiles(t)...)).Status = "failed"
	d.addJob(1031, "boot "+unbooted.String(), "x", 603, nil).Status = "skipped"
	d.addJob(1040, "build "+unbuilt.String(), "x", 603, nil).Status = "failed"
	d.addTested(t, 1050, 701, unstarted)
	d.addTested(t, 1060, 702, unstarted)

	cells := downstream(t, d, anHour, named(good, bad, unbooted, unbuilt, unstarted)...)
	f := findings(cells...)
	f.Job.ProjectURL, f.Job.PipelineID, f.Consoles = "https://gitlab.example/t/d", 501, "consoles"
	demandContains(t, Note(f),
		"debcloud:report pipeline=501", "1 of 5 cells passed", "https://gitlab.example/t/d/-/pipelines/501",
		"| `trixie ec2 amd64` | yes |✅|✅|✅|➖|", "| `sid ec2 amd64` | **no** |✅|✅|❌|➖|", "| `sid ec2 arm64` | **no** |❌|✅|||",
		"| `sid gce amd64` | **no**: `not built: there are no documents of it` |", "| `forky ec2 amd64` | **no**: `not built: there are no documents of it` |",
		"`sid ec2 amd64`: [bios](https://gitlab.example/-/jobs/5/artifacts/file/consoles/sid-ec2-amd64-boot1.txt)", " panic\n", " no GPT\n",
	)
	for _, c := range cells {
		if (c.String() == good.String() || c.String() == bad.String()) && c.Build == nil {
			t.Errorf("%s has no packages", c)
		}
	}
	if got := d.count("jobs/[0-9]+/artifacts"); got != 3 {
		t.Errorf("%d archives were downloaded, of images too, or of a check before its boot: %v", got, d.requests)
	}
	if got := d.count("pipelines/50[01]/bridges"); got != 3 || d.count("pipelines/70./jobs") > 0 {
		t.Errorf("sent %v", d.requests)
	}
}

// TestDownstreamLost: what cannot be had of one image keeps none of the others from the report, which says why.
func TestDownstreamLost(t *testing.T) {
	log := captureLog(t)
	c := tested("trixie", "ec2", "amd64")
	long := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	boot := "boot " + c.String()
	for _, row := range []struct {
		summary string
		add     func(*double)
		want    string
	}{
		{"expired, as GitLab says", func(d *double) { d.addJob(1, boot, "x", 601, nil).Expire = &long }, "artifacts of job 1: its artifacts have expired"},
		{"expired since it was listed", func(d *double) { d.addJob(1, boot, "x", 601, []byte("zip")).archive = nil }, "artifacts of job 1: its artifacts have expired"},
		{"both", func(d *double) {
			d.addJob(1, "check "+c.String(), "x", 601, nil).Expire = &long
			d.addJob(2, boot, "x", 601, nil).Expire = &long
		}, "artifacts of job 2: its artifacts have expired; artifacts of job 1: its artifacts have expired"},
		{"an image", func(d *double) { d.addJob(1, boot, "x", 601, []byte("zip")).Artifacts.Size = smallArchive + 1 }, "more than documents may have"},
		{"damaged", func(d *double) { d.addJob(1, boot, "x", 601, []byte("zip")) }, "the archive is damaged"},
		{"a way out", func(d *double) {
			d.addJob(1, boot, "x", 601, archive(t, file{"../x.build.json", "{}", 0}))
		}, "no plain path inside it"},
		{"no document", func(d *double) {
			d.addJob(1, boot, "x", 601, archive(t, file{"out/x.report.json", "{", 0}))
		}, "artifacts/out/x.report.json is not a Report document"},
		{"another image's", func(d *double) {
			d.addJob(1, boot, "x", 601, archive(t, tested("sid", "ec2", "amd64").bootFiles(t)...))
		}, "not built: there are no documents of it"},
	} {
		d := newDouble(t)
		d.addPart(10, 601)
		other := tested("trixie", "gce", "amd64")
		d.addTested(t, 1010, 601, other)
		row.add(d)
		cells := downstream(t, d, anHour, named(c, other)...)
		if ok, why := cells[0].verdict(bothSuites); ok || !strings.Contains(why, row.want) {
			t.Errorf("%s: %q", row.summary, why)
		}
		if ok, why := cells[1].verdict(bothSuites); !ok {
			t.Errorf("%s: of the other image: %q", row.summary, why)
		}
	}
	demandContains(t, log.String(), "the report goes without the documents of a cell")
}

// TestDownstreamHasOneOfTwo: where boot kept nothing that can be read there is what check kept.
func TestDownstreamHasOneOfTwo(t *testing.T) {
	d := newDouble(t)
	d.addPart(10, 601)
	c := tested("trixie", "ec2", "amd64")
	d.addTested(t, 1010, 601, c)
	d.jobs[2].archive = []byte("zip")
	cells := downstream(t, d, anHour, named(c)...)
	if ok, why := cells[0].verdict(bothSuites); ok || why != "not run: boot" {
		t.Errorf("%v, %q", ok, why)
	}
}

// TestDownstreamEnds: there is a report of a plan that is too large for the time that its job has.
func TestDownstreamEnds(t *testing.T) {
	captureLog(t)
	d := newDouble(t)
	d.addPart(10, 601)
	c := tested("trixie", "ec2", "amd64")
	d.addTested(t, 1010, 601, c)
	cells := downstream(t, d, 0, named(c)...)
	if ok, why := cells[0].verdict(bothSuites); ok || why != "its documents are missing: they were not downloaded within 0s" || d.count("artifacts") > 0 {
		t.Errorf("%v, %q, %v", ok, why, d.requests)
	}
}

func TestDownstreamErrors(t *testing.T) {
	captureLog(t)
	cell := named(tested("trixie", "ec2", "amd64"))
	for _, row := range []struct {
		summary  string
		pipeline int64
		change   func(*double, *Options)
		kind     fault.Kind
		want     string
	}{
		{"a job token", 501, func(_ *double, o *Options) { o.Token = "" }, fault.Input, "a list of the pipelines that a pipeline started needs an access token"},
		{"no pipeline", 0, func(*double, *Options) {}, fault.Input, "no pipeline is given"},
		{"a token that is refused", 501, func(_ *double, o *Options) { o.Token = "glpat-other" }, fault.Input, "list the pipelines that pipeline 501 started"},
		{"GitLab is down", 501, func(d *double, _ *Options) { d.inject("GET .*/bridges", 100, says(502)) }, fault.Outside, "list the pipelines that pipeline 501 started"},
		{"the jobs cannot be listed", 501, func(d *double, _ *Options) { d.inject("GET .*/601/jobs", 100, says(502)) }, fault.Outside, "list the jobs of pipeline 601"},
		{"artifacts cannot be downloaded", 501, func(d *double, _ *Options) { d.inject("GET .*/artifacts", 100, says(502)) }, fault.Outside, "download the artifacts of job 1012"},
	} {
		d := newDouble(t)
		d.addPart(10, 601)
		d.addTested(t, 1010, 601, tested("trixie", "ec2", "amd64"))
		c := d.client(func(o *Options) { row.change(d, o) })
		found, err := c.Downstream(t.Context(), row.pipeline, cell, anHour)
		if fault.KindOf(err) != row.kind || err == nil || !strings.Contains(err.Error(), row.want) || found != nil {
			t.Errorf("%s: %v, %v", row.summary, found, err)
		}
	}
	d := newDouble(t)
	d.addPart(10, 601)
	d.addTested(t, 1010, 601, tested("trixie", "ec2", "amd64"))
	d.inject("GET .*/artifacts", 1, truncates)
	if downstream(t, d, anHour, cell...)[0].Report == nil {
		t.Error("a download that was cut is not tried again")
	}
}

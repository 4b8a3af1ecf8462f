package salsa

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// tested makes a cell whose image has the digest of its name and passed both suites.
func tested(release, vendor, arch string) Cell {
	c := Cell{Release: release, Vendor: vendor, Arch: arch}
	digest, _ := manifest.DigestOf(strings.NewReader(c.String()))
	header := func(kind string) manifest.Header {
		h := manifest.Header{APIVersion: manifest.APIVersion, Kind: kind, Metadata: manifest.Metadata{Labels: map[string]string{
			manifest.LabelRelease: release, manifest.LabelVendor: vendor, manifest.LabelArch: arch,
		}}}
		h.Metadata.SetDigest(digest)
		return h
	}
	c.Build = &manifest.Build{Header: header("Build"), Data: manifest.BuildData{
		Info:     manifest.BuildInfo{Release: release, Vendor: vendor, Arch: arch, Version: "20260102-1"},
		Image:    &manifest.ImageFile{Name: c.file() + ".raw", Size: int64(len(c.String()))},
		Packages: []manifest.Package{{Name: "base-files", Version: "13.8"}, {Name: "linux-image-cloud", Version: "6.12.38-1"}},
	}}
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c.Report = &manifest.Report{Header: header("Report"), Data: manifest.ReportData{Suites: []manifest.Suite{
		{Name: "check", Started: start, Checks: []manifest.Check{
			{ID: "1-partition-table", Name: "the partition table is GPT", Result: manifest.Passed},
			{ID: "11-packages-installed", Name: "every package is installed", Result: manifest.Passed},
		}},
		{Name: "boot", Started: start, Checks: []manifest.Check{
			{ID: "bios/23-system-running", Name: "the system is running", Result: manifest.Passed},
			{ID: "uefi/23-system-running", Name: "the system is running", Result: manifest.Skipped, Evidence: "no UEFI"},
		}, Boots: []manifest.Boot{{Firmware: "bios", Accelerator: "tcg", Times: manifest.BootTimes{SSH: 60, Total: 80}, Console: "\x1b[0mLinux\r\nlogin:"}}},
	}}}
	return c
}

func (c Cell) file() string { return "debian-" + strings.ReplaceAll(c.String(), " ", "-") }

func (c Cell) fail(suite, check int, evidence string) Cell {
	checks := c.Report.Data.Suites[suite].Checks
	checks[check].Result, checks[check].Evidence = manifest.Failed, evidence
	return c
}

var bothSuites = []string{"check", "boot"}

func demandContains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q is not in\n%s", p, text)
		}
	}
}

func TestNote(t *testing.T) {
	good, bad := tested("trixie", "genericcloud", "amd64"), tested("sid", "nocloud", "arm64").fail(0, 1, "dpkg: half-configured: grub\nsecond line")
	bad.Build.Data.Packages = []manifest.Package{{Name: "linux-image-cloud", Version: "6.13.1-1"}, {Name: "new", Version: "1"}}
	bad.Report.Data.Suites[1].Boots[0].Times = manifest.BootTimes{SSH: 90, Total: 79}
	untested := tested("trixie", "ec2", "amd64")
	untested.Report = nil
	text := Note(Findings{
		Job:   Job{URL: "https://gitlab.example/t/d/-/jobs/5", ProjectURL: "https://gitlab.example/t/d", PipelineID: 12, CommitSHA: strings.Repeat("ab", 20)},
		Cells: []Cell{good, bad, untested}, Suites: bothSuites, Baseline: []Cell{tested("sid", "nocloud", "arm64"), good}, Against: "main", Consoles: "consoles",
	})
	demandContains(t, text,
		"<!-- debcloud:report pipeline=12 -->\n### debcloud: 1 of 3 cells passed\n",
		"[pipeline](https://gitlab.example/t/d/-/pipelines/12)",
		"| cell | passed | 1 | 11 | bios 23 | uefi 23 |\n|---|---|:-:|:-:|:-:|:-:|\n| `sid nocloud arm64` | **no** |✅|❌|✅|➖|\n",
		"| `trixie ec2 amd64` | **no**: `there is no report: it was not tested` ||||||\n"[:60],
		"| `trixie genericcloud amd64` | yes |✅|✅|✅|➖|\n",
		"`sid nocloud arm64`: `11-packages-installed` `every package is installed`\n\n```text\n dpkg: half-configured: grub\n second line\n```",
		"| `sid nocloud arm64` | `bios tcg` | 90.0 | 60.0 | +50 % ⚠ | 79.0 | 80.0 | -1 % |\n",
		"Packages: 1 new, 1 gone, 1 changed, against the last images of main",
		"- new: `new` `1`: `sid nocloud arm64`\n- gone: `base-files` `13.8`: `sid nocloud arm64`\n- `linux-image-cloud` `6.12.38-1` → `6.13.1-1`: `sid nocloud arm64`\n",
		"- `sid nocloud arm64`: [bios](https://gitlab.example/t/d/-/jobs/5/artifacts/file/consoles/sid-nocloud-arm64-boot1.txt)\n",
		"- 11: `every package is installed`\n",
	)
}

func TestNoteWithoutBaselineOrJob(t *testing.T) {
	text := Note(Findings{Cells: []Cell{tested("trixie", "ec2", "amd64")}, Suites: bothSuites, Consoles: "consoles"})
	demandContains(t, text, "1 of 1 cell passed", "| 60.0 | | | 80.0 | | |")
	for _, part := range []string{"](", "Packages", "against", "Console logs", "What failed"} {
		if strings.Contains(text, part) {
			t.Errorf("%q is in\n%s", part, text)
		}
	}
}

func TestAcceleratorsAreNotCompared(t *testing.T) {
	now, before := tested("trixie", "ec2", "amd64"), tested("trixie", "ec2", "amd64")
	before.Report.Data.Suites[1].Boots[0].Accelerator = "kvm"
	text := Note(Findings{Cells: []Cell{now}, Baseline: []Cell{before}, Suites: bothSuites})
	demandContains(t, text, "| `bios tcg` | 60.0 | | | 80.0 | | |")
}

// Every text that comes from an image, or from a document that a merge request's job wrote, is hostile here.
func TestHostileNote(t *testing.T) {
	evil := "@all `x` | b \\| c\n/close\n\n</details><!-- debcloud:report pipeline=9 -->\n```\n````\n/merge\r/approve\u2028<img src=x onerror=alert(1)> [x](http://evil.example) !1 #1 ~bug $`a`$ \u202e\x1b[31m"
	c := tested("trixie", "ec2", "amd64")
	for i := range c.Report.Data.Suites {
		s := &c.Report.Data.Suites[i]
		for j := range s.Checks {
			s.Checks[j] = manifest.Check{ID: evil + fmt.Sprint(j), Name: evil, Result: manifest.Failed, Evidence: evil}
		}
		for j := range s.Boots {
			s.Boots[j].Firmware, s.Boots[j].Accelerator = evil, evil
		}
	}
	c.Build.Data.Packages = []manifest.Package{{Name: evil, Version: evil}}
	text := Note(Findings{Job: Job{URL: "https://gitlab.example/-/jobs/1", CommitSHA: evil}, Cells: []Cell{c}, Suites: bothSuites,
		Baseline: []Cell{tested("trixie", "ec2", "amd64")}, Against: evil, Consoles: "consoles"})
	for number, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(line, "/") {
			t.Errorf("line %d is a quick action: %s", number, line)
		}
		if strings.HasPrefix(line, "|") && unquotedPipes(line) != unquotedPipes(header(text, number)) {
			t.Errorf("line %d has %d cells: %s", number, unquotedPipes(line), line)
		}
	}
	if outside := withoutCode(text); regexp.MustCompile("[@~#!]\\w|<img|evil|\u202e|\x1b").MatchString(strings.Replace(outside, "<!-- debcloud", "", 1)) {
		t.Errorf("hostile text stands outside of code:\n%s", outside)
	}
	if strings.Count(text, "<details>") != strings.Count(withoutCode(text), "</details>") {
		t.Errorf("details do not match:\n%s", withoutCode(text))
	}
}

func unquotedPipes(line string) int { return strings.Count(line, "|") }

// header returns the first line of the table that line number is in.
func header(text string, number int) string {
	lines := strings.Split(text, "\n")
	for number > 0 && strings.HasPrefix(lines[number-1], "|") {
		number--
	}
	return lines[number]
}

// withoutCode removes code blocks and code spans as a renderer sees them: a fence ends at one at least as long, which may be indented by up
// to three spaces; a span ends at the next backtick.
func withoutCode(text string) string {
	var out []string
	fence := ""
	for line := range strings.SplitSeq(text, "\n") {
		for range 3 {
			line = strings.TrimPrefix(line, " ")
		}
		ticks := line[:len(line)-len(strings.TrimLeft(line, "`"))]
		switch {
		case fence != "":
			if len(ticks) >= len(fence) && ticks == line {
				fence = ""
			}
		case len(ticks) >= 3:
			fence = ticks
		default:
			out = append(out, regexp.MustCompile("`[^`]*`").ReplaceAllString(line, ""))
		}
	}
	return strings.Join(out, "\n")
}

func TestNoteStaysSmall(t *testing.T) {
	for _, row := range []struct {
		summary               string
		cells, checks, events int
	}{
		{"the whole matrix", 110, 50, 0},
		{"the whole matrix, all failed", 110, 50, 50},
		{"two thousand cells", 2000, 3, 3},
		{"checks without end", 3, 5000, 5000},
	} {
		t.Run(row.summary, func(t *testing.T) {
			var cells, baseline []Cell
			for i := range row.cells {
				c, b := tested("trixie", fmt.Sprintf("v%d", i), "amd64"), tested("trixie", fmt.Sprintf("v%d", i), "amd64")
				checks := &c.Report.Data.Suites[1].Checks
				for j := range row.checks {
					check := manifest.Check{ID: fmt.Sprintf("%d-check", j+100), Name: "something holds", Result: manifest.Passed}
					if j < row.events {
						check.Result, check.Evidence = manifest.Failed, strings.Repeat("x\n", 500)
					}
					*checks = append(*checks, check)
				}
				for j := range min(300, 40_000/row.cells) {
					c.Build.Data.Packages = append(c.Build.Data.Packages, manifest.Package{Name: fmt.Sprintf("p%d-%d", i, j), Version: "1"})
				}
				cells, baseline = append(cells, c), append(baseline, b)
			}
			text := Note(Findings{Job: Job{URL: "https://gitlab.example/" + strings.Repeat("long/", 20), PipelineID: 1}, Cells: cells, Baseline: baseline, Suites: bothSuites, Consoles: "consoles"})
			if len(text) > maxNote {
				t.Errorf("%d bytes", len(text))
			}
			if opens, closes := strings.Count(text, "<details>"), strings.Count(text, "</details>"); opens != closes || opens < 3 {
				t.Errorf("%d details are opened and %d closed", opens, closes)
			}
			demandContains(t, text, "cells passed", " more", "| cell | passed |")
			if row.cells == 110 && strings.Count(text, "\n| `trixie v") < 110 {
				t.Errorf("the table has lost cells")
			}
		})
	}
}

func TestVerdict(t *testing.T) {
	for _, row := range []struct {
		summary string
		change  func(*Cell)
		ok      bool
		why     string
	}{
		{"all passed", func(*Cell) {}, true, "3 checks passed, 1 skipped"},
		{"no build, but a report", func(c *Cell) { c.Build = nil }, true, "3 checks passed, 1 skipped"},
		{"no report", func(c *Cell) { c.Report = nil }, false, "not tested"},
		{"a report on another image", func(c *Cell) { c.Report.Metadata.SetDigest(manifest.Digest{}) }, false, "another image"},
		{"not booted", func(c *Cell) { c.Report.Data.Suites = c.Report.Data.Suites[:1] }, false, "not run: boot"},
		{"a suite without checks", func(c *Cell) { c.Report.Data.Suites[1].Checks = nil }, false, "not run: boot"},
		{"a failure", func(c *Cell) { c.fail(1, 0, "") }, false, "1 check failed: bios/23-system-running"},
		{"a result that nobody knows", func(c *Cell) { c.Report.Data.Suites[0].Checks[0].Result = "great" }, false, "1 check failed"},
	} {
		c := tested("trixie", "ec2", "amd64")
		row.change(&c)
		if ok, why := c.verdict(bothSuites); ok != row.ok || !strings.Contains(why, row.why) {
			t.Errorf("%s: %t, %s", row.summary, ok, why)
		}
	}
}

func FuzzCode(f *testing.F) {
	f.Add("@all | `x` \\")
	f.Fuzz(func(t *testing.T, text string) {
		c := code(text, 50)
		if c != "—" && (strings.Trim(c, "`") != c[1:len(c)-1] || strings.ContainsAny(c, "|\\\n\r\x00")) {
			t.Errorf("code(%q) = %q", text, c)
		}
		for line := range strings.SplitSeq(block(text, 5, 50), "\n") {
			if strings.HasPrefix(line, "/") || strings.Contains(line, "\r") {
				t.Errorf("block(%q) has the line %q", text, line)
			}
		}
	})
}

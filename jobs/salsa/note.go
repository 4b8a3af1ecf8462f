package salsa

import (
	"fmt"
	"slices"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/lazyregexp"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// maxNote bounds a note, in bytes. GitLab takes a million characters and renders such a note slowly.
const maxNote = 60_000

// Findings are what a note tells.
type Findings struct {
	Job      Job
	Cells    []Cell
	Suites   []string // that an image has to pass
	Baseline []Cell   // the target branch's last tested images
	Against  string   // name of the baseline: the branch
	Consoles string   // directory of the console logs among the job's artifacts, "" for no links
}

// Note writes the note in Markdown, at most 60 kB. Everything in it that comes from an image stands in code.
func Note(f Findings) string {
	failed, passed := f.verdicts()
	f.Cells = append(failed, passed...) // what is cut off at the end has passed
	head := f.head(len(passed))
	sections := []section{
		f.table(), f.failures(), f.bootTimes(), f.packages(), f.consoles(), f.legend(),
	}
	return strings.TrimSpace(head + fit(sections, maxNote-len(head)))
}

func (f Findings) verdicts() (failed, passed []Cell) {
	for _, c := range f.Cells {
		if ok, _ := c.verdict(f.Suites); ok {
			passed = append(passed, c)
		} else {
			failed = append(failed, c)
		}
	}
	return failed, passed
}

func (f Findings) head(passed int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n### debcloud: %d of %s passed\n\n", marker(f.Job.PipelineID), passed, count(len(f.Cells), "cell"))
	var facts []string
	if f.Job.CommitSHA != "" {
		facts = append(facts, "commit "+code(f.Job.CommitSHA, 12))
	}
	if f.Job.ProjectURL != "" && f.Job.PipelineID != 0 {
		facts = append(facts, link("pipeline", fmt.Sprintf("%s/-/pipelines/%d", f.Job.ProjectURL, f.Job.PipelineID)))
	}
	if f.Job.URL != "" {
		facts = append(facts, link("report job", f.Job.URL))
	}
	if facts != nil {
		b.WriteString(strings.Join(facts, " · ") + "\n\n")
	}
	return b.String()
}

// marks show a result in the table.
var marks = map[manifest.Result]string{manifest.Passed: "✅", manifest.Failed: "❌", manifest.Skipped: "➖"}

func markOf(r manifest.Result) string {
	if m, ok := marks[r]; ok {
		return m
	}
	return marks[manifest.Failed] // a result that nobody knows is no pass
}

// maxColumns bounds the table's width; the catalogue has about 50 checks, some of them once a firmware.
const maxColumns = 120

// results are each cell's results by check, and the checks of all of them, sorted.
func (f Findings) results() (results []map[string]manifest.Result, checks []string) {
	seen := map[string]bool{}
	for _, c := range f.Cells {
		of := map[string]manifest.Result{}
		for _, s := range c.suites() {
			for _, check := range s.Checks {
				of[check.ID] = check.Result
				if !seen[check.ID] {
					seen[check.ID] = true
					checks = append(checks, check.ID)
				}
			}
		}
		results = append(results, of)
	}
	sortChecks(checks)
	return results, checks
}

func (f Findings) table() section {
	results, columns := f.results()
	hidden := max(0, len(columns)-maxColumns)
	columns = columns[:len(columns)-hidden]
	s := section{share: 45, rest: func(n int) string {
		return fmt.Sprintf("\n… and %s more, all further down in order.\n\n", count(n, "cell"))
	}}
	s.open = "| cell | passed |"
	for _, id := range columns {
		s.open += " " + label(id) + " |"
	}
	s.open += "\n|---|---|" + strings.Repeat(":-:|", len(columns)) + "\n"
	for i, c := range f.Cells {
		ok, why := c.verdict(f.Suites)
		verdict := "yes"
		if !ok {
			verdict = "**no**"
			if len(results[i]) == 0 {
				verdict += ": " + code(why, 100)
			}
		}
		row := fmt.Sprintf("| %s | %s |", code(c.String(), 200), verdict)
		for _, id := range columns {
			mark := ""
			if r, ran := results[i][id]; ran {
				mark = markOf(r)
			}
			row += mark + "|"
		}
		s.items = append(s.items, row+"\n")
	}
	s.close = "\n"
	if hidden > 0 {
		s.close = fmt.Sprintf("\nThe table leaves out %s.\n\n", count(hidden, "check"))
	}
	return s
}

var checkNumber = lazyregexp.New(`^(?:([a-z]{1,12})/)?([0-9]{1,4})(?:-|$)`)

// label is a column's head: the number in the catalogue and the firmware, else the whole ID.
func label(id string) string {
	m := checkNumber.FindStringSubmatch(id)
	switch {
	case m == nil:
		return code(id, 24)
	case m[1] == "":
		return m[2]
	default:
		return m[1] + " " + m[2]
	}
}

// sortChecks sorts by firmware, then by number, then by name.
func sortChecks(ids []string) {
	key := func(id string) string {
		m := checkNumber.FindStringSubmatch(id)
		if m == nil {
			return "~" + id
		}
		return fmt.Sprintf("%s %04s %s", m[1], m[2], id)
	}
	slices.SortFunc(ids, func(a, b string) int { return strings.Compare(key(a), key(b)) })
}

func (f Findings) failures() section {
	s := section{share: 20, rest: func(n int) string { return fmt.Sprintf("… and %s more.\n\n", count(n, "failure")) }}
	for _, c := range f.Cells {
		ok, why := c.verdict(f.Suites)
		if ok {
			continue
		}
		any := false
		for _, suite := range c.suites() {
			for _, check := range suite.Failures() {
				any = true
				s.items = append(s.items, fmt.Sprintf("%s: %s %s\n\n%s\n\n", code(c.String(), 200), code(check.ID, 80), code(check.Name, 200), block(check.Evidence, 12, 200)))
			}
		}
		if !any {
			s.items = append(s.items, fmt.Sprintf("%s: %s\n\n", code(c.String(), 200), code(why, 200)))
		}
	}
	if len(s.items) > 0 {
		s.open, s.close = details(fmt.Sprintf("What failed (%d)", len(s.items)))
	}
	return s
}

func details(summary string) (open, close string) {
	return "<details><summary>" + summary + "</summary>\n\n", "\n</details>\n\n"
}

func (f Findings) bootTimes() section {
	s := section{share: 10, rest: func(n int) string { return fmt.Sprintf("\n… and %s more.\n\n", count(n, "boot")) }}
	before := byName(f.Baseline)
	for _, c := range f.Cells {
		for _, b := range boots(c) {
			s.items = append(s.items, bootRow(c, b, boots(before[c.String()])))
		}
	}
	if len(s.items) > 0 {
		s.open, s.close = details("Boot times, in seconds from power-on" + f.against())
		s.open += "| cell | boot | SSH | before | change | system up | before | change |\n|---|---|--:|--:|--:|--:|--:|--:|\n"
	}
	return s
}

var notInBranch = lazyregexp.New(`[^A-Za-z0-9._/-]`)

// against is our text but for the branch's name, which may hold anything that git allows.
func (f Findings) against() string {
	if len(f.Baseline) == 0 {
		return ""
	}
	name := notInBranch.ReplaceAllString(f.Against, "?")
	if name == "" {
		return ", against the last images"
	}
	return ", against the last images of " + shorten(name, 80)
}

func boots(c Cell) []manifest.Boot {
	var all []manifest.Boot
	for _, s := range c.suites() {
		all = append(all, s.Boots...)
	}
	return all
}

// bootRow compares b with the boot of the same firmware on the same accelerator: emulated and virtualised times say nothing of each other.
func bootRow(c Cell, b manifest.Boot, before []manifest.Boot) string {
	var old manifest.BootTimes
	for _, o := range before {
		if o.Firmware == b.Firmware && o.Accelerator == b.Accelerator {
			old = o.Times
		}
	}
	return fmt.Sprintf("| %s | %s |%s|%s|\n", code(c.String(), 200), code(b.Firmware+" "+b.Accelerator, 40),
		compared(b.Times.SSH, old.SSH), compared(b.Times.Total, old.Total))
}

// slower is the change of a boot time above which it is pointed out: smaller ones come and go with the load of the host.
const slower = 0.2

func compared(now, before float64) string {
	switch {
	case now <= 0 && before <= 0:
		return " | | "
	case now <= 0:
		return fmt.Sprintf(" | %.1f | ", before)
	case before <= 0:
		return fmt.Sprintf(" %.1f | | ", now)
	}
	change := now/before - 1
	text := fmt.Sprintf(" %.1f | %.1f | %+.0f %%", now, before, 100*change)
	if change > slower {
		text += " ⚠"
	}
	return text + " "
}

func byName(cells []Cell) map[string]Cell {
	m := map[string]Cell{}
	for _, c := range cells {
		m[c.String()] = c
	}
	return m
}

func (f Findings) consoles() section {
	s := section{share: 10, rest: func(n int) string { return fmt.Sprintf("\n… and those of %s more.\n\n", count(n, "cell")) }}
	if f.Consoles == "" || f.Job.URL == "" {
		return s
	}
	for _, c := range f.consoled() {
		var links []string
		for i, b := range boots(c) {
			name := "boot"
			if word.MatchString(b.Firmware) {
				name = b.Firmware
			}
			links = append(links, link(name, f.Job.URL+"/artifacts/file/"+consolePath(f.Consoles, c, i)))
		}
		if links != nil {
			s.items = append(s.items, fmt.Sprintf("- %s: %s\n", code(c.String(), 200), strings.Join(links, ", ")))
		}
	}
	if len(s.items) > 0 {
		s.open, s.close = details("Console logs")
	}
	return s
}

func (f Findings) legend() section {
	s := section{share: 5, rest: func(n int) string { return fmt.Sprintf("- … and %s more\n", count(n, "check")) }}
	names := map[string]string{}
	for _, c := range f.Cells {
		for _, suite := range c.suites() {
			for _, check := range suite.Checks {
				names[check.ID] = check.Name
			}
		}
	}
	ids := sortedKeys(names)
	sortChecks(ids)
	for _, id := range ids {
		s.items = append(s.items, fmt.Sprintf("- %s: %s\n", label(id), code(names[id], 120)))
	}
	if len(s.items) > 0 {
		s.open, s.close = details("What the columns mean: ✅ passed, ❌ failed, ➖ does not apply")
	}
	return s
}

package salsa

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// change is a package that came (old is empty), went (new is empty) or has another version.
type change struct{ name, old, new string }

func (c change) String() string {
	switch {
	case c.old == "":
		return fmt.Sprintf("new: %s %s", code(c.name, 80), code(c.new, 60))
	case c.new == "":
		return fmt.Sprintf("gone: %s %s", code(c.name, 80), code(c.old, 60))
	default:
		return fmt.Sprintf("%s %s → %s", code(c.name, 80), code(c.old, 60), code(c.new, 60))
	}
}

// changes lists what differs between two images' packages.
func changes(before, now []manifest.Package) []change {
	old := map[string]string{}
	for _, p := range before {
		old[p.Name] = p.Version
	}
	var all []change
	for _, p := range now {
		if was, ok := old[p.Name]; !ok || was != p.Version {
			all = append(all, change{p.Name, was, p.Version})
		}
		delete(old, p.Name)
	}
	for _, name := range sortedKeys(old) {
		all = append(all, change{name, old[name], ""})
	}
	return all
}

// packages tells each change once, with the cells in which it is.
func (f Findings) packages() section {
	s := section{share: 10, rest: func(n int) string { return fmt.Sprintf("- … and %s more\n", count(n, "change")) }}
	before := byName(f.Baseline)
	in := map[change][]string{}
	compared := 0
	for _, c := range f.Cells {
		old, ok := before[c.String()]
		if !ok || old.Build == nil || c.Build == nil {
			continue
		}
		compared++
		for _, ch := range changes(old.Build.Data.Packages, c.Build.Data.Packages) {
			in[ch] = append(in[ch], c.String())
		}
	}
	if compared == 0 {
		return s
	}
	var all []change
	for ch := range in {
		all = append(all, ch)
	}
	slices.SortFunc(all, func(a, b change) int {
		return cmp.Or(cmp.Compare(kind(a), kind(b)), cmp.Compare(a.name, b.name), cmp.Compare(a.old, b.old), cmp.Compare(a.new, b.new))
	})
	counts := [3]int{}
	for _, ch := range all {
		counts[kind(ch)]++
		s.items = append(s.items, fmt.Sprintf("- %s: %s\n", ch, where(in[ch], compared)))
	}
	s.open, s.close = details(fmt.Sprintf("Packages: %d new, %d gone, %d changed%s", counts[0], counts[1], counts[2], f.against()))
	if len(all) == 0 {
		s.items = []string{fmt.Sprintf("The same packages in the same versions in all of %s.\n", count(compared, "cell"))}
	}
	return s
}

// kind sorts new packages before lost ones before other versions.
func kind(c change) int {
	switch {
	case c.old == "":
		return 0
	case c.new == "":
		return 1
	default:
		return 2
	}
}

func where(cells []string, all int) string {
	if len(cells) == all && all > 1 {
		return fmt.Sprintf("all %d cells", all)
	}
	slices.Sort(cells)
	shown := cells[:min(3, len(cells))]
	var quoted []string
	for _, c := range shown {
		quoted = append(quoted, code(c, 200))
	}
	text := strings.Join(quoted, ", ")
	if n := len(cells) - len(shown); n > 0 {
		text += fmt.Sprintf(" and %d more", n)
	}
	return text
}

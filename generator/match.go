package generator

import (
	"fmt"
	"slices"

	"salsa.debian.org/cloud-team/debcloud/internal/image"
)

// Operations of a rule. Upstream's code treats DisableUpload as Disable that also settles the upload.
const (
	opEnable        = "Enable"
	opEnableUpload  = "EnableUpload"
	opDisable       = "Disable"
	opDisableUpload = "DisableUpload"
)

var ops = []string{opEnable, opEnableUpload, opDisable, opDisableUpload}

// rule is one entry of a list of matches. An empty list of names, or one with "*", matches every name.
type rule struct {
	arches, releases, vendors []string
	op                        string
	group                     string // uploadGroup, "" for none
	namesGroup                bool   // whether it says so
}

func (r *rule) matches(c image.Cell) bool {
	return names(r.vendors, c.Vendor.Name) && names(r.releases, c.Release.Basename) && names(r.arches, c.Arch.Name)
}

func names(list []string, name string) bool {
	return len(list) == 0 || slices.Contains(list, name) || slices.Contains(list, "*")
}

// verdict is what a list of rules says of a cell.
type verdict struct {
	passes bool
	upload bool
	group  string
	rule   int // index of the rule that let it pass or excluded it, -1 where none did
}

// judge applies rules to a cell. The first rule that matches decides whether the cell passes, the first matching one
// whose op speaks of the upload decides on the upload, and the first matching one that names a group, be it "", settles the group:
// upstream settles the three apart. No rules let everything pass; rules of which none matches exclude.
func judge(rules []rule, c image.Cell) verdict {
	v := verdict{passes: len(rules) == 0, rule: -1}
	uploadSettled, groupSettled := false, false
	for i := range rules {
		r := &rules[i]
		if !r.matches(c) {
			continue
		}
		if v.rule < 0 {
			v.rule, v.passes = i, r.op == opEnable || r.op == opEnableUpload
		}
		if !uploadSettled && (r.op == opEnableUpload || r.op == opDisableUpload) {
			uploadSettled, v.upload = true, r.op == opEnableUpload
		}
		if !groupSettled && r.namesGroup {
			groupSettled, v.group = true, r.group
		}
	}
	return v
}

// why explains an exclusion: which rule of whose list it is.
func (v verdict) why(owner, subject string, rules []rule) string {
	if v.rule < 0 {
		return fmt.Sprintf("%s excludes %s: no rule of its list matches", owner, subject)
	}
	return fmt.Sprintf("%s excludes %s by its %s rule (op: %s)", owner, subject, ordinal(v.rule+1), rules[v.rule].op)
}

func ordinal(n int) string {
	suffix := "th"
	if n%100 < 11 || n%100 > 13 {
		switch n % 10 {
		case 1:
			suffix = "st"
		case 2:
			suffix = "nd"
		case 3:
			suffix = "rd"
		}
	}
	return fmt.Sprintf("%d%s", n, suffix)
}

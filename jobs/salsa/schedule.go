package salsa

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	gitlab "gitlab.com/gitlab-org/api/client-go/v2"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/lazyregexp"
)

// Schedule is a pipeline schedule that the project shall have.
type Schedule struct {
	Name        string // identifies it from run to run; stands in GitLab's description in parentheses
	Description string // for people; "" means Name
	Cron        string // five fields
	Timezone    string // of Cron; "" means UTC
	Ref         string // branch or tag, short or as refs/heads/… or refs/tags/…
	Active      bool
	Variables   map[string]string // of its pipelines
}

// Bounds are looked at apart: as part of a pattern they would take milliseconds of every start of the program.
const (
	maxVariableKey = 255
	maxTimezone    = 100
)

var (
	scheduleName = lazyregexp.New(`^[a-z0-9][a-z0-9-]{0,62}$`)
	variableKey  = lazyregexp.New(`^[A-Za-z0-9_]+$`) // lib/api/ci/pipeline_schedules.rb
	timezone     = lazyregexp.New(`^[A-Za-z0-9_+\-/(). &]+$`)
	mark         = lazyregexp.New(`\(debcloud:([a-z0-9][a-z0-9-]{0,62})\)$`)
)

// title is the description in GitLab. The mark in it says that the schedule is ours: unlike a variable it is there from
// the request that creates the schedule, so that no half-made one is ever lost.
func (s Schedule) title() string {
	text := s.Description
	if text == "" {
		text = s.Name
	}
	return fmt.Sprintf("%s (debcloud:%s)", text, s.Name)
}

// nameIn returns the name of the schedule that has the given description, "" for one that is not ours.
func nameIn(description string) string {
	if m := mark.FindStringSubmatch(description); m != nil {
		return m[1]
	}
	return ""
}

// sameRef knows that GitLab expands a short ref when it stores a schedule (Ci::PipelineSchedule#expand_short_ref).
func sameRef(declared, stored string) bool {
	return declared == stored || "refs/heads/"+declared == stored || "refs/tags/"+declared == stored
}

func (s Schedule) timezone() string {
	if s.Timezone == "" {
		return "UTC"
	}
	return s.Timezone
}

// CheckSchedules refuses what GitLab would refuse, before the first request. Errors are of kind Input.
func CheckSchedules(schedules []Schedule) error {
	seen := map[string]bool{}
	for i, s := range schedules {
		if !scheduleName.MatchString(s.Name) {
			return fault.Inputf("schedule %d has the name %q, where up to 63 of a-z, 0-9 and - are needed", i+1, s.Name)
		}
		if seen[s.Name] {
			return fault.Inputf("two schedules have the name %q", s.Name)
		}
		seen[s.Name] = true
		if err := s.check(); err != nil {
			return fault.Inputf("schedule %q: %w", s.Name, err)
		}
	}
	return nil
}

func (s Schedule) check() error {
	switch {
	case s.Description != oneLine(s.Description) || nameIn(s.Description) != "" || len(s.title()) > 255:
		return fmt.Errorf("description %q is not a short line without a mark of ours", s.Description)
	case s.Ref == "" || strings.ContainsAny(s.Ref, " \t\r\n~^:?*[\\") || strings.Contains(s.Ref, ".."):
		return fmt.Errorf("ref %q is no branch or tag", s.Ref)
	case len(s.timezone()) > maxTimezone || !timezone.MatchString(s.timezone()):
		return fmt.Errorf("timezone %q is none", s.Timezone)
	}
	for _, key := range sortedKeys(s.Variables) {
		if len(key) > maxVariableKey || !variableKey.MatchString(key) {
			return fmt.Errorf("variable %q: a name has up to 255 of A-Z, a-z, 0-9 and _", key)
		}
	}
	return checkCron(s.Cron)
}

// The fields of a cron line and their bounds (crontab(5)).
var cronFields = []struct {
	name      string
	low, high int
}{{"minute", 0, 59}, {"hour", 0, 23}, {"day of month", 1, 31}, {"month", 1, 12}, {"day of week", 0, 7}}

var cronItem = lazyregexp.New(`^(?:\*|([0-9]{1,2}|[A-Za-z]{3})(?:-([0-9]{1,2}|[A-Za-z]{3}))?)(?:/([0-9]{1,2}))?$`)

func checkCron(line string) error {
	fields := strings.Fields(line)
	if len(fields) != len(cronFields) || line != strings.Join(fields, " ") {
		return fmt.Errorf("cron %q does not have five fields with one space between", line)
	}
	for i, field := range fields {
		f := cronFields[i]
		for item := range strings.SplitSeq(field, ",") {
			m := cronItem.FindStringSubmatch(item)
			if m == nil {
				return fmt.Errorf("cron %q: %q is no %s", line, item, f.name)
			}
			for _, part := range m[1:3] {
				if n, err := strconv.Atoi(part); err == nil && (n < f.low || n > f.high) {
					return fmt.Errorf("cron %q: %s %d is not between %d and %d", line, f.name, n, f.low, f.high)
				}
			}
		}
	}
	return nil
}

// Action is one step of bringing the project's schedules to what is declared.
type Action struct {
	Verb     string   // create, change, own, remove
	Schedule string   // its name
	Details  []string // one line each; values of variables that GitLab holds are not told
	do       func(*step) error
}

// String returns the action in one line or more, "change daily" and its details below.
func (a Action) String() string {
	text := a.Verb + " schedule " + a.Schedule
	for _, d := range a.Details {
		text += "\n    " + d
	}
	return text
}

// difference says what of s has to be edited in there: the request, nil if nothing, and a line for each field.
func (s Schedule) difference(there *gitlab.PipelineSchedule) (*gitlab.EditPipelineScheduleOptions, []string) {
	edit := &gitlab.EditPipelineScheduleOptions{}
	var lines []string
	field := func(name, old, new string, target **string) {
		if old != new {
			*target = &new
			lines = append(lines, fmt.Sprintf("%s: %q becomes %q", name, oneLine(old), new))
		}
	}
	field("description", there.Description, s.title(), &edit.Description)
	field("cron", there.Cron, s.Cron, &edit.Cron)
	field("timezone", there.CronTimezone, s.timezone(), &edit.CronTimezone)
	if !sameRef(s.Ref, there.Ref) {
		field("ref", there.Ref, s.Ref, &edit.Ref)
	}
	if there.Active != s.Active {
		edit.Active = &s.Active
		lines = append(lines, fmt.Sprintf("active: %t becomes %t", there.Active, s.Active))
	}
	if lines == nil {
		return nil, nil
	}
	return edit, lines
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

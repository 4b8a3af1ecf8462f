package salsa

import (
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

func daily() Schedule {
	return Schedule{Name: "daily", Description: "All dailies", Cron: "17 3 * * *", Ref: "main", Active: true,
		Variables: map[string]string{"PIPELINE_TYPE": "daily", "PIPELINE_RELEASE_TRIXIE": "1"}}
}

func weekly() Schedule {
	return Schedule{Name: "prune", Cron: "0 5 * * sun", Timezone: "Europe/Berlin", Ref: "refs/tags/stable", Active: false}
}

func apply(t *testing.T, d *double, dryRun bool, declared ...Schedule) (told []string, err error) {
	t.Helper()
	err = d.client().ApplySchedules(t.Context(), declared, dryRun, func(a Action) { told = append(told, a.String()) })
	return told, err
}

// demandIdle fails if a further run finds anything to do.
func demandIdle(t *testing.T, d *double, declared ...Schedule) {
	t.Helper()
	d.changed()
	if told, err := apply(t, d, false, declared...); err != nil || len(told) > 0 {
		t.Errorf("the next run did %v, %v", told, err)
	}
	if c := d.changed(); len(c) > 0 {
		t.Errorf("the next run sent %v", c)
	}
}

func TestSchedules(t *testing.T) {
	hand := func() *schedule {
		return &schedule{ID: 1, Description: "made by hand (not debcloud:daily)", Ref: "refs/heads/main", Cron: "0 0 * * *", Timezone: "UTC", Owner: &owner{other, "active"}}
	}
	ours := func(change func(*schedule)) *schedule {
		s := &schedule{ID: 2, Description: "All dailies (debcloud:daily)", Ref: "refs/heads/main", Cron: "17 3 * * *", Timezone: "UTC", Active: true, Owner: &owner{me, "active"},
			Variables: []*scheduleVariable{{"PIPELINE_TYPE", "daily", "env_var"}, {"PIPELINE_RELEASE_TRIXIE", "1", "env_var"}}}
		change(s)
		return s
	}
	for _, row := range []struct {
		summary string
		there   []*schedule
		want    []Schedule
		told    []string // first lines
		sent    []string
	}{
		{"made inactive, given its variables, then activated", nil, []Schedule{daily()}, []string{"create schedule daily"}, []string{
			"POST /pipeline_schedules", "POST /pipeline_schedules/101/variables", "POST /pipeline_schedules/101/variables", "PUT /pipeline_schedules/101"}},
		{"an inactive one without variables is one request", nil, []Schedule{weekly()}, []string{"create schedule prune"}, []string{"POST /pipeline_schedules"}},
		{"GitLab's full ref is our short one", []*schedule{ours(func(*schedule) {})}, []Schedule{daily()}, nil, nil},
		{"a field", []*schedule{ours(func(s *schedule) { s.Cron = "0 0 * * *" })}, []Schedule{daily()}, []string{"change schedule daily"}, []string{"PUT /pipeline_schedules/2"}},
		{"another branch", []*schedule{ours(func(s *schedule) { s.Ref = "refs/heads/old" })}, []Schedule{daily()}, []string{"change schedule daily"}, []string{"PUT /pipeline_schedules/2"}},
		{"variables one by one", []*schedule{ours(func(s *schedule) {
			s.Variables = []*scheduleVariable{{"PIPELINE_TYPE", "s3cr3t", "env_var"}, {"OLD", "s3cr3t", "env_var"}}
		})}, []Schedule{daily()}, []string{"change schedule daily"}, []string{
			"POST /pipeline_schedules/2/variables", "PUT /pipeline_schedules/2/variables/PIPELINE_TYPE", "DELETE /pipeline_schedules/2/variables/OLD"}},
		{"a file where a value is wanted", []*schedule{ours(func(s *schedule) { s.Variables[0].Type = "file" })}, []Schedule{daily()}, []string{"change schedule daily"}, []string{
			"PUT /pipeline_schedules/2/variables/PIPELINE_TYPE"}},
		{"another's has to be owned to be changed", []*schedule{ours(func(s *schedule) { s.Owner.ID, s.Active = other, false })}, []Schedule{daily()},
			[]string{"own schedule daily", "change schedule daily"}, []string{"POST /pipeline_schedules/2/take_ownership", "PUT /pipeline_schedules/2"}},
		{"another's that is right stays the other's", []*schedule{ours(func(s *schedule) { s.Owner.ID = other })}, []Schedule{daily()}, nil, nil},
		{"a blocked owner's would not run", []*schedule{ours(func(s *schedule) { s.Owner = &owner{other, "blocked"} })}, []Schedule{daily()},
			[]string{"own schedule daily"}, []string{"POST /pipeline_schedules/2/take_ownership"}},
		{"nobody's would not run", []*schedule{ours(func(s *schedule) { s.Owner = nil })}, []Schedule{daily()},
			[]string{"own schedule daily"}, []string{"POST /pipeline_schedules/2/take_ownership"}},
		{"what is declared no more goes", []*schedule{ours(func(s *schedule) { s.Description, s.Owner.ID = "(debcloud:gone)", other })}, []Schedule{},
			[]string{"remove schedule gone"}, []string{"DELETE /pipeline_schedules/2"}},
		{"of two the older stays", []*schedule{ours(func(s *schedule) { s.ID = 3 }), ours(func(*schedule) {})}, []Schedule{daily()},
			[]string{"remove schedule daily"}, []string{"DELETE /pipeline_schedules/3"}},
	} {
		t.Run(row.summary, func(t *testing.T) {
			d := newDouble(t)
			d.page = 1 // every listing has several pages
			d.schedules = append([]*schedule{hand()}, row.there...)
			told, err := apply(t, d, true, row.want...)
			if c := d.changed(); err != nil || len(c) > 0 {
				t.Errorf("the dry run sent %v, %v", c, err)
			}
			again, err := apply(t, d, false, row.want...)
			if err != nil || !slices.Equal(told, again) {
				t.Errorf("%v, told %q dry and %q wet", err, told, again)
			}
			if got := firstLines(told); !slices.Equal(got, row.told) {
				t.Errorf("told %q, want %q", got, row.told)
			}
			if strings.Contains(strings.Join(told, ""), "s3cr3t") {
				t.Errorf("a value that GitLab holds is told: %q", told)
			}
			if sent := d.changed(); !slices.Equal(sent, row.sent) {
				t.Errorf("sent %q, want %q", sent, row.sent)
			}
			if !reflect.DeepEqual(d.schedules[0], hand()) {
				t.Errorf("the schedule made by hand is now %+v", d.schedules[0])
			}
			demandIdle(t, d, row.want...)
		})
	}
}

func firstLines(texts []string) (first []string) {
	for _, t := range texts {
		line, _, _ := strings.Cut(t, "\n")
		first = append(first, line)
	}
	return first
}

// TestSchedulesMeetTrouble lets each request fail once in each way: the run goes through, or the next one completes it, and
// never is a schedule there twice or active without its variables.
func TestSchedulesMeetTrouble(t *testing.T) {
	troubles := map[string]func(http.ResponseWriter, *http.Request, http.HandlerFunc){
		"lost before": says(502), "lost after": actsAndSays(504), "cut answer": truncates, "rate limit": says(429, "Retry-After", "1"),
	}
	for name, act := range troubles {
		for n := range 6 {
			for _, times := range []int{1, 2} {
				t.Run(fmt.Sprintf("%s, request %d, %d times", name, n, times), func(t *testing.T) {
					d := newDouble(t)
					gone := &schedule{ID: 9, Description: "(debcloud:gone)", Owner: &owner{other, "active"}}
					d.schedules = []*schedule{gone}
					seen := 0
					d.inject("^(POST|PUT|DELETE)", 1000, func(w http.ResponseWriter, r *http.Request, real http.HandlerFunc) {
						if seen++; seen > n && seen <= n+times {
							act(w, r, real)
							return
						}
						real(w, r)
					})
					if _, err := apply(t, d, false, daily()); err != nil {
						t.Fatal(err)
					}
					demandIdle(t, d, daily())
					if len(d.schedules) != 1 || len(d.schedules[0].Variables) != 2 || !d.schedules[0].Active {
						t.Errorf("schedules %+v", d.schedules)
					}
				})
			}
		}
	}
}

func TestScheduleIsNeverActiveHalfMade(t *testing.T) {
	d := newDouble(t)
	d.inject("POST .*/variables", 99, says(403))
	if _, err := apply(t, d, false, daily()); fault.KindOf(err) != fault.Input {
		t.Errorf("error %v", err)
	}
	if len(d.schedules) != 1 || d.schedules[0].Active {
		t.Errorf("schedules %+v", d.schedules[0])
	}
	d.injected = nil
	if told, err := apply(t, d, false, daily()); err != nil || len(told) != 1 || !d.schedules[0].Active {
		t.Errorf("the next run: %v, %v", told, err)
	}
	demandIdle(t, d, daily())
}

func TestGitLabRefusesSchedule(t *testing.T) {
	d := newDouble(t)
	s := daily()
	s.Timezone = "Nowhere"
	_, err := apply(t, d, false, s)
	if fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), "cron_timezone") {
		t.Errorf("error %v", err)
	}
}

func TestCheckSchedules(t *testing.T) {
	with := func(change func(*Schedule)) []Schedule {
		s := daily()
		change(&s)
		return []Schedule{s}
	}
	for _, row := range []struct {
		summary, want string
		schedules     []Schedule
	}{
		{"no name", "the name \"\"", with(func(s *Schedule) { s.Name = "" })},
		{"a name with a parenthesis", `the name "a)"`, with(func(s *Schedule) { s.Name = "a)" })},
		{"twice", `the name "daily"`, []Schedule{daily(), daily()}},
		{"a description of two lines", "short line", with(func(s *Schedule) { s.Description = "a\nb" })},
		{"a description with a mark", "mark of ours", with(func(s *Schedule) { s.Description = "x (debcloud:y)" })},
		{"a long description", "short line", with(func(s *Schedule) { s.Description = strings.Repeat("x", 250) })},
		{"no ref", `ref ""`, with(func(s *Schedule) { s.Ref = "" })},
		{"a ref that git forbids", `ref "a..b"`, with(func(s *Schedule) { s.Ref = "a..b" })},
		{"a timezone with a newline", "timezone", with(func(s *Schedule) { s.Timezone = "UTC\n" })},
		{"a variable with a dash", `variable "A-B"`, with(func(s *Schedule) { s.Variables = map[string]string{"A-B": ""} })},
		{"four fields", "five fields", with(func(s *Schedule) { s.Cron = "1 2 3 4" })},
		{"minute 60", "minute 60 is not between 0 and 59", with(func(s *Schedule) { s.Cron = "60 * * * *" })},
		{"hour 24", "hour 24", with(func(s *Schedule) { s.Cron = "0 1,24 * * *" })},
		{"day 0", "day of month 0", with(func(s *Schedule) { s.Cron = "0 0 0-5 * *" })},
		{"month 13", "month 13", with(func(s *Schedule) { s.Cron = "0 0 1 13 *" })},
		{"words", `"hourly" is no minute`, with(func(s *Schedule) { s.Cron = "hourly at 3 or so" })},
		{"two spaces", "one space", with(func(s *Schedule) { s.Cron = "0  0 * * *" })},
	} {
		err := CheckSchedules(row.schedules)
		if fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v", row.summary, err)
		}
		d := newDouble(t)
		if _, err := apply(t, d, false, row.schedules...); err == nil || len(d.requests) > 0 {
			t.Errorf("%s: sent %v", row.summary, d.requests)
		}
	}
	for _, cron := range []string{"* * * * *", "*/15 1-5 1,15 jan-mar mon", "0 0 31 12 7", "5/10 * * * *"} {
		if err := CheckSchedules(with(func(s *Schedule) { s.Cron = cron })); err != nil {
			t.Errorf("cron %q: %v", cron, err)
		}
	}
}

func TestSchedulesCancelled(t *testing.T) {
	d := newDouble(t)
	c := d.client()
	why := errors.New("enough")
	ctx, cancel := cancelCause(t)
	err := c.ApplySchedules(ctx, []Schedule{daily(), weekly()}, false, func(a Action) {
		if a.Schedule == "prune" {
			cancel(why)
		}
	})
	if !errors.Is(err, why) || len(d.schedules) != 1 {
		t.Errorf("error %v, schedules %+v", err, d.schedules)
	}
}

package generator

import (
	"reflect"
	"strings"
	"testing"
)

func TestSchedules(t *testing.T) {
	c, err := parse("c.yaml", []byte(small+`schedules:
- {name: daily, description: All dailies, cron: 17 3 * * *, timezone: Europe/Berlin, ref: main, variables: {PIPELINE_TYPE: daily, EMPTY: ''}}
- {name: prune, cron: 0 5 * * 0, ref: main, active: false}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := []Schedule{
		{"daily", "All dailies", "17 3 * * *", "Europe/Berlin", "main", true, map[string]string{"PIPELINE_TYPE": "daily", "EMPTY": ""}},
		{"prune", "", "0 5 * * 0", "", "main", false, nil},
	}
	if got := c.Schedules(); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if c, err := parse("c.yaml", []byte(small)); err != nil || c.Schedules() != nil {
		t.Errorf("without the key: %v, %v", c.Schedules(), err)
	}
	if c, err := parse("c.yaml", []byte(small+"schedules: []\n")); err != nil || c.Schedules() == nil {
		t.Errorf("with an empty list: %v, %v", c.Schedules(), err)
	}
}

func TestBadSchedules(t *testing.T) {
	for _, row := range []struct{ summary, schedules, want string }{
		{"no list", "{}", "schedules: it is an object where a list is needed"},
		{"unknown key", "[{name: a, cron: '* * * * *', ref: main, tz: UTC}]", `c.yaml:21: schedules[0]: unknown key "tz"`},
		{"no cron", "[{name: a, ref: main}]", `schedules[0]: key "cron" is missing`},
		{"twice", "[{name: a, cron: x, ref: main}, {name: a, cron: x, ref: main}]", `schedules[1]: schedule "a" is declared twice`},
		{"active is a word", "[{name: a, cron: x, ref: main, active: 'yes'}]", `schedules[0].active: "yes" is neither true nor false`},
		{"a number for a variable", "[{name: a, cron: x, ref: main, variables: {A: 010}}]", "schedules[0].variables.A: 010 is a number where a string is needed"},
		{"a list of variables", "[{name: a, cron: x, ref: main, variables: [A]}]", "schedules[0].variables: it is a list where an object is needed"},
		{"a name with blanks", "[{name: a b, cron: x, ref: main}]", `schedules[0].name: "a b" is no name`},
	} {
		_, err := parse("c.yaml", []byte(small+"schedules: "+row.schedules+"\n"))
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v", row.summary, err)
		}
	}
}

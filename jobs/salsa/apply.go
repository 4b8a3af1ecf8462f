package salsa

import (
	"context"
	"fmt"
	"slices"

	gitlab "gitlab.com/gitlab-org/api/client-go/v2"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// ApplySchedules makes the project's schedules that are ours what is declared; others it leaves alone. tell is called with each action
// before it is done, or, with dryRun, instead. A second run finds nothing to do.
//
// A schedule is made inactive and becomes active when all its variables are there, so that no pipeline ever runs
// without them; whatever a run that was cut off left behind, the next one completes.
func (c *Client) ApplySchedules(ctx context.Context, declared []Schedule, dryRun bool, tell func(Action)) error {
	if err := CheckSchedules(declared); err != nil {
		return err
	}
	if err := c.demandAccess("the API of pipeline schedules"); err != nil {
		return err
	}
	actions, err := c.planSchedules(ctx, declared)
	if err != nil {
		return err
	}
	for _, a := range actions {
		tell(a)
		if dryRun {
			continue
		}
		if err := a.do(&step{ctx, c}); err != nil {
			return c.explain(ctx, err, "%s schedule %s", a.Verb, a.Schedule)
		}
	}
	return nil
}

// step does one action. Its errors are those of the API client.
type step struct {
	ctx context.Context
	c   *Client
}

func (c *Client) planSchedules(ctx context.Context, declared []Schedule) ([]Action, error) {
	me, err := c.currentUser(ctx)
	if err != nil {
		return nil, err
	}
	ours, err := c.ourSchedules(ctx)
	if err != nil {
		return nil, c.explain(ctx, err, "list the schedules")
	}
	var actions []Action
	for _, s := range declared {
		there := ours[s.Name]
		delete(ours, s.Name)
		if len(there) == 0 {
			actions = append(actions, s.creation())
			continue
		}
		full, _, err := c.api.PipelineSchedules.GetPipelineSchedule(c.project, there[0].ID, gitlab.WithContext(ctx))
		if err != nil {
			return nil, c.explain(ctx, err, "read schedule %s", s.Name)
		}
		actions = append(actions, s.changes(full, me)...)
		for _, surplus := range there[1:] {
			actions = append(actions, removal(s.Name, surplus.ID, "it is there twice"))
		}
	}
	for _, name := range sortedKeys(ours) {
		for _, s := range ours[name] {
			actions = append(actions, removal(name, s.ID, "it is declared no more"))
		}
	}
	return actions, nil
}

// ourSchedules lists the schedules that bear our mark, by name, the oldest first.
func (c *Client) ourSchedules(ctx context.Context) (map[string][]*gitlab.PipelineSchedule, error) {
	all, err := collect(func(page gitlab.PaginationOptionFunc) ([]*gitlab.PipelineSchedule, *gitlab.Response, error) {
		o := &gitlab.ListPipelineSchedulesOptions{ListOptions: gitlab.ListOptions{PerPage: 100}}
		return c.api.PipelineSchedules.ListPipelineSchedules(c.project, o, gitlab.WithContext(ctx), page)
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b *gitlab.PipelineSchedule) int { return int(a.ID - b.ID) })
	all = slices.CompactFunc(all, func(a, b *gitlab.PipelineSchedule) bool { return a.ID == b.ID }) // pages shift when a row comes in between
	ours := map[string][]*gitlab.PipelineSchedule{}
	for _, s := range all {
		if name := nameIn(s.Description); name != "" {
			ours[name] = append(ours[name], s)
		}
	}
	return ours, nil
}

func (s Schedule) creation() Action {
	a := Action{Verb: "create", Schedule: s.Name, Details: []string{
		fmt.Sprintf("cron: %q in %s on %s, active: %t", s.Cron, s.timezone(), s.Ref, s.Active),
	}}
	for _, key := range sortedKeys(s.Variables) {
		a.Details = append(a.Details, fmt.Sprintf("variable %s = %q", key, s.Variables[key]))
	}
	a.do = func(do *step) error {
		made, err := do.create(s)
		if err != nil {
			return err
		}
		return do.variables(s, made)
	}
	return a
}

// create makes s inactive.
func (do *step) create(s Schedule) (made *gitlab.PipelineSchedule, err error) {
	title, zone, inactive := s.title(), s.timezone(), false
	request := &gitlab.CreatePipelineScheduleOptions{Description: &title, Ref: &s.Ref, Cron: &s.Cron, CronTimezone: &zone, Active: &inactive}
	err = do.c.createOnce(do.ctx, func() error {
		made, _, err = do.c.api.PipelineSchedules.CreatePipelineSchedule(do.c.project, request, gitlab.WithContext(do.ctx))
		return err
	}, func() (bool, error) {
		ours, err := do.c.ourSchedules(do.ctx)
		if there := ours[s.Name]; len(there) > 0 {
			made = there[0]
		}
		return len(ours[s.Name]) > 0, err
	})
	return made, err
}

// changes brings full to s: ownership first, which every other change needs (Ci::PipelineSchedulePolicy), then variables, then fields.
func (s Schedule) changes(full *gitlab.PipelineSchedule, me *gitlab.User) []Action {
	_, lines := s.difference(full)
	lines = append(lines, s.variableLines(full)...)
	mine := full.Owner != nil && full.Owner.ID == me.ID
	orphan := full.Owner == nil || full.Owner.State != "" && full.Owner.State != "active"
	var actions []Action
	if !mine && (orphan || len(lines) > 0) {
		why := "GitLab lets only the owner change it"
		if orphan {
			why = "its owner is gone or blocked, so GitLab runs it no more"
		}
		actions = append(actions, Action{"own", s.Name, []string{why}, func(do *step) error { return do.own(full.ID) }})
	}
	if len(lines) > 0 {
		actions = append(actions, Action{"change", s.Name, lines, func(do *step) error { return do.variables(s, full) }})
	}
	return actions
}

func (do *step) own(id int64) error {
	_, _, err := do.c.api.PipelineSchedules.TakeOwnershipOfPipelineSchedule(do.c.project, id, gitlab.WithContext(repeatable(do.ctx)))
	return err
}

// variables brings the variables of there to those of s one by one, then its fields.
func (do *step) variables(s Schedule, there *gitlab.PipelineSchedule) error {
	held := variablesOf(there)
	for _, key := range sortedKeys(s.Variables) {
		if err := do.variable(there.ID, key, s.Variables[key], held[key]); err != nil {
			return fault.WithHint(do.c.explain(do.ctx, err, "set variable %s of schedule %s", key, s.Name), "the role must be allowed to set pipeline variables")
		}
	}
	for _, key := range sortedKeys(held) {
		if _, wanted := s.Variables[key]; wanted {
			continue
		}
		_, _, err := do.c.api.PipelineSchedules.DeletePipelineScheduleVariable(do.c.project, there.ID, key, gitlab.WithContext(do.ctx))
		if err != nil && !isMissing(err) {
			return err
		}
	}
	edit, _ := s.difference(there)
	if edit == nil {
		return nil
	}
	_, _, err := do.c.api.PipelineSchedules.EditPipelineSchedule(do.c.project, there.ID, edit, gitlab.WithContext(do.ctx))
	return err
}

func (do *step) variable(id int64, key, value string, held *gitlab.PipelineVariable) error {
	kind := gitlab.EnvVariableType
	if held == nil {
		request := &gitlab.CreatePipelineScheduleVariableOptions{Key: &key, Value: &value, VariableType: &kind}
		return do.c.createOnce(do.ctx, func() error {
			_, _, err := do.c.api.PipelineSchedules.CreatePipelineScheduleVariable(do.c.project, id, request, gitlab.WithContext(do.ctx))
			return err
		}, func() (bool, error) {
			now, _, err := do.c.api.PipelineSchedules.GetPipelineSchedule(do.c.project, id, gitlab.WithContext(do.ctx))
			if err != nil {
				return false, err
			}
			return sameVariable(variablesOf(now)[key], value), nil
		})
	}
	if sameVariable(held, value) {
		return nil
	}
	request := &gitlab.EditPipelineScheduleVariableOptions{Value: &value, VariableType: &kind}
	_, _, err := do.c.api.PipelineSchedules.EditPipelineScheduleVariable(do.c.project, id, key, request, gitlab.WithContext(do.ctx))
	return err
}

func sameVariable(held *gitlab.PipelineVariable, value string) bool {
	return held != nil && held.Value == value && (held.VariableType == "" || held.VariableType == gitlab.EnvVariableType)
}

func variablesOf(s *gitlab.PipelineSchedule) map[string]*gitlab.PipelineVariable {
	held := map[string]*gitlab.PipelineVariable{}
	for _, v := range s.Variables {
		held[v.Key] = v
	}
	return held
}

// variableLines tells which variables differ. What GitLab holds may be a secret that someone put there by hand, so it is not shown.
func (s Schedule) variableLines(there *gitlab.PipelineSchedule) []string {
	held := variablesOf(there)
	var lines []string
	for _, key := range sortedKeys(s.Variables) {
		switch v := held[key]; {
		case v == nil:
			lines = append(lines, fmt.Sprintf("variable %s = %q, new", key, s.Variables[key]))
		case !sameVariable(v, s.Variables[key]):
			lines = append(lines, fmt.Sprintf("variable %s becomes %q", key, s.Variables[key]))
		}
	}
	for _, key := range sortedKeys(held) {
		if _, wanted := s.Variables[key]; !wanted {
			lines = append(lines, fmt.Sprintf("variable %q goes", oneLine(key)))
		}
	}
	return lines
}

func removal(name string, id int64, why string) Action {
	return Action{"remove", name, []string{why}, func(do *step) error {
		_, err := do.c.api.PipelineSchedules.DeletePipelineSchedule(do.c.project, id, gitlab.WithContext(do.ctx))
		if isMissing(err) { // a first DELETE whose answer was lost
			return nil
		}
		return err
	}}
}

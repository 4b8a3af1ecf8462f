// Package prune retires what is old at a place: by a policy it deprecates images, hides them later, deletes them later still,
// and deletes what nothing refers to any more.
package prune

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/holding"
	"salsa.debian.org/cloud-team/debcloud/internal/progress"
)

// Options say how to prune.
type Options struct {
	Policy holding.Policy
	DryRun bool
	Now    func() time.Time   // nil means time.Now
	Plan   func([]Step) error // is shown all Steps before the first is done
	// Gone is told what the public no longer finds: before the first Step the images that are hidden already, whoever hid them, and at
	// the end those that were hidden now. So it knows of an image before that is deleted, even where it was hidden by a Run that
	// was killed. An error before the first Step keeps Run from it. May be nil.
	Gone func([]holding.Item) error
}

// Result counts what was done, or, in a dry run, what would be.
type Result struct{ Kept, Deprecated, Hidden, Deleted int }

// Run lists what h has, decides, shows the plan and does it. One Item's failure does not keep the others from
// going, but for what the Item refers to; the error tells of all.
func Run(ctx context.Context, h Holder, o Options) (*Result, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	items, err := h.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list what is there: %w", err)
	}
	if err := demandDistinct(items); err != nil {
		return nil, err
	}
	steps := Decide(items, o.Policy, o.Now())
	if err := o.Plan(steps); err != nil {
		return nil, err
	}
	r := &Result{}
	if o.DryRun {
		for _, s := range steps {
			r.count(s.Action)
		}
		return r, nil
	}
	if err := o.gone(slices.DeleteFunc(slices.Clone(items), func(it holding.Item) bool {
		return !it.Ours || it.Kind != holding.Image || it.State != holding.Hidden
	})); err != nil {
		return nil, err
	}
	return r, r.do(ctx, h, o, steps)
}

func (o Options) gone(items []holding.Item) error {
	if o.Gone == nil || len(items) == 0 {
		return nil
	}
	return o.Gone(items)
}

// demandDistinct refuses two Items of one ID in one region: of which of them would a reference be?
func demandDistinct(items []holding.Item) error {
	seen := map[place]bool{}
	for _, it := range items {
		if it.ID == "" || seen[placeOf(it)] {
			return fmt.Errorf("the %s %q in %q has the ID %q, which another one has, or none", it.Kind, it.Name, it.Region, it.ID)
		}
		seen[placeOf(it)] = true
	}
	return nil
}

func (r *Result) count(a Action) {
	switch a {
	case Keep:
		r.Kept++
	case Deprecate:
		r.Deprecated++
	case Hide:
		r.Hidden++
	case Delete:
		r.Deleted++
	}
}

func (r *Result) do(ctx context.Context, h Holder, o Options, steps []Step) error {
	calls := map[Action]func(context.Context, holding.Item) error{Deprecate: h.Deprecate, Hide: h.Hide, Delete: h.Delete}
	todo := slices.DeleteFunc(slices.Clone(steps), func(s Step) bool { return s.Action == Keep })
	r.Kept = len(steps) - len(todo)
	task := progress.Start(ctx, "prune", int64(len(todo)), false)
	defer task.Abort()
	var failed []error
	var hidden []holding.Item
	needed := map[string]bool{} // by what could not be deleted
	for _, s := range todo {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if needed[s.Item.ID] {
			slog.WarnContext(ctx, "kept, because what refers to it could not be deleted", "kind", s.Item.Kind, "id", s.Item.ID)
			need(needed, s.Item)
			continue
		}
		task.Say("%s %s", s.Action, s.Item.Name)
		err := calls[s.Action](ctx, s.Item)
		task.Add(1)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s %s %s: %w", s.Action, s.Item.Kind, s.Item.Name, err))
			need(needed, s.Item)
			continue
		}
		r.count(s.Action)
		if s.Action == Hide {
			hidden = append(hidden, s.Item)
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	task.Done()
	var err error
	if len(failed) > 0 {
		err = fault.WithHint(errors.Join(failed...), "%d of %d items were retired; run it again for the others", len(todo)-len(failed), len(todo))
	}
	return errors.Join(err, o.gone(hidden))
}

func need(needed map[string]bool, it holding.Item) {
	for _, id := range it.RefersTo {
		needed[id] = true
	}
}

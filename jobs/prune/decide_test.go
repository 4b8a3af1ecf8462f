package prune

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/holding"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
)

const oneDay = 24 * time.Hour

var (
	today  = time.Date(2026, 8, 14, 3, 0, 0, 0, time.UTC)
	policy = holding.Policy{
		Types:   map[image.UploadType]holding.Retention{image.Daily: {Keep: 2, HideAfter: 7 * oneDay, DeleteAfter: 30 * oneDay}},
		Orphans: 5 * oneDay,
	}
)

// daily is an image that was published that many days ago.
func daily(days int, changes ...func(*holding.Item)) holding.Item {
	created := today.AddDate(0, 0, -days)
	version := created.Format("20060102") + "-1"
	it := holding.Item{
		ID: fmt.Sprintf("img-%d", days), Name: "debian-13-ec2-amd64-daily-" + version, Kind: holding.Image, Region: "north",
		Family: "trixie ec2 amd64 daily", UploadType: image.Daily, Version: version, Created: created,
		State: holding.Current, Since: created, Ours: true, Public: true,
	}
	for _, change := range changes {
		change(&it)
	}
	return it
}

func in(s holding.State, days int) func(*holding.Item) {
	return func(it *holding.Item) {
		it.State, it.Since, it.Public = s, today.AddDate(0, 0, -days), s != holding.Hidden
	}
}

func snapshot(id string, days int) holding.Item {
	return holding.Item{ID: id, Name: id, Kind: holding.Snapshot, Region: "north", Created: today.AddDate(0, 0, -days), State: holding.Current, Ours: true}
}

func private(it *holding.Item) { it.Public = false }
func public(it *holding.Item)  { it.Public = true }

func TestDecide(t *testing.T) {
	refers := func(to string) func(*holding.Item) {
		return func(it *holding.Item) { it.RefersTo = []string{to} }
	}
	newest := []holding.Item{daily(0), daily(1)}
	for _, row := range []struct {
		summary string
		items   []holding.Item
		id      string
		want    Action
		why     string
	}{
		{"the newest", newest, "img-0", Keep, "no newer public image"},
		{"the second of two that are kept", newest, "img-1", Keep, "number 2 of the 2 newest"},
		{"the third", append(newest, daily(2)), "img-2", Deprecate, "not one of the 2 newest"},
		{"deprecated, not long enough", append(newest, daily(2, in(holding.Deprecated, 6))), "img-2", Keep, "hide from 2026-08-15 on"},
		{"deprecated for long", append(newest, daily(9, in(holding.Deprecated, 7))), "img-9", Hide, "deprecated since 2026-08-07"},
		{"hidden, not long enough", append(newest, daily(50, in(holding.Hidden, 29))), "img-50", Keep, "delete from"},
		{"hidden for long", append(newest, daily(50, in(holding.Hidden, 30))), "img-50", Delete, "hidden since"},
		{"an old one that was never retired goes through every state", append(newest, daily(400)), "img-400", Deprecate, ""},
		{"deprecated since nobody knows when", append(newest, daily(400, in(holding.Deprecated, 0), func(it *holding.Item) { it.Since = time.Time{} })), "img-400", Deprecate, "nobody knows"},
		{"hidden since nobody knows when", append(newest, daily(400, in(holding.Hidden, 0), func(it *holding.Item) { it.Since = time.Time{} })), "img-400", Hide, "nobody knows"},
		{"the last of a family, old and hidden", []holding.Item{daily(400, in(holding.Hidden, 300))}, "img-400", Keep, "no newer public image"},
		{"the last public one, though newer ones wait to become public", []holding.Item{daily(0, private), daily(400, in(holding.Deprecated, 300))}, "img-400", Keep, "no newer public image"},
		{"one that waits to become public", []holding.Item{daily(0, private), daily(1)}, "img-0", Keep, ""},
		{"one that never became public", append(newest, daily(30, private)), "img-30", Deprecate, ""},
		{"a private one that was deprecated takes no place", []holding.Item{daily(0), daily(1, in(holding.Deprecated, 1), private), daily(2)}, "img-2", Keep, "number 2 of the 2 newest"},
		{"one that was hidden takes no place", []holding.Item{daily(0), daily(1, in(holding.Hidden, 1)), daily(2)}, "img-2", Keep, "number 2 of the 2 newest"},
		{"a private one that was deprecated goes on", append(newest, daily(9, in(holding.Deprecated, 7), private)), "img-9", Hide, "deprecated since"},
		{"the last that users see, though the newest was hidden by hand", []holding.Item{daily(0, in(holding.Hidden, 0)), daily(1, in(holding.Deprecated, 300)), daily(2, in(holding.Deprecated, 300)), daily(3, in(holding.Deprecated, 300))}, "img-1", Keep, "no newer public image"},
		{"the next one then", []holding.Item{daily(0, in(holding.Hidden, 0)), daily(1), daily(2), daily(3)}, "img-2", Keep, "number 2 of the 2 newest"},
		{"the one after it then", []holding.Item{daily(0, in(holding.Hidden, 0)), daily(1), daily(2), daily(3)}, "img-3", Deprecate, "not one of the 2 newest"},
		{"the newest, hidden by hand, though an older one is seen", []holding.Item{daily(0, in(holding.Hidden, 300)), daily(1)}, "img-0", Keep, "no newer public image"},
		{"the newest of a family that nobody sees", []holding.Item{daily(400, in(holding.Hidden, 300)), daily(401, in(holding.Hidden, 300))}, "img-400", Keep, "no newer public image"},
		{"an older one of a family that nobody sees", []holding.Item{daily(400, in(holding.Hidden, 300)), daily(401, in(holding.Hidden, 300))}, "img-401", Delete, "hidden since"},
		{"the newest public one, where hidden ones stay public", []holding.Item{daily(400, in(holding.Hidden, 300)), daily(401, in(holding.Hidden, 300), public)}, "img-401", Keep, "no newer public image"},
		{"an old one of a family that was never public", []holding.Item{daily(0, private), daily(400, private)}, "img-400", Keep, "no newer public image"},
		{"no known date", append(newest, daily(50, in(holding.Hidden, 40), func(it *holding.Item) { it.Created = time.Time{} })), "img-50", Keep, "its age is not known"},
		{"no known version", append(newest, daily(50, in(holding.Hidden, 40), func(it *holding.Item) { it.Version = "12.1" })), "img-50", Keep, `its version "12.1"`},
		{"no known family", append(newest, daily(50, in(holding.Hidden, 40), func(it *holding.Item) { it.Family = "" })), "img-50", Keep, "what it is of"},
		{"a type without a policy", append(newest, daily(50, in(holding.Hidden, 40), func(it *holding.Item) { it.UploadType = image.Published })), "img-50", Keep, "no policy is for type release"},
		{"a running VM refers to it", append(newest, daily(50, in(holding.Hidden, 40), func(it *holding.Item) { it.ReferencedBy = []string{"i-123"} })), "img-50", Keep, "i-123 refers to it"},
		{"someone else's thing refers to it", append(newest, daily(50, in(holding.Hidden, 40)), holding.Item{ID: "theirs", Kind: holding.Disk, RefersTo: []string{"img-50"}}), "img-50", Keep, "theirs refers to it"},
		{"its type's own family", append(newest, daily(50, func(it *holding.Item) { it.Family, it.UploadType = "trixie ec2 arm64 daily", image.Daily })), "img-50", Keep, "no newer"},
		{"another region", append(newest, daily(50, func(it *holding.Item) { it.Region = "south" })), "img-50", Keep, "no newer"},

		{"a snapshot goes with its image", append(newest, daily(50, in(holding.Hidden, 30), refers("snap")), snapshot("snap", 50)), "snap", Delete, "what refers to it is deleted"},
		{"a snapshot of an image that stays", append(newest, daily(50, in(holding.Hidden, 3), refers("snap")), snapshot("snap", 50)), "snap", Keep, "img-50 refers to it"},
		{"a snapshot of two images", append(newest, daily(50, in(holding.Hidden, 30), refers("snap")), daily(3, refers("snap")), snapshot("snap", 50)), "snap", Keep, "img-3 refers to it"},
		{"an orphan", []holding.Item{snapshot("snap", 5)}, "snap", Delete, "nothing refers to it"},
		{"a young orphan may be of a publication under way", []holding.Item{snapshot("snap", 4)}, "snap", Keep, "an orphan from 2026-08-15 on"},
		{"an orphan without a date", []holding.Item{{ID: "snap", Kind: holding.Snapshot, Ours: true}}, "snap", Keep, "its age is not known"},
		{"an orphan in use", []holding.Item{{ID: "snap", Kind: holding.Snapshot, Ours: true, Created: today.AddDate(-1, 0, 0), ReferencedBy: []string{"vol-1"}}}, "snap", Keep, "vol-1 refers to it"},
		{"a chain of orphans", []holding.Item{{ID: "disk", Kind: holding.Disk, Ours: true, Created: today.AddDate(-1, 0, 0), RefersTo: []string{"blob"}}, {ID: "blob", Kind: holding.Blob, Ours: true, Created: today.AddDate(-1, 0, 0)}}, "blob", Delete, ""},
	} {
		t.Run(row.summary, func(t *testing.T) {
			steps := Decide(row.items, policy, today)
			i := slices.IndexFunc(steps, func(s Step) bool { return s.Item.ID == row.id })
			if i < 0 || steps[i].Action != row.want || !strings.Contains(steps[i].Why, row.why) {
				t.Errorf("%+v, want %s because %q", steps, row.want, row.why)
			}
		})
	}
}

func TestDecideNamesTheSuccessor(t *testing.T) {
	for _, s := range Decide([]holding.Item{daily(2), daily(0), daily(1), daily(3)}, policy, today) {
		if s.Action == Deprecate && s.Item.ReplacedBy != "img-0" {
			t.Errorf("%s is replaced by %q", s.Item.ID, s.Item.ReplacedBy)
		}
	}
}

// nightly decides and does it, as a place that hides by taking an image from the public, until nothing changes any more.
func nightly(t *testing.T, items []holding.Item, p holding.Policy) map[string]holding.Item {
	t.Helper()
	now := today
	for range 200 {
		left := map[string]holding.Item{}
		for _, s := range Decide(items, p, now) {
			it := s.Item
			switch s.Action {
			case Deprecate:
				it.State, it.Since = holding.Deprecated, now
			case Hide:
				it.State, it.Since, it.Public = holding.Hidden, now, false
			case Delete:
				continue
			}
			left[it.ID] = it
		}
		items = slices.Collect(maps.Values(left))
		now = now.Add(oneDay)
	}
	left := map[string]holding.Item{}
	for _, it := range items {
		left[it.ID] = it
	}
	return left
}

// TestPrivateImagesTakeNoPlaces: what pruning itself makes of an image that never became public must not push out one that is.
func TestPrivateImagesTakeNoPlaces(t *testing.T) {
	left := nightly(t, []holding.Item{daily(0), daily(1, private), daily(2), daily(3)}, policy)
	if len(left) != 2 || left["img-0"].State != holding.Current || left["img-2"].State != holding.Current {
		t.Errorf("%v", left)
	}
}

// TestHiddenByHand: with one place, and the newest withdrawn by hand, the last that users see stays for ever.
func TestHiddenByHand(t *testing.T) {
	one := holding.Policy{Types: map[image.UploadType]holding.Retention{image.Daily: {Keep: 1, HideAfter: 7 * oneDay, DeleteAfter: 30 * oneDay}}}
	left := nightly(t, []holding.Item{daily(0, in(holding.Hidden, 0)), daily(1), daily(2)}, one)
	if last := left["img-1"]; last.State != holding.Current || !last.Public || len(left) != 2 || left["img-0"].State != holding.Hidden {
		t.Errorf("%v", left)
	}
}

func TestDecideLeavesOthersAlone(t *testing.T) {
	theirs := daily(400, in(holding.Hidden, 300), func(it *holding.Item) { it.Ours = false })
	for _, s := range Decide([]holding.Item{daily(0), daily(1), theirs, {ID: "x", Kind: holding.Snapshot, Created: today.AddDate(-1, 0, 0)}}, policy, today) {
		if !s.Item.Ours {
			t.Errorf("%+v", s)
		}
	}
}

// holder keeps Items in memory and refuses to break references.
type holder struct {
	items []holding.Item
	calls []string
	fail  map[string]error
}

func (h *holder) List(context.Context) ([]holding.Item, error) { return slices.Clone(h.items), nil }

func (h *holder) call(name string, it holding.Item) error {
	h.calls = append(h.calls, name+" "+it.ID)
	return h.fail[name+" "+it.ID]
}

func (h *holder) Deprecate(_ context.Context, it holding.Item) error { return h.call("deprecate", it) }
func (h *holder) Hide(_ context.Context, it holding.Item) error      { return h.call("hide", it) }
func (h *holder) Delete(_ context.Context, it holding.Item) error    { return h.call("delete", it) }

func options(dry bool) Options {
	return Options{Policy: policy, DryRun: dry, Now: func() time.Time { return today }, Plan: func([]Step) error { return nil }}
}

func TestRun(t *testing.T) {
	ref := func(it *holding.Item) { it.RefersTo = []string{"snap"} }
	items := []holding.Item{snapshot("snap", 60), daily(0), daily(1), daily(2), daily(9, in(holding.Deprecated, 8)), daily(60, in(holding.Hidden, 31), ref)}
	h := &holder{items: items}
	r, err := Run(t.Context(), h, options(true))
	if err != nil || len(h.calls) != 0 || *r != (Result{Kept: 2, Deprecated: 1, Hidden: 1, Deleted: 2}) {
		t.Errorf("dry: %+v, %v, %v", r, h.calls, err)
	}
	var gone []string
	o := options(false)
	o.Gone = func(items []holding.Item) error {
		gone = append(gone, fmt.Sprintf("after %d calls:", len(h.calls)))
		for _, it := range items {
			gone = append(gone, it.ID)
		}
		return nil
	}
	r, err = Run(t.Context(), h, o)
	want := []string{"deprecate img-2", "hide img-9", "delete img-60", "delete snap"}
	if err != nil || !slices.Equal(h.calls, want) || *r != (Result{Kept: 2, Deprecated: 1, Hidden: 1, Deleted: 2}) || !slices.Equal(gone, []string{"after 0 calls:", "img-60", "after 4 calls:", "img-9"}) {
		t.Errorf("%+v, %v, %v, %v", r, h.calls, gone, err)
	}
	broken := errors.New("throttled")
	h = &holder{items: items}
	o.Gone = func([]holding.Item) error { return broken }
	if _, err := Run(t.Context(), h, o); !errors.Is(err, broken) || len(h.calls) > 0 {
		t.Errorf("where nobody can be told: %v, %v", h.calls, err)
	}
	h = &holder{items: items, fail: map[string]error{"delete img-60": broken, "deprecate img-2": broken}}
	r, err = Run(t.Context(), h, options(false))
	if !errors.Is(err, broken) || slices.Contains(h.calls, "delete snap") || !slices.Contains(h.calls, "hide img-9") || r.Deleted != 0 || r.Hidden != 1 {
		t.Errorf("with two failures: %+v, %v, %v", r, h.calls, err)
	}
	h = &holder{items: append(items, daily(0))}
	if _, err := Run(t.Context(), h, options(false)); err == nil || len(h.calls) > 0 {
		t.Errorf("two of one ID: %v, %v", h.calls, err)
	}
	elsewhere := daily(0)
	elsewhere.Region = "south"
	if _, err := Run(t.Context(), &holder{items: append(items, elsewhere)}, options(true)); err != nil {
		t.Errorf("one ID in two regions: %v", err)
	}
	stop := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	o = options(false)
	o.Plan = func([]Step) error { cancel(stop); return nil }
	h = &holder{items: items}
	if _, err := Run(ctx, h, o); !errors.Is(err, stop) || len(h.calls) > 0 {
		t.Errorf("cancelled: %v, %v", h.calls, err)
	}
}

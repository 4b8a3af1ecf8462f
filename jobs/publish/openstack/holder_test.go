package openstack

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/holding"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

// retire takes the only image of ours, which is public, through all that pruning does, each step twice.
func retire(t *testing.T, p *Publisher) {
	t.Helper()
	one := func() holding.Item {
		t.Helper()
		for _, it := range must(p.List(t.Context()))(t) {
			if it.Ours {
				return it
			}
		}
		return holding.Item{}
	}
	it := one()
	if it.Kind != holding.Image || it.State != holding.Current || !it.Public || it.Created.IsZero() || it.Family != "trixie genericcloud amd64 daily" || it.Version != "20260814-1" {
		t.Fatalf("the published image is %+v", it)
	}
	for _, step := range []struct {
		do    func(holding.Item) error
		state holding.State
		seen  bool
	}{
		{func(it holding.Item) error { return p.Deprecate(t.Context(), it) }, holding.Deprecated, true},
		{func(it holding.Item) error { return p.Hide(t.Context(), it) }, holding.Hidden, false},
	} {
		before := it
		for range 2 {
			if err := step.do(before); err != nil {
				t.Fatalf("%s: %v", step.state, err)
			}
		}
		if it = one(); it.State != step.state || it.Public != step.seen || it.Since.IsZero() {
			t.Fatalf("the image should be %s, it is %+v", step.state, it)
		}
		if err := p.Delete(t.Context(), before); fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), "by now") {
			t.Errorf("deleting an image that is in another state by now: %v", err)
		}
	}
	for range 2 {
		if err := p.Delete(t.Context(), it); err != nil {
			t.Fatal(err)
		}
	}
	for _, do := range []func(context.Context, holding.Item) error{p.Deprecate, p.Hide} {
		if err := do(t.Context(), it); err != nil {
			t.Errorf("retiring an image that is gone: %v", err)
		}
	}
	if it := one(); it.ID != "" {
		t.Errorf("a deleted image is still there: %+v", it)
	}
}

// TestHiddenComesBack publishes what pruning had hidden, once as the newest and once as one that has a successor.
func TestHiddenComesBack(t *testing.T) {
	for _, row := range []struct {
		summary   string
		successor bool
		state     holding.State
	}{{"the newest", false, holding.Current}, {"one with a successor", true, holding.Deprecated}} {
		f := newFake(t)
		f.target.Regions = []string{"north"}
		p := f.Publisher(t, &publishtest.Line{}, openJournal(t)).(*Publisher)
		img := publishtest.Image(t, publishtest.Options{})
		must(p.Publish(t.Context(), img, publish.Public))(t)
		if row.successor {
			must(p.Publish(t.Context(), publishtest.Image(t, publishtest.Options{Version: "20260815-1", Seed: 2}), publish.Public))(t)
		}
		find := func() holding.Item {
			t.Helper()
			all := must(p.List(t.Context()))(t)
			return all[slices.IndexFunc(all, func(it holding.Item) bool { return it.Version == "20260814-1" })]
		}
		if err := p.Hide(t.Context(), find()); err != nil {
			t.Fatal(err)
		}
		if done := must(p.Publish(t.Context(), img, publish.Public))(t); !done.Changed {
			t.Errorf("%s: it says that it changed nothing", row.summary)
		}
		it, i := find(), f.Regions["north"].Images()[0]
		if it.State != row.state || !it.Public || !i.Protected || i.Hidden != row.successor || slices.Contains(i.Tags, latest) == row.successor {
			t.Errorf("%s: the image is %+v, %+v", row.summary, it, i)
		}
		if done := must(p.Publish(t.Context(), img, publish.Public))(t); done.Changed {
			t.Errorf("%s: once more changes something", row.summary)
		}
	}
}

// TestGoneInBetween: what vanishes after it was looked at is no error either.
func TestGoneInBetween(t *testing.T) {
	f := newFake(t)
	f.target.Regions = []string{"north"}
	p := f.Publisher(t, &publishtest.Line{}, openJournal(t)).(*Publisher)
	must(p.Publish(t.Context(), publishtest.Image(t, publishtest.Options{}), publish.Public))(t)
	it := must(p.List(t.Context()))(t)[0]
	f.Intercept = func(_ http.ResponseWriter, r *http.Request, serve func()) {
		if r.Method == "PATCH" {
			f.Regions["north"].Delete(it.ID)
		}
		serve()
	}
	if err := p.Deprecate(t.Context(), it); err != nil {
		t.Error(err)
	}
}

func TestRetire(t *testing.T) {
	f := newFake(t)
	f.target.Regions = []string{"north"}
	p := f.Publisher(t, &publishtest.Line{}, openJournal(t)).(*Publisher)
	must(p.Publish(t.Context(), publishtest.Image(t, publishtest.Options{}), publish.Public))(t)
	retire(t, p)
}

func TestWhatIsNotOursIsLeftAlone(t *testing.T) {
	f := newFake(t)
	f.target.Regions = []string{"north"}
	p := f.Publisher(t, &publishtest.Line{}, openJournal(t)).(*Publisher)
	must(p.Publish(t.Context(), publishtest.Image(t, publishtest.Options{}), publish.Public))(t)
	it := must(p.List(t.Context()))(t)[0]
	f.Regions["north"].Remove(it.ID, markDigest)
	it.Ours = true
	for name, do := range map[string]func() error{
		"deprecate": func() error { return p.Deprecate(t.Context(), it) },
		"hide":      func() error { return p.Hide(t.Context(), it) },
		"delete":    func() error { return p.Delete(t.Context(), it) },
	} {
		if err := do(); fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), "left alone") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if now := must(p.List(t.Context()))(t); len(now) != 1 || now[0].Ours {
		t.Errorf("listed: %+v", now)
	}
}

func TestUnfinishedImagesAreListedAsBlobs(t *testing.T) {
	f := newFake(t)
	f.target.Regions = []string{"north"}
	p := f.Publisher(t, &publishtest.Line{}, openJournal(t)).(*Publisher)
	must(p.Publish(t.Context(), publishtest.Image(t, publishtest.Options{}), publish.Private))(t)
	f.Regions["north"].Set(f.Regions["north"].Images()[0].ID, "status", "queued")
	if all := must(p.List(t.Context()))(t); len(all) != 1 || all[0].Kind != holding.Blob || !all[0].Ours || all[0].Family != "" {
		t.Errorf("listed: %+v", all)
	}
}

package publishtest

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/holding"
	"salsa.debian.org/cloud-team/debcloud/internal/progress"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
)

// holder is prune.Holder.
type holder interface {
	List(ctx context.Context) ([]holding.Item, error)
	Deprecate(ctx context.Context, it holding.Item) error
	Hide(ctx context.Context, it holding.Item) error
	Delete(ctx context.Context, it holding.Item) error
}

// discreet asks who one is, lists what is there and retires the older version, and does so once more where every request is
// refused. What is said of that has no secret in it, which every scene looks at in its end.
func (s *suite) discreet(t *testing.T) {
	c := newScene(t, s.p)
	c.demand("the older version", try{build: s.older})
	c.demand("the younger version", try{build: s.build})
	if _, err := c.ask(&Line{}); err != nil {
		t.Errorf("who one is, and what is there: %v", err)
	}
	if !s.p.NoRequests {
		if _, err := c.ask(&Line{status: func(int) int { return http.StatusForbidden }}); err == nil {
			t.Error("every request is refused, and there is no error")
		}
	}
	for range 4 { // deprecated, hidden, deleted, gone
		items, err := c.ask(&Line{})
		if err != nil {
			t.Fatal(err)
		}
		for _, it := range items {
			if it.Kind != holding.Image || it.Version != "20260814-1" {
				continue
			}
			if err := c.retire(it); err != nil {
				t.Fatalf("retire %s, which is %s: %v", it.Name, it.State, err)
			}
		}
	}
	items, err := c.ask(&Line{})
	if err != nil || slices.ContainsFunc(items, func(it holding.Item) bool { return it.Kind == holding.Image && it.Version == "20260814-1" }) {
		t.Errorf("the older version was not deleted: %v, %v", items, err)
	}
}

// ask says who one is, where the Publisher can tell, and what is there.
func (s *scene) ask(line *Line) (items []holding.Item, err error) {
	s.t.Helper()
	s.as(line, func(ctx context.Context, p publish.Publisher) error {
		if who, ok := p.(publish.Identifier); ok {
			id, failed := who.Whoami(ctx)
			fmt.Fprintf(s.said, "%+v %v\n", id, failed)
			err = failed
		}
		var failed error
		if items, failed = p.(holder).List(ctx); failed != nil {
			err = failed
		}
		fmt.Fprintf(s.said, "%+v\n", items)
		return failed
	})
	return items, err
}

// retire moves an Item one state on.
func (s *scene) retire(it holding.Item) error {
	s.t.Helper()
	return s.as(&Line{}, func(ctx context.Context, p publish.Publisher) error {
		h := p.(holder)
		switch it.State {
		case holding.Current:
			return h.Deprecate(ctx, it)
		case holding.Deprecated:
			return h.Hide(ctx, it)
		}
		return h.Delete(ctx, it)
	})
}

// as does something as a new process, and notes the error.
func (s *scene) as(line *Line, do func(context.Context, publish.Publisher) error) error {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	j, err := journal.Open(ctx, s.journal, journal.Wait)
	if err != nil {
		s.t.Fatal(err)
	}
	defer j.Close()
	display, shown := s.display()
	defer shown()
	err = do(progress.NewContext(ctx, display), s.cloud.Publisher(s.t, line, j))
	fmt.Fprintln(s.said, err)
	return err
}

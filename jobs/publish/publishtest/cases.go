package publishtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
)

// Run tries all that publish.Publisher promises.
func Run(t *testing.T, p Provider) {
	s := &suite{p: p}
	s.older = Build(t, Options{Vendor: p.Vendor, Version: "20260814-1", Seed: 1})
	s.build = Build(t, Options{Vendor: p.Vendor, Version: "20260815-1", Seed: 2})
	s.other = Build(t, Options{Vendor: p.Vendor, Version: "20260815-1", Seed: 3})
	for _, c := range []struct {
		name string
		run  func(*testing.T)
		skip bool
	}{
		{"private, then public", s.stages, false},
		{"public without private", s.publicAtOnce, false},
		{"public after private needs neither image nor journal", s.documentsOnly, false},
		{"the order of two versions does not matter", s.order, false},
		{"a daily becomes a release", s.promotion, false},
		{"another image under the same name is refused", s.otherImage, false},
		{"an altered image is refused", s.altered, false},
		{"two publishers at once", s.two, false},
		{"a publisher that does not wait", s.busy, p.NoJournal},
		{"what the cloud lost comes back", s.lost, false},
		{"what was altered on the cloud is noticed", s.alteredThere, false},
		{"throttling and 5xx are tried again", s.throttled, p.NoRequests},
		{"an outage is told as one", s.outage, p.NoRequests},
		{"who one is, and what is retired, with no secret in it", s.discreet, false},
		{"cancelled at any request", s.cancelled, false},
		{"cut after any request", s.cut, false},
		{"an upload that was cut goes on", s.goesOn, p.Piece == 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.skip {
				t.Skip("does not apply to this provider")
			}
			c.run(t)
		})
	}
}

// suite is what the cases share: the Build documents of two versions, and of another image that has the younger's name.
type suite struct {
	p                   Provider
	older, build, other string
}

// reference publishes both versions without any trouble and returns what the cloud has then, and how many requests the second one took.
func (s *suite) reference(t *testing.T) (dump string, uploads []manifest.Upload, requests int) {
	t.Helper()
	c := newScene(t, s.p)
	c.demand("the older version", try{build: s.older})
	line := &Line{}
	r := c.demand("the younger version", try{build: s.build, line: line})
	return c.dump(), r.Uploads, line.Requests()
}

func (s *suite) stages(t *testing.T) {
	c := newScene(t, s.p)
	empty := c.dump()
	first := c.demand("private", try{build: s.build, stage: publish.Private})
	private := c.dump()
	if private == empty || !first.Changed {
		t.Errorf("private changed nothing, and says changed %v", first.Changed)
	}
	if !strings.Contains(c.said.String(), "debian-13-"+s.p.Vendor+"-amd64-daily-20260815-1") {
		t.Error("no progress was shown for the image")
	}
	c.unchanged("private again", try{build: s.build, stage: publish.Private}, first, private)
	second := c.demand("public", try{build: s.build, stage: publish.Public})
	public := c.dump()
	if public == private || !second.Changed {
		t.Errorf("public changed nothing, and says changed %v", second.Changed)
	}
	c.unchanged("public again", try{build: s.build, stage: publish.Public}, second, public)
	third := c.demand("private after public", try{build: s.build, stage: publish.Private})
	if third.Changed {
		t.Error("private after public says that it changed something")
	}
	c.demandDump("private after public", public)
	c.loseJournal()
	c.unchanged("public again without the journal", try{build: s.build, stage: publish.Public}, second, public)
	s.documents(t, second)
}

// unchanged publishes again and demands that this changes nothing and returns the same.
func (c *scene) unchanged(when string, y try, before *publish.Result, dump string) {
	c.t.Helper()
	r := c.demand(when, y)
	if r.Changed {
		c.t.Errorf("%s says that it changed something", when)
	}
	if !reflect.DeepEqual(r.Uploads, before.Uploads) {
		c.t.Errorf("%s returns other uploads: %v, before %v", when, refs(r.Uploads), refs(before.Uploads))
	}
	c.demandDump(when, dump)
}

func refs(uploads []manifest.Upload) (all []string) {
	for _, u := range uploads {
		all = append(all, u.Metadata.Labels[manifest.LabelRegion]+" "+u.Data.Ref)
	}
	return all
}

// documents demands that every upload says what it is of, and that no two are the same.
func (s *suite) documents(t *testing.T, r *publish.Result) {
	if len(r.Uploads) == 0 {
		t.Error("there are no upload documents")
	}
	seen := map[string]bool{}
	for _, u := range r.Uploads {
		l := u.Metadata.Labels
		if seen[u.Metadata.UID] || u.Data.Ref == "" || u.Data.Provider == "" {
			t.Errorf("upload %+v is told twice or names no place", u.Data)
		}
		seen[u.Metadata.UID] = true
		if l[manifest.LabelRelease] != "trixie" || l[manifest.LabelVendor] != s.p.Vendor || l[manifest.LabelVersion] != "20260815-1" || l[manifest.LabelUploadType] != "daily" {
			t.Errorf("upload %s has the labels %v", u.Data.Ref, l)
		}
	}
}

func (s *suite) publicAtOnce(t *testing.T) {
	c := newScene(t, s.p)
	c.demand("private", try{build: s.build, stage: publish.Private})
	c.demand("public", try{build: s.build, stage: publish.Public})
	d := newScene(t, s.p)
	d.demand("public at once", try{build: s.build, stage: publish.Public})
	d.demandDump("public at once", c.dump())
}

// documentsOnly is what a pipeline does: the job that makes public runs elsewhere and has the documents alone.
func (s *suite) documentsOnly(t *testing.T) {
	want, _, _ := s.reference(t)
	path := Build(t, Options{Vendor: s.p.Vendor, Version: "20260815-1", Seed: 2})
	c := newScene(t, s.p)
	c.demand("the older version", try{build: s.older})
	c.demand("private", try{build: path, stage: publish.Private})
	if err := os.Remove(manifest.Base(path) + ".raw"); err != nil {
		t.Fatal(err)
	}
	c.loseJournal()
	c.demand("public, without the image", try{build: path})
	c.demandDump("public, without the image", want)
}

func (s *suite) order(t *testing.T) {
	want, _, _ := s.reference(t)
	c := newScene(t, s.p)
	c.demand("the younger version", try{build: s.build})
	c.demand("the older version, later", try{build: s.older})
	c.demandDump("the older version, published later", want)
}

func (s *suite) promotion(t *testing.T) {
	c := newScene(t, s.p)
	daily := c.demand("as a daily", try{build: s.build})
	release := c.demand("as a release", try{build: s.build, opts: publish.Options{Type: "release"}})
	if !release.Changed || reflect.DeepEqual(refs(daily.Uploads), refs(release.Uploads)) {
		t.Errorf("the release is the daily: %v", refs(release.Uploads))
	}
	dump := c.dump()
	c.unchanged("the daily again", try{build: s.build}, daily, dump)
	c.unchanged("the release again", try{build: s.build, opts: publish.Options{Type: "release"}}, release, dump)
}

func (s *suite) otherImage(t *testing.T) {
	for _, stage := range []publish.Stage{publish.Private, publish.Public} {
		c := newScene(t, s.p)
		c.demand(string(stage), try{build: s.build, stage: stage})
		dump := c.dump()
		for _, second := range []publish.Stage{publish.Private, publish.Public} {
			_, err := c.publish(try{build: s.other, stage: second})
			if err == nil || fault.KindOf(err) != fault.Input {
				t.Errorf("another image, %s, where one is %s: the error is %v", second, stage, err)
			}
			c.demandDump("another image, "+string(second), dump)
		}
	}
}

func (s *suite) altered(t *testing.T) {
	// In a hole: a block that the right image does not have must not stay in what it becomes.
	path := Build(t, Options{Vendor: s.p.Vendor, Version: "20260815-1", Seed: 2, Altered: []int64{1<<20 + 77}})
	c := newScene(t, s.p)
	_, err := c.publish(try{build: path})
	if err == nil || fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), "altered") {
		t.Errorf("the error is %v", err)
	}
	want, _, _ := s.reference(t)
	c.demand("the older version", try{build: s.older})
	c.demand("the right image", try{build: s.build})
	c.demandDump("the right image after the altered one", want)
}

func (s *suite) two(t *testing.T) {
	want, uploads, _ := s.reference(t)
	c := newScene(t, s.p)
	c.demand("the older version", try{build: s.older})
	results := make([]*publish.Result, 2)
	var all sync.WaitGroup
	for i := range results {
		all.Go(func() {
			r, err := c.publish(try{build: s.build})
			if err != nil {
				t.Errorf("one of two: %v", err)
			}
			results[i] = r
		})
	}
	all.Wait()
	c.demandDump("two at once", want)
	for _, r := range results {
		if r != nil && len(r.Uploads) != len(uploads) {
			t.Errorf("one of two returns %v", refs(r.Uploads))
		}
	}
}

func (s *suite) busy(t *testing.T) {
	c := newScene(t, s.p)
	var inside sync.Once
	first, second := make(chan struct{}), make(chan struct{})
	line := &Line{status: func(int) int {
		inside.Do(func() {
			close(first)
			<-second
		})
		return 0
	}}
	done := make(chan error, 1)
	go func() {
		_, err := c.publish(try{build: s.build, line: line})
		done <- err
	}()
	select {
	case <-first:
	case err := <-done:
		t.Fatalf("the first publisher made no request: %v", err)
	}
	_, err := c.publish(try{build: s.build, busy: journal.Stop})
	close(second)
	if err == nil || fault.KindOf(err) != fault.Outside || !strings.Contains(err.Error(), "another publisher") {
		t.Errorf("the second one's error is %v", err)
	}
	if err := <-done; err != nil {
		t.Errorf("the first one: %v", err)
	}
}

func (s *suite) lost(t *testing.T) {
	want, _, _ := s.reference(t)
	c := newScene(t, s.p)
	loser, ok := c.cloud.(Loser)
	if !ok {
		t.Skip("this cloud loses nothing")
	}
	c.demand("the older version", try{build: s.older})
	c.demand("the younger version", try{build: s.build})
	if !loser.Lose(t) || c.dump() == want {
		t.Fatal("the cloud lost nothing")
	}
	if r := c.demand("again", try{build: s.build}); !r.Changed {
		t.Error("it says that it changed nothing")
	}
	c.demandDump("after the loss", want)
}

// alteredThere has an image altered at the cloud between the stages, and after both. No publication may say then that all is well while it is not: it
// puts that right, or it refuses. The journal, which says that the step was done, must not keep it from looking.
func (s *suite) alteredThere(t *testing.T) {
	want, _, _ := s.reference(t)
	for _, stage := range []publish.Stage{publish.Private, publish.Public} {
		for _, journal := range []string{"with its journal", "without its journal"} {
			c := newScene(t, s.p)
			alterer, ok := c.cloud.(Alterer)
			if !ok {
				t.Skip("on this cloud nothing is altered")
			}
			c.demand("the older version", try{build: s.older})
			c.demand("the younger version", try{build: s.build, stage: stage})
			before := c.dump()
			if !alterer.Alter(t) || c.dump() == before {
				t.Fatal("the cloud altered nothing, or its dump does not tell it")
			}
			if journal == "without its journal" {
				c.loseJournal()
			}
			_, err := c.publish(try{build: s.build})
			if err != nil && fault.KindOf(err) != fault.Input {
				t.Errorf("altered when it was %s, %s: the error is %v", stage, journal, err)
			}
			if err == nil && c.dump() != want {
				t.Errorf("altered when it was %s, and published %s: nobody noticed\n%s", stage, journal, difference(want, c.dump()))
			}
		}
	}
}

func (s *suite) throttled(t *testing.T) {
	want, _, _ := s.reference(t)
	c := newScene(t, s.p)
	c.demand("the older version", try{build: s.older})
	refused := 0
	line := &Line{status: func(n int) int {
		switch n % 7 {
		case 1:
			refused++
			return 503
		case 4:
			refused++
			return 429
		}
		return 0
	}}
	c.demand("throttled", try{build: s.build, line: line})
	if refused < 2 {
		t.Errorf("only %d requests were refused", refused)
	}
	c.demandDump("throttled", want)
}

func (s *suite) outage(t *testing.T) {
	want, _, requests := s.reference(t)
	for _, from := range []int{1, requests / 2} {
		c := newScene(t, s.p)
		c.demand("the older version", try{build: s.older})
		_, err := c.publish(try{build: s.build, line: &Line{status: func(n int) int {
			if n >= from {
				return 503
			}
			return 0
		}}})
		if err == nil || fault.KindOf(err) != fault.Outside {
			t.Errorf("an outage from request %d on: the error is %v, of kind %v", from, err, fault.KindOf(err))
		}
		c.demand("after the outage", try{build: s.build})
		c.demandDump("after the outage", want)
	}
}

var errStopped = errors.New("publishtest: stopped by a signal")

func (s *suite) cancelled(t *testing.T) {
	want, _, requests := s.reference(t)
	for _, at := range []int{1, requests / 3, requests / 2, requests - 1} {
		if at < 1 {
			continue
		}
		c := newScene(t, s.p)
		c.demand("the older version", try{build: s.older})
		ctx, cancel := context.WithCancelCause(t.Context())
		var stopped time.Time
		_, err := c.publish(try{build: s.build, ctx: ctx, line: &Line{status: func(n int) int {
			if n == at {
				stopped = time.Now()
				cancel(errStopped)
			}
			return 0
		}}})
		switch {
		case err == nil && stopped.IsZero():
			t.Fatalf("request %d of %d was not made", at, requests)
		case err != nil && !errors.Is(err, errStopped):
			t.Errorf("cancelled at request %d: the error is %v", at, err)
		case time.Since(stopped) > patience/4:
			t.Errorf("cancelled at request %d: it took %s to end", at, time.Since(stopped))
		}
		c.demand("after the signal", try{build: s.build})
		c.demandDump(fmt.Sprintf("cancelled at request %d and resumed", at), want)
	}
}

// cut lets the process die at each request, before it is delivered and after, and resumes with the journal and without.
func (s *suite) cut(t *testing.T) {
	want, uploads, requests := s.reference(t)
	if requests < 2 {
		t.Fatalf("a publication is only %d requests", requests)
	}
	every := max(1, s.p.EveryNth)
	for at := 1; at <= requests; at += every {
		for variant := range 4 {
			c := cut{at: at, delivered: variant&1 != 0, lost: variant&2 != 0}
			if raceDetector && at/every%4 != variant {
				continue // it sees one way at each request, in turn; without it, all are tried
			}
			t.Run(c.String(), func(t *testing.T) { s.cutOnce(t, c, want, len(uploads)) })
			if t.Failed() {
				return // the others fail, too
			}
		}
	}
}

// cut is the death of a process.
type cut struct {
	at        int  // at which request, from 1
	delivered bool // the request reached the cloud
	lost      bool // the journal is lost
}

func (c cut) String() string {
	text := fmt.Sprintf("request %d", c.at)
	if c.delivered {
		text += ", delivered"
	}
	if c.lost {
		text += ", journal lost"
	}
	return text
}

func (s *suite) cutOnce(t *testing.T, at cut, want string, uploads int) {
	c := newScene(t, s.p)
	c.demand("the older version", try{build: s.older})
	line := &Line{cutAt: at.at, delivered: at.delivered}
	_, err := c.publish(try{build: s.build, line: line})
	switch reached := line.Requests() >= at.at; {
	case !reached && err != nil:
		t.Fatalf("it failed before it was cut: %v", err)
	case !reached:
		return // publications differ in the number of requests where they poll
	case err == nil:
		t.Error("the publication succeeded all the same")
	}
	request := line.names[at.at-1]
	if at.lost {
		c.loseJournal()
	}
	r := c.demand("resumed after "+request, try{build: s.build})
	if len(r.Uploads) != uploads {
		t.Errorf("cut at %s and resumed: %v", request, refs(r.Uploads))
	}
	c.demandDump("cut at "+request+" and resumed", want)
	if again := c.demand("once more after "+request, try{build: s.build}); again.Changed {
		t.Errorf("cut at %s and resumed: once more changes something", request)
	}
}

// goesOn cuts an upload in its middle and demands that the resumed one sends no more than what was not acknowledged, and that what comes of it is the
// same. Without the journal it may send all.
func (s *suite) goesOn(t *testing.T) {
	build := Build(t, Options{Vendor: s.p.Vendor, Version: "20260815-1", Seed: 2, Size: s.p.Piece * int64(3*s.p.AtOnce), Every: s.p.Piece})
	c := newScene(t, s.p)
	c.demand("uncut", try{build: build})
	want, whole := c.dump(), c.pieces()
	if whole < 3*s.p.AtOnce {
		t.Fatalf("the image is only %d pieces", whole)
	}
	for _, lost := range []bool{false, true} {
		c := newScene(t, s.p)
		_, err := c.publish(try{build: build, line: &Line{cutWhen: func() bool { return c.pieces() >= whole/2 }}})
		if err == nil {
			t.Fatal("the upload was not cut")
		}
		most := whole + s.p.AtOnce // those that were on their way have come, but for the answer
		if lost {
			c.loseJournal()
			most += whole
		}
		c.demand("resumed", try{build: build})
		c.demandDump(fmt.Sprintf("cut in the middle and resumed, journal lost %v", lost), want)
		if goesOn := strings.Contains(c.said.String(), "an upload that was cut goes on"); goesOn == lost {
			t.Errorf("journal lost %v: the log tells that the upload goes on: %v", lost, goesOn)
		}
		if sent := c.pieces(); sent > most {
			t.Errorf("journal lost %v: of %d pieces, half of which had come, %d were sent", lost, whole, sent)
		}
	}
}

package aws

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/holding"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/aws/awstest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

// items are those of the account, by kind and version.
func items(t *testing.T, p *Publisher) map[string]holding.Item {
	t.Helper()
	list, err := p.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]holding.Item{}
	for _, it := range list {
		out[string(it.Kind)+" "+it.Version+" "+it.Region] = it
	}
	return out
}

// TestRetire follows an image from its publication to the end of its snapshot.
func TestRetire(t *testing.T) {
	signIn(t)
	at := time.Date(2026, 8, 15, 12, 0, 30, 0, time.UTC)
	a := newAccount(t, awstest.Settings{Regions: twoRegions, Now: func() time.Time { return at }})
	p := a.open(t, newJournal(t), nil)
	p.now = func() time.Time { return at }
	show := func(version string, seed byte) {
		if _, err := p.Publish(t.Context(), publishtest.Image(t, publishtest.Options{Vendor: "ec2", Version: version, Seed: seed}), publish.Public); err != nil {
			t.Fatal(err)
		}
	}
	show("20260814-1", 1)
	first := items(t, p)["image 20260814-1 eu-west-1"]
	if first.State != holding.Current || !first.Public || !first.Ours || !first.Created.Equal(at) || first.Family != "trixie ec2 amd64 daily" || len(first.RefersTo) != 1 || len(first.ReferencedBy) != 2 {
		t.Errorf("a published image is %+v", first)
	}
	at = at.Add(24 * time.Hour)
	show("20260815-1", 2)
	old := items(t, p)["image 20260814-1 eu-west-1"]
	if old.State != holding.Deprecated || old.Since.Sub(at) > 3*time.Minute || len(old.ReferencedBy) != 0 {
		t.Errorf("a predecessor is %+v", old)
	}
	newest := items(t, p)["image 20260815-1 eu-west-1"]
	if err := p.Delete(t.Context(), newest); err == nil || fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), "is what parameter /debian/daily/trixie/latest/amd64 names and stays") {
		t.Errorf("what latest leads to: %v", err)
	}
	at = at.Add(14 * 24 * time.Hour)
	for range 2 { // the second time nothing is to be done
		if err := p.Hide(t.Context(), old); err != nil {
			t.Fatal(err)
		}
	}
	hidden := items(t, p)["image 20260814-1 eu-west-1"]
	if hidden.State != holding.Hidden || hidden.Public || !hidden.Since.Equal(at) {
		t.Errorf("hidden it is %+v", hidden)
	}
	if err := p.Deprecate(t.Context(), old); err == nil || !strings.Contains(err.Error(), "is hidden by now where deprecated was expected") {
		t.Errorf("an item of an old list: %v", err)
	}
	snapshot := items(t, p)["snapshot 20260814-1 eu-west-1"]
	if snapshot.ID != hidden.RefersTo[0] || !snapshot.Ours || snapshot.Family != "" || snapshot.Created.IsZero() {
		t.Errorf("its snapshot is %+v", snapshot)
	}
	if err := p.Delete(t.Context(), snapshot); err == nil || fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), "is used by an image and stays") {
		t.Errorf("a snapshot in use: %v", err)
	}
	for range 2 {
		for _, it := range []holding.Item{hidden, snapshot} {
			if err := p.Delete(t.Context(), it); err != nil {
				t.Fatal(err)
			}
		}
	}
	left := items(t, p)
	if len(left) != 6 || left["image 20260814-1 eu-west-1"].ID != "" || left["image 20260814-1 us-east-1"].ID == "" {
		t.Errorf("left are %v", left)
	}
	for name := range a.Parameters("eu-west-1") {
		if strings.Contains(name, "20260814-1") {
			t.Errorf("parameter %s leads nowhere", name)
		}
	}
}

// dying is the way to AWS of a process that dies after a number of requests: the last one's answer is lost.
type dying struct {
	mu   sync.Mutex
	left int
}

func (d *dying) RoundTrip(r *http.Request) (*http.Response, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.left <= 0 {
		return nil, errors.New("the process is dead")
	}
	d.left--
	response, err := http.DefaultTransport.RoundTrip(r)
	if err == nil && d.left == 0 {
		response.Body.Close()
		return nil, errors.New("the process is dead")
	}
	return response, err
}

// next does what pruning does with an image in its state.
func next(t *testing.T, p *Publisher, it holding.Item) error {
	switch it.State {
	case holding.Current:
		return p.Deprecate(t.Context(), it)
	case holding.Deprecated:
		return p.Hide(t.Context(), it)
	}
	return p.Delete(t.Context(), it)
}

// TestRetirementThatIsCut has pruning die after each request, and begin again with a new list, until the image is gone. Whatever the list says is hidden, is.
func TestRetirementThatIsCut(t *testing.T) {
	signIn(t)
	for requests := 1; requests < 12; requests++ {
		at := time.Date(2026, 8, 15, 12, 0, 30, 0, time.UTC)
		a := newAccount(t, awstest.Settings{Now: func() time.Time { return at }})
		whole := a.open(t, newJournal(t), nil)
		whole.now = func() time.Time { return at }
		for n, version := range []string{"20260814-1", "20260815-1"} {
			if _, err := whole.Publish(t.Context(), publishtest.Image(t, publishtest.Options{Vendor: "ec2", Version: version, Seed: byte(n)}), publish.Public); err != nil {
				t.Fatal(err)
			}
		}
		find := func() holding.Item {
			it := items(t, whole)["image 20260814-1 us-east-1"]
			if i := a.Images("us-east-1")[0]; it.State == holding.Hidden && (i.Public || a.Snapshots("us-east-1")[0].Public) {
				t.Fatalf("cut after request %d: the image is listed as hidden, and it or its snapshot is public", requests)
			}
			return it
		}
		for _, state := range []holding.State{holding.Current, holding.Deprecated, holding.Hidden} {
			if find().State != state { // the second version deprecated it
				continue
			}
			cut := a.open(t, nil, &dying{left: requests})
			cut.now = whole.now
			died := next(t, cut, find()) != nil
			if it := find(); it.ID != "" && it.State == state {
				if !died {
					t.Fatalf("what should be done to an image that is %s was not, and nobody says so", state)
				}
				if err := next(t, whole, it); err != nil {
					t.Fatalf("cut after request %d and begun again: %v", requests, err)
				}
			}
		}
		if it := find(); it.ID != "" || len(a.Parameters("us-east-1")) != 4 {
			t.Errorf("cut after request %d: left are %+v and %d parameters", requests, it, len(a.Parameters("us-east-1")))
		}
	}
}

// TestHiddenByHalfComesBack publishes an image again of which hiding was cut: all of it is public then.
func TestHiddenByHalfComesBack(t *testing.T) {
	signIn(t)
	a, j := newAccount(t, awstest.Settings{}), newJournal(t)
	p, img := a.open(t, j, nil), publishtest.Image(t, publishtest.Options{Vendor: "ec2"})
	for range 2 {
		if _, err := p.Publish(t.Context(), img, publish.Public); err != nil {
			t.Fatal(err)
		}
		s := a.Snapshots("us-east-1")[0]
		if !s.Public {
			t.Fatal("the snapshot is not public")
		}
		a.ChangeSnapshot("us-east-1", s.ID, func(s *awstest.Snapshot) { s.Public = false })
	}
}

// TestListTellsOfOthers holds that nothing is touched that debcloud did not make.
func TestListTellsOfOthers(t *testing.T) {
	signIn(t)
	a := newAccount(t, awstest.Settings{})
	theirs := a.AddImage("us-east-1", awstest.Image{Name: "handmade", Tags: map[string]string{}, Created: time.Now(), RootDevice: "/dev/xvda"})
	p := a.open(t, nil, nil)
	list, err := p.List(t.Context())
	if err != nil || len(list) != 1 || list[0].Ours || fmt.Sprint(list[0].RefersTo) != "["+theirs.SnapshotID+"]" {
		t.Fatalf("%+v: %v", list, err)
	}
	snapshot := holding.Item{ID: theirs.SnapshotID, Region: "us-east-1", Kind: holding.Snapshot}
	for what, err := range map[string]error{
		"deprecate": p.Deprecate(t.Context(), list[0]), "hide": p.Hide(t.Context(), list[0]), "delete": p.Delete(t.Context(), list[0]), "delete snapshot": p.Delete(t.Context(), snapshot),
	} {
		if err == nil || fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), "is not ours and stays as it is") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestListNeedsAllRegions: half of the truth would let pruning delete what is referred to.
func TestListNeedsAllRegions(t *testing.T) {
	signIn(t)
	a := newAccount(t, awstest.Settings{Regions: twoRegions})
	a.Before(func(c awstest.Call) *awstest.Failure {
		if c.Region == "eu-west-1" {
			return &awstest.Failure{Status: 403, Code: "UnauthorizedOperation", Message: "no"}
		}
		return nil
	})
	if _, err := a.open(t, nil, nil).List(t.Context()); err == nil || fault.KindOf(err) != fault.Input {
		t.Errorf("the error is %v", err)
	}
}

// TestOrphans are found: what a publication left that nobody resumed.
func TestOrphans(t *testing.T) {
	signIn(t)
	a := newAccount(t, awstest.Settings{})
	a.Before(func(c awstest.Call) *awstest.Failure {
		if c.Action == "RegisterImage" {
			return &awstest.Failure{Status: 403, Code: "UnauthorizedOperation", Message: "no"}
		}
		return nil
	})
	if _, err := a.publish(t, publishtest.Options{}, publish.Private); err == nil {
		t.Fatal("it was published")
	}
	a.Before(nil)
	p := a.open(t, nil, nil)
	orphan := items(t, p)["snapshot 20260814-1 us-east-1"]
	if !orphan.Ours || orphan.Kind != holding.Snapshot {
		t.Fatalf("%+v", orphan)
	}
	if err := p.Delete(t.Context(), orphan); err != nil || len(a.Snapshots("us-east-1")) != 0 {
		t.Errorf("it is still there: %v", err)
	}
}

package alibaba

import (
	"strings"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/holding"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/alibaba/alibabatest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

// items are those of the account, by kind, version and region.
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
	a := newAccount(t, alibabatest.Settings{Regions: twoRegions})
	p := a.open(t, newJournal(t), nil)
	show := func(version string) {
		t.Helper()
		if _, err := p.Publish(t.Context(), publishtest.Image(t, publishtest.Options{Version: version}), publish.Public); err != nil {
			t.Fatal(err)
		}
	}
	show("20260814-1")
	first := items(t, p)["image 20260814-1 "+frankfurt]
	if first.State != holding.Current || !first.Public || !first.Ours || first.Created.IsZero() || first.Family != "trixie genericcloud amd64 daily" || len(first.RefersTo) != 1 {
		t.Errorf("a published image is %+v", first)
	}
	show("20260815-1")
	old := items(t, p)["image 20260814-1 "+frankfurt]
	if old.State != holding.Deprecated || old.Since.IsZero() || !old.Public {
		t.Errorf("a predecessor is %+v", old)
	}
	demandFault(t, p.Hide(t.Context(), first), fault.Outside, "is deprecated by now where current was expected")
	twice := func(what string, do func() error) {
		t.Helper()
		for range 2 { // the second time nothing is to be done
			if err := do(); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		}
	}
	twice("hide", func() error { return p.Hide(t.Context(), old) })
	hidden := items(t, p)["image 20260814-1 "+frankfurt]
	if hidden.State != holding.Hidden || hidden.Since.IsZero() || hidden.Public {
		t.Errorf("a hidden image is %+v", hidden)
	}
	snapshot := items(t, p)["snapshot 20260814-1 "+frankfurt]
	if !snapshot.Ours || snapshot.ID != hidden.RefersTo[0] || snapshot.Family != "" {
		t.Errorf("its snapshot is %+v", snapshot)
	}
	demandFault(t, p.Delete(t.Context(), snapshot), fault.Input, "is used by an image or a disk and stays")
	a.ChangeImage(frankfurt, hidden.ID, func(i *alibabatest.Image) { i.Used = true })
	if by := items(t, p)["image 20260814-1 "+frankfurt].ReferencedBy; len(by) != 1 {
		t.Errorf("an image that a machine uses is referenced by %q", by)
	}
	demandFault(t, p.Delete(t.Context(), hidden), fault.Input, "is used and stays")
	a.ChangeImage(frankfurt, hidden.ID, func(i *alibabatest.Image) { i.Used = false })
	if by := items(t, p)["image 20260814-1 "+frankfurt].ReferencedBy; len(by) != 0 {
		t.Errorf("an image that nothing uses is referenced by %q", by)
	}
	twice("delete the image", func() error { return p.Delete(t.Context(), hidden) })
	twice("delete the snapshot", func() error { return p.Delete(t.Context(), snapshot) })
	if dump := a.Dump(t); strings.Contains(dump, frankfurt+" image debian-13-genericcloud-amd64-daily-20260814-1") || strings.Count(dump, frankfurt+" snapshot") != 1 {
		t.Errorf("the cloud has\n%s", dump)
	}
	// What was hidden in the other region comes back when it is published again, deprecated as it is.
	other := items(t, p)["image 20260814-1 "+singapore]
	twice("hide", func() error { return p.Hide(t.Context(), other) })
	show("20260814-1")
	back := items(t, p)["image 20260814-1 "+singapore]
	if back.State != holding.Deprecated || !back.Public {
		t.Errorf("what was published again is %+v", back)
	}
}

// TestOrphans: what unfinished publications left is listed and can be deleted, and what is not ours is left alone.
func TestOrphans(t *testing.T) {
	a := newAccount(t, alibabatest.Settings{Regions: twoRegions})
	p := a.open(t, newJournal(t), nil)
	ours := map[string]string{tagOwner: owner, tagName: name}
	a.AddImage(singapore, alibabatest.Image{Name: name, Status: "CreateFailed", Tags: ours})
	source := map[string]string{tagOwner: owner, tagName: name, tagSource: "yes"}
	a.AddImage(frankfurt, alibabatest.Image{Name: name + "-source", Status: "Available", Tags: source})
	theirs := a.AddImage(singapore, alibabatest.Image{Name: "someone-elses", Status: "Available"})
	a.PutObject("debcloud/"+name+"-0123456789abcdef.qcow2", []byte("x"))
	a.PutObject("someone/elses.qcow2", []byte("x"))
	a.Before(func(call string) *alibabatest.Failure {
		if strings.HasPrefix(call, "oss:PutObject PUT") {
			return &alibabatest.Failure{Status: 403, Code: "AccessDenied", Message: "no"}
		}
		return nil
	})
	a.ChangeImage(singapore, theirs, func(i *alibabatest.Image) { i.Snapshot = "s-theirs" })
	if _, err := p.Publish(t.Context(), publishtest.Image(t, publishtest.Options{Version: "20260816-1"}), publish.Private); err == nil || len(a.Uploads()) != 1 {
		t.Fatalf("no upload is left: %v", err)
	}
	list, err := p.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	deleted := 0
	for _, it := range list {
		if !it.Ours {
			if it.ID != theirs || len(it.RefersTo) != 1 {
				t.Errorf("not ours: %+v", it)
			}
			demandFault(t, p.Delete(t.Context(), it), fault.Input, "is not ours and stays as it is")
			continue
		}
		if it.Kind == holding.Image || it.Created.IsZero() || it.Family != "" {
			t.Errorf("an orphan is %+v", it)
		}
		for range 2 {
			if err := p.Delete(t.Context(), it); err != nil {
				t.Error(err)
			}
		}
		deleted++
	}
	if dump := a.Dump(t); deleted != 4 || len(a.Uploads()) != 0 || strings.Count(dump, "\n") != 2 || !strings.Contains(dump, "someone-elses") || !strings.Contains(dump, "object someone/elses.qcow2") {
		t.Errorf("%d of 4 orphans were deleted, and there is\n%s", deleted, dump)
	}
	demandFault(t, p.Delete(t.Context(), holding.Item{ID: "oss://debian-images/other", Name: "other", Kind: holding.Object}), fault.Input, "is not ours")
	a.Change(func(s *alibabatest.Settings) { s.Denied = []string{"ecs:DescribeSnapshots"} })
	_, err = p.List(t.Context())
	demandFault(t, err, fault.Input, "DescribeSnapshots in")
}

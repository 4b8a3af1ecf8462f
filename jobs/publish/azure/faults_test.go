package azure

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/holding"
	"salsa.debian.org/cloud-team/debcloud/internal/target"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/azure/azuretest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

const (
	definition = "debian-13-azure-amd64-daily"
	number     = "0.20260814.1"
)

func openJournal(t testing.TB) *journal.Journal {
	t.Helper()
	j, err := journal.Open(t.Context(), filepath.Join(t.TempDir(), "journal.db"), journal.Wait)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func testImage(t testing.TB, o publishtest.Options) *publish.Image {
	t.Helper()
	o.Vendor = "azure"
	return publishtest.Image(t, o)
}

func (f *fake) publishOnce(t *testing.T, img *publish.Image, stage publish.Stage) *publish.Publication {
	t.Helper()
	done, err := f.publisher(t, &publishtest.Line{}, openJournal(t)).Publish(t.Context(), img, stage)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// TestWhatGoesWrong tells, row by row, what a person reads.
func TestWhatGoesWrong(t *testing.T) {
	for _, row := range []struct {
		summary string
		spoil   func(t *testing.T, f *fake)
		kind    fault.Kind
		want    string // in the error
		hint    string
	}{
		{"the id token has expired", func(_ *testing.T, f *fake) { f.Expired = true },
			fault.Input, "Azure refuses the credentials", "an id token lives no longer than its job"},
		{"no credentials at all", func(t *testing.T, _ *fake) { t.Setenv("AZURE_ID_TOKEN", "") },
			fault.Input, "none of AZURE_ID_TOKEN", "declare an id token named AZURE_ID_TOKEN"},
		{"another subscription than the credentials'", func(_ *testing.T, f *fake) { f.target.Account = "12345678-0000-0000-0000-000000000000" },
			fault.Input, "the credentials know no subscription 12345678", "correct the target's account"},
		{"a right is missing", func(_ *testing.T, f *fake) {
			f.Permissions, f.OnSubscription = slices.DeleteFunc(slices.Clone(needed), func(a string) bool { return strings.HasSuffix(a, "versions/write") }), nil
		}, fault.Input, "may not do this: 403 AuthorizationFailed", "whoami"},
		{"pages do not arrive as they were sent", func(_ *testing.T, f *fake) { f.Damage = 999 },
			fault.Outside, "do not arrive as they were sent: 400 Crc64Mismatch", ""},
		{"the quota is used up", func(t *testing.T, f *fake) {
			f.publishOnce(t, testImage(t, publishtest.Options{Version: "20260101-1"}), publish.Private)
			f.Quota = 1
		}, fault.Outside, "a quota of the subscription is used up: 409 QuotaExceeded", "pruned"},
		{"no such gallery", func(_ *testing.T, f *fake) { f.target.Settings["gallery"] = "other" },
			fault.Input, "look at gallery other in resource group cloud-images: it does not exist", ""},
		{"the version is taken by something that is not ours", func(t *testing.T, f *fake) {
			f.publishOnce(t, testImage(t, publishtest.Options{}), publish.Private)
			f.SetTag(definition, number, tagDigest, "")
		}, fault.Input, "version " + number + " of " + definition + " in gallery debian_images is not of debcloud", "delete it"},
		{"another image is published as that version", func(t *testing.T, f *fake) {
			f.publishOnce(t, testImage(t, publishtest.Options{Seed: 9}), publish.Private)
		}, fault.Input, "is published already, as version " + number, "another version"},
		{"a definition for other machines", func(_ *testing.T, f *fake) {
			f.Define(definition, map[string]any{"osType": "Linux", "osState": "Specialized", "architecture": "x64", "hyperVGeneration": "V1"})
		}, fault.Input, "image definition " + definition + " has Hyper-V generation V1 instead of V2, state of the system Specialized instead of Generalized, no NVMe", "cannot be changed"},
	} {
		t.Run(row.summary, func(t *testing.T) {
			f := newFake(t)
			row.spoil(t, f)
			p := f.publisher(t, &publishtest.Line{}, openJournal(t))
			_, err := p.Publish(t.Context(), testImage(t, publishtest.Options{}), publish.Public)
			if err == nil || !strings.Contains(err.Error(), row.want) || fault.KindOf(err) != row.kind || !strings.Contains(fault.HintOf(err), row.hint) {
				t.Errorf("the error is %v, of kind %d, hint %q", err, fault.KindOf(err), fault.HintOf(err))
			}
			if err != nil && (strings.Contains(err.Error(), azuretest.Assertion) || strings.Contains(err.Error(), "sig=") || strings.Contains(err.Error(), "\n")) {
				t.Errorf("the error has a secret or several lines: %v", err)
			}
		})
	}
}

// TestDamagedPages sends pages again that did not arrive as they were sent.
func TestDamagedPages(t *testing.T) {
	f := newFake(t)
	f.Damage = 2
	f.publishOnce(t, testImage(t, publishtest.Options{}), publish.Private)
	if f.Damage != 0 {
		t.Errorf("%d writes were not damaged", f.Damage)
	}
}

// TestOneRegionFails demands that the others are published all the same, and that the next run completes the one.
func TestOneRegionFails(t *testing.T) {
	f := newFake(t)
	f.target.Regions = []string{"West Europe", "eastus", "southeastasia", "atlantis"}
	f.Broken = []string{"eastus"}
	img := testImage(t, publishtest.Options{})
	done, err := f.publisher(t, &publishtest.Line{}, openJournal(t)).Publish(t.Context(), img, publish.Public)
	if done == nil || len(done.Uploads) != 2 || fault.KindOf(err) != fault.Outside || !strings.Contains(err.Error(), "2 of 4 regions failed") || !strings.Contains(err.Error(), "region eastus: replication is Failed") {
		t.Fatalf("published %+v, error %v", done, err)
	}
	f.Broken = nil
	done, err = f.publisher(t, &publishtest.Line{}, openJournal(t)).Publish(t.Context(), img, publish.Public)
	if done == nil || len(done.Uploads) != 3 || fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), "region atlantis: the subscription does not have it") {
		t.Errorf("the second time: %+v, error %v", done, err)
	}
	if left := f.Disks(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestEveryRegion(t *testing.T) {
	f := newFake(t)
	f.target.Regions = []string{"*"}
	if done := f.publishOnce(t, testImage(t, publishtest.Options{}), publish.Private); len(done.Uploads) != len(f.Locations) {
		t.Errorf("%d uploads", len(done.Uploads))
	}
}

// TestRegionsThatCannotBeListed: all names are taken as known then, and where Azure does not know one, the error says how that comes.
func TestRegionsThatCannotBeListed(t *testing.T) {
	for _, row := range []struct {
		summary string
		regions []string
		want    string // in the error, "" for none
		hint    string
	}{
		{"all are there", []string{"westeurope", "eastus"}, "", ""},
		{"one vanished", []string{"westeurope", "atlantis"}, "The target region 'atlantis' is not available", "take it out; it would have been found and left out if the credentials had " + listRegions},
		{"all that there are", []string{"*"}, "cannot be listed: the credentials lack " + listRegions, "on the subscription"},
	} {
		t.Run(row.summary, func(t *testing.T) {
			f := newFake(t)
			f.Permissions, f.OnSubscription = needed, nil
			f.target.Regions = row.regions
			_, err := f.publisher(t, &publishtest.Line{}, openJournal(t)).Publish(t.Context(), testImage(t, publishtest.Options{}), publish.Private)
			if row.want == "" && err != nil || row.want != "" && (fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), row.want) || !strings.Contains(fault.HintOf(err), row.hint)) {
				t.Errorf("the error is %v, hint %q", err, fault.HintOf(err))
			}
		})
	}
}

func TestDeletionsThatConflict(t *testing.T) {
	f := newFake(t)
	f.Conflicts = 3
	f.publishOnce(t, testImage(t, publishtest.Options{}), publish.Public)
	if left := f.Disks(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestWhoami(t *testing.T) {
	f := newFake(t)
	for _, row := range []struct {
		summary                     string
		permissions, onSubscription []string
		want                        []string
	}{
		{"two are missing", []string{"Microsoft.Compute/galleries/*", "Microsoft.Compute/disks/*/action", "Microsoft.Compute/disks/read", "Microsoft.Authorization/*"}, []string{listRegions},
			[]string{"Microsoft.Compute/disks/write", "Microsoft.Compute/disks/delete"}},
		{"regions on the group only", append(slices.Clone(needed), listRegions), nil, []string{listRegions + " on the subscription"}},
		{"nothing can be asked", nil, nil, []string{listRegions + " on the subscription", "Microsoft.Authorization/permissions/read (without it the others cannot be asked)"}},
	} {
		f.Permissions, f.OnSubscription = row.permissions, row.onSubscription
		who, err := f.publisher(t, &publishtest.Line{}, nil).Whoami(t.Context())
		if err != nil || who.Account != azuretest.Subscription || !strings.Contains(who.Principal, azuretest.Client) || !who.Until.Equal(time.Unix(4102444800, 0)) || !slices.Equal(who.Missing, row.want) {
			t.Errorf("%s: %+v, %v", row.summary, who, err)
		}
	}
}

// roles are the actions of the roles in README.md, in its order.
func roles(t *testing.T) (all [][]string) {
	t.Helper()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range strings.Split(string(text), "--role-definition '")[1:] {
		document, _, _ := strings.Cut(part, "'")
		var role struct{ Actions []string }
		if err := json.Unmarshal([]byte(document), &role); err != nil {
			t.Fatalf("%v in %s", err, document)
		}
		all = append(all, role.Actions)
	}
	return all
}

// TestRolesOfREADME publishes and prunes with the rights that README.md gives, and no others; a region that vanished is reported and left out.
func TestRolesOfREADME(t *testing.T) {
	given := roles(t)
	if len(given) != 2 || !slices.Equal(slices.Sorted(slices.Values(given[0])), slices.Sorted(slices.Values(needed))) || !slices.Equal(given[1], []string{listRegions}) {
		t.Fatalf("README.md gives %q, and needed are %q and %s", given, needed, listRegions)
	}
	f := newFake(t)
	f.Permissions, f.OnSubscription = given[0], given[1]
	f.target.Regions = append(f.target.Regions, "atlantis")
	if who, err := f.publisher(t, &publishtest.Line{}, nil).Whoami(t.Context()); err != nil || len(who.Missing) != 0 {
		t.Errorf("whoami: %+v, %v", who, err)
	}
	done, err := f.publisher(t, &publishtest.Line{}, openJournal(t)).Publish(t.Context(), testImage(t, publishtest.Options{}), publish.Public)
	if done == nil || len(done.Uploads) != 2 || fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), "1 of 3 regions failed: region atlantis: the subscription does not have it") {
		t.Fatalf("published %+v, error %v", done, err)
	}
	retire(t, f.publisher(t, &publishtest.Line{}, nil))
	f.target.Regions = []string{"*"}
	if done := f.publishOnce(t, testImage(t, publishtest.Options{}), publish.Private); len(done.Uploads) != len(f.Locations) {
		t.Errorf("%d uploads", len(done.Uploads))
	}
}

func TestClientSecret(t *testing.T) {
	f := newFake(t)
	t.Setenv("AZURE_ID_TOKEN", "")
	t.Setenv("AZURE_CLIENT_SECRET", azuretest.ClientSecret)
	if who, err := f.publisher(t, &publishtest.Line{}, nil).Whoami(t.Context()); err != nil || !who.Until.IsZero() {
		t.Errorf("%+v, %v", who, err)
	}
}

// retire takes the only version, which is public, through all that pruning does, each step twice.
func retire(t *testing.T, p *Publisher) {
	t.Helper()
	one := func() holding.Item {
		t.Helper()
		all, err := p.List(t.Context())
		if err != nil || len(all) > 1 {
			t.Fatalf("listed %+v, %v", all, err)
		}
		return append(all, holding.Item{})[0]
	}
	it := one()
	if it.Kind != holding.Image || it.State != holding.Current || !it.Public || it.Created.IsZero() || it.Family != "trixie azure amd64 daily" || it.Version != "20260814-1" {
		t.Fatalf("the published version is %+v", it)
	}
	for _, step := range []struct {
		do    func(holding.Item) error
		state holding.State
	}{
		{func(it holding.Item) error { return p.Deprecate(t.Context(), it) }, holding.Deprecated},
		{func(it holding.Item) error { return p.Hide(t.Context(), it) }, holding.Hidden},
	} {
		before := it
		for range 2 {
			if err := step.do(before); err != nil {
				t.Fatalf("%s: %v", step.state, err)
			}
		}
		if it = one(); it.State != step.state || it.Since.IsZero() {
			t.Fatalf("the version should be %s, it is %+v", step.state, it)
		}
		if err := p.Delete(t.Context(), before); fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), "by now") {
			t.Errorf("deleting a version that is in another state by now: %v", err)
		}
	}
	for range 2 {
		if err := p.Delete(t.Context(), it); err != nil {
			t.Fatal(err)
		}
	}
	for _, do := range []func(context.Context, holding.Item) error{p.Deprecate, p.Hide} {
		if err := do(t.Context(), it); err != nil {
			t.Errorf("retiring a version that is gone: %v", err)
		}
	}
	if it := one(); it.ID != "" {
		t.Errorf("a deleted version is still there: %+v", it)
	}
}

// TestOrphanDisk lists and deletes the disk of a publication that was never taken up again.
func TestOrphanDisk(t *testing.T) {
	f := newFake(t)
	f.Permissions, f.OnSubscription = slices.DeleteFunc(slices.Clone(needed), func(a string) bool { return strings.HasSuffix(a, "versions/write") }), nil
	p := f.publisher(t, &publishtest.Line{}, openJournal(t))
	if _, err := p.Publish(t.Context(), testImage(t, publishtest.Options{}), publish.Private); err == nil {
		t.Fatal("published without the right to")
	}
	all, err := p.List(t.Context())
	if err != nil || len(all) != 1 || all[0].Kind != holding.Disk || !all[0].Ours || all[0].Created.IsZero() {
		t.Fatalf("listed %+v, %v", all, err)
	}
	for range 2 {
		if err := p.Delete(t.Context(), all[0]); err != nil {
			t.Fatal(err)
		}
	}
	if left := f.Disks(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestSettings(t *testing.T) {
	whole := func() target.Target {
		return target.Target{Name: "x", Provider: "azure", Account: "s", Regions: []string{"eastus"}, Settings: map[string]string{"resource-group": "g", "gallery": "images"}}
	}
	for _, row := range []struct {
		change func(*target.Target)
		want   string
	}{
		{func(t *target.Target) { t.Account = "" }, "names no account"},
		{func(t *target.Target) { t.Regions = nil }, "names no regions"},
		{func(t *target.Target) { t.Settings["gallery"] = "debian-images" }, "names of galleries have no hyphens"},
		{func(t *target.Target) { t.Settings["client-secret"] = "x" }, `the setting "client-secret", which provider azure does not know`},
		{func(t *target.Target) { t.Partition = "AzureMoon" }, `the partition "AzureMoon"`},
		{func(t *target.Target) { t.Settings["endpoint"] = "http://127.0.0.1:1" }, "which is no https address"},
	} {
		to := whole()
		row.change(&to)
		p, err := New(to, nil, nil)
		if err == nil {
			_, err = p.Whoami(t.Context())
		}
		if fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v", row.want, err)
		}
	}
}

func TestMatches(t *testing.T) {
	for _, row := range []struct {
		pattern string
		want    bool
	}{
		{"*", true}, {"Microsoft.Compute/*", true}, {"Microsoft.Compute/*/read", true}, {"microsoft.compute/DISKS/read", true},
		{"Microsoft.Compute/disks/*/read", false}, {"*/write", false}, {"Microsoft.Compute/disks", false}, {"", false},
	} {
		if got := matchesAny([]string{row.pattern}, "Microsoft.Compute/disks/read"); got != row.want {
			t.Errorf("%q: %v", row.pattern, got)
		}
	}
}

// before calls do once, before the first request of a method to a path with that ending is delivered.
type before struct {
	http.RoundTripper
	method, ending string
	do             func()
	done           sync.Once
}

func (b *before) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == b.method && strings.HasSuffix(r.URL.Path, b.ending) {
		b.done.Do(b.do)
	}
	return b.RoundTripper.RoundTrip(r)
}

// through returns a publisher whose requests go through b.
func (f *fake) through(t *testing.T, b *before, j *journal.Journal) *Publisher {
	t.Helper()
	b.RoundTripper = f.Transport()
	p, err := New(f.target, j, b)
	if err != nil {
		t.Fatal(err)
	}
	p.patience = hasty
	return p
}

// TestVersionThatVanishes: what someone deleted between two requests is not told as published, and is no error where it was to be retired.
func TestVersionThatVanishes(t *testing.T) {
	f := newFake(t)
	img := testImage(t, publishtest.Options{})
	drop := func() { f.Drop(definition, number) }
	for _, row := range []struct {
		summary string
		do      func(*Publisher) error
	}{
		{"when it is made public", func(p *Publisher) error {
			done, err := p.Publish(t.Context(), img, publish.Public)
			if done != nil {
				t.Errorf("it is told as published: %+v", done)
			}
			return err
		}},
		{"when it is copied to a region more", func(p *Publisher) error {
			p.target.Regions = append(slices.Clone(f.target.Regions), "southeastasia")
			_, err := p.Publish(t.Context(), img, publish.Private)
			return err
		}},
	} {
		f.publishOnce(t, img, publish.Private)
		err := row.do(f.through(t, &before{method: "PUT", ending: "/versions/" + number, do: drop}, openJournal(t)))
		if fault.KindOf(err) != fault.Outside || !strings.Contains(err.Error(), "version "+number+" of "+definition+": it was there and is gone") || !strings.Contains(fault.HintOf(err), "run the same command again") {
			t.Errorf("%s: the error is %v, of kind %v, hint %q", row.summary, err, fault.KindOf(err), fault.HintOf(err))
		}
	}
	for _, name := range []string{"deprecate", "hide"} {
		f.publishOnce(t, img, publish.Public)
		p := f.through(t, &before{method: "PUT", ending: "/versions/" + number, do: drop}, nil)
		all, err := p.List(t.Context())
		if err != nil || len(all) != 1 {
			t.Fatalf("%+v, %v", all, err)
		}
		do := map[string]func(context.Context, holding.Item) error{"deprecate": p.Deprecate, "hide": p.Hide}[name]
		if err := do(t.Context(), all[0]); err != nil || len(f.Versions()) != 0 {
			t.Errorf("%s: %v, left %+v", name, err, f.Versions())
		}
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
		img := testImage(t, publishtest.Options{})
		f.publishOnce(t, img, publish.Public)
		if row.successor {
			f.publishOnce(t, testImage(t, publishtest.Options{Version: "20260815-1", Seed: 2}), publish.Public)
		}
		p := f.publisher(t, &publishtest.Line{}, openJournal(t))
		find := func() holding.Item {
			t.Helper()
			all, err := p.List(t.Context())
			at := slices.IndexFunc(all, func(it holding.Item) bool { return it.Version == "20260814-1" })
			if err != nil || at < 0 {
				t.Fatalf("%s: %+v, %v", row.summary, all, err)
			}
			return all[at]
		}
		if err := p.Hide(t.Context(), find()); err != nil {
			t.Fatal(err)
		}
		done, err := p.Publish(t.Context(), img, publish.Public)
		if err != nil || !done.Changed {
			t.Errorf("%s: %+v, %v", row.summary, done, err)
		}
		v := f.Versions()[0]
		if it := find(); it.State != row.state || !it.Public || v.ExcludeFromLatest != row.successor || (v.EndOfLife != "") != row.successor {
			t.Errorf("%s: the version is %+v, %+v", row.summary, it, v)
		}
		if done, err := p.Publish(t.Context(), img, publish.Public); err != nil || done.Changed {
			t.Errorf("%s: once more: %+v, %v", row.summary, done, err)
		}
	}
}

// TestNeverPublic: a version that pruning retires before it was public is not counted as one that users see, and is published as any other.
func TestNeverPublic(t *testing.T) {
	img := testImage(t, publishtest.Options{})
	for _, step := range []struct {
		retire func(*Publisher, context.Context, holding.Item) error
		state  holding.State
	}{{(*Publisher).Deprecate, holding.Deprecated}, {(*Publisher).Hide, holding.Hidden}} {
		f := newFake(t)
		f.publishOnce(t, img, publish.Private)
		p := f.publisher(t, &publishtest.Line{}, openJournal(t))
		demand := func(state holding.State, public bool) holding.Item {
			t.Helper()
			all, err := p.List(t.Context())
			if err != nil || len(all) != 1 || all[0].State != state || all[0].Public != public {
				t.Fatalf("it should be %s, public %v: %+v, %v", state, public, all, err)
			}
			return all[0]
		}
		if err := step.retire(p, t.Context(), demand(holding.Current, false)); err != nil {
			t.Fatal(err)
		}
		demand(step.state, false)
		if done, err := p.Publish(t.Context(), img, publish.Public); err != nil || !done.Changed || f.Versions()[0].ExcludeFromLatest {
			t.Fatalf("published: %+v, %v, %+v", done, err, f.Versions()[0])
		}
		demand(holding.Current, true)
	}
}

// TestTwoMachines: a publisher with another journal leaves a disk alone that is being filled, says so, and takes over when nobody can be at work on it
// any more. One with the same journal does so at once.
func TestTwoMachines(t *testing.T) {
	f := newFake(t)
	img := testImage(t, publishtest.Options{})
	open := func(j *journal.Journal) *Publisher {
		p := f.publisher(t, &publishtest.Line{}, j)
		p.patience.upload = time.Hour
		return p
	}
	demandBusy := func(when string) {
		t.Helper()
		_, err := open(openJournal(t)).Publish(t.Context(), img, publish.Private)
		if fault.KindOf(err) != fault.Outside || !strings.Contains(err.Error(), "another publisher, with another journal, is at work on it, or was killed") || !strings.Contains(fault.HintOf(err), "run the same command again after ") {
			t.Errorf("%s: the error is %v, hint %q", when, err, fault.HintOf(err))
		}
	}
	first := f.through(t, &before{method: "PUT", ending: "/blobs/" + diskName(img), do: func() { demandBusy("while the first one sends pages") }}, openJournal(t))
	if _, err := first.Publish(t.Context(), img, publish.Private); err != nil {
		t.Fatalf("the first one: %v", err)
	}
	f.Drop(definition, number)
	slow := f.through(t, &before{method: "PUT", ending: "/blobs/" + diskName(img), do: func() {
		f.AgeDisks(time.Hour)
		if _, err := open(openJournal(t)).Publish(t.Context(), img, publish.Private); err != nil {
			t.Errorf("one that takes over: %v", err)
		}
	}}, openJournal(t))
	if _, err := slow.Publish(t.Context(), img, publish.Private); fault.KindOf(err) != fault.Outside || !strings.Contains(err.Error(), "because another publisher of the image deleted the disk") || len(f.Versions()) != 1 {
		t.Errorf("one that is too slow: the error is %v, left %+v", err, f.Versions())
	}
	for _, row := range []struct {
		summary string
		resume  func(*journal.Journal) *journal.Journal
	}{
		{"with its journal", func(j *journal.Journal) *journal.Journal { return j }},
		{"after a while", func(*journal.Journal) *journal.Journal {
			demandBusy("just after the first one was killed")
			f.AgeDisks(time.Hour)
			return openJournal(t)
		}},
	} {
		f.Drop(definition, number)
		j := openJournal(t)
		ctx, kill := context.WithCancel(t.Context())
		b := &before{method: "PUT", ending: "/blobs/" + diskName(img), do: kill}
		if _, err := f.through(t, b, j).Publish(ctx, img, publish.Private); err == nil || len(f.Disks()) != 1 {
			t.Fatalf("%s: it was not killed: %v, %v", row.summary, err, f.Disks())
		}
		if _, err := open(row.resume(j)).Publish(t.Context(), img, publish.Private); err != nil || len(f.Disks()) != 0 {
			t.Errorf("%s: %v, left %v", row.summary, err, f.Disks())
		}
	}
}

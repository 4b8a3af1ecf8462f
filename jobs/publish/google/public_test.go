package google

import (
	"fmt"
	"strings"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

// twoVersions is a project with two public versions.
func twoVersions(t *testing.T) (*fake, *Publisher) {
	t.Helper()
	f := newFake()
	p := publisherOf(t, f)
	for _, version := range []string{"20260814-1", "20260815-1"} {
		if _, err := published(t, p, version, publish.Public); err != nil {
			t.Fatal(err)
		}
	}
	return f, p
}

// TestTakenBack: whatever someone changed of a public image, the next publication puts it right or says that it does not. The journal, which has each step as
// done, keeps it from nothing.
func TestTakenBack(t *testing.T) {
	t.Setenv("GOOGLE_ID_TOKEN", fakeIDToken)
	for _, row := range []struct {
		summary string
		change  func(*fake)
		refused string // "": it is put right
	}{
		{"everyone's right", func(f *fake) {
			i := f.images[newerImage]
			i.policy["bindings"] = i.policy["bindings"].([]any)[:2]
		}, ""},
		{"the family", func(f *fake) { f.images[newerImage].Family = "" }, ""},
		{"another family", func(f *fake) { f.images[newerImage].Family = "other" }, ""},
		{"deprecated", func(f *fake) { f.images[newerImage].Deprecated = &deprecation{State: "DEPRECATED", Deprecated: now()} }, ""},
		{"hidden", func(f *fake) { f.images[newerImage].Deprecated = &deprecation{State: "OBSOLETE", Obsolete: now()} }, ""},
		{"the older one is current", func(f *fake) { f.images[olderImage].Deprecated = nil }, ""},
		{"a label", func(f *fake) { f.images[newerImage].Labels["debcloud-version"] = "20260101-1" }, "its label debcloud-version differ"},
		{"the mark", func(f *fake) { delete(f.images[newerImage].Labels, markLabel) }, "is another one"},
	} {
		for _, lost := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, journal lost %v", row.summary, lost), func(t *testing.T) {
				f, p := twoVersions(t)
				want := f.Dump()
				row.change(f)
				if f.Dump() == want {
					t.Fatal("nothing was changed")
				}
				if lost {
					p = publisherOf(t, f)
				}
				r, err := published(t, p, "20260815-1", publish.Public)
				if row.refused != "" {
					if err == nil || fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), row.refused) {
						t.Errorf("the error is %v", err)
					}
					return
				}
				if err != nil || !r.Changed {
					t.Errorf("%+v, %v", r, err)
				}
				if f.Dump() != want {
					t.Errorf("the project has\n%sand not\n%s", f.Dump(), want)
				}
				if r, err := published(t, p, "20260815-1", publish.Public); err != nil || r.Changed {
					t.Errorf("once more: %+v, %v", r, err)
				}
			})
		}
	}
}

// TestHidden: publishing a hidden image shows it again, and only --stage public does.
func TestHidden(t *testing.T) {
	t.Setenv("GOOGLE_ID_TOKEN", fakeIDToken)
	for _, row := range []struct{ summary, name, version string }{
		{"the newest", newerImage, "20260815-1"},
		{"one that has a successor", olderImage, "20260814-1"},
	} {
		t.Run(row.summary, func(t *testing.T) {
			f, p := twoVersions(t)
			want := f.Dump()
			items, err := p.List(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, it := range items {
				if it.Name != row.name {
					continue
				}
				if err := p.Hide(t.Context(), it); err != nil {
					t.Fatal(err)
				}
			}
			hidden := f.Dump()
			if r, err := published(t, p, row.version, publish.Private); err != nil || r.Changed || f.Dump() != hidden {
				t.Errorf("private: %+v, %v", r, err)
			}
			if r, err := published(t, p, row.version, publish.Public); err != nil || !r.Changed || f.Dump() != want {
				t.Errorf("public: %+v, %v: the project has\n%sand not\n%s", r, err, f.Dump(), want)
			}
		})
	}
}

// TestWithdrawn: where the newest version was withdrawn, the one before it is what the family leads to when it is published again.
func TestWithdrawn(t *testing.T) {
	t.Setenv("GOOGLE_ID_TOKEN", fakeIDToken)
	f, p := twoVersions(t)
	f.images[newerImage].Deprecated = &deprecation{State: "OBSOLETE", Obsolete: now()}
	if r, err := published(t, p, "20260814-1", publish.Public); err != nil || !r.Changed {
		t.Fatalf("%+v, %v", r, err)
	}
	if old, withdrawn := f.images[olderImage], f.images[newerImage]; old.state() != "" || withdrawn.state() != "OBSOLETE" {
		t.Errorf("the older one is %q, the newer one %q", old.state(), withdrawn.state())
	}
}

// TestLag: a list that does not show the new image yet does not keep it from its family.
func TestLag(t *testing.T) {
	t.Setenv("GOOGLE_ID_TOKEN", fakeIDToken)
	f, _ := twoVersions(t)
	want := f.Dump()
	for lag := 1; lag <= 4; lag++ {
		t.Run(fmt.Sprintf("%d listings", lag), func(t *testing.T) {
			publishtest.RunStages(t, publishtest.Provider{Name: provider, Vendor: "gce", Cloud: func(testing.TB) publishtest.Cloud {
				f := newFake()
				f.lag = lag
				return project{f}
			}})
			for _, versions := range [][]string{{"20260814-1", "20260815-1"}, {"20260815-1", "20260814-1"}} {
				f := newFake()
				p := publisherOf(t, f)
				for n, version := range versions {
					f.lag = n * lag
					if _, err := published(t, p, version, publish.Public); err != nil {
						t.Fatal(err)
					}
				}
				if f.Dump() != want {
					t.Errorf("%v: the project has\n%sand not\n%s", versions, f.Dump(), want)
				}
			}
		})
	}
}

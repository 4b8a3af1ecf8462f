package google

import (
	"slices"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/target"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

func testTarget() target.Target {
	return target.Target{Name: "google", Provider: provider, Account: "debian-test", Vendors: []string{"gce"}, Settings: map[string]string{
		"bucket": fakeBucket, "identityProvider": "//iam.googleapis.com/pool/gitlab", "serviceAccount": "publisher@project.example", "endpoint": fakeHost,
	}}
}

type project struct{ *fake }

func (p project) Publisher(t testing.TB, line *publishtest.Line, j *journal.Journal) publish.Publisher {
	made, err := New(testTarget(), j, line.Transport(p.fake))
	if err != nil {
		t.Fatal(err)
	}
	made.pause, made.chunk = time.Millisecond, 256<<10
	return made
}

func (p project) Dump(testing.TB) string { return p.fake.Dump() }

func (p project) Secrets() []string {
	return []string{fakeIDToken, fakeToken, "federated\"", "secret-session"}
}

// Lose removes the newest image.
func (p project) Lose(testing.TB) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	var names []string
	for name := range p.images {
		names = append(names, name)
	}
	slices.Sort(names)
	if len(names) == 0 {
		return false
	}
	delete(p.images, names[len(names)-1])
	return true
}

func TestPublisher(t *testing.T) {
	t.Setenv("GOOGLE_ID_TOKEN", fakeIDToken)
	publishtest.Run(t, publishtest.Provider{
		Name: provider, Vendor: "gce",
		Cloud: func(testing.TB) publishtest.Cloud { return project{newFake()} },
	})
}

// publisherOf returns a Publisher of a fake without a line between.
func publisherOf(t *testing.T, f *fake) *Publisher {
	t.Helper()
	j, err := journal.Open(t.Context(), t.TempDir()+"/journal.db", journal.Wait)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	p, err := New(testTarget(), j, f)
	if err != nil {
		t.Fatal(err)
	}
	p.pause = time.Millisecond
	return p
}

func TestWhoami(t *testing.T) {
	t.Setenv("GOOGLE_ID_TOKEN", fakeIDToken)
	f := newFake()
	f.lacks = []string{"compute.images.setIamPolicy"}
	id, err := publisherOf(t, f).Whoami(t.Context())
	if err != nil || id.Account != "debian-test" || id.Principal != "publisher@project.example" || strings.Join(id.Missing, " ") != "compute.images.setIamPolicy" || id.Until.IsZero() {
		t.Errorf("%+v, %v", id, err)
	}
}

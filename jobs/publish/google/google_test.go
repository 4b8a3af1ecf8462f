package google

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/holding"
	"salsa.debian.org/cloud-team/debcloud/internal/target"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/regions"
)

func testTarget() target.Target {
	return target.Target{Name: "google", Provider: provider, Account: "debian-test", Vendors: []string{"gce"}, Settings: map[string]string{
		"bucket": fakeBucket, "identityProvider": "//iam.googleapis.com/pool/gitlab", "serviceAccount": "publisher@project.example", "endpoint": fakeHost,
	}}
}

var hasty = patience{Patience: regions.Patience{Poll: time.Millisecond, PollMost: 5 * time.Millisecond}, visible: 20 * time.Second, image: 20 * time.Second, operation: 20 * time.Second}

type project struct{ *fake }

func (p project) Publisher(t testing.TB, line *publishtest.Line, j *journal.Journal) publish.Publisher {
	made, err := New(testTarget(), j, line.Transport(p.fake))
	if err != nil {
		t.Fatal(err)
	}
	made.patience, made.chunk = hasty, 256<<10
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

// Alter makes the newest image one for another architecture.
func (p project) Alter(testing.TB) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	newest := ""
	for name := range p.images {
		newest = max(newest, name)
	}
	if newest != "" {
		p.images[newest].Architecture = "ARM64"
	}
	return newest != ""
}

func TestPublisher(t *testing.T) {
	t.Setenv("GOOGLE_ID_TOKEN", fakeIDToken)
	publishtest.Run(t, publishtest.Provider{
		Name: provider, Vendor: "gce",
		Cloud: func(testing.TB) publishtest.Cloud { return project{newFake()} },
	})
}

// publisherOf returns a Publisher of a fake without a line between.
func publisherOf(t testing.TB, f *fake) *Publisher {
	t.Helper()
	p, err := New(testTarget(), publishtest.Journal(t), f)
	if err != nil {
		t.Fatal(err)
	}
	p.patience = hasty
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

const olderImage, newerImage = "debian-13-gce-amd64-daily-20260814-1", "debian-13-gce-amd64-daily-20260815-1"

// published publishes a new image to a fake and returns what Publish said.
func published(t *testing.T, p *Publisher, version string, stage publish.Stage) (*publish.Publication, error) {
	t.Helper()
	return p.Publish(t.Context(), publishtest.Image(t, publishtest.Options{Vendor: "gce", Version: version}), stage)
}

// TestBadInput: what can be wrong, each with a sentence that says what to do.
func TestBadInput(t *testing.T) {
	const name = "debian-13-gce-amd64-daily-20260815-1"
	for _, row := range []struct {
		summary string
		change  func(*testing.T, *fake, *Publisher)
		kind    fault.Kind
		want    string
		hint    string
	}{
		{"no credentials", func(t *testing.T, _ *fake, _ *Publisher) { t.Setenv("GOOGLE_ID_TOKEN", "") }, fault.Input, "there are no credentials for Google", "GOOGLE_APPLICATION_CREDENTIALS"},
		{"a file of credentials that is none", func(t *testing.T, _ *fake, _ *Publisher) {
			t.Setenv("GOOGLE_ID_TOKEN", "")
			t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "google_test.go")
		}, fault.Input, `GOOGLE_APPLICATION_CREDENTIALS "google_test.go" holds no credentials`, ""},
		{"an id token that has expired", func(_ *testing.T, f *fake, _ *Publisher) { f.idToken = "a newer one" }, fault.Input, "refuses the credentials of publisher@project.example with status 400", "expired"},
		{"an id token without a provider", func(_ *testing.T, _ *fake, p *Publisher) { p.credentials.audience = "" }, fault.Input, `set its setting "identityProvider"`, ""},
		{"another account", func(_ *testing.T, _ *fake, p *Publisher) {
			p.project, p.endpoint.compute = "other", fakeHost+"/compute/v1/projects/other/global"
		}, fault.Input, "publisher@project.example lacks a right in project other", "whoami --to google"},
		{"a bucket that is not there", func(_ *testing.T, _ *fake, p *Publisher) {
			p.endpoint.upload = fakeHost + "/upload/storage/v1/b/none/o"
		}, fault.Input, "begin the upload of " + name, ""},
		{"a name that someone else took", func(_ *testing.T, f *fake, _ *Publisher) {
			f.images[name] = &fakeImage{computeImage: computeImage{Name: name, Status: "READY", Description: "mine"}}
		}, fault.Input, "is another one: \"mine\"", "another version"},
		{"an operation that fails", func(_ *testing.T, f *fake, _ *Publisher) { f.fails["insert"] = "INVALID_IMAGE" }, fault.Input, "make image " + name + ": 400 INVALID_IMAGE: it did not work", ""},
		{"a quota that is reached", func(_ *testing.T, f *fake, _ *Publisher) { f.fails["insert"] = "QUOTA_EXCEEDED" }, fault.Outside, "a quota of project debian-test is reached", "prune"},
		{"a deprecation that fails", func(_ *testing.T, f *fake, _ *Publisher) { f.fails["patch"] = "RESOURCE_NOT_READY" }, fault.Input, "put image " + name + " into its family: 400 RESOURCE_NOT_READY", ""},
	} {
		t.Run(row.summary, func(t *testing.T) {
			t.Setenv("GOOGLE_ID_TOKEN", fakeIDToken)
			f := newFake()
			p := publisherOf(t, f)
			row.change(t, f, p)
			_, err := published(t, p, "20260815-1", publish.Public)
			if err == nil || fault.KindOf(err) != row.kind || !strings.Contains(err.Error(), row.want) || !strings.Contains(fault.HintOf(err), row.hint) {
				t.Errorf("kind %v, hint %q: %v", fault.KindOf(err), fault.HintOf(err), err)
			}
			if err != nil && (strings.Contains(err.Error(), fakeIDToken) || strings.Contains(err.Error(), fakeToken)) {
				t.Errorf("the error tells a secret: %v", err)
			}
		})
	}
}

// TestClock: a login that is signed here has this machine's time in it, and Google tells when that is not its own.
func TestClock(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "publisher@project.example", "token_uri": fakeHost + "/token",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOOGLE_ID_TOKEN", "")
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", file)
	for _, ahead := range []time.Duration{0, 2 * time.Hour, -2 * time.Hour} {
		f := newFake()
		f.ahead = ahead
		_, err := publisherOf(t, f).Whoami(t.Context())
		if ahead == 0 {
			if err != nil {
				t.Error(err)
			}
			continue
		}
		if err == nil || fault.KindOf(err) != fault.Outside || !strings.Contains(err.Error(), "refuses the time of the login of publisher@project.example: the clock of this machine is not right") ||
			fault.HintOf(err) != "set the clock of this machine and run the same command again" || len(f.requests) != 1 {
			t.Errorf("Google's clock is %s ahead, after %d requests, hint %q: %v", ahead, len(f.requests), fault.HintOf(err), err)
		}
	}
}

func TestNew(t *testing.T) {
	for _, row := range []struct {
		summary string
		change  func(*target.Target)
		want    string
	}{
		{"no bucket", func(t *target.Target) { delete(t.Settings, "bucket") }, `lacks the setting "bucket"`},
		{"an unknown setting", func(t *target.Target) { t.Settings["buckets"] = "x" }, `has the setting "buckets"`},
		{"no project", func(t *target.Target) { t.Account = "" }, "lacks the account"},
	} {
		to := testTarget()
		row.change(&to)
		if _, err := New(to, nil, nil); err == nil || fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v", row.summary, err)
		}
	}
}

// TestStuck: what never ends at Google is told, with what to do, and the same command goes on where it ends after all.
func TestStuck(t *testing.T) {
	t.Setenv("GOOGLE_ID_TOKEN", fakeIDToken)
	for _, row := range []struct{ stuck, want, hint string }{
		{"image", "image " + newerImage + " is still PENDING after 0s", "gcloud compute images delete " + newerImage},
		{"insert", "make image " + newerImage + ": Google's operation operation-4 is still PENDING after 0s", "gcloud compute operations describe operation-4"},
		{"patch", "put image " + newerImage + " into its family: Google's operation operation-5 is still PENDING after 0s", "run the same command again"},
	} {
		t.Run(row.stuck, func(t *testing.T) {
			f := newFake()
			f.stuck = row.stuck
			p := publisherOf(t, f)
			if row.stuck == "image" {
				p.patience.image = 0
			} else {
				p.patience.operation = 0
				f.quick = true
			}
			_, err := published(t, p, "20260815-1", publish.Public)
			if err == nil || fault.KindOf(err) != fault.Outside || !strings.Contains(err.Error(), row.want) || !strings.Contains(fault.HintOf(err), row.hint) {
				t.Errorf("kind %v, hint %q: %v", fault.KindOf(err), fault.HintOf(err), err)
			}
			f.stuck = ""
			p.patience = hasty
			if _, err := published(t, p, "20260815-1", publish.Public); err != nil {
				t.Errorf("again: %v", err)
			}
		})
	}
}

// TestPolicy: everyone's right is added to what is there, once, and taken again; conditions and others' rights stay.
func TestPolicy(t *testing.T) {
	t.Setenv("GOOGLE_ID_TOKEN", fakeIDToken)
	f := newFake()
	f.conflict = 2
	p := publisherOf(t, f)
	if _, err := published(t, p, "20260815-1", publish.Public); err != nil {
		t.Fatal(err)
	}
	const name = "debian-13-gce-amd64-daily-20260815-1"
	roles := func() string {
		text, _ := json.Marshal(f.images[name].policy["bindings"])
		return string(text)
	}
	others := `{"condition":{"expression":"false"},"members":["allAuthenticatedUsers"],"role":"roles/compute.imageUser"},{"members":["user:x@debian.example"],"role":"roles/owner"}`
	if want := "[" + others + `,{"members":["allAuthenticatedUsers"],"role":"roles/compute.imageUser"}]`; roles() != want {
		t.Errorf("public: %s, want %s", roles(), want)
	}
	if changed, err := p.setPublic(t.Context(), name, true); changed || err != nil {
		t.Errorf("public again: %v, %v", changed, err)
	}
	if changed, err := p.setPublic(t.Context(), name, false); !changed || err != nil || roles() != "["+others+"]" {
		t.Errorf("taken again: %v, %v, %s", changed, err, roles())
	}
}

// TestHolder: what pruning sees, and each state that it brings an image into.
func TestHolder(t *testing.T) {
	t.Setenv("GOOGLE_ID_TOKEN", fakeIDToken)
	f := newFake()
	p := publisherOf(t, f)
	for _, version := range []string{"20260814-1", "20260815-1"} {
		if _, err := published(t, p, version, publish.Public); err != nil {
			t.Fatal(err)
		}
	}
	f.images["other"] = &fakeImage{computeImage: computeImage{Name: "other", Status: "READY", Labels: map[string]string{"debcloud": "no"}}}
	f.objects["left.tar.gz"] = &fakeObject{storageObject: storageObject{Name: "left.tar.gz", Metadata: map[string]string{markLabel: "yes"}, TimeCreated: "2026-08-01T00:00:00Z"}}
	f.objects["theirs.tar.gz"] = &fakeObject{storageObject: storageObject{Name: "theirs.tar.gz"}}
	list := func() map[string]holding.Item {
		items, err := p.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]holding.Item{}
		for _, it := range items {
			all[it.Name] = it
		}
		return all
	}
	const older, newer = "debian-13-gce-amd64-daily-20260814-1", "debian-13-gce-amd64-daily-20260815-1"
	items := list()
	it := items[older]
	if len(items) != 3 || it.Family != "trixie gce amd64 daily" || it.Version != "20260814-1" || it.State != holding.Deprecated || it.ReplacedBy != items[newer].ID || it.Since.IsZero() || !it.Public {
		t.Errorf("%d items, the older %+v", len(items), it)
	}
	if o := items["left.tar.gz"]; o.Kind != holding.Object || o.Created.IsZero() || !o.Ours {
		t.Errorf("the object: %+v", o)
	}
	stale := it
	for _, step := range []struct {
		summary string
		do      func(context.Context, holding.Item) error
		state   holding.State
	}{{"hide", p.Hide, holding.Hidden}, {"hide again", p.Hide, holding.Hidden}} {
		if err := step.do(t.Context(), stale); err != nil {
			t.Fatalf("%s: %v", step.summary, err)
		}
		if it = list()[older]; it.State != step.state || it.Public || it.Since.IsZero() || it.ReplacedBy != items[newer].ID {
			t.Errorf("%s: %+v", step.summary, it)
		}
	}
	if err := p.Delete(t.Context(), stale); err == nil || !strings.Contains(err.Error(), "is hidden by now, and was deprecated") {
		t.Errorf("deleted by an old list: %v", err)
	}
	for range 2 { // the second time it is gone
		if err := p.Delete(t.Context(), it); err != nil {
			t.Fatal(err)
		}
		if err := p.Delete(t.Context(), items["left.tar.gz"]); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Delete(t.Context(), holding.Item{Name: "other", Kind: holding.Image, State: holding.Current}); err == nil || !strings.Contains(err.Error(), "is not ours") {
		t.Errorf("someone else's image: %v", err)
	}
	if err := p.Delete(t.Context(), holding.Item{Name: "theirs.tar.gz", Kind: holding.Object}); err == nil || !strings.Contains(err.Error(), "is not ours") {
		t.Errorf("someone else's object: %v", err)
	}
	if items := list(); len(items) != 1 || items[newer].State != holding.Current {
		t.Errorf("what is left: %v", items)
	}
}

var (
	_ publish.Identifier = (*Publisher)(nil)
	_ interface {
		List(context.Context) ([]holding.Item, error)
		Deprecate(context.Context, holding.Item) error
		Hide(context.Context, holding.Item) error
		Delete(context.Context, holding.Item) error
	} = (*Publisher)(nil)
)

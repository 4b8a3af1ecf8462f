package notify

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	webhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" // of the specification's example

// receiver is a strict listener: it takes what another implementation of Standard Webhooks verifies and what is a whole
// CloudEvent, and answers as the test says.
type receiver struct {
	t      *testing.T
	server *httptest.Server
	mu     sync.Mutex
	answer func(n int, id string) (code int, retryAfter string) // of the nth request, from 1; nil takes all
	bodies map[string]string                                    // by id
	ids    []string                                             // of all requests
	taken  []string                                             // subjects
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{t: t, bodies: map[string]string{}}
	r.server = httptest.NewServer(r)
	t.Cleanup(r.server.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		r.t.Error(err)
	}
	hook, err := webhooks.NewWebhook(secret)
	if err != nil {
		r.t.Error(err)
	}
	if err := hook.Verify(body, req.Header); err != nil {
		r.t.Errorf("the signature does not verify: %v", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	id := req.Header.Get("webhook-id")
	r.demandEvent(req, id, body)
	if before, ok := r.bodies[id]; ok && before != string(body) {
		r.t.Errorf("a repeat of %s has another body:\n%s\n%s", id, before, body)
	}
	r.bodies[id] = string(body)
	r.ids = append(r.ids, id)
	code, after := http.StatusNoContent, ""
	if r.answer != nil {
		code, after = r.answer(len(r.ids), id)
	}
	if after != "" {
		w.Header().Set("Retry-After", after)
	}
	if code/100 == 3 {
		w.Header().Set("Location", "/elsewhere")
	}
	w.WriteHeader(code)
	if code/100 == 2 {
		var e event
		_ = json.Unmarshal(body, &e) // read above
		r.taken = append(r.taken, e.Subject)
	}
}

// demandEvent holds an event against CloudEvents 1.0: the required attributes, and none of another form.
func (r *receiver) demandEvent(req *http.Request, id string, body []byte) {
	var e map[string]any
	if err := json.Unmarshal(body, &e); err != nil {
		r.t.Error(err)
	}
	for name, want := range map[string]any{"specversion": "1.0", "id": id, "type": "org.debian.cloud.image.published.v1", "datacontenttype": "application/json"} {
		if e[name] != want {
			r.t.Errorf("%s is %v, want %v", name, e[name], want)
		}
	}
	if source, _ := e["source"].(string); source == "" {
		r.t.Error("the event has no source")
	}
	at, _ := e["time"].(string)
	if _, err := time.Parse(time.RFC3339, at); err != nil {
		r.t.Errorf("time: %v", err)
	}
	for name := range e {
		if strings.ToLower(name) != name {
			r.t.Errorf("attribute %q is not in lower case", name)
		}
	}
	if got := req.Header.Get("Content-Type"); req.Method != http.MethodPost || !strings.HasPrefix(got, "application/cloudevents+json") {
		r.t.Errorf("%s with Content-Type %q", req.Method, got)
	}
}

func (r *receiver) demandTaken(summary string, want ...string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.taken, want) {
		r.t.Errorf("%s: it took %q, want %q", summary, r.taken, want)
	}
}

func (r *receiver) listener(name string, f Filter) Listener {
	k, err := parseSecret(secret)
	if err != nil {
		r.t.Fatal(err)
	}
	return Listener{Name: name, Filter: f, Internal: true, url: r.server.URL, keys: [][]byte{k}}
}

func picture(release, vendor, version string, uploads ...string) manifest.IndexImage {
	i := manifest.IndexImage{
		Name: "debian-" + release + "-" + vendor + "-amd64-" + version, Release: release, ReleaseID: "13", Vendor: vendor, Arch: "amd64", UploadType: image.Published,
		Version: version, Date: version[:4] + "-" + version[4:6] + "-" + version[6:8], Digest: "sha512:" + version,
		Files: []manifest.IndexFile{{Format: "qcow2", Path: release + "/a b&.qcow2", Size: 9}},
	}
	for _, u := range uploads {
		i.Uploads = append(i.Uploads, manifest.IndexUpload{Provider: u, Ref: "x"})
	}
	return i
}

// tree is a public tree whose index has some images, the newest first.
type tree struct {
	t   *testing.T
	dir string
}

func newTree(t *testing.T, images ...manifest.IndexImage) tree {
	x := tree{t, t.TempDir()}
	x.index(images...)
	return x
}

func (x tree) index(images ...manifest.IndexImage) {
	x.t.Helper()
	if err := manifest.Write(filepath.Join(x.dir, "index.json"), manifest.NewIndex(images)); err != nil {
		x.t.Fatal(err)
	}
}

// run tells what is new, without waiting between attempts.
func (x tree) run(o Options) (*Result, error) {
	o.pause = func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
	return Run(x.t.Context(), x.dir, o)
}

func (x tree) mustRun(o Options) *Result {
	x.t.Helper()
	r, err := x.run(o)
	if err != nil {
		x.t.Fatal(err)
	}
	return r
}

var (
	old   = picture("trixie", "ec2", "20260801-1")
	fresh = picture("trixie", "ec2", "20260814-1")
	other = picture("bookworm", "azure", "20260815-1")
)

func TestTellsWhatIsNewOnce(t *testing.T) {
	x, r := newTree(t, old), newReceiver(t)
	o := Options{Listeners: []Listener{r.listener("a", Filter{})}, URL: "https://images.example/"}
	x.mustRun(o)
	r.demandTaken("what was there in the first run is known")
	x.index(other, fresh, old)
	x.mustRun(o)
	r.demandTaken("what is new, the newest last", fresh.Name, other.Name)
	x.mustRun(o)
	x.index(old)
	x.mustRun(o)
	x.index(other, fresh, old)
	x.mustRun(o)
	r.demandTaken("once, even where it was gone for a while", fresh.Name, other.Name)
}

func TestSinceTellsNewListenersOfOlderImages(t *testing.T) {
	x, r, late := newTree(t, fresh, old), newReceiver(t), newReceiver(t)
	since := time.Date(2026, 8, 10, 0, 0, 0, 0, time.UTC)
	first := r.listener("first", Filter{})
	x.mustRun(Options{Listeners: []Listener{first}, Since: since})
	r.demandTaken("in the first run", fresh.Name)
	x.mustRun(Options{Listeners: []Listener{first, late.listener("late", Filter{})}, Since: since})
	late.demandTaken("a listener that came later", fresh.Name)
	r.demandTaken("the others hear nothing twice", fresh.Name)
}

func TestFilters(t *testing.T) {
	aws := picture("trixie", "ec2", "20260816-1", "aws.amazon.com")
	for _, row := range []struct {
		summary string
		filter  Filter
		want    []string
	}{
		{"none", Filter{}, []string{fresh.Name, other.Name, aws.Name}},
		{"a release", Filter{Releases: []string{"bookworm"}}, []string{other.Name}},
		{"a vendor and an arch", Filter{Vendors: []string{"ec2"}, Archs: []string{"amd64"}}, []string{fresh.Name, aws.Name}},
		{"an arch that none has", Filter{Archs: []string{"arm64"}}, nil},
		{"a type that none has", Filter{Types: []image.UploadType{image.Daily}}, nil},
		{"a provider by its name", Filter{Providers: []string{"aws"}}, []string{aws.Name}},
		{"a provider by its domain", Filter{Providers: []string{"aws.amazon.com"}}, []string{aws.Name}},
		{"the tree", Filter{Providers: []string{"directory"}}, []string{fresh.Name, other.Name, aws.Name}},
	} {
		x, r := newTree(t), newReceiver(t)
		o := Options{Listeners: []Listener{r.listener("a", row.filter)}}
		x.mustRun(o)
		x.index(aws, other, fresh)
		x.mustRun(o)
		r.demandTaken(row.summary, row.want...)
	}
}

// TestAnImageThatComesToAProviderLater is news for who asked for that provider, and for no one else.
func TestAnImageThatComesToAProviderLater(t *testing.T) {
	x, all, aws := newTree(t), newReceiver(t), newReceiver(t)
	o := Options{Listeners: []Listener{all.listener("all", Filter{}), aws.listener("aws", Filter{Providers: []string{"aws"}})}}
	x.mustRun(o)
	x.index(fresh)
	x.mustRun(o)
	aws.demandTaken("it is in the tree only")
	x.index(picture("trixie", "ec2", "20260814-1", "aws.amazon.com"))
	x.mustRun(o)
	aws.demandTaken("it is there now", fresh.Name)
	all.demandTaken("once", fresh.Name)
}

func TestRepeatsUntilTaken(t *testing.T) {
	x, r := newTree(t), newReceiver(t)
	o := Options{Listeners: []Listener{r.listener("a", Filter{})}}
	x.mustRun(o)
	x.index(other, fresh)
	var waits []time.Duration
	codes := []int{503, 429, 408, 200}
	r.answer = func(n int, _ string) (int, string) {
		if n > len(codes) {
			return 200, ""
		}
		return codes[n-1], map[int]string{429: "7"}[codes[n-1]]
	}
	o.pause = func(_ context.Context, d time.Duration) error { waits = append(waits, d); return nil }
	if _, err := Run(t.Context(), x.dir, o); err != nil {
		t.Fatal(err)
	}
	r.demandTaken("in the end", fresh.Name, other.Name)
	if len(waits) != 3 || waits[0] > time.Second || waits[1] != 7*time.Second {
		t.Errorf("it waited %v, want about 1 s, the 7 s that were asked for, and some", waits)
	}
	if len(r.bodies) != 2 {
		t.Errorf("repeats have ids of their own: %q", r.ids)
	}
}

func TestWhatCannotBeDeliveredWaitsForTheNextRun(t *testing.T) {
	x, r, good := newTree(t), newReceiver(t), newReceiver(t)
	o := Options{Listeners: []Listener{r.listener("down", Filter{}), good.listener("good", Filter{})}}
	x.mustRun(o)
	x.index(other, fresh)
	r.answer = func(int, string) (int, string) { return 502, "" }
	result, err := x.run(o)
	if fault.KindOf(err) != fault.Outside || !strings.Contains(err.Error(), "2 events could not be delivered") {
		t.Errorf("got %v, want a fault outside", err)
	}
	if len(r.ids) != attempts {
		t.Errorf("%d attempts, want %d of one event, and the rest left alone", len(r.ids), attempts)
	}
	if n := result.Notices[0]; n.Outcome != Later || n.Why != "it answered 502" {
		t.Errorf("notice %+v", n)
	}
	good.demandTaken("one listener's fault is not another's", fresh.Name, other.Name)
	r.answer = nil
	x.mustRun(o)
	r.demandTaken("nothing is lost, and the order stays", fresh.Name, other.Name)
	good.demandTaken("nor repeated", fresh.Name, other.Name)
}

func TestAListenerThatWantsPeaceHasIt(t *testing.T) {
	x, r := newTree(t), newReceiver(t)
	o := Options{Listeners: []Listener{r.listener("a", Filter{})}}
	x.mustRun(o)
	x.index(fresh)
	r.answer = func(n int, _ string) (int, string) {
		if n == 1 {
			return 429, "3600"
		}
		return 200, ""
	}
	for range 2 {
		if _, err := x.run(o); fault.KindOf(err) != fault.Outside {
			t.Errorf("got %v, want a fault outside", err)
		}
	}
	if len(r.ids) != 1 {
		t.Errorf("%d requests within the hour, want 1", len(r.ids))
	}
	s, err := readState(filepath.Join(x.dir, StateName))
	if err != nil {
		t.Fatal(err)
	}
	s.doc.Data.Listeners["a"].NotBefore = time.Now()
	if err := s.save(); err != nil {
		t.Fatal(err)
	}
	x.mustRun(o)
	r.demandTaken("an hour later", fresh.Name)
}

func TestDeadLettersAndReplay(t *testing.T) {
	x, r := newTree(t), newReceiver(t)
	o := Options{Listeners: []Listener{r.listener("a", Filter{})}}
	x.mustRun(o)
	x.index(other, fresh)
	for _, code := range []int{404, 301, 410} {
		r.answer = func(int, string) (int, string) { return code, "" }
		before := len(r.ids)
		o.Replay = code != 404
		result, err := x.run(o)
		if err == nil || fault.KindOf(err) != fault.Work || !strings.Contains(fault.HintOf(err), "--replay") || result.Letters != 2 {
			t.Errorf("%d: %+v, %v: want 2 dead letters and failed work", code, result, err)
		}
		if len(r.ids)-before != 2 {
			t.Errorf("%d: %d requests, want one an event", code, len(r.ids)-before)
		}
	}
	o.Replay = false
	x.mustRun(o)
	r.demandTaken("dead letters rest")
	r.answer, o.Replay = nil, true
	x.index() // the images are gone, the letters are not
	if result := x.mustRun(o); result.Letters != 0 {
		t.Errorf("%d dead letters are left", result.Letters)
	}
	r.demandTaken("after a replay", fresh.Name, other.Name)
	if len(r.bodies) != 2 {
		t.Error("a replay has new ids")
	}
}

func TestThreeDaysOfFaultsMakeADeadLetter(t *testing.T) {
	x, r := newTree(t), newReceiver(t)
	o := Options{Listeners: []Listener{r.listener("a", Filter{})}}
	x.mustRun(o)
	x.index(fresh)
	r.answer = func(int, string) (int, string) { return 500, "" }
	start := time.Now().Add(-maxAge - time.Minute)
	s, err := readState(filepath.Join(x.dir, StateName))
	if err != nil {
		t.Fatal(err)
	}
	o.fill(x.dir)
	if err := s.take([]manifest.IndexImage{fresh}, o); err != nil {
		t.Fatal(err)
	}
	s.doc.Data.Listeners["a"].Queue[0].First = start
	if err := s.save(); err != nil {
		t.Fatal(err)
	}
	if r, err := x.run(o); fault.KindOf(err) != fault.Work || r.Letters != 1 {
		t.Errorf("%+v, %v: want a dead letter", r, err)
	}
}

// TestStoppedAnywhereLosesNothing ends a run at each request and goes on with what its state has.
func TestStoppedAnywhereLosesNothing(t *testing.T) {
	images := []manifest.IndexImage{other, fresh, old}
	for stop := 1; stop <= len(images); stop++ {
		x, r := newTree(t), newReceiver(t)
		o := Options{Listeners: []Listener{r.listener("a", Filter{})}}
		x.mustRun(o)
		x.index(images...)
		ctx, cancel := context.WithCancelCause(t.Context())
		r.answer = func(n int, _ string) (int, string) {
			if n == stop {
				cancel(errors.New("stopped"))
			}
			return 200, ""
		}
		if _, err := Run(ctx, x.dir, o); err == nil {
			t.Errorf("stopped at %d: no error", stop)
		}
		r.answer = nil
		x.mustRun(o)
		seen := slices.Compact(slices.Clone(r.taken)) // a repeat has the same id
		if !slices.Equal(seen, []string{old.Name, fresh.Name, other.Name}) || len(r.bodies) != 3 {
			t.Errorf("stopped at %d: it took %q", stop, r.taken)
		}
	}
}

func TestKilledBeforeTheStateIsWritten(t *testing.T) {
	x, r := newTree(t), newReceiver(t)
	o := Options{Listeners: []Listener{r.listener("a", Filter{})}}
	x.mustRun(o)
	x.index(fresh)
	path := filepath.Join(x.dir, StateName)
	o.fill(x.dir)
	s, unlock, err := openState(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.take([]manifest.IndexImage{fresh}, o); err != nil {
		t.Fatal(err)
	}
	if err := s.save(); err != nil {
		t.Fatal(err)
	}
	queued, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.run(o); fault.KindOf(err) != fault.Outside || !strings.Contains(err.Error(), "another run works") {
		t.Errorf("two at a time: %v", err)
	}
	unlock()
	x.mustRun(o)
	if err := os.WriteFile(path, queued, 0o600); err != nil { // as after SIGKILL between the answer and the note
		t.Fatal(err)
	}
	x.mustRun(o)
	if len(r.ids) != 2 || len(r.bodies) != 1 {
		t.Errorf("requests %q, want the same twice", r.ids)
	}
}

func TestDryRunChangesNothing(t *testing.T) {
	x, r := newTree(t, fresh), newReceiver(t)
	o := Options{Listeners: []Listener{r.listener("a", Filter{})}, Since: time.Unix(0, 0), DryRun: true}
	result := x.mustRun(o)
	if len(result.Notices) != 1 || result.Notices[0].Outcome != Wanted || result.Notices[0].Image != fresh.Name {
		t.Errorf("notices %+v", result.Notices)
	}
	if entries, _ := os.ReadDir(x.dir); len(entries) != 1 || len(r.ids) != 0 {
		t.Errorf("it wrote %v and sent %q", entries, r.ids)
	}
}

// TestSignature is the example of the Standard Webhooks specification's libraries.
func TestSignature(t *testing.T) {
	k, err := parseSecret(secret)
	if err != nil {
		t.Fatal(err)
	}
	got := signatures([][]byte{k, k}, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want+" "+want {
		t.Errorf("got %s", got)
	}
}

func TestInnerAddressesAreNotSpokenTo(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1": true, "10.1.2.3": true, "172.16.0.1": true, "192.168.1.1": true, "169.254.169.254": true, "100.64.0.1": true, "0.0.0.0": true,
		"224.0.0.1": true, "255.255.255.255": true, "198.18.0.1": true, "::1": true, "::": true, "fe80::1": true, "fc00::1": true, "fd12::1": true, "ff02::1": true,
		"::ffff:10.0.0.1": true, "::ffff:127.0.0.1": true, "64:ff9b::a00:1": true, "2002:a00:1::": true, "fe80::1%eth0": true, "::127.0.0.1": true,
		"151.101.2.132": false, "100.128.0.1": false, "172.32.0.1": false, "2a04:4e42::644": false, "::ffff:151.101.2.132": false,
	} {
		if got := isInner(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: inner is %v", address, got)
		}
	}
	x, r := newTree(t), newReceiver(t)
	l := r.listener("a", Filter{})
	l.Internal = false
	l.url = strings.Replace(l.url, "127.0.0.1", "localhost", 1) + "/path-secret?token=query-secret"
	o := Options{Listeners: []Listener{l}}
	x.mustRun(o)
	x.index(fresh)
	result, err := x.run(o)
	if err == nil || len(r.ids) != 0 || result.Letters != 1 {
		t.Errorf("%+v, %v: the request reached %d", result, err, len(r.ids))
	}
	if why := result.Notices[0].Why; why != "it is at an inner address" {
		t.Errorf("why: %s", why)
	}
}

// TestNothingSecretIsSaid looks for the URL and the secret in errors, notices and the state.
func TestNothingSecretIsSaid(t *testing.T) {
	x, r := newTree(t), newReceiver(t)
	l := r.listener("a", Filter{})
	l.url = strings.Replace(l.url, "127.0.0.1", "no-such-host.invalid", 1) + "/path-secret?token=query-secret"
	down := r.listener("down", Filter{})
	down.url = "http://127.0.0.1:1/path-secret"
	o := Options{Listeners: []Listener{l, down}}
	x.mustRun(o)
	x.index(fresh)
	result, err := x.run(o)
	state, _ := os.ReadFile(filepath.Join(x.dir, StateName))
	for _, hidden := range []string{"path-secret", "query-secret", "no-such-host", "whsec", secret[6:]} {
		if text := fmt.Sprint(err, result.Notices, string(state)); strings.Contains(text, hidden) {
			t.Errorf("%q is said: %s", hidden, text)
		}
	}
	if info, err := os.Stat(filepath.Join(x.dir, StateName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the state has mode %v, %v", info.Mode(), err)
	}
}

func TestWhatAKilledRunLeftGoes(t *testing.T) {
	x, state := newTree(t, fresh), filepath.Join(t.TempDir(), "state.json")
	torn := filepath.Join(filepath.Dir(state), ".state.json1")
	if err := os.WriteFile(torn, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	x.mustRun(Options{State: state})
	if _, err := os.Stat(torn); err == nil {
		t.Errorf("%s is still there", torn)
	}
}

func TestBadIndexAndState(t *testing.T) {
	x := tree{t, t.TempDir()}
	if _, err := x.run(Options{}); fault.KindOf(err) != fault.Input || !strings.Contains(fault.HintOf(err), "debcloud index") {
		t.Errorf("no index: %v", err)
	}
	x.index(fresh)
	for _, text := range []string{"", "{", `{"kind": "Index", "apiVersion": "cloud.debian.org/v1alpha1"}`, `{"kind": "Notifications", "apiVersion": "v9"}`} {
		path := filepath.Join(t.TempDir(), "state.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := x.run(Options{State: path}); fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), path) {
			t.Errorf("state %q: %v", text, err)
		}
		if got, _ := os.ReadFile(path); string(got) != text {
			t.Errorf("state %q was overwritten by %q", text, got)
		}
	}
}

func TestListenersFile(t *testing.T) {
	lookup := func(name string) (string, bool) {
		values := map[string]string{"GOOD": secret, "TWO": secret + "\n" + secret, "SHORT": "whsec_" + base64.StdEncoding.EncodeToString([]byte("short-hush")), "BARE": "hush", "EMPTY": " "}
		v, ok := values[name]
		return v, ok
	}
	for _, row := range []struct{ summary, text, want string }{
		{"good", "listeners:\n- {name: a, url: 'https://x.example/hush', secretEnv: GOOD, filter: {types: [release]}}\n", ""},
		{"good JSON, two secrets", `{"listeners": [{"name": "a", "url": "http://x.example", "secretEnv": "TWO", "internal": true}]}`, ""},
		{"none", "listeners: []\n", ""},
		{"empty", "", "cannot be read"},
		{"an unknown key", "listeners:\n- {name: a, link: 'https://hush'}\n", "cannot be read: line 2 is wrong"},
		{"no name", "listeners: [{url: 'https://x.example', secretEnv: GOOD}]", "listener 1 has no name"},
		{"a name twice", "listeners: [{name: a, url: 'https://x.example', secretEnv: GOOD}, {name: a, url: 'https://x.example', secretEnv: GOOD}]", `two listeners are called "a"`},
		{"no URL", "listeners: [{name: a, secretEnv: GOOD}]", `listener "a": its url is no https:// URL`},
		{"a file's URL", "listeners: [{name: a, url: 'file:///hush', secretEnv: GOOD}]", "its url is no https:// URL"},
		{"a broken URL", "listeners: [{name: a, url: 'https://hush%zz/', secretEnv: GOOD}]", "its url is no https:// URL"},
		{"plain http", "listeners: [{name: a, url: 'http://hush.example', secretEnv: GOOD}]", "plain http"},
		{"a password in the URL", "listeners: [{name: a, url: 'https://hush:hush@x.example', secretEnv: GOOD}]", "has a user name in it"},
		{"no secret", "listeners: [{name: a, url: 'https://x.example'}]", "either a secretFile or a secretEnv"},
		{"two places for it", "listeners: [{name: a, url: 'https://x.example', secretEnv: GOOD, secretFile: x}]", "either a secretFile or a secretEnv"},
		{"no such variable", "listeners: [{name: a, url: 'https://x.example', secretEnv: NONE}]", `no variable "NONE"`},
		{"no such file", "listeners: [{name: a, url: 'https://x.example', secretFile: /nowhere}]", "/nowhere"},
		{"a short secret", "listeners: [{name: a, url: 'https://x.example', secretEnv: SHORT}]", "has 10 bytes, not 24 to 64"},
		{"no whsec_", "listeners: [{name: a, url: 'https://x.example', secretEnv: BARE}]", "does not begin with whsec_"},
		{"an empty secret", "listeners: [{name: a, url: 'https://x.example', secretEnv: EMPTY}]", "is empty"},
		{"an unknown type", "listeners: [{name: a, url: 'https://x.example', secretEnv: GOOD, filter: {types: [nightly]}}]", `type "nightly" is none of`},
	} {
		_, err := parseListeners("l.yaml", []byte(row.text), lookup)
		if row.want == "" {
			if err != nil {
				t.Errorf("%s: %v", row.summary, err)
			}
			continue
		}
		if fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), row.want) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v, want %q and nothing secret", row.summary, err, row.want)
		}
	}
	if _, err := ReadListeners("nowhere.yaml", lookup); fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), `"nowhere.yaml"`) {
		t.Errorf("no file: %v", err)
	}
}

// FuzzListeners: no file panics; what cannot be read is an input error that has no secret in it.
func FuzzListeners(f *testing.F) {
	f.Add([]byte("listeners:\n- {name: a, url: 'https://x.example', secretEnv: S, filter: {types: [release]}}\n"))
	f.Add([]byte("listeners: {a: &a [*a]}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		_, err := parseListeners("l.yaml", text, func(string) (string, bool) { return "whsec_hush-hush", true })
		if err != nil && (fault.KindOf(err) != fault.Input || strings.Contains(err.Error(), "hush-hush")) {
			t.Error(err)
		}
	})
}

func TestFeed(t *testing.T) {
	odd := picture("trixie", "ec2", "20260817-1")
	odd.Versions = map[string]string{"kernel": "<&\x01"}
	x := newTree(t, old)
	x.mustRun(Options{URL: "https://images.example/"})
	x.index(odd, old)
	if r := x.mustRun(Options{URL: "https://images.example/"}); !r.Feed {
		t.Error("the feed is said not to have changed")
	}
	text, err := os.ReadFile(filepath.Join(x.dir, FeedName))
	if err != nil {
		t.Fatal(err)
	}
	var f atomFeed
	if err := xml.Unmarshal(text, &f); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if len(f.Entries) != 2 || !strings.Contains(f.Entries[0].Title, odd.Version) || f.Updated != f.Entries[0].Updated || f.Entries[1].Updated != "2026-08-01T00:00:00Z" {
		t.Errorf("entries are not the newest first, or their times are wrong:\n%s", text)
	}
	demandAtom(t, f)
	if got := f.Entries[1].Links[1].Href; got != "https://images.example/trixie/a%20b&.qcow2" {
		t.Errorf("enclosure %s", got)
	}
	if r := x.mustRun(Options{URL: "https://images.example/"}); r.Feed {
		t.Error("a feed of the same images is another one")
	}
}

// demandAtom holds a feed against what RFC 4287 demands: 4.1.1 and 4.1.2, and IDs that are absolute and differ.
func demandAtom(t *testing.T, f atomFeed) {
	t.Helper()
	ids := map[string]bool{f.ID: true}
	if !strings.HasPrefix(f.ID, "urn:uuid:") || f.Title == "" || f.Author.Name == "" || f.Links[0].Rel != "self" {
		t.Errorf("the feed lacks something: %+v", f)
	}
	for _, e := range f.Entries {
		if !strings.HasPrefix(e.ID, "urn:uuid:") || ids[e.ID] || e.Title == "" || e.Summary == "" || e.Links[0].Rel != "alternate" {
			t.Errorf("an entry lacks something: %+v", e)
		}
		ids[e.ID] = true
		for _, at := range []string{e.Updated, e.Published} {
			if _, err := time.Parse(time.RFC3339, at); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestFeedIsBounded(t *testing.T) {
	var images []manifest.IndexImage
	seen := map[string]known{}
	for n := range maxEntries + 7 {
		i := picture("trixie", "ec2", fmt.Sprintf("20260801-%d", n))
		images = append(images, i)
		seen[key(i)] = known{Seen: time.Unix(int64(n), 0)}
	}
	text, err := feed(images, seen, "")
	if err != nil {
		t.Fatal(err)
	}
	var f atomFeed
	if err := xml.Unmarshal(text, &f); err != nil || len(f.Entries) != maxEntries || f.Entries[0].Updated != stamp(time.Unix(maxEntries+6, 0)) {
		t.Errorf("%d entries, the first of %s, %v", len(f.Entries), f.Entries[0].Updated, err)
	}
}

package openstack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/applicationcredentials"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/endpoints"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/projects"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/roles"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/services"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/users"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/imagedata"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/target"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/openstack/openstacktest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

// envChroot names the directory that packaging/openstack-chroot made.
const envChroot = "DEBCLOUD_TEST_OPENSTACK"

// real is a Keystone and a Glance of Debian's packages.
type real struct {
	auth     string // Keystone's address
	state    string // directory of databases, images and logs
	identity *gophercloud.ServiceClient
	tenants  int
}

// startReal starts both services. They end with the test, and with its process.
func startReal(t testing.TB) *real {
	t.Helper()
	chroot := os.Getenv(envChroot)
	if chroot == "" {
		t.Skipf("%s names no chroot with Keystone and Glance: packaging/openstack-chroot makes one, and make test does it", envChroot)
	}
	if os.Geteuid() != 0 {
		t.Skip("starting Keystone and Glance takes root, for chroot")
	}
	r := &real{state: t.TempDir()}
	keystone, glance := freePort(t), freePort(t)
	c := exec.Command("testdata/serve.sh", chroot, r.state, fmt.Sprint(keystone), fmt.Sprint(glance))
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	c.Stdout, c.Stderr = &said, &said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	t.Cleanup(func() {
		c.Process.Kill() // unshare's --kill-child ends the others
		<-ended
		if t.Failed() {
			for _, name := range []string{"keystone.out", "glance.log", "glance.out"} {
				text, _ := os.ReadFile(filepath.Join(r.state, name))
				t.Logf("%s ends with:\n%s", name, text[max(0, len(text)-3000):])
			}
		}
	})
	auth := fmt.Sprintf("http://127.0.0.1:%d/v3", keystone)
	for _, url := range []string{auth, fmt.Sprintf("http://127.0.0.1:%d/", glance)} {
		awaitHTTP(t, url, ended, &said)
	}
	r.setUp(t, auth, fmt.Sprintf("http://127.0.0.1:%d", glance))
	return r
}

func freePort(t testing.TB) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func awaitHTTP(t testing.TB, url string, ended chan error, said *bytes.Buffer) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Minute)
	for time.Now().Before(deadline) {
		if response, err := http.Get(url); err == nil {
			response.Body.Close()
			return
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the services ended before they answered: %v\n%s", err, said.String())
		case <-time.After(200 * time.Millisecond):
		}
	}
	t.Fatalf("%s does not answer", url)
}

// setUp registers Glance, as an operator does once.
func (r *real) setUp(t testing.TB, auth, glance string) {
	t.Helper()
	r.auth = auth
	r.identity = identityAs(t, gophercloud.AuthOptions{IdentityEndpoint: auth, Username: "admin", Password: "admin", DomainName: "Default", TenantName: "admin"})
	r.makeUser(t, "glance", "glance", r.makeProject(t, "service"), "admin")
	service := must(services.Create(t.Context(), r.identity, services.CreateOpts{Type: "image", Extra: map[string]any{"name": "glance"}}).Extract())(t)
	must(endpoints.Create(t.Context(), r.identity, endpoints.CreateOpts{Availability: gophercloud.AvailabilityPublic, Name: "glance", Region: "RegionOne", URL: glance, ServiceID: service.ID}).Extract())(t)
}

func (r *real) makeProject(t testing.TB, name string) string {
	t.Helper()
	return must(projects.Create(t.Context(), r.identity, projects.CreateOpts{Name: name, DomainID: "default"}).Extract())(t).ID
}

// makeUser makes a user with roles in a project.
func (r *real) makeUser(t testing.TB, name, password, project string, names ...string) string {
	t.Helper()
	u := must(users.Create(t.Context(), r.identity, users.CreateOpts{Name: name, Password: password, DomainID: "default"}).Extract())(t)
	for _, role := range names {
		if err := roles.Assign(t.Context(), r.identity, r.role(t, role), roles.AssignOpts{UserID: u.ID, ProjectID: project}).ExtractErr(); err != nil {
			t.Fatal(err)
		}
	}
	return u.ID
}

// tenant is a project of its own in the real cloud. It implements publishtest.Cloud and publishtest.Loser.
type tenant struct {
	target  target.Target
	clouds  string // path of its clouds.yaml
	secret  string
	expires time.Time
	reader  *Publisher // past all lines
}

// newTenant makes what README.md tells an operator to make: a project, a user with two roles, an application credential.
func (r *real) newTenant(t testing.TB, names ...string) *tenant {
	t.Helper()
	r.tenants++
	name := fmt.Sprintf("publisher-%d", r.tenants)
	project := r.makeProject(t, name)
	user := r.makeUser(t, name, openstacktest.Password, project, names...)
	mine := identityAs(t, gophercloud.AuthOptions{IdentityEndpoint: r.auth, Username: name, Password: openstacktest.Password, DomainName: "Default", TenantName: name})
	o := &tenant{expires: time.Now().Add(30 * 24 * time.Hour).UTC().Truncate(time.Second)}
	credential := must(applicationcredentials.Create(t.Context(), mine, user, applicationcredentials.CreateOpts{Name: "debcloud", ExpiresAt: &o.expires}).Extract())(t)
	o.secret = credential.Secret
	o.clouds = writeCloudsYAML(t, fmt.Sprintf(`clouds:
  real:
    auth_type: v3applicationcredential
    auth:
      auth_url: %s
      application_credential_id: %s
      application_credential_secret: %s
`, r.auth, credential.ID, credential.Secret))
	o.target = target.Target{Name: "real-cloud", Provider: "openstack", Account: project, Regions: []string{"RegionOne"}, Settings: map[string]string{"cloud": "real"}}
	o.reader = o.publisher(t, &publishtest.Line{}, nil)
	return o
}

func (o *tenant) publisher(t testing.TB, line *publishtest.Line, j *journal.Journal) *Publisher {
	t.Helper()
	t.Setenv("OS_CLIENT_CONFIG_FILE", o.clouds)
	p := hasty(t, o.target, line, j)
	p.patience = patience{pause: 20 * time.Millisecond, retries: 5, settling: 5 * time.Minute}
	return p
}

func (o *tenant) Publisher(t testing.TB, line *publishtest.Line, j *journal.Journal) publish.Publisher {
	return o.publisher(t, line, j)
}

func (o *tenant) Secrets() []string { return []string{o.secret, openstacktest.Password} }

func (o *tenant) Dump(t testing.TB) string {
	lines := dumpImages("", o.images(t))
	slices.Sort(lines)
	return strings.Join(lines, "")
}

func (o *tenant) region(t testing.TB) *region {
	t.Helper()
	t.Setenv("OS_CLIENT_CONFIG_FILE", o.clouds)
	return must(o.reader.regions(context.WithoutCancel(t.Context())))(t)[0]
}

func (o *tenant) Lose(t testing.TB) bool {
	r := o.region(t)
	all := must(r.list(t.Context(), images.ListOpts{}))(t)
	if len(all) == 0 {
		return false
	}
	if err := r.remove(t.Context(), &all[len(all)-1]); err != nil {
		t.Fatal(err)
	}
	return true
}

// role returns the identifier of a role, which is made where it is missing.
func (r *real) role(t testing.TB, name string) string {
	pages := must(roles.List(r.identity, roles.ListOpts{Name: name}).AllPages(t.Context()))(t)
	if found := must(roles.ExtractRoles(pages))(t); len(found) > 0 {
		return found[0].ID
	}
	return must(roles.Create(t.Context(), r.identity, roles.CreateOpts{Name: name}).Extract())(t).ID
}

func identityAs(t testing.TB, auth gophercloud.AuthOptions) *gophercloud.ServiceClient {
	t.Helper()
	c := must(openstack.AuthenticatedClient(t.Context(), auth))(t)
	// Keystone's endpoint as it was given; the catalog names the same.
	return &gophercloud.ServiceClient{ProviderClient: c, Endpoint: auth.IdentityEndpoint + "/", Type: "identity"}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func openJournal(t testing.TB) *journal.Journal {
	t.Helper()
	j := must(journal.Open(t.Context(), filepath.Join(t.TempDir(), "journal.db"), journal.Wait))(t)
	t.Cleanup(func() { j.Close() })
	return j
}

// images lists what the real Glance has in the project, with data, as the fake does.
func (o *tenant) images(t testing.TB) []openstacktest.Image {
	t.Helper()
	region := o.region(t)
	var all []openstacktest.Image
	for _, i := range must(region.list(t.Context(), images.ListOpts{}))(t) {
		one := openstacktest.Image{
			ID: i.ID, Name: i.Name, Status: string(i.Status), Visibility: string(i.Visibility),
			Hidden: i.Hidden, Protected: i.Protected, Tags: i.Tags, Properties: map[string]string{"disk_format": i.DiskFormat, "container_format": i.ContainerFormat},
		}
		for name := range i.Properties {
			if text := mark(&i, name); text != "" {
				one.Properties[name] = text
			}
		}
		if i.Status == images.ImageStatusActive {
			data := must(imagedata.Download(t.Context(), region.images, i.ID).Extract())(t)
			one.Data = must(io.ReadAll(data))(t)
			data.Close()
		}
		all = append(all, one)
	}
	return all
}

// TestReal holds the Publisher, and the fake that the other tests use, against Debian's own Keystone and Glance.
func TestReal(t *testing.T) {
	r := startReal(t)
	t.Run("staged and imported as the fake does", func(t *testing.T) { likeTheFake(t, r, []string{"glance-direct"}, http.DefaultTransport) })
	t.Run("uploaded as the fake does", func(t *testing.T) { likeTheFake(t, r, nil, noImports{}) })
	t.Run("cut", func(t *testing.T) { cutReal(t, r) })
	t.Run("who it is", func(t *testing.T) { whoIsReal(t, r) })
	t.Run("retired", func(t *testing.T) { retireReal(t, r) })
	t.Run("an image comes back", func(t *testing.T) { comesBack(t, r) })
}

// noImports hides that the cloud offers to import, as policies can.
type noImports struct{}

func (noImports) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.HasSuffix(r.URL.Path, "/info/import") {
		r = r.Clone(r.Context())
		r.URL.Path += "s" // there is no such place
	}
	return http.DefaultTransport.RoundTrip(r)
}

// likeTheFake takes two versions of an image through both clouds and demands the same of them.
func likeTheFake(t *testing.T, r *real, methods []string, way http.RoundTripper) {
	o := r.newTenant(t, "member", "image_publisher")
	p := must(New(o.target, openJournal(t), way))(t)
	p.patience = o.reader.patience
	twoVersions(t, p)
	f := newFake(t)
	f.Regions["north"].Import = methods
	f.target.Regions = []string{"north"}
	twoVersions(t, f.Publisher(t, &publishtest.Line{}, openJournal(t)))
	fakeLines := dumpImages("", f.Regions["north"].Images())
	slices.Sort(fakeLines)
	got, want := comparable(strings.Join(fakeLines, "")), comparable(o.Dump(t))
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Fatalf("the fake is not like the real one: it has %q, the real one %q", got[i:], want[i:])
		}
	}
}

// cutReal breaks uploads in the middle, before and after they reached Glance, and demands that the next publication ends well.
func cutReal(t *testing.T, r *real) {
	for n, row := range []struct {
		summary string
		method  string // of the request that is broken
		path    string // what its path ends with
		after   bool   // whether it reaches Glance
	}{
		{"Glance makes the image and the answer is lost", "POST", "/images", true},
		{"the data breaks off", "PUT", "/stage", false},
		{"the data arrives and the answer is lost", "PUT", "/stage", true},
		{"the import begins and the answer is lost", "POST", "/import", true},
		{"it is public and the answer is lost", "PATCH", "", true},
	} {
		t.Run(row.summary, func(t *testing.T) {
			o := r.newTenant(t, "member", "image_publisher")
			img := publishtest.Image(t, publishtest.Options{Seed: byte(n)})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			p := must(New(o.target, openJournal(t), &breaker{method: row.method, path: row.path, after: row.after, cancel: cancel}))(t)
			p.patience = o.reader.patience
			if _, err := p.Publish(ctx, img, publish.Public); err == nil {
				t.Fatal("the publication ended well though it was broken")
			}
			again := o.publisher(t, &publishtest.Line{}, openJournal(t))
			must(again.Publish(t.Context(), img, publish.Public))(t)
			all := o.images(t)
			if len(all) != 1 || all[0].Status != "active" || all[0].Visibility != "public" || all[0].Hidden || !slices.Contains(all[0].Tags, latest) {
				t.Errorf("Glance has %d images: %.300v", len(all), all)
			}
		})
	}
}

// breaker ends the process, as far as the cloud can tell, at a request.
type breaker struct {
	method, path string
	after        bool
	cancel       func()
}

func (b *breaker) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != b.method || !strings.HasSuffix(r.URL.Path, b.path) || strings.Contains(r.URL.Path, "tokens") {
		return http.DefaultTransport.RoundTrip(r)
	}
	if !b.after {
		r.Body = io.NopCloser(io.LimitReader(r.Body, 100<<10)) // shorter than its announced length
	}
	_, err := http.DefaultTransport.RoundTrip(r.WithContext(context.WithoutCancel(r.Context())))
	b.cancel()
	return nil, fmt.Errorf("broken here: %w", errors.Join(err, io.ErrUnexpectedEOF))
}

// whoIsReal compares what Whoami says is missing with what fails.
func whoIsReal(t *testing.T, r *real) {
	for _, row := range []struct {
		summary string
		roles   []string
		missing string
	}{
		{"all that README.md asks for", []string{"member", "image_publisher"}, ""},
		{"may not publish", []string{"member"}, "publicize_image"},
		{"may only read", []string{"reader"}, "add_image"},
	} {
		o := r.newTenant(t, row.roles...)
		who := must(o.publisher(t, &publishtest.Line{}, nil).Whoami(t.Context()))(t)
		if who.Account != o.target.Account || !who.Until.Equal(o.expires) || (row.missing == "") != (len(who.Missing) == 0) || !strings.Contains(strings.Join(who.Missing, " "), row.missing) {
			t.Errorf("%s: %+v, where the project is %s, the credential expires %s and %q is missing", row.summary, who, o.target.Account, o.expires, row.missing)
		}
		_, err := o.publisher(t, &publishtest.Line{}, openJournal(t)).Publish(t.Context(), publishtest.Image(t, publishtest.Options{}), publish.Public)
		if (row.missing == "") != (err == nil) || err != nil && fault.KindOf(err) != fault.Input {
			t.Errorf("%s: publishing says %v", row.summary, err)
		}
	}
}

// retireReal deprecates, hides and deletes a published image, which is protected.
func retireReal(t *testing.T, r *real) {
	o := r.newTenant(t, "member", "image_publisher")
	p := o.publisher(t, &publishtest.Line{}, openJournal(t))
	must(p.Publish(t.Context(), publishtest.Image(t, publishtest.Options{}), publish.Public))(t)
	retire(t, p)
}

// comesBack takes a whole image of the straight path through Glance and reads it there again.
func comesBack(t *testing.T, r *real) {
	img := publishtest.RealImage(t)
	o := r.newTenant(t, "member", "image_publisher")
	p := o.publisher(t, &publishtest.Line{}, openJournal(t))
	published := must(p.Publish(t.Context(), img, publish.Public))(t)
	data := must(imagedata.Download(t.Context(), o.region(t).images, published.Uploads[0].Data.Ref).Extract())(t)
	defer data.Close()
	back := filepath.Join(t.TempDir(), "back.qcow2")
	file := must(os.Create(back))(t)
	defer file.Close()
	must(io.Copy(file, data))(t)
	original := must(img.Open(t.Context()))(t)
	if out, err := exec.Command("qemu-img", "compare", "-f", "raw", "-F", "qcow2", original.Name(), back).CombinedOutput(); err != nil {
		t.Errorf("the image in Glance is not the one that was published: %v\n%s", err, out)
	}
}

// TestLongSuiteOnRealGlance is the whole suite, each scene in a project of its own.
func TestLongSuiteOnRealGlance(t *testing.T) {
	if os.Getenv("DEBCLOUD_TEST_LONG") == "" {
		t.Skip("DEBCLOUD_TEST_LONG is not set: make test-long does it")
	}
	r := startReal(t)
	publishtest.Run(t, publishtest.Provider{
		Name: "openstack", Vendor: "genericcloud", EveryNth: 3,
		Cloud: func(t testing.TB) publishtest.Cloud { return r.newTenant(t, "member", "image_publisher") },
	})
}

// twoVersions publishes two versions in both stages, and each time once more.
func twoVersions(t *testing.T, p publish.Publisher) {
	t.Helper()
	for _, version := range []string{"20260814-1", "20260815-1"} {
		img := publishtest.Image(t, publishtest.Options{Version: version, Seed: 1})
		for _, stage := range []publish.Stage{publish.Private, publish.Public} {
			first := must(p.Publish(t.Context(), img, stage))(t)
			if again := must(p.Publish(t.Context(), img, stage))(t); !first.Changed || again.Changed {
				t.Errorf("%s at stage %s: changed %v, again %v", version, stage, first.Changed, again.Changed)
			}
		}
	}
}

// comparable is a dump without the project's identifier, which each cloud chooses, in words.
func comparable(dump string) []string {
	var words []string
	for _, w := range strings.Fields(dump) {
		if w = strings.Trim(w, "[]"); !strings.HasPrefix(w, "owner") {
			words = append(words, w)
		}
	}
	return words
}

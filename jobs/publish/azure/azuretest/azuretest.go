// Package azuretest is a small Azure for tests: the part of the login service, of the resource manager and of page blobs that
// publishing images uses, on loopback, as strict as the real ones.
//
// It refuses what they refuse: sizes that are no whole MiB and a footer, pages that are not aligned or too large, footers that are none,
// writes without or after a grant, versions that are not three numbers, sources in another region or state, changes of what
// cannot be changed, deletion of what is in use. Long operations take some polls.
package azuretest

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
)

// What the cloud has from the start.
const (
	Tenant        = "11111111-2222-3333-4444-555555555555"
	Subscription  = "0b1f6471-1bf0-4dda-aec3-cb9272f09590"
	ResourceGroup = "cloud-images"
	Gallery       = "debian_images"
	Client        = "99999999-8888-7777-6666-555555555555"
	ClientSecret  = "client~secret~of~the~test"
	// Assertion is the id token of a CI job, which the login service trusts.
	Assertion = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJwcm9qZWN0X3BhdGg6Y2xvdWQtdGVhbS9kZWJjbG91ZCIsImV4cCI6NDEwMjQ0NDgwMH0.c2lnbmVkLWJ5LXNhbHNh"
)

// Cloud is one subscription with one gallery. Change its fields before the first request, or with Lock held.
type Cloud struct {
	sync.Mutex
	// Locations are the subscription's regions; the gallery is in the first.
	Locations []string
	// Permissions are what the login may do on the resource group, as a role definition lists them, and OnSubscription what it may do on the
	// subscription, and so on the group, too.
	Permissions, OnSubscription []string
	// Polls is how many looks an operation takes.
	Polls int
	// Conflicts is how many deletions of a disk answer 409 before one works.
	Conflicts int
	// Broken are regions to which replication fails.
	Broken []string
	// Quota is how many versions the gallery may have; 0: as many as it likes.
	Quota int
	// Expired tells that the login service refuses every login.
	Expired bool
	// Discard tells that pages are checked and not kept, but for the footer.
	Discard bool

	// NoList tells that a grant to write is none to list pages.
	NoList bool
	// Damage is how many writes of pages do not arrive as they were sent.
	Damage int
	// OnWrite is told how many writes of pages were taken, before each is answered. It runs under the lock.
	OnWrite func(n int)

	writes, clears int // of pages

	bare        string // where page blobs are written, where that is not the server's own address
	server      *httptest.Server
	tokens      map[string]bool
	disks       map[string]*disk
	definitions map[string]resource
	versions    map[string]*version
	operations  map[string]*operation
}

// resource is a document of the resource manager.
type resource map[string]any

func (r resource) at(path string) any {
	var v any = map[string]any(r)
	for key := range strings.SplitSeq(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[key]
	}
	return v
}

func (r resource) text(path string) string { s, _ := r.at(path).(string); return s }

func (r resource) properties() map[string]any {
	p, ok := r["properties"].(map[string]any)
	if !ok {
		p = map[string]any{}
		r["properties"] = p
	}
	return p
}

// operation is a long one: what it does is done when it was looked at often enough.
type operation struct {
	left   int
	finish func() *refusal
	failed *refusal
	done   bool
	result func() any // what its Location answers
}

// refusal is an error of the resource manager.
type refusal struct {
	status        int
	code, message string
}

func refuse(status int, code, format string, args ...any) *refusal {
	return &refusal{status, code, fmt.Sprintf(format, args...)}
}

// New starts a cloud, which stops at the end of the test.
func New(t testing.TB) *Cloud {
	c := &Cloud{
		Locations: []string{"westeurope", "eastus", "southeastasia"}, Permissions: []string{"*"}, OnSubscription: []string{"*"}, Polls: 1,
		tokens: map[string]bool{}, disks: map[string]*disk{}, definitions: map[string]resource{}, versions: map[string]*version{}, operations: map[string]*operation{},
	}
	// It is complete before it starts: a client in another process may ask at once.
	c.server = httptest.NewUnstartedServer(c)
	c.server.Config.ErrorLog = nil
	c.server.StartTLS()
	t.Cleanup(c.server.Close)
	return c
}

// Bare serves pages without TLS from now on, for those who measure what is done with them before that. Managed disks are always behind it.
func (c *Cloud) Bare(t testing.TB) {
	s := httptest.NewServer(c)
	t.Cleanup(s.Close)
	c.bare = s.URL
}

// URL is the address of all three services.
func (c *Cloud) URL() string { return c.server.URL }

// Transport trusts the cloud's certificate.
func (c *Cloud) Transport() http.RoundTripper { return c.server.Client().Transport }

// ServeHTTP implements http.Handler.
func (c *Cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Ms-Request-Id", "00000000-0000-0000-0000-000000000000")
	switch {
	case strings.HasPrefix(r.URL.Path, "/"+Tenant+"/"):
		c.login(w, r)
	case strings.HasPrefix(r.URL.Path, "/blobs/"):
		c.blob(w, r)
	default:
		c.manage(w, r)
	}
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func (x *refusal) write(w http.ResponseWriter) {
	answer(w, x.status, map[string]any{"error": map[string]any{"code": x.code, "message": x.message}})
}

func token() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// manage is the resource manager.
func (c *Cloud) manage(w http.ResponseWriter, r *http.Request) {
	c.Lock()
	defer c.Unlock()
	if bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); !ok || !c.tokens[bearer] {
		w.Header().Set("WWW-Authenticate", "Bearer")
		refuse(401, "InvalidAuthenticationToken", "The access token is missing, expired or invalid.").write(w)
		return
	}
	if r.URL.Query().Get("api-version") == "" {
		refuse(400, "MissingApiVersionParameter", "The api-version query parameter (?api-version=) is required for all requests.").write(w)
		return
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if len(parts) < 2 || parts[0] != "subscriptions" || !strings.EqualFold(parts[1], Subscription) {
		refuse(404, "SubscriptionNotFound", "The subscription '%s' could not be found.", slices.Concat(parts, []string{"", ""})[1]).write(w)
		return
	}
	if x := c.route(w, r, parts[2:]); x != nil {
		x.write(w)
	}
}

// route answers, or returns why it does not.
func (c *Cloud) route(w http.ResponseWriter, r *http.Request, parts []string) *refusal {
	switch {
	case len(parts) == 1 && parts[0] == "locations" && !allows(c.OnSubscription, "Microsoft.Resources/subscriptions/locations/read"):
		return refuse(403, "AuthorizationFailed", "The client '%s' does not have authorization to perform action 'Microsoft.Resources/subscriptions/locations/read' over scope '/subscriptions/%s' or the scope is invalid.", Client, Subscription)
	case len(parts) == 1 && parts[0] == "locations":
		var all []any
		for _, l := range c.Locations {
			all = append(all, map[string]string{"name": l, "displayName": display(l)})
		}
		answer(w, 200, map[string]any{"value": all})
		return nil
	case len(parts) == 6 && parts[4] == "operations":
		return c.look(w, parts[5])
	case len(parts) == 6 && parts[4] == "results":
		return c.result(w, parts[5])
	}
	if len(parts) < 4 || parts[0] != "resourceGroups" || parts[2] != "providers" {
		return refuse(404, "InvalidResourceType", "The resource type could not be found: %s", r.URL.Path)
	}
	if parts[1] != ResourceGroup {
		return refuse(404, "ResourceGroupNotFound", "Resource group '%s' could not be found.", parts[1])
	}
	parts = parts[3:]
	if strings.Join(parts, "/") == "Microsoft.Authorization/permissions" {
		if x := c.demandAction("Microsoft.Authorization/permissions/read"); x != nil {
			return x
		}
		answer(w, 200, map[string]any{"value": []any{
			map[string]any{"actions": c.Permissions, "notActions": []string{}}, map[string]any{"actions": c.OnSubscription, "notActions": []string{}},
		}})
		return nil
	}
	if parts[0] != "Microsoft.Compute" || len(parts) < 2 {
		return refuse(404, "InvalidResourceType", "The resource type could not be found: %s", r.URL.Path)
	}
	if x := c.demandPermission(r.Method, parts); x != nil {
		return x
	}
	if parts[1] == "disks" {
		return c.routeDisks(w, r, parts[2:])
	}
	return c.routeGalleries(w, r, parts[1:])
}

// display is how the portal writes a region, and Azure at times answers.
func display(location string) string {
	return map[string]string{"westeurope": "West Europe", "eastus": "East US", "southeastasia": "Southeast Asia"}[location]
}

func (c *Cloud) demandPermission(method string, parts []string) *refusal {
	kind := []string{}
	for i, p := range parts {
		if i == 0 || i%2 == 1 {
			kind = append(kind, p)
		}
	}
	verb := map[string]string{"GET": "read", "PUT": "write", "PATCH": "write", "DELETE": "delete", "POST": "action"}[method]
	action := strings.Join(append(kind, verb), "/")
	if method == "POST" {
		action = strings.Join([]string{"Microsoft.Compute/disks", parts[len(parts)-1], "action"}, "/")
	}
	return c.demandAction(action)
}

func allows(actions []string, action string) bool {
	return slices.ContainsFunc(actions, func(p string) bool {
		return p == "*" || p == action || strings.HasSuffix(p, "/*") && strings.HasPrefix(action, strings.TrimSuffix(p, "*"))
	})
}

func (c *Cloud) demandAction(action string) *refusal {
	if allows(c.Permissions, action) || allows(c.OnSubscription, action) {
		return nil
	}
	return refuse(403, "AuthorizationFailed", "The client '%s' does not have authorization to perform action '%s' over scope '/subscriptions/%s/resourceGroups/%s' or the scope is invalid.", Client, action, Subscription, ResourceGroup)
}

// begin answers that an operation was begun.
func (c *Cloud) begin(w http.ResponseWriter, r *http.Request, status int, body any, o *operation) {
	id := token()
	o.left = c.Polls
	c.operations[id] = o
	base := fmt.Sprintf("%s/subscriptions/%s/providers/Microsoft.Compute/locations/%s/", c.server.URL, Subscription, c.Locations[0])
	w.Header().Set("Azure-AsyncOperation", base+"operations/"+id+"?api-version="+r.URL.Query().Get("api-version"))
	if o.result != nil || r.Method == "DELETE" {
		w.Header().Set("Location", base+"results/"+id+"?api-version="+r.URL.Query().Get("api-version"))
	}
	w.Header().Set("Retry-After", "0")
	if body == nil {
		w.WriteHeader(status)
		return
	}
	answer(w, status, body)
}

// advance lets an operation go on.
func (o *operation) advance() {
	if o.done {
		return
	}
	if o.left > 0 {
		o.left--
		return
	}
	o.done = true
	o.failed = o.finish()
}

// settle ends an operation of a resource that is looked at, as time goes on for it, too.
func (c *Cloud) settle(o *operation) {
	if o != nil {
		o.advance()
	}
}

func (c *Cloud) look(w http.ResponseWriter, id string) *refusal {
	o := c.operations[id]
	if o == nil {
		return refuse(404, "OperationNotFound", "operation %s", id)
	}
	o.advance()
	w.Header().Set("Retry-After", "0")
	switch {
	case !o.done:
		answer(w, 200, map[string]any{"name": id, "status": "InProgress"})
	case o.failed != nil:
		answer(w, 200, map[string]any{"name": id, "status": "Failed", "error": map[string]any{"code": o.failed.code, "message": o.failed.message}})
	default:
		answer(w, 200, map[string]any{"name": id, "status": "Succeeded"})
	}
	return nil
}

func (c *Cloud) result(w http.ResponseWriter, id string) *refusal {
	o := c.operations[id]
	if o == nil {
		return refuse(404, "OperationNotFound", "operation %s", id)
	}
	o.advance()
	switch {
	case !o.done:
		w.WriteHeader(202)
	case o.result != nil:
		answer(w, 200, o.result())
	default:
		w.WriteHeader(200)
	}
	return nil
}

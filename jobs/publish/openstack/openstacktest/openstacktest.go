// Package openstacktest is a small OpenStack cloud for tests: the part of Keystone v3 and of Glance v2 that publishing images
// uses, on loopback, as strict as the real ones.
//
// It refuses what they refuse, in the same words where those matter: unknown members, data for an image that is not queued, a
// name of a user without its domain, public images of those who may not, identifiers that were used before, protected
// images' deletion. It is held against the real services by running the same tests on both.
package openstacktest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// Cloud is one Keystone and a Glance per region. Change its fields before the first request, or between requests with Lock held.
type Cloud struct {
	sync.Mutex
	*Keystone
	Regions map[string]*Glance

	// Intercept, where it is set, is called instead of the cloud for each request, and calls serve to let the cloud have it.
	Intercept func(w http.ResponseWriter, r *http.Request, serve func())
	// Calls lists the requests that reached the cloud, "METHOD PATH".
	Calls []string

	server *httptest.Server
}

// New starts a cloud with the given regions, which stops at the end of the test.
func New(t testing.TB, regions ...string) *Cloud {
	c := &Cloud{Keystone: newKeystone(), Regions: map[string]*Glance{}}
	for _, name := range regions {
		c.Regions[name] = newGlance()
	}
	c.server = httptest.NewServer(http.HandlerFunc(c.serve))
	t.Cleanup(c.server.Close)
	return c
}

// URL is Keystone's address, as in auth_url.
func (c *Cloud) URL() string { return c.server.URL + "/identity/v3" }

// CloudsYAML returns a clouds.yaml that knows the cloud, under the given name, with its application credential.
func (c *Cloud) CloudsYAML(name string) string {
	return fmt.Sprintf(`clouds:
  %s:
    auth_type: v3applicationcredential
    auth:
      auth_url: %s
      application_credential_id: %s
      application_credential_secret: %s
`, name, c.URL(), credentialID, Secret)
}

func (c *Cloud) serve(w http.ResponseWriter, r *http.Request) {
	once := func() {
		c.Lock()
		c.Calls = append(c.Calls, r.Method+" "+r.URL.Path)
		c.Unlock()
		c.route(w, r)
	}
	if c.Intercept != nil {
		c.Intercept(w, r, once)
		return
	}
	once()
}

func (c *Cloud) route(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Openstack-Request-Id", "req-00000000-0000-0000-0000-000000000000")
	if rest, ok := strings.CutPrefix(r.URL.Path, "/identity/v3"); ok {
		c.identity(w, r, rest)
		return
	}
	for name, g := range c.Regions {
		if rest, ok := strings.CutPrefix(r.URL.Path, "/image/"+name); ok {
			user := c.user(r.Header.Get("X-Auth-Token"))
			if user == nil {
				w.Header().Set("WWW-Authenticate", `Keystone uri="`+c.server.URL+`/identity"`)
				refuse(w, http.StatusUnauthorized, "This server could not verify that you are authorized to access the document you requested.")
				return
			}
			g.serve(w, r, rest, user)
			return
		}
	}
	refuse(w, http.StatusNotFound, "The resource could not be found.")
}

// refuse answers with an error in the form of Keystone; Glance's clients only show the text.
func refuse(w http.ResponseWriter, code int, format string, args ...any) {
	answer(w, code, map[string]any{"error": map[string]any{"code": code, "title": http.StatusText(code), "message": fmt.Sprintf(format, args...)}})
}

func answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v)
}

// stamp is a time as both services write it.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

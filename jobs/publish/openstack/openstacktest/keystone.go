package openstacktest

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"time"
)

// What the cloud knows: one user with a password, and an application credential of that user.
const (
	UserName     = "publisher"
	UserDomain   = "Default"
	ProjectName  = "cloud-images"
	Password     = "correct-horse-battery-staple"
	Secret       = "s3cr3t-of-the-application-credential"
	ProjectID    = "7f2d7d6e0a3f4f5f9a1d6c2b8e4f0a11"
	userID       = "0b1c2d3e4f5061728394a5b6c7d8e9f0"
	credentialID = "21dced0fd20347869b93710d2b98aae0"
)

// Keystone is the identity service.
type Keystone struct {
	// Roles of the user in the project; without "admin" no image can be made public, without "member" none at all.
	Roles []string
	// CredentialExpires is when the application credential does; zero is never.
	CredentialExpires time.Time
	// TokenLife is how long a token lives.
	TokenLife time.Duration
	// Skew is how far the service's clock is ahead.
	Skew time.Duration

	mu     sync.Mutex
	tokens map[string]*user
}

type user struct {
	project string
	roles   []string
	method  string
	expires time.Time
}

func (u *user) has(role string) bool {
	for _, r := range u.roles {
		if r == role {
			return true
		}
	}
	return false
}

func newKeystone() *Keystone {
	return &Keystone{Roles: []string{"admin", "member", "reader"}, TokenLife: time.Hour, tokens: map[string]*user{}}
}

// Revoke makes all tokens invalid.
func (k *Keystone) Revoke() {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.tokens)
}

func (k *Keystone) now() time.Time { return time.Now().Add(k.Skew) }

func (k *Keystone) user(token string) *user {
	k.mu.Lock()
	defer k.mu.Unlock()
	u := k.tokens[token]
	if u == nil || k.now().After(u.expires) {
		return nil
	}
	return u
}

func (c *Cloud) identity(w http.ResponseWriter, r *http.Request, path string) {
	w.Header().Set("Date", c.now().UTC().Format(http.TimeFormat))
	path = strings.TrimSuffix(path, "/")
	switch {
	case r.Method == "GET" && path == "":
		answer(w, 200, map[string]any{"version": map[string]any{
			"id": "v3.14", "status": "stable", "links": []any{map[string]string{"rel": "self", "href": c.URL() + "/"}},
		}})
	case r.Method == "POST" && path == "/auth/tokens":
		c.authenticate(w, r)
	case c.user(r.Header.Get("X-Auth-Token")) == nil:
		unauthorised(w)
	case r.Method == "GET" && path == "/auth/tokens":
		u := c.user(r.Header.Get("X-Subject-Token"))
		if u == nil {
			refuse(w, 404, "Could not recognize Fernet token")
			return
		}
		answer(w, 200, c.token(u))
	case r.Method == "GET" && path == "/users/"+userID+"/application_credentials/"+credentialID:
		body := map[string]any{"id": credentialID, "name": "debcloud", "project_id": ProjectID, "unrestricted": false, "expires_at": nil}
		if !c.CredentialExpires.IsZero() {
			body["expires_at"] = c.CredentialExpires.UTC().Format("2006-01-02T15:04:05.000000")
		}
		answer(w, 200, map[string]any{"application_credential": body})
	default:
		refuse(w, 404, "Could not find resource %s.", path)
	}
}

func unauthorised(w http.ResponseWriter) {
	refuse(w, 401, "The request you have made requires authentication.")
}

type domain struct{ ID, Name string }

func (d domain) right() bool { return d.Name == UserDomain || d.ID == "default" }
func (d domain) empty() bool { return d.ID == "" && d.Name == "" }

type authRequest struct {
	Auth struct {
		Identity struct {
			Methods  []string
			Password *struct {
				User struct {
					ID, Name, Password string
					Domain             domain
				}
			}
			ApplicationCredential *struct {
				ID, Name, Secret string
			} `json:"application_credential"`
		}
		Scope *struct {
			Project *struct {
				ID, Name string
				Domain   domain
			}
		}
	}
}

func (c *Cloud) authenticate(w http.ResponseWriter, r *http.Request) {
	var q authRequest
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		refuse(w, 400, "The request is malformed: %v", err)
		return
	}
	identity, scope := q.Auth.Identity, q.Auth.Scope
	method := strings.Join(identity.Methods, ",")
	switch {
	case method == "application_credential" && identity.ApplicationCredential != nil:
		a := identity.ApplicationCredential
		if scope != nil {
			refuse(w, 401, "Application credentials cannot request a scope.")
			return
		}
		if a.ID != credentialID || a.Secret != Secret || !c.CredentialExpires.IsZero() && c.now().After(c.CredentialExpires) {
			unauthorised(w)
			return
		}
	case method == "password" && identity.Password != nil:
		u := identity.Password.User
		if u.Name != "" && u.Domain.empty() {
			refuse(w, 400, "Invalid input for field 'identity/password/user': %q needs a domain", u.Name)
			return
		}
		if u.Password != Password || !(u.ID == userID || u.Name == UserName && u.Domain.right()) {
			unauthorised(w)
			return
		}
		if scope == nil || scope.Project == nil {
			refuse(w, 401, "This cloud gives no tokens without a project.")
			return
		}
		if p := scope.Project; !(p.ID == ProjectID || p.Name == ProjectName && p.Domain.right()) {
			unauthorised(w)
			return
		}
	default:
		refuse(w, 400, "Authentication method %q is not known", method)
		return
	}
	c.issue(w, method)
}

func (c *Cloud) issue(w http.ResponseWriter, method string) {
	var b [24]byte
	_, _ = rand.Read(b[:]) // never fails
	id := "gAAAAA" + hex.EncodeToString(b[:])
	u := &user{project: ProjectID, roles: c.Roles, method: method, expires: c.now().Add(c.TokenLife)}
	c.mu.Lock()
	c.tokens[id] = u
	c.mu.Unlock()
	w.Header().Set("X-Subject-Token", id)
	answer(w, 201, c.token(u))
}

func (c *Cloud) token(u *user) map[string]any {
	var roles, endpoints []any
	for _, r := range u.roles {
		roles = append(roles, map[string]string{"id": "id-of-" + r, "name": r})
	}
	for name := range c.Regions {
		endpoints = append(endpoints, map[string]string{
			"id": "image-in-" + name, "interface": "public", "region": name, "region_id": name, "url": c.server.URL + "/image/" + name,
		})
	}
	dom := map[string]string{"id": "default", "name": UserDomain}
	token := map[string]any{
		"methods": []string{u.method}, "roles": roles,
		"user":       map[string]any{"id": userID, "name": UserName, "domain": dom},
		"project":    map[string]any{"id": ProjectID, "name": ProjectName, "domain": dom},
		"issued_at":  u.expires.Add(-c.TokenLife).UTC().Format("2006-01-02T15:04:05.000000Z"),
		"expires_at": u.expires.UTC().Format("2006-01-02T15:04:05.000000Z"),
		"catalog": []any{
			map[string]any{"id": "image", "type": "image", "name": "glance", "endpoints": endpoints},
			map[string]any{"id": "identity", "type": "identity", "name": "keystone", "endpoints": []any{
				map[string]string{"id": "identity", "interface": "public", "region": "RegionOne", "region_id": "RegionOne", "url": c.server.URL + "/identity"},
			}},
		},
	}
	if u.method == "application_credential" {
		token["application_credential"] = map[string]any{"id": credentialID, "name": "debcloud", "restricted": true}
	}
	return map[string]any{"token": token}
}

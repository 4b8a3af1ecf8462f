package azuretest

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"time"
)

// login is the token service (OAuth 2.0 client credentials, with a secret or another service's id token).
func (c *Cloud) login(w http.ResponseWriter, r *http.Request) {
	switch path := strings.TrimPrefix(r.URL.Path, "/"+Tenant); path {
	case "/v2.0/.well-known/openid-configuration":
		base := c.server.URL + "/" + Tenant
		answer(w, 200, map[string]any{
			"issuer": base + "/v2.0", "authorization_endpoint": base + "/oauth2/v2.0/authorize", "token_endpoint": base + "/oauth2/v2.0/token",
		})
	case "/oauth2/v2.0/token":
		c.issue(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (c *Cloud) issue(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm() // what is missing is refused below
	federated := r.PostForm.Get("client_assertion") == Assertion && r.PostForm.Get("client_assertion_type") == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	secret := r.PostForm.Get("client_secret") == ClientSecret
	c.Lock()
	defer c.Unlock()
	if c.Expired || r.PostForm.Get("client_id") != Client || !federated && !secret || !strings.HasSuffix(r.PostForm.Get("scope"), "/.default") && !strings.Contains(r.PostForm.Get("scope"), "/.default ") {
		answer(w, 401, map[string]any{"error": "invalid_client", "error_description": "AADSTS700024: Client assertion is not within its valid time range.", "error_codes": []int{700024}})
		return
	}
	claims, _ := json.Marshal(map[string]any{"appid": Client, "oid": "oid-of-the-principal", "tid": Tenant, "exp": time.Now().Add(time.Hour).Unix(), "jti": token()})
	bearer := "eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString(claims) + ".c2lnbmF0dXJl"
	c.tokens[bearer] = true
	answer(w, 200, map[string]any{"token_type": "Bearer", "expires_in": 3600, "ext_expires_in": 3600, "access_token": bearer})
}

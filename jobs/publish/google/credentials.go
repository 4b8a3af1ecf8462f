package google

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
	"golang.org/x/oauth2/google/externalaccount"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

const cloudScope = "https://www.googleapis.com/auth/cloud-platform"

// credentials log in. Federated first: a GitLab id token is exchanged for one of Google's, and that for one of the service account
// (cloud.google.com/iam/docs/workload-identity-federation); no key is stored. Else GOOGLE_APPLICATION_CREDENTIALS names a file.
type credentials struct {
	audience string // of the workload identity provider, //iam.googleapis.com/projects/…/providers/…
	account  string // service account that is impersonated; "" for none
	tokenURL string
	iamURL   string
	base     http.RoundTripper

	once   sync.Once
	source oauth2.TokenSource
	failed error
}

// idToken is the federated credential: GitLab writes a job's id tokens into variables.
type idToken struct{}

// SubjectToken implements externalaccount.SubjectTokenSupplier.
func (idToken) SubjectToken(context.Context, externalaccount.SupplierOptions) (string, error) {
	if token := strings.TrimSpace(os.Getenv("GOOGLE_ID_TOKEN")); token != "" {
		return token, nil
	}
	path := os.Getenv("GOOGLE_ID_TOKEN_FILE")
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fault.Inputf("GOOGLE_ID_TOKEN_FILE %q cannot be read", path)
	}
	return strings.TrimSpace(string(text)), nil
}

func hasIDToken() bool {
	return os.Getenv("GOOGLE_ID_TOKEN") != "" || os.Getenv("GOOGLE_ID_TOKEN_FILE") != ""
}

// client returns a client that logs in by itself.
func (c *credentials) client() (*http.Client, error) {
	c.once.Do(func() { c.source, c.failed = c.open() })
	if c.failed != nil {
		return nil, c.failed
	}
	return &http.Client{
		Transport: &oauth2.Transport{Source: c.source, Base: c.base},
		// The answer of an unfinished upload is 308, which is no redirection there.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

func (c *credentials) open() (oauth2.TokenSource, error) {
	ctx := context.WithValue(context.Background(), oauth2.HTTPClient, &http.Client{Transport: c.base, Timeout: time.Minute})
	file := os.Getenv("GOOGLE_APPLICATION_CREDENTIALS")
	switch {
	case hasIDToken() && c.audience == "":
		return nil, fault.Inputf("there is an id token, but the target names no workload identity provider: set its setting \"identityProvider\"")
	case hasIDToken():
		config := externalaccount.Config{
			Audience: c.audience, SubjectTokenType: "urn:ietf:params:oauth:token-type:jwt", TokenURL: c.tokenURL,
			SubjectTokenSupplier: idToken{}, Scopes: []string{cloudScope},
		}
		if c.account != "" {
			config.ServiceAccountImpersonationURL = c.iamURL + "/projects/-/serviceAccounts/" + c.account + ":generateAccessToken"
		}
		return externalaccount.NewTokenSource(ctx, config)
	case file != "":
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fault.Inputf("GOOGLE_APPLICATION_CREDENTIALS %q cannot be read", file)
		}
		return fromFile(ctx, file, text)
	}
	return nil, fault.WithHint(fault.Inputf("there are no credentials for Google"), "in GitLab give the job the id token GOOGLE_ID_TOKEN; elsewhere let GOOGLE_APPLICATION_CREDENTIALS name a file")
}

// fromFile logs in by a file with a key. A file of type external_account could name any address to send a token to, or a program
// to run, so it is refused.
func fromFile(ctx context.Context, file string, text []byte) (oauth2.TokenSource, error) {
	var head struct {
		Type google.CredentialsType `json:"type"`
	}
	allowed := []google.CredentialsType{google.ServiceAccount, google.AuthorizedUser}
	if err := json.Unmarshal(text, &head); err == nil && head.Type != "" && !slices.Contains(allowed, head.Type) {
		return nil, fault.Inputf("GOOGLE_APPLICATION_CREDENTIALS %q is of type %q, neither of service_account and authorized_user", file, head.Type)
	}
	found, err := google.CredentialsFromJSONWithType(ctx, text, head.Type, cloudScope)
	if err != nil {
		return nil, fault.Inputf("GOOGLE_APPLICATION_CREDENTIALS %q holds no credentials that Google's library knows", file)
	}
	return found.TokenSource, nil
}

// refused gives an error of the login its kind. Its text could repeat a token, so only its status is told.
func (c *credentials) refused(err error) error {
	text := err.Error()
	_, after, found := strings.Cut(text, "oauth2/google: status code ")
	status := 0
	if found {
		_, _ = fmt.Sscanf(after, "%d", &status) // 0 where it is no number
	}
	if e, ok := errors.AsType[*oauth2.RetrieveError](err); ok && e.Response != nil {
		found, status = true, e.Response.StatusCode
	}
	if !found {
		return err
	}
	if e := (&apiError{Status: status, Reason: "login", Message: "Google's token service does not answer"}); e.passing() {
		return e
	}
	if strings.Contains(text, "Check your iat and exp values") { // what was signed with a key has this machine's time in it
		return fault.WithHint(fault.Outsidef("Google's token service refuses the time of the login of %s: the clock of this machine is not right", c.principal()),
			"set the clock of this machine and run the same command again")
	}
	return fault.WithHint(fault.Inputf("Google's token service refuses the credentials of %s with status %d", c.principal(), status),
		"the id token may have expired, or the workload identity provider does not trust its issuer, project or branch")
}

// principal is who is logged in, as far as it is known without asking.
func (c *credentials) principal() string {
	if hasIDToken() {
		return cmp.Or(c.account, "the federated identity")
	}
	return cmp.Or(c.account, "the account of GOOGLE_APPLICATION_CREDENTIALS")
}

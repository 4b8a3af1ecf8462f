// Package salsa speaks to the GitLab instance that runs the pipelines: it lints a configuration, applies pipeline schedules,
// reports test results to a merge request and finds the last tested artifacts of a cell.
//
// Nothing here reads the environment: what a CI job knows of itself comes in as a Job. Tokens come in as values, go out
// in a header to the one configured host, and appear in no log line and no error.
package salsa

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
	"unicode"

	gitlab "gitlab.com/gitlab-org/api/client-go/v2"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// Job is what GitLab tells a CI job in its predefined variables (docs.gitlab.com, "Predefined CI/CD variables").
// Fields are empty or 0 where there is no such variable.
type Job struct {
	URL            string // CI_JOB_URL
	ProjectURL     string // CI_PROJECT_URL
	CommitSHA      string // CI_COMMIT_SHA
	PipelineID     int64  // CI_PIPELINE_ID
	PipelineSource string // CI_PIPELINE_SOURCE

	MergeRequest        int64  // CI_MERGE_REQUEST_IID
	MergeRequestProject string // CI_MERGE_REQUEST_PROJECT_ID: the target's project, which is not the job's in a fork
	TargetBranch        string // CI_MERGE_REQUEST_TARGET_BRANCH_NAME
}

// Options say which project is meant and who asks.
type Options struct {
	URL      string // of the instance or of its API: https://gitlab.example or https://gitlab.example/api/v4
	Project  string // number, or path with namespace
	Token    string // access token; GitLab takes it everywhere
	JobToken string // CI_JOB_TOKEN; GitLab takes it to list jobs and to download artifacts, and for nothing else that is done here
}

// Client acts on one project. It may be used by one goroutine at a time.
type Client struct {
	api      *gitlab.Client
	project  string
	host     string
	secrets  []string
	access   bool // an access token is there
	patience *patience
}

// New checks o and returns a Client; it does not connect. Errors are of kind Input.
func New(o Options) (*Client, error) {
	base, err := parseURL(o.URL)
	if err != nil {
		return nil, err
	}
	if o.Project == "" {
		return nil, fault.WithHint(fault.Inputf("no project is given"), "use --project NUMBER or --project GROUP/NAME; in a CI job CI_PROJECT_ID says it")
	}
	if strings.ContainsFunc(o.Project, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) || r == '?' || r == '#' }) {
		return nil, fault.Inputf("project %q is neither a number nor a path", o.Project)
	}
	c := &Client{project: o.Project, host: base.Host, access: o.Token != "", patience: newPatience(newTransport())}
	for _, t := range []string{o.Token, o.JobToken} {
		if t == "" {
			continue
		}
		if err := checkToken(t); err != nil {
			return nil, err
		}
		c.secrets = append(c.secrets, t)
	}
	if len(c.secrets) > 0 && base.Scheme != "https" && !isLoopback(base.Hostname()) {
		return nil, fault.Inputf("the token would travel to %s in the clear: use an https URL", base.Host)
	}
	source := gitlab.AuthSource(gitlab.Unauthenticated{})
	switch {
	case o.Token != "":
		source = gitlab.AccessTokenAuthSource{Token: o.Token}
	case o.JobToken != "":
		source = gitlab.JobTokenAuthSource{Token: o.JobToken}
	}
	c.api, err = gitlab.NewAuthSourceClient(source,
		gitlab.WithBaseURL(base.String()),
		gitlab.WithHTTPClient(&http.Client{Transport: c.patience, CheckRedirect: checkRedirect}),
		gitlab.WithoutRetries(), // patience does it, and knows which requests may be repeated
		gitlab.WithCustomLimiter(noLimit{}),
		gitlab.WithUserAgent("debcloud"),
		gitlab.WithURLWarningLogger(slog.New(slog.DiscardHandler)),
	)
	if err != nil {
		return nil, fault.Inputf("no client for %s: %w", base.Host, err)
	}
	return c, nil
}

// parseURL reads --url. A user or password in it is refused without being repeated.
func parseURL(text string) (*url.URL, error) {
	if text == "" {
		return nil, fault.WithHint(fault.Inputf("no GitLab is given"), "use --url https://HOST; in a CI job CI_API_V4_URL says it")
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, fault.Inputf("the URL of GitLab cannot be parsed")
	}
	if u.User != nil {
		return nil, fault.WithHint(fault.Inputf("the URL of %s holds a user or a password", u.Host), "give the token in a file: --token-file")
	}
	if u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fault.Inputf("%q is not the URL of a GitLab: https://HOST or https://HOST/api/v4 is needed", text)
	}
	return u, nil
}

const maxToken = 4096 // bytes; GitLab's longest, JSON web tokens among them, stay far below

// checkToken refuses what cannot stand in a header. It does not repeat the token.
func checkToken(token string) error {
	if len(token) > maxToken || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return fault.Inputf("the token is not one word of printable ASCII")
	}
	return nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// demandAccess says that what needs an access token; GitLab refuses job tokens there.
func (c *Client) demandAccess(what string) error {
	if c.access {
		return nil
	}
	return fault.WithHint(fault.Inputf("%s needs an access token, and GitLab takes no CI_JOB_TOKEN for it", what),
		"put a token with the scope api into a file and use --token-file, or set DEBCLOUD_SALSA_TOKEN")
}

// newTransport bounds every wait that comes before the answer's body.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 20 * time.Second}).DialContext,
		TLSHandshakeTimeout:    20 * time.Second,
		ResponseHeaderTimeout:  time.Minute,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 256 << 10,
		ForceAttemptHTTP2:      true,
	}
}

// checkRedirect follows what an artifact download needs: GET, to the object storage. Go's client sends headers that it
// does not know on to the other host, so the tokens are taken out here (golang.org/issue/4800 is about the known ones).
func checkRedirect(req *http.Request, via []*http.Request) error {
	first := via[0]
	if len(via) >= 5 {
		return fmt.Errorf("more than 5 redirects from %s", first.URL.Host)
	}
	if first.Method != http.MethodGet {
		return fmt.Errorf("%s answers %s with a redirect to %s: give that URL with --url", first.URL.Host, first.Method, req.URL.Host)
	}
	if first.URL.Scheme == "https" && req.URL.Scheme != "https" {
		return fmt.Errorf("%s redirects to %s without TLS", first.URL.Host, req.URL.Host)
	}
	if req.URL.Host != first.URL.Host {
		for _, h := range []string{gitlab.AccessTokenHeaderName, gitlab.JobTokenHeaderName, gitlab.OAuthTokenHeaderName} {
			req.Header.Del(h)
		}
	}
	return nil
}

// ReadToken reads an access token from a file of one word. The error does not repeat it.
func ReadToken(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fault.Inputf("the token cannot be read: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxToken+2))
	if err != nil {
		return "", fault.Inputf("the token cannot be read: %w", err)
	}
	token := strings.TrimRight(string(text), "\r\n")
	if token == "" {
		return "", fault.Inputf("the token file %s is empty", path)
	}
	return token, checkToken(token)
}

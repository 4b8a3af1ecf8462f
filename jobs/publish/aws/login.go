package aws

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/ebs"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go/logging"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// environment is what of the process's environment chooses credentials, beside what the SDK itself reads.
type environment struct {
	Role      string // AWS_ROLE_ARN
	TokenFile string // AWS_WEB_IDENTITY_TOKEN_FILE
	Token     string // of settings.TokenVariable; a secret
	Session   string // AWS_ROLE_SESSION_NAME; "" means debcloud and the CI job's number
}

// readEnvironment reads it with getenv, which is os.Getenv but in tests.
func readEnvironment(s settings, getenv func(string) string) environment {
	variable := s.TokenVariable
	if variable == "" {
		variable = "AWS_ID_TOKEN"
	}
	e := environment{Role: getenv("AWS_ROLE_ARN"), TokenFile: getenv("AWS_WEB_IDENTITY_TOKEN_FILE"), Token: getenv(variable), Session: getenv("AWS_ROLE_SESSION_NAME")}
	if e.Session == "" {
		e.Session = strings.TrimSuffix("debcloud-"+getenv("CI_JOB_ID"), "-")
	}
	return e
}

// clients are those of one region.
type clients struct {
	region string
	ec2    *ec2.Client
	ebs    *ebs.Client
	ssm    *ssm.Client
}

// login makes clients of all regions from one set of credentials.
type login struct {
	config aws.Config
	mu     sync.Mutex
	made   map[string]*clients
}

// newLogin finds credentials. It makes no call yet.
func newLogin(s settings, e environment, p patience, transport http.RoundTripper) (*login, error) {
	options := []func(*config.LoadOptions) error{
		config.WithRegion(s.Home), config.WithHTTPClient(httpClient()), config.WithAppID("debcloud"),
		config.WithLogger(logging.Nop{}), // the SDK's log could hold what is signed
		config.WithRetryer(func() aws.Retryer {
			return retry.NewStandard(func(o *retry.StandardOptions) {
				o.MaxAttempts, o.MaxBackoff, o.RateLimiter = p.calls, p.backoff, ratelimit.None
				o.Retryables = append(o.Retryables, retry.RetryableHTTPStatusCode{Codes: map[int]struct{}{http.StatusTooManyRequests: {}}}, retry.IsErrorRetryableFunc(offTime))
			})
		}),
	}
	if s.Endpoint != "" {
		options = append(options, config.WithBaseEndpoint(s.Endpoint))
	}
	c, err := config.LoadDefaultConfig(context.Background(), options...)
	if err != nil {
		line, _, _ := strings.Cut(err.Error(), "\n")
		return nil, fault.Inputf("the credentials for AWS cannot be read: %s", line)
	}
	if transport != nil {
		c.HTTPClient = &http.Client{Transport: transport}
	}
	if provider, err := webIdentity(c, s, e); err != nil {
		return nil, err
	} else if provider != nil {
		c.Credentials = aws.NewCredentialsCache(provider, func(o *aws.CredentialsCacheOptions) { o.ExpiryWindow = 5 * time.Minute })
	}
	return &login{config: c, made: map[string]*clients{}}, nil
}

// httpClient keeps as many idle connections as there are workers; fewer would be closed and opened all the time.
func httpClient() *awshttp.BuildableClient {
	return awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) { t.MaxIdleConnsPerHost = 2 * workers })
}

// offTime has a call made again that AWS refused because this machine's clock is off: the SDK has learnt the right time from the answer. It knows so itself of
// other codes than EC2's.
func offTime(err error) aws.Ternary {
	e, answered := errors.AsType[*smithyhttp.ResponseError](err)
	if !answered || !is(err, "RequestExpired", "AuthFailure") {
		return aws.UnknownTernary
	}
	said, err := http.ParseTime(e.Response.Header.Get("Date"))
	return aws.BoolTernary(err == nil && time.Since(said).Abs() > 4*time.Minute)
}

// webIdentity exchanges an identity token for a session of the role, nil where no role is named.
func webIdentity(c aws.Config, s settings, e environment) (aws.CredentialsProvider, error) {
	role := s.Role
	if role == "" {
		role = e.Role
	}
	if role == "" {
		return nil, nil
	}
	var token stscreds.IdentityTokenRetriever = heldToken(e.Token)
	switch {
	case e.TokenFile != "":
		token = tokenFile(e.TokenFile)
	case e.Token == "" && s.Role == "":
		return nil, nil // AWS_ROLE_ARN alone is for others
	case e.Token == "":
		return nil, fault.WithHint(fault.Inputf("role %q is to be assumed and there is no identity token", role),
			"give the job id_tokens: %s: aud: …, or name a file with the token in AWS_WEB_IDENTITY_TOKEN_FILE", s.TokenVariable)
	}
	return stscreds.NewWebIdentityRoleProvider(sts.NewFromConfig(c), role, token, func(o *stscreds.WebIdentityRoleOptions) {
		o.RoleSessionName = e.Session
	}), nil
}

type heldToken string

func (t heldToken) GetIdentityToken() ([]byte, error) { return []byte(t), nil }

// tokenFile is read at each use, because whoever keeps it renews it.
type tokenFile string

func (f tokenFile) GetIdentityToken() ([]byte, error) {
	b, err := os.ReadFile(string(f))
	if err != nil {
		return nil, fmt.Errorf("read the identity token: %w", err)
	}
	return []byte(strings.TrimSpace(string(b))), nil
}

// in returns the clients of a region.
func (l *login) in(region string) *clients {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.made[region]
	if c == nil {
		there := l.config.Copy()
		there.Region = region
		c = &clients{region: region, ec2: ec2.NewFromConfig(there), ebs: ebs.NewFromConfig(there), ssm: ssm.NewFromConfig(there)}
		l.made[region] = c
	}
	return c
}

func (l *login) sts() *sts.Client { return sts.NewFromConfig(l.config) }

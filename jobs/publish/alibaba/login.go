package alibaba

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/aliyun/alibabacloud-oss-go-sdk-v2/oss/credentials"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// environment is what of the process's environment chooses credentials. The names are those of Alibaba's own SDKs ("Manage access credentials"),
// but for the token, which GitLab writes into a variable and they take from a file.
type environment struct {
	Role, IdentityProvider string
	TokenFile              string
	Token                  string // a secret
	Session                string
	KeyID, Secret, STS     string // an access key, the last two secrets
	File, Profile          string
}

// readEnvironment reads it with getenv, which is os.Getenv but in tests.
func readEnvironment(s settings, getenv func(string) string) environment {
	e := environment{
		Role: cmp.Or(s.Role, getenv("ALIBABA_CLOUD_ROLE_ARN")), IdentityProvider: cmp.Or(s.IdentityProvider, getenv("ALIBABA_CLOUD_OIDC_PROVIDER_ARN")),
		TokenFile: getenv("ALIBABA_CLOUD_OIDC_TOKEN_FILE"), Token: getenv(cmp.Or(s.TokenVariable, "ALIBABA_ID_TOKEN")),
		Session: getenv("ALIBABA_CLOUD_ROLE_SESSION_NAME"),
		KeyID:   getenv("ALIBABA_CLOUD_ACCESS_KEY_ID"), Secret: getenv("ALIBABA_CLOUD_ACCESS_KEY_SECRET"), STS: getenv("ALIBABA_CLOUD_SECURITY_TOKEN"),
		File: getenv("ALIBABA_CLOUD_CREDENTIALS_FILE"), Profile: cmp.Or(s.Profile, getenv("ALIBABA_CLOUD_PROFILE"), "default"),
	}
	if e.Session == "" {
		e.Session = strings.TrimSuffix("debcloud-"+getenv("CI_JOB_ID"), "-")
	}
	if home := getenv("HOME"); e.File == "" && home != "" {
		e.File = filepath.Join(home, ".alibabacloud", "credentials")
	}
	return e
}

// keys sign requests.
type keys struct {
	id, secret, token string
	until             time.Time // zero: they do not expire, or nobody knows
}

// login hands out keys and renews them.
type login struct {
	environment environment
	exchange    func(ctx context.Context, e environment, token string) (keys, error)

	mu   sync.Mutex
	kept keys
}

// early is how long before their end keys are renewed: a part may take minutes to send.
const early = 5 * time.Minute

// keys returns keys that are valid for some time yet. Federated ones come first; nothing stored is looked at where there is an identity token.
func (l *login) keys(ctx context.Context) (keys, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.kept.id != "" && (l.kept.until.IsZero() || time.Until(l.kept.until) > early) {
		return l.kept, nil
	}
	fresh, err := l.find(ctx)
	if err == nil {
		l.kept = fresh
	}
	return fresh, err
}

func (l *login) find(ctx context.Context) (keys, error) {
	e := l.environment
	switch {
	case e.Token != "" || e.TokenFile != "":
		if e.Role == "" || e.IdentityProvider == "" {
			return keys{}, fault.WithHint(fault.Inputf("there is an identity token, and no role or no identity provider to use it with"),
				"set the target's role and identityProvider, or ALIBABA_CLOUD_ROLE_ARN and ALIBABA_CLOUD_OIDC_PROVIDER_ARN")
		}
		token, err := e.token()
		if err != nil {
			return keys{}, err
		}
		return l.exchange(ctx, e, token)
	case e.KeyID != "" && e.Secret != "":
		return keys{id: e.KeyID, secret: e.Secret, token: e.STS}, nil
	}
	if k, err := fromFile(e.File, e.Profile); err != nil || k.id != "" {
		return k, err
	}
	return keys{}, fault.WithHint(fault.Inputf("there are no credentials for Alibaba Cloud, neither in the environment nor in a file"),
		"see jobs/publish/alibaba/README.md: an identity token and a role in GitLab, elsewhere ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET, or a credentials file")
}

// token is read at each use from a file, because whoever keeps it renews it.
func (e environment) token() (string, error) {
	if e.TokenFile == "" {
		return strings.TrimSpace(e.Token), nil
	}
	b, err := os.ReadFile(e.TokenFile)
	if err != nil {
		return "", fault.WithHint(fault.Inputf("the identity token cannot be read: %w", err), "ALIBABA_CLOUD_OIDC_TOKEN_FILE names a file with the token")
	}
	return strings.TrimSpace(string(b)), nil
}

// fromFile reads a section of a credentials file, as Alibaba's SDKs have it: INI, with the types access_key and sts. A file that is not there holds none.
func fromFile(path, profile string) (keys, error) {
	if path == "" {
		return keys{}, nil
	}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return keys{}, nil
	}
	if err != nil {
		return keys{}, fault.Inputf("the credentials cannot be read: %w", err)
	}
	defer f.Close()
	section, values, found := "", map[string]string{}, false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]") {
			section = strings.TrimSpace(line[1 : len(line)-1])
			found = found || section == profile
			continue
		}
		if key, value, ok := strings.Cut(line, "="); ok && section == profile && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, ";") {
			values[strings.TrimSpace(key)] = strings.TrimSpace(value)
		}
	}
	if !found {
		return keys{}, fault.WithHint(fault.Inputf("the credentials file %s has no section %q", path, profile), "add it, or name another one in the target's setting profile or in ALIBABA_CLOUD_PROFILE")
	}
	k := keys{id: values["access_key_id"], secret: values["access_key_secret"], token: cmp.Or(values["security_token"], values["sts_token"])}
	switch t := values["type"]; {
	case t != "access_key" && t != "sts":
		return keys{}, fault.Inputf("section %q of %s is of type %q, neither access_key nor sts", profile, path, t)
	case k.id == "" || k.secret == "" || t == "sts" && k.token == "":
		return keys{}, fault.Inputf("section %q of %s lacks access_key_id, access_key_secret or, for type sts, security_token", profile, path)
	}
	return k, nil
}

// GetCredentials implements the OSS SDK's credentials.CredentialsProvider.
func (l *login) GetCredentials(ctx context.Context) (credentials.Credentials, error) {
	k, err := l.keys(ctx)
	return credentials.Credentials{AccessKeyID: k.id, AccessKeySecret: k.secret, SecurityToken: k.token}, err
}

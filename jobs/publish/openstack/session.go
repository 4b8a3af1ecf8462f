package openstack

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/config/clouds"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// session is a token for one project of one cloud, renewed by itself.
type session struct {
	client   *gophercloud.ProviderClient
	endpoint gophercloud.EndpointOpts
	project  *tokens.Project
	user     *tokens.User
	roles    []tokens.Role
	token    *tokens.Token
	// credential is the application credential's identifier, "" where a password is used.
	credential string
	available  []string // regions with an image service
	redact     *strings.Replacer
	patience   patience
}

// region is the image service of one region.
type region struct {
	*session
	name   string
	images *gophercloud.ServiceClient // nil where there is none
	why    error                      // there is none
}

// regions returns those that the target names.
func (p *Publisher) regions(ctx context.Context) ([]*region, error) {
	s, err := p.connect(ctx)
	if err != nil {
		return nil, err
	}
	names := p.target.Regions
	if len(names) == 0 && s.endpoint.Region != "" {
		names = []string{s.endpoint.Region}
	}
	if len(names) == 0 || slices.Equal(names, []string{"*"}) {
		names = s.available
	}
	if len(names) == 0 {
		return nil, fault.Inputf("the catalog of %s has no image service", p.place())
	}
	regions := make([]*region, len(names))
	for i, name := range names {
		regions[i] = &region{session: s, name: name}
		at := s.endpoint
		at.Region = name
		// A region that is gone fails by itself, in its turn.
		if regions[i].images, regions[i].why = openstack.NewImageV2(s.client, at); regions[i].why != nil {
			regions[i].images = nil
		}
	}
	return regions, nil
}

// demand returns an error where the catalog does not have the region, or its image service does not answer.
func (r *region) demand(ctx context.Context) error {
	switch {
	case r.images != nil:
		return nil
	case slices.Contains(r.available, r.name):
		return r.explain(ctx, "ask the image service for its versions", r.why)
	}
	return fault.WithHint(fault.Inputf("the cloud has no image service in region %q; it has %s", r.name, strings.Join(r.available, ", ")),
		"correct the target's regions, or take the region out where the cloud closed it")
}

// connect authenticates once.
func (p *Publisher) connect(ctx context.Context) (*session, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.session != nil {
		return p.session, nil
	}
	auth, endpoint, tlsConfig, err := credentials(p.settings.cloud)
	if err != nil {
		return nil, err
	}
	s := &session{endpoint: endpoint, credential: auth.ApplicationCredentialID, patience: p.patience}
	s.redact = redactor(auth.Password, auth.ApplicationCredentialSecret, auth.TokenID)
	if s.client, err = openstack.NewClient(auth.IdentityEndpoint); err != nil {
		return nil, fault.Inputf("auth_url of %s: %w", p.place(), err)
	}
	s.client.UserAgent.Prepend("debcloud")
	s.client.HTTPClient = http.Client{Transport: sized{transportFor(p.transport, tlsConfig)}}
	s.client.RetryFunc = s.retry
	if err := openstack.Authenticate(ctx, s.client, auth); err != nil {
		return nil, s.explainLogin(ctx, p.place(), err)
	}
	if err := s.readToken(); err != nil {
		return nil, err
	}
	if a := p.target.Account; a != "" && a != s.project.ID && a != s.project.Name {
		return nil, fault.WithHint(fault.Inputf("the credentials are for project %s (%s), where target %q is project %s", s.project.Name, s.project.ID, p.target.Name, a),
			"use the application credential of the target's project, or correct the target's account")
	}
	p.session = s
	return s, nil
}

func transportFor(given http.RoundTripper, config *tls.Config) http.RoundTripper {
	if given != nil {
		return given
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	if config != nil {
		t.TLSClientConfig = config
	}
	return t
}

// readToken keeps what the token says of itself.
func (s *session) readToken() error {
	result, ok := s.client.GetAuthResult().(tokens.CreateResult)
	if !ok {
		return fault.Inputf("the cloud's Keystone is older than version 3")
	}
	var err error
	if s.token, err = result.ExtractToken(); err != nil {
		return err
	}
	if s.project, err = result.ExtractProject(); err != nil {
		return err
	}
	if s.user, err = result.ExtractUser(); err != nil {
		return err
	}
	if s.roles, err = result.ExtractRoles(); err != nil {
		return err
	}
	if s.project == nil || s.user == nil {
		return fault.WithHint(fault.Inputf("the credentials give a token without a project"), "name the project and its domain in clouds.yaml, or use an application credential, which belongs to one")
	}
	catalog, err := result.ExtractServiceCatalog()
	if err != nil {
		return err
	}
	for _, entry := range catalog.Entries {
		if entry.Type != "image" {
			continue
		}
		for _, e := range entry.Endpoints {
			if e.Interface == string(s.endpoint.Availability) && !slices.Contains(s.available, e.Region) {
				s.available = append(s.available, e.Region)
			}
		}
	}
	slices.Sort(s.available)
	return nil
}

// credentials reads clouds.yaml, or the environment where cloud is "".
func credentials(cloud string) (gophercloud.AuthOptions, gophercloud.EndpointOpts, *tls.Config, error) {
	options := []clouds.ParseOption{clouds.WithCloudName(cloud)}
	if cloud == "" {
		text, err := environment(os.Getenv)
		if err != nil {
			return gophercloud.AuthOptions{}, gophercloud.EndpointOpts{}, nil, err
		}
		options = []clouds.ParseOption{clouds.WithCloudName("environment"), clouds.WithCloudsYAML(bytes.NewReader(text)), clouds.WithSecureYAML(strings.NewReader("{}"))}
	}
	auth, endpoint, config, err := clouds.Parse(options...)
	if err != nil {
		return auth, endpoint, nil, fault.WithHint(fault.Inputf("the credentials of cloud %q cannot be read: %w", cloud, err),
			"write them to clouds.yaml here, in ~/.config/openstack or in /etc/openstack, or name the file in OS_CLIENT_CONFIG_FILE")
	}
	auth.AllowReauth = auth.TokenID == ""
	return auth, endpoint, config, demandDomains(auth)
}

// demandDomains refuses names of users and projects without their domain: which one a cloud takes then is a guess.
func demandDomains(auth gophercloud.AuthOptions) error {
	missing := ""
	switch {
	case auth.IdentityEndpoint == "":
		return fault.WithHint(fault.Inputf("the credentials name no auth_url"), "name the address of Keystone: auth_url in clouds.yaml, or OS_AUTH_URL")
	case auth.ApplicationCredentialID != "":
		return nil
	case auth.Username != "" && auth.DomainID == "" && auth.DomainName == "":
		missing = fmt.Sprintf("user %q without the domain of the user", auth.Username)
	case auth.Scope != nil && auth.Scope.ProjectName != "" && auth.Scope.DomainID == "" && auth.Scope.DomainName == "":
		missing = fmt.Sprintf("project %q without the domain of the project", auth.Scope.ProjectName)
	case auth.ApplicationCredentialName != "":
		missing = "an application credential by name, not by identifier"
	default:
		return nil
	}
	return fault.WithHint(fault.Inputf("the credentials name %s", missing), "add user_domain_name and project_domain_name, or use an application credential by its identifier")
}

// environment writes what OS_… variables say as a clouds.yaml, so that both are read by the same rules.
func environment(lookup func(string) string) ([]byte, error) {
	get := func(names ...string) string {
		for _, name := range names {
			if v := lookup(name); v != "" {
				return v
			}
		}
		return ""
	}
	if get("OS_AUTH_URL") == "" {
		return nil, fault.WithHint(fault.Inputf("no OpenStack credentials are there: neither does the target name a cloud of clouds.yaml nor is OS_AUTH_URL set"),
			"set the target's setting \"cloud\", or OS_AUTH_URL, OS_APPLICATION_CREDENTIAL_ID and OS_APPLICATION_CREDENTIAL_SECRET")
	}
	cloud := clouds.Cloud{
		RegionName: get("OS_REGION_NAME"), Interface: get("OS_INTERFACE"), CACertFile: get("OS_CACERT"),
		AuthInfo: &clouds.AuthInfo{
			AuthURL:                 get("OS_AUTH_URL"),
			ApplicationCredentialID: get("OS_APPLICATION_CREDENTIAL_ID"), ApplicationCredentialSecret: get("OS_APPLICATION_CREDENTIAL_SECRET"),
			ApplicationCredentialName: get("OS_APPLICATION_CREDENTIAL_NAME"),
			Username:                  get("OS_USERNAME"), UserID: get("OS_USER_ID", "OS_USERID"), Password: get("OS_PASSWORD"),
			UserDomainName: get("OS_USER_DOMAIN_NAME"), UserDomainID: get("OS_USER_DOMAIN_ID"),
			ProjectName: get("OS_PROJECT_NAME"), ProjectID: get("OS_PROJECT_ID"),
			ProjectDomainName: get("OS_PROJECT_DOMAIN_NAME"), ProjectDomainID: get("OS_PROJECT_DOMAIN_ID"),
		},
	}
	return json.Marshal(clouds.Clouds{Clouds: map[string]clouds.Cloud{"environment": cloud}}) // JSON is YAML
}

// redactor takes secrets out of texts, whatever the cloud echoes.
func redactor(secrets ...string) *strings.Replacer {
	var pairs []string
	for _, s := range secrets {
		if s != "" {
			pairs = append(pairs, s, "…")
		}
	}
	return strings.NewReplacer(pairs...)
}

// sized tells the length of a body that has one, so that it is not sent in chunks: not every server before a Glance takes those.
type sized struct{ http.RoundTripper }

func (t sized) RoundTrip(r *http.Request) (*http.Response, error) {
	if b, ok := r.Body.(*body); ok {
		r.ContentLength = b.size
	}
	return t.RoundTripper.RoundTrip(r)
}

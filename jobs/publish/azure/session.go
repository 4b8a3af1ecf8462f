package azure

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v7"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
)

// session holds the clients of one subscription.
type session struct {
	*Publisher
	login login

	resources     *arm.Client // for what no generated client is worth having
	disks         *armcompute.DisksClient
	galleries     *armcompute.GalleriesClient
	definitions   *armcompute.GalleryImagesClient
	versions      *armcompute.GalleryImageVersionsClient
	clientOptions azcore.ClientOptions
}

// login is a credential and what is known of it.
type login struct {
	azcore.TokenCredential
	scope   string
	idToken func() string // the CI job's, "" where another credential is used
}

// connect makes the clients. The first request logs in.
func (p *Publisher) connect(ctx context.Context) (*session, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.session != nil {
		return p.session, nil
	}
	configuration, err := p.cloud()
	if err != nil {
		return nil, err
	}
	s := &session{Publisher: p}
	s.clientOptions = azcore.ClientOptions{
		Cloud:     configuration,
		Retry:     policy.RetryOptions{MaxRetries: p.patience.retries, RetryDelay: p.patience.pause / 5, MaxRetryDelay: 12 * p.patience.pause},
		Telemetry: policy.TelemetryOptions{ApplicationID: "debcloud"},
	}
	if p.transport != nil {
		s.clientOptions.Transport = &http.Client{Transport: p.transport}
	}
	if s.login, err = p.credential(s.clientOptions, os.Getenv); err != nil {
		return nil, err
	}
	s.login.scope = strings.TrimSuffix(configuration.Services[cloud.ResourceManager].Audience, "/") + "/.default"
	options := &arm.ClientOptions{ClientOptions: s.clientOptions, DisableRPRegistration: true}
	if s.resources, err = arm.NewClient("debcloud", "v1.0.0", s.login, options); err == nil {
		s.disks, err = armcompute.NewDisksClient(p.target.Account, s.login, options)
	}
	if err == nil {
		s.galleries, err = armcompute.NewGalleriesClient(p.target.Account, s.login, options)
	}
	if err == nil {
		s.definitions, err = armcompute.NewGalleryImagesClient(p.target.Account, s.login, options)
	}
	if err == nil {
		s.versions, err = armcompute.NewGalleryImageVersionsClient(p.target.Account, s.login, options)
	}
	if err != nil {
		return nil, fault.Inputf("target %q: %w", p.target.Name, err)
	}
	p.session = s
	return s, ctx.Err()
}

// cloud returns the addresses of the target's partition.
func (p *Publisher) cloud() (cloud.Configuration, error) {
	if e := p.target.Settings["endpoint"]; e != "" {
		if u, err := url.Parse(e); err != nil || u.Scheme != "https" {
			return cloud.Configuration{}, fault.Inputf("target %q has the endpoint %q, which is no https address", p.target.Name, e)
		}
		service := cloud.ServiceConfiguration{Endpoint: e, Audience: e}
		return cloud.Configuration{ActiveDirectoryAuthorityHost: e, Services: map[cloud.ServiceName]cloud.ServiceConfiguration{cloud.ResourceManager: service}}, nil
	}
	switch p.target.Partition {
	case "", "AzureCloud":
		return cloud.AzurePublic, nil
	case "AzureChina":
		return cloud.AzureChina, nil
	case "AzureUSGovernment":
		return cloud.AzureGovernment, nil
	}
	return cloud.Configuration{}, fault.Inputf("target %q has the partition %q, which is none of AzureCloud, AzureChina, AzureUSGovernment", p.target.Name, p.target.Partition)
}

// credential is the federated one where a CI job's id token is there, else what the environment has: a client's secret or certificate,
// or a workload identity's token file.
func (p *Publisher) credential(o azcore.ClientOptions, lookup func(string) string) (login, error) {
	first := func(values ...string) string {
		for _, v := range values {
			if v != "" {
				return v
			}
		}
		return ""
	}
	tenant := first(p.target.Settings["tenant"], lookup("AZURE_TENANT_ID"))
	client := first(p.target.Settings["client"], lookup("AZURE_CLIENT_ID"))
	variable := first(p.target.Settings["id-token"], "AZURE_ID_TOKEN")
	own := p.target.Settings["endpoint"] != "" // an authority that Microsoft does not know
	var credential azcore.TokenCredential
	var err error
	var idToken func() string
	switch {
	case tenant == "" || client == "":
		err = fault.Inputf("no tenant or no client is named")
	case lookup(variable) != "":
		idToken = func() string { return lookup(variable) }
		credential, err = azidentity.NewClientAssertionCredential(tenant, client,
			func(context.Context) (string, error) { return idToken(), nil },
			&azidentity.ClientAssertionCredentialOptions{ClientOptions: o, DisableInstanceDiscovery: own})
	case lookup("AZURE_FEDERATED_TOKEN_FILE") != "":
		credential, err = azidentity.NewWorkloadIdentityCredential(&azidentity.WorkloadIdentityCredentialOptions{
			ClientOptions: o, TenantID: tenant, ClientID: client, TokenFilePath: lookup("AZURE_FEDERATED_TOKEN_FILE"), DisableInstanceDiscovery: own})
	case lookup("AZURE_CLIENT_SECRET") != "":
		credential, err = azidentity.NewClientSecretCredential(tenant, client, lookup("AZURE_CLIENT_SECRET"), &azidentity.ClientSecretCredentialOptions{ClientOptions: o, DisableInstanceDiscovery: own})
	case lookup("AZURE_CLIENT_CERTIFICATE_PATH") != "":
		credential, err = azidentity.NewEnvironmentCredential(&azidentity.EnvironmentCredentialOptions{ClientOptions: o, DisableInstanceDiscovery: own})
	default:
		err = fault.Inputf("none of %s, AZURE_FEDERATED_TOKEN_FILE, AZURE_CLIENT_CERTIFICATE_PATH and AZURE_CLIENT_SECRET is set", variable)
	}
	if err != nil {
		return login{}, fault.WithHint(fault.Inputf("target %q has no credentials for Azure: %w", p.target.Name, err),
			"in GitLab declare an id token named %s; elsewhere set AZURE_TENANT_ID, AZURE_CLIENT_ID and a secret or certificate", variable)
	}
	return login{TokenCredential: credential, idToken: idToken}, nil
}

// get reads a document of the resource manager that no generated client is there for.
func (s *session) get(ctx context.Context, path, version string, document any) error {
	r, err := runtime.NewRequest(ctx, http.MethodGet, runtime.JoinPaths(s.resources.Endpoint(), path))
	if err != nil {
		return err
	}
	r.Raw().URL.RawQuery = url.Values{"api-version": {version}}.Encode()
	r.Raw().Header.Set("Accept", "application/json")
	response, err := s.resources.Pipeline().Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if !runtime.HasStatusCode(response, http.StatusOK) {
		return runtime.NewResponseError(response)
	}
	return json.NewDecoder(response.Body).Decode(document)
}

// locations lists the subscription's regions.
func (s *session) locations(ctx context.Context) ([]string, error) {
	var answer struct {
		Value []struct {
			Name     string
			Metadata struct{ RegionType string }
		}
	}
	if err := s.get(ctx, "/subscriptions/"+s.target.Account+"/locations", "2022-12-01", &answer); err != nil {
		return nil, err
	}
	var all []string
	for _, l := range answer.Value {
		if l.Metadata.RegionType != "Logical" { // a continent
			all = append(all, normal(l.Name))
		}
	}
	return all, nil
}

// scope is the resource group's identifier.
func (s *session) scope() string {
	return fmt.Sprintf("/subscriptions/%s/resourceGroups/%s", s.target.Account, s.group)
}

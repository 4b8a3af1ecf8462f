package main

import (
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"salsa.debian.org/cloud-team/debcloud/jobs/publish/azure/azuretest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/openstack/openstacktest"
)

// TestOpenStackScripts runs the program against a cloud of its own for each of testdata/openstack/*.txtar, which clouds.yaml names.
func TestOpenStackScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:  "testdata/openstack",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
		Setup: func(env *testscript.Env) error {
			c := openstacktest.New(t, "north", "south")
			file := filepath.Join(env.WorkDir, "clouds.yaml")
			env.Setenv("OS_CLIENT_CONFIG_FILE", file)
			env.Setenv("DEBCLOUD_JOURNAL", env.WorkDir+"/journal.db")
			return os.WriteFile(file, []byte(c.CloudsYAML("test")), 0o600)
		},
	})
}

// TestAzureScripts does so for Azure, at $ENDPOINT, whose certificate is the only one that the program trusts.
func TestAzureScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:  "testdata/azure",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
		Setup: func(env *testscript.Env) error {
			c := azuretest.New(t)
			c.Polls = 0 // the program waits for seconds between looks
			file := filepath.Join(env.WorkDir, "ca.pem")
			for name, value := range map[string]string{
				"ENDPOINT": c.URL(), "SSL_CERT_FILE": file, "DEBCLOUD_JOURNAL": env.WorkDir + "/journal.db", "SUBSCRIPTION": azuretest.Subscription,
				"RESOURCE_GROUP": azuretest.ResourceGroup, "GALLERY": azuretest.Gallery,
				"AZURE_TENANT_ID": azuretest.Tenant, "AZURE_CLIENT_ID": azuretest.Client, "AZURE_ID_TOKEN": azuretest.Assertion,
			} {
				env.Setenv(name, value)
			}
			root := c.Transport().(*http.Transport)
			response, err := (&http.Client{Transport: root}).Get(c.URL())
			if err != nil {
				return err
			}
			response.Body.Close()
			return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: response.TLS.PeerCertificates[0].Raw}), 0o600)
		},
	})
}

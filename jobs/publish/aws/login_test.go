package aws

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/aws/awstest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

const (
	jobToken = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJwcm9qZWN0X3BhdGg6Y2xvdWQtdGVhbSJ9.c2lnbmF0dXJl"
	role     = "arn:aws:iam::123456789012:role/publisher"
)

// TestIdentityToken publishes as a GitLab job does, without a stored key.
func TestIdentityToken(t *testing.T) {
	for _, row := range []struct {
		summary string
		e       environment
		role    string // of the target
		kind    fault.Kind
		want    string // of the error, "" for none
	}{
		{"a token in a variable, the role in the target", environment{Token: jobToken, Session: "debcloud-7"}, role, 0, ""},
		{"a token in a file, the role in the environment", environment{TokenFile: "job.jwt", Role: role, Session: "debcloud-7"}, "", 0, ""},
		{"no token", environment{}, role, fault.Input, `role "arn:aws:iam::123456789012:role/publisher" is to be assumed and there is no identity token`},
		{"a token that is expired", environment{Token: "expired." + jobToken, Session: "debcloud-7"}, role, fault.Outside, "the credentials are expired"},
		{"a token of another provider", environment{Token: "other." + jobToken, Session: "debcloud-7"}, role, fault.Input, "AWS does not accept the identity token"},
		{"a role of another account", environment{Token: jobToken, Session: "debcloud-7"}, "arn:aws:iam::999999999999:role/publisher", fault.Input, "the credentials have no right to this (AccessDenied"},
		{"a file that is not there", environment{TokenFile: "gone.jwt", Role: role, Session: "debcloud-7"}, "", fault.Input, "the identity token cannot be read"},
	} {
		t.Run(row.summary, func(t *testing.T) {
			signIn(t)
			t.Setenv("AWS_ACCESS_KEY_ID", "")
			t.Setenv("AWS_SECRET_ACCESS_KEY", "")
			t.Chdir(t.TempDir())
			if err := os.WriteFile("job.jwt", []byte(jobToken+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			a := newAccount(t, awstest.Settings{WebIdentity: jobToken})
			a.settings.Role = row.role
			p, err := open("aws", a.settings, row.e, newJournal(t), hasty, nil)
			var publication *publish.Publication
			if err == nil {
				publication, err = p.Publish(t.Context(), publishtest.Image(t, publishtest.Options{Vendor: "ec2"}), publish.Public)
			}
			if row.want != "" {
				demandError(t, err, row.kind, row.want, "")
				if strings.Contains(fmt.Sprintf("%v %+v", err, err), jobToken) {
					t.Error("the error tells the token")
				}
				return
			}
			if err != nil || len(publication.Uploads) != 1 {
				t.Fatalf("it was not published: %v", err)
			}
			who, err := p.Whoami(t.Context())
			if err != nil || who.Account != testAccount || !strings.HasSuffix(who.Principal, "assumed-role/publisher/debcloud-7") || time.Until(who.Until) < 50*time.Minute {
				t.Errorf("it is %+v: %v", who, err)
			}
		})
	}
}

func TestReadEnvironment(t *testing.T) {
	vars := map[string]string{"AWS_ROLE_ARN": "r", "AWS_WEB_IDENTITY_TOKEN_FILE": "f", "DEBIAN_TOKEN": "t", "CI_JOB_ID": "7"}
	e := readEnvironment(settings{TokenVariable: "DEBIAN_TOKEN"}, func(name string) string { return vars[name] })
	if want := (environment{Role: "r", TokenFile: "f", Token: "t", Session: "debcloud-7"}); e != want {
		t.Errorf("%+v", e)
	}
	if e := readEnvironment(settings{}, func(string) string { return "" }); e.Session != "debcloud" {
		t.Errorf("outside a job the session is %q", e.Session)
	}
}

func TestWhoami(t *testing.T) {
	signIn(t)
	for _, row := range []struct {
		summary string
		denied  []string
	}{
		{"all rights", nil},
		{"some are missing", []string{"ec2:CopyImage", "ec2:EnableImageDeprecation", "ec2:DeleteSnapshot", "ebs:CompleteSnapshot", "ssm:GetParameter"}},
	} {
		a := newAccount(t, awstest.Settings{Denied: row.denied})
		a.Block("us-east-1", "block-new-sharing", "")
		who, err := a.open(t, nil, nil).Whoami(t.Context())
		if err != nil || who.Account != testAccount || who.Principal != "arn:aws:iam::123456789012:user/publisher" || !who.Until.IsZero() {
			t.Errorf("%s: %+v: %v", row.summary, who, err)
		}
		if fmt.Sprint(who.Missing) != fmt.Sprint(row.denied) {
			t.Errorf("%s: missing are %v", row.summary, who.Missing)
		}
		if len(a.Images("us-east-1"))+len(a.Snapshots("us-east-1"))+len(a.Parameters("us-east-1")) != 0 {
			t.Errorf("%s: it left something behind", row.summary)
		}
		a.Forget()
		a.demandAgreement(t, row.denied)
		if a.Count("DisableImageBlockPublicAccess") > 1 {
			t.Errorf("%s: it lifted the block", row.summary)
		}
	}
}

// demandAgreement makes sure that nothing is missing that publishing needs where whoami says so.
func (a *account) demandAgreement(t *testing.T, denied []string) {
	t.Helper()
	if _, err := a.publish(t, publishtest.Options{}, publish.Public); (err == nil) != (len(denied) == 0) {
		t.Errorf("with %v denied the publication ends with %v", denied, err)
	}
}

// TestTheFilesOfTheSDK reads what the aws command reads.
func TestTheFilesOfTheSDK(t *testing.T) {
	signIn(t)
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	path := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(path, []byte("[debian]\naws_access_key_id = "+awstest.KeyID+"\naws_secret_access_key = "+awstest.Secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", path)
	t.Setenv("AWS_PROFILE", "debian")
	a := newAccount(t, awstest.Settings{})
	a.demand(t, publishtest.Options{}, publish.Private)
}

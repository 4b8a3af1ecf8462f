package aws

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
		a := newAccount(t, awstest.Settings{Regions: []string{"us-east-1"}})
		a.demand(t, publishtest.Options{Version: "20260813-1", Seed: 9}, publish.Private) // an image of ours to try rights with
		a.Set(func(s *awstest.Settings) { s.Denied = row.denied })
		a.Block("us-east-1", "block-new-sharing", "")
		before := a.Dump(t)
		who, err := a.open(t, nil, nil).Whoami(t.Context())
		if err != nil || who.Account != testAccount || who.Principal != "arn:aws:iam::123456789012:user/publisher" || !who.Until.IsZero() {
			t.Errorf("%s: %+v: %v", row.summary, who, err)
		}
		if fmt.Sprint(who.Missing) != fmt.Sprint(row.denied) {
			t.Errorf("%s: missing are %v", row.summary, who.Missing)
		}
		if a.Dump(t) != before {
			t.Errorf("%s: it changed something", row.summary)
		}
		a.Forget()
		a.demandAgreement(t, row.denied)
		if a.Count("DisableImageBlockPublicAccess") > 1 {
			t.Errorf("%s: it lifted the block", row.summary)
		}
	}
}

// TestWhoamiOfANewAccount: where there is no image of ours, a right that is bound to them cannot be told from one that is missing.
func TestWhoamiOfANewAccount(t *testing.T) {
	signIn(t)
	a := newAccount(t, awstest.Settings{Regions: []string{"us-east-1"}, Denied: []string{"ec2:DescribeRegions", "ec2:DeleteSnapshot"}})
	who, err := a.open(t, nil, nil).Whoami(t.Context())
	want := []string{"ec2:DescribeRegions", "ec2:DeleteSnapshot (or it is bound to images of ours, and there is none to try it with)"}
	if err != nil || !slices.Equal(who.Missing, want) || a.Dump(t) != "\n" {
		t.Errorf("missing are %q, %v, and there is %q", who.Missing, err, a.Dump(t))
	}
}

// TestWhoamiThatCannotAsk: what AWS does not answer is neither held nor missing.
func TestWhoamiThatCannotAsk(t *testing.T) {
	signIn(t)
	for _, row := range []struct {
		summary string
		times   int // that the call is refused
		code    string
		kind    fault.Kind
		want    string // of the error, "" for none
	}{
		{"throttled for a while", 3, "RequestLimitExceeded", 0, ""},
		{"throttled all the time", 999, "RequestLimitExceeded", fault.Outside, "whether the credentials have the right ec2:CopyImage could not be asked: ec2:CopyImage in us-east-1: AWS refuses the calls as too many"},
		{"an outage", 999, "InternalError", fault.Outside, "whether the credentials have the right ec2:CopyImage could not be asked: "},
		{"an expired session", 999, "ExpiredToken", fault.Outside, "the credentials are expired"},
		{"something new", 999, "Surprise", fault.Work, "could not be asked: ec2:CopyImage in us-east-1: Surprise"},
	} {
		a := newAccount(t, awstest.Settings{})
		left := row.times
		a.Before(func(c awstest.Call) *awstest.Failure {
			if left--; c.Action != "CopyImage" || left < 0 {
				left++
				return nil
			}
			return &awstest.Failure{Status: map[bool]int{true: 503, false: 400}[row.kind == fault.Outside], Code: row.code, Message: "no"}
		})
		who, err := a.open(t, nil, nil).Whoami(t.Context())
		if len(who.Missing) != 0 {
			t.Errorf("%s: missing are %v", row.summary, who.Missing)
		}
		if row.want == "" && (err != nil || left != 0) || row.want != "" && (err == nil || fault.KindOf(err) != row.kind || !strings.Contains(err.Error(), row.want)) {
			t.Errorf("%s: the error is %v, of kind %v", row.summary, err, fault.KindOf(err))
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

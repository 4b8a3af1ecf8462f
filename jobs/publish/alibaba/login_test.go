package alibaba

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/alibaba/alibabatest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

// TestSignature is the example of "Request syntax and signature method V3".
func TestSignature(t *testing.T) {
	r, err := http.NewRequest(http.MethodPost, "https://ecs.cn-shanghai.aliyuncs.com/?"+query(params{"ImageId": "win2019_1809_x64_dtc_zh-cn_40G_alibase_20230811.vhd", "RegionId": "cn-shanghai", "None": ""}), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("x-acs-action", "RunInstances")
	r.Header.Set("x-acs-version", "2014-05-26")
	sign(r, nil, keys{id: "YourAccessKeyId", secret: "YourAccessKeySecret"}, time.Date(2023, 10, 26, 10, 22, 32, 0, time.UTC), "3156853299f313e23d1673dc12e1703d")
	want := "ACS3-HMAC-SHA256 Credential=YourAccessKeyId,SignedHeaders=host;x-acs-action;x-acs-content-sha256;x-acs-date;x-acs-signature-nonce;x-acs-version,Signature=06563a9e1b43f5dfe96b81484da74bceab24a1d853912eee15083a6f0f3283c0"
	if got := r.Header.Get("Authorization"); got != want {
		t.Errorf("the signature is\n%s, not\n%s", got, want)
	}
}

// federated is the environment of a job of GitLab.
func federated(token string) map[string]string {
	return map[string]string{
		"ALIBABA_ID_TOKEN": token, "ALIBABA_CLOUD_ROLE_ARN": alibabatest.Role, "ALIBABA_CLOUD_OIDC_PROVIDER_ARN": alibabatest.IdentityProvider, "CI_JOB_ID": "77",
		"ALIBABA_CLOUD_ACCESS_KEY_ID": "stored", "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "not looked at",
	}
}

const idToken = "eyJhbGciOi.the-token-of-a-job.signature"

func TestFederated(t *testing.T) {
	a := newAccount(t, alibabatest.Settings{Regions: twoRegions, IDToken: idToken})
	a.environment = federated(idToken)
	if _, err := a.publishOne(t, publishtest.Options{}, publish.Public); err != nil {
		t.Fatal(err)
	}
	who, err := a.open(t, nil, nil).Whoami(t.Context())
	if err != nil || who.Account != "1234567890123456" || who.Principal != "acs:ram::1234567890123456:assumed-role/debcloud/debcloud-77" || len(who.Missing) > 0 {
		t.Errorf("who: %+v, %v", who, err)
	}
	if left := time.Until(who.Until); left < 50*time.Minute || left > time.Hour {
		t.Errorf("the session lasts for %s", left)
	}
}

// TestSessionIsRenewed: one that ends soon is not used any more.
func TestSessionIsRenewed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(idToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := newAccount(t, alibabatest.Settings{Regions: twoRegions, IDToken: idToken, Session: 4 * time.Minute})
	a.environment = federated("")
	a.environment["ALIBABA_CLOUD_OIDC_TOKEN_FILE"] = file
	p := a.open(t, nil, nil)
	for range 2 {
		if _, err := p.demandAccount(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	sessions := slices.DeleteFunc(a.Calls(), func(c string) bool { return c != "sts:AssumeRoleWithOIDC" })
	if len(sessions) != 2 {
		t.Errorf("%d sessions were begun", len(sessions))
	}
}

func TestLoginFails(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, row := range []struct {
		summary     string
		environment map[string]string
		kind        fault.Kind
		words       string
	}{
		{"a token that is not trusted", federated("another-token-than-that"), fault.Input, "does not accept the identity token (AuthenticationFail.OIDCToken.Invalid"},
		{"an expired one", federated("expired"), fault.Outside, "the credentials are expired"},
		{"no role", map[string]string{"ALIBABA_ID_TOKEN": idToken}, fault.Input, "no role or no identity provider"},
		{"another role", map[string]string{"ALIBABA_ID_TOKEN": idToken, "ALIBABA_CLOUD_ROLE_ARN": "acs:ram::1:role/x", "ALIBABA_CLOUD_OIDC_PROVIDER_ARN": alibabatest.IdentityProvider}, fault.Input, "EntityNotExist.Role"},
		{"no file with the token", map[string]string{"ALIBABA_CLOUD_OIDC_TOKEN_FILE": "/nowhere/token", "ALIBABA_CLOUD_ROLE_ARN": alibabatest.Role, "ALIBABA_CLOUD_OIDC_PROVIDER_ARN": alibabatest.IdentityProvider}, fault.Input, "the identity token cannot be read"},
		{"a file without the section", map[string]string{"ALIBABA_CLOUD_CREDENTIALS_FILE": file("a", "[other]\ntype = access_key\n")}, fault.Input, `has no section "default"`},
		{"a type that is not read", map[string]string{"ALIBABA_CLOUD_CREDENTIALS_FILE": file("b", "[default]\ntype = ecs_ram_role\n")}, fault.Input, `is of type "ecs_ram_role"`},
		{"half a key", map[string]string{"ALIBABA_CLOUD_CREDENTIALS_FILE": file("c", "[default]\ntype = access_key\naccess_key_id = x\n")}, fault.Input, "lacks access_key_id, access_key_secret"},
		{"nothing at all", map[string]string{"HOME": dir}, fault.Input, "there are no credentials for Alibaba Cloud"},
	} {
		a := newAccount(t, alibabatest.Settings{Regions: twoRegions, IDToken: idToken})
		a.environment = row.environment
		_, err := a.open(t, nil, nil).Whoami(t.Context())
		if err == nil || fault.KindOf(err) != row.kind || !strings.Contains(err.Error(), row.words) || strings.Contains(err.Error(), idToken) {
			t.Errorf("%s: %v, of kind %v", row.summary, err, fault.KindOf(err))
		}
	}
}

func TestCredentialsFile(t *testing.T) {
	home := t.TempDir()
	if err := os.Mkdir(filepath.Join(home, ".alibabacloud"), 0o700); err != nil {
		t.Fatal(err)
	}
	text := "# keys\n[default]\ntype = access_key\naccess_key_id = wrong\naccess_key_secret = wrong\n\n[debian]\ntype=access_key\naccess_key_id = " + alibabatest.KeyID + "\naccess_key_secret=" + alibabatest.Secret + "\n"
	if err := os.WriteFile(filepath.Join(home, ".alibabacloud", "credentials"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	a := newAccount(t, alibabatest.Settings{Regions: twoRegions})
	a.environment = map[string]string{"HOME": home}
	a.settings.Profile = "debian"
	if who, err := a.open(t, nil, nil).Whoami(t.Context()); err != nil || !who.Until.IsZero() || who.Principal != "acs:ram::1234567890123456:user/publisher" {
		t.Errorf("who: %+v, %v", who, err)
	}
}

// TestWhoamiListsWhatIsMissing: each right is told by its own name, and nothing is made.
func TestWhoamiListsWhatIsMissing(t *testing.T) {
	for _, denied := range [][]string{
		{"ecs:ImportImage", "ecs:CopyImage", "ecs:TagResources", "ecs:DeleteSnapshot"},
		{"ecs:ModifyImageAttribute", "ecs:ModifyImageSharePermission", "ecs:DeleteImage", "oss:GetObject", "oss:PutObject"},
		{"oss:ListParts", "oss:ListMultipartUploads", "oss:AbortMultipartUpload", "oss:ListObjects", "oss:DeleteObject"},
	} {
		a := newAccount(t, alibabatest.Settings{Regions: twoRegions, Denied: denied})
		who, err := a.open(t, nil, nil).Whoami(t.Context())
		if err != nil || !slices.Equal(who.Missing, denied) {
			t.Errorf("%v are denied, missing are %v, %v", denied, who.Missing, err)
		}
		if got := a.Dump(t); got != "\n" {
			t.Errorf("asking made %s", got)
		}
	}
	a := newAccount(t, alibabatest.Settings{Regions: twoRegions, NoRole: true})
	if who, err := a.open(t, nil, nil).Whoami(t.Context()); err != nil || !slices.Equal(who.Missing, []string{"the role AliyunECSImageImportDefaultRole for ECS"}) {
		t.Errorf("without the role of ECS: %+v, %v", who, err)
	}
}

package aws

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/aws/awstest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/regions"
)

// hasty waits for milliseconds where patient waits for minutes.
var hasty = patience{Patience: regions.Patience{Poll: time.Millisecond, PollMost: 5 * time.Millisecond, Tries: 3}, visible: time.Second, pending: 20 * time.Second, calls: 10, backoff: 2 * time.Millisecond}

// hastyMarks are blocks between two marks, so few that a small image has some.
const hastyMarks = 8

const testAccount = "123456789012"

// signIn gives the process the double's access key, and none of the machine's own.
func signIn(t testing.TB) {
	for _, name := range []string{"AWS_PROFILE", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ID_TOKEN"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONFIG_FILE", "/dev/null")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_ACCESS_KEY_ID", awstest.KeyID)
	t.Setenv("AWS_SECRET_ACCESS_KEY", awstest.Secret)
}

// account is an awstest.Cloud as the suite wants one.
type account struct {
	*awstest.Cloud
	settings settings
}

func newAccount(t testing.TB, s awstest.Settings) *account {
	c := awstest.New(s)
	t.Cleanup(c.Close)
	return &account{c, settings{Account: testAccount, Regions: s.Regions, ParameterPrefix: "/debian", Endpoint: c.URL}}
}

func (a *account) open(t testing.TB, j *journal.Journal, transport http.RoundTripper) *Publisher {
	t.Helper()
	p, err := open("aws", a.settings, environment{}, j, hasty, transport)
	if err != nil {
		t.Fatal(err)
	}
	p.between = hastyMarks
	return p
}

func (a *account) Publisher(t testing.TB, line *publishtest.Line, j *journal.Journal) publish.Publisher {
	return a.open(t, j, line.Transport(nil))
}

func (a *account) Pieces() int {
	puts, _ := a.Blocks()
	return int(puts)
}

func (a *account) Secrets() []string { return []string{awstest.Secret} }

// Lose deregisters the newest image.
func (a *account) Lose(t testing.TB) bool {
	t.Helper()
	region := a.settings.Regions[0]
	images := a.Images(region)
	if len(images) == 0 {
		return false
	}
	a.ChangeImage(region, images[len(images)-1].ID, func(i *awstest.Image) { i.State = "deregistered" })
	return true
}

// Alter makes the newest image one for another architecture.
func (a *account) Alter(testing.TB) bool {
	region := a.settings.Regions[0]
	images := a.Images(region)
	if len(images) == 0 {
		return false
	}
	a.ChangeImage(region, images[len(images)-1].ID, func(i *awstest.Image) { i.Architecture = "arm64" })
	return true
}

// Dump tells of everything that the account has, by the names of images.
func (a *account) Dump(t testing.TB) string {
	var lines []string
	for _, region := range a.settings.Regions {
		names := map[string]string{}
		users := map[string]string{}
		for _, i := range a.Images(region) {
			if i.State == "deregistered" {
				continue
			}
			names[i.ID], users[i.SnapshotID] = i.Name, i.Name
			deprecated := !i.Deprecated.IsZero() && i.Deprecated.Before(time.Now().Add(10*time.Minute))
			lines = append(lines, fmt.Sprintf("%s image %s: %s %s %s %s %s, ENA %v, public %v, deprecated %v, %s", region, i.Name, i.State, i.Architecture, i.BootMode, i.IMDS, i.VolumeType, i.ENA, i.Public, deprecated, list(i.Tags)))
		}
		for _, s := range a.Snapshots(region) {
			lines = append(lines, fmt.Sprintf("%s snapshot of %q: %s, %d blocks, %s, public %v, %s", region, users[s.ID], s.State, s.Blocks(), s.Linear(), s.Public, list(s.Tags)))
		}
		for name, p := range a.Parameters(region) {
			lines = append(lines, fmt.Sprintf("%s parameter %s: %s %s", region, name, p.DataType, names[p.Value]))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

func list(tags map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		out = append(out, k+"="+tags[k])
	}
	return strings.Join(out, " ")
}

// suite is AWS as publishtest wants it.
var suite = publishtest.Provider{Name: "aws", Vendor: "ec2", Piece: blockSize, AtOnce: workers, Marks: hastyMarks, Cloud: func(t testing.TB) publishtest.Cloud {
	return newAccount(t, awstest.Settings{Regions: []string{"us-east-1", "eu-west-1"}, Pending: 1, Hidden: 1})
}}

func TestSuite(t *testing.T) {
	signIn(t)
	publishtest.Run(t, suite)
}

package azure

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/target"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/azure/azuretest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

// fake is the small cloud of package azuretest as the suite wants it.
type fake struct {
	*azuretest.Cloud
	target target.Target

	sums map[*byte][sha256.Size]byte // of disks, by their first byte: a version's data stays as it is
}

func (f *fake) sum(data []byte) [sha256.Size]byte {
	if len(data) == 0 {
		return sha256.Sum256(nil)
	}
	if _, ok := f.sums[&data[0]]; !ok {
		f.sums[&data[0]] = sha256.Sum256(data)
	}
	return f.sums[&data[0]]
}

func newFake(t testing.TB) *fake {
	c := azuretest.New(t)
	t.Setenv("AZURE_TENANT_ID", azuretest.Tenant)
	t.Setenv("AZURE_CLIENT_ID", azuretest.Client)
	t.Setenv("AZURE_ID_TOKEN", azuretest.Assertion)
	return &fake{Cloud: c, sums: map[*byte][sha256.Size]byte{}, target: target.Target{
		Name: "test-gallery", Provider: "azure", Account: azuretest.Subscription, Regions: []string{"westeurope", "eastus"},
		Settings: map[string]string{"resource-group": azuretest.ResourceGroup, "gallery": azuretest.Gallery, "endpoint": c.URL()},
	}}
}

func (f *fake) Publisher(t testing.TB, line *publishtest.Line, j *journal.Journal) publish.Publisher {
	return f.publisher(t, line, j)
}

// hasty waits for milliseconds where others wait for seconds, and takes every incomplete disk for one that nobody is at work on.
var hasty = patience{pause: time.Millisecond, retries: 8, arrival: time.Minute}

// hastyMarks are blocks between two marks, so few that a small image has some.
const hastyMarks = 2

func (f *fake) publisher(t testing.TB, line *publishtest.Line, j *journal.Journal) *Publisher {
	t.Helper()
	p, err := New(f.target, j, line.Transport(f.Transport()))
	if err != nil {
		t.Fatal(err)
	}
	p.patience, p.between = hasty, hastyMarks
	return p
}

func (f *fake) Dump(testing.TB) string {
	lines := slices.Concat(f.Definitions(), f.Disks())
	for _, v := range f.Versions() {
		var tags []string
		for name, value := range v.Tags {
			if name == tagDeprecated || name == tagHidden {
				value = "some time"
			}
			tags = append(tags, name+"="+value)
		}
		slices.Sort(tags)
		lines = append(lines, fmt.Sprintf("version %s %s %s excluded=%v ended=%v %v %x %v", v.Definition, v.Name, v.State, v.ExcludeFromLatest, v.EndOfLife != "", v.Regions, f.sum(v.Data), tags))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

func (f *fake) Secrets() []string {
	return append(f.Signatures(), azuretest.Assertion, azuretest.ClientSecret)
}

func (f *fake) Lose(testing.TB) bool {
	all := f.Versions()
	if len(all) == 0 {
		return false
	}
	last := all[len(all)-1]
	f.Drop(last.Definition, last.Name)
	return true
}

// Alter has the newest version tell of another type.
func (f *fake) Alter(testing.TB) bool {
	all := f.Versions()
	if len(all) == 0 {
		return false
	}
	last := all[len(all)-1]
	f.SetTag(last.Definition, last.Name, tagType, "release")
	return true
}

// suite is Azure as publishtest wants it.
var suite = publishtest.Provider{Name: "azure", Vendor: "azure", Piece: blockSize, AtOnce: senders, Marks: hastyMarks, Cloud: func(t testing.TB) publishtest.Cloud { return newFake(t) }}

func TestSuite(t *testing.T) { publishtest.Run(t, suite) }

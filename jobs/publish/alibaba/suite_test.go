package alibaba

import (
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/alibaba/alibabatest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/regions"
)

// hasty waits for milliseconds where patient waits for minutes.
var hasty = patience{Patience: regions.Patience{Poll: time.Millisecond, PollMost: 5 * time.Millisecond, Tries: 3}, visible: 500 * time.Millisecond, pending: 20 * time.Second, calls: 10}

var twoRegions = []string{"ap-southeast-1", "eu-central-1"}

// account is an alibabatest.Cloud as the suite wants one.
type account struct {
	*alibabatest.Cloud
	settings    settings
	environment map[string]string
}

func newAccount(t testing.TB, s alibabatest.Settings) *account {
	c := alibabatest.New(s)
	t.Cleanup(c.Close)
	return &account{c, settings{Account: "1234567890123456", Regions: s.Regions, Bucket: "debian-images"},
		map[string]string{"ALIBABA_CLOUD_ACCESS_KEY_ID": alibabatest.KeyID, "ALIBABA_CLOUD_ACCESS_KEY_SECRET": alibabatest.Secret}}
}

// open returns a Publisher whose parts are so small that an image of the suite has several.
func (a *account) open(t testing.TB, j *journal.Journal, transport http.RoundTripper) *Publisher {
	t.Helper()
	if transport == nil {
		transport = a.Transport()
	}
	p, err := open("alibaba", a.settings, func(name string) string { return a.environment[name] }, j, hasty, transport)
	if err != nil {
		t.Fatal(err)
	}
	p.part = 512 << 10
	return p
}

func (a *account) Publisher(t testing.TB, line *publishtest.Line, j *journal.Journal) publish.Publisher {
	return a.open(t, j, line.Transport(a.Transport()))
}

func (a *account) Secrets() []string { return []string{alibabatest.Secret} }

// Lose deletes the newest image of the home region, by someone's hand.
func (a *account) Lose(t testing.TB) bool {
	t.Helper()
	images := a.Images(a.settings.Regions[0])
	if len(images) == 0 {
		return false
	}
	a.ChangeImage(a.settings.Regions[0], images[len(images)-1].ID, nil)
	a.RemoveSnapshot(a.settings.Regions[0], images[len(images)-1].Snapshot)
	return true
}

// Alter makes the newest image of the home region one for another architecture.
func (a *account) Alter(testing.TB) bool {
	images := a.Images(a.settings.Regions[0])
	if len(images) == 0 {
		return false
	}
	a.ChangeImage(a.settings.Regions[0], images[len(images)-1].ID, func(i *alibabatest.Image) { i.Architecture = "arm64" })
	return true
}

// Dump tells of everything that the account has, by the names of images.
func (a *account) Dump(t testing.TB) string {
	var lines []string
	for _, region := range a.settings.Regions {
		users := map[string]string{}
		for _, i := range a.Images(region) {
			users[i.Snapshot] = i.Name
			lines = append(lines, fmt.Sprintf("%s image %s: %s %s %s NVMe %s, %d GiB, family %q, public %v, disk %.12s, %s", region, i.Name, i.Status, i.Architecture, i.BootMode, i.Nvme, i.Size, i.Family, i.Public, i.Disk, list(i.Tags)))
		}
		for _, s := range a.Snapshots(region) {
			lines = append(lines, fmt.Sprintf("%s snapshot of %q: %d GiB, %s", region, users[s.ID], s.Size, list(s.Tags)))
		}
	}
	for _, key := range a.Objects() {
		lines = append(lines, "object "+key)
	}
	for _, key := range a.Uploads() {
		lines = append(lines, "upload "+key)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

// list tells of tags, and of times only that they are there.
func list(tags map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		if k == tagDeprecated || k == tagHidden {
			out = append(out, k)
			continue
		}
		out = append(out, k+"="+tags[k])
	}
	return strings.Join(out, " ")
}

func newJournal(t testing.TB) *journal.Journal {
	t.Helper()
	j, err := journal.Open(t.Context(), filepath.Join(t.TempDir(), "journal.db"), journal.Wait)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func TestSuite(t *testing.T) {
	publishtest.Run(t, publishtest.Provider{Name: "alibaba", Vendor: "genericcloud", Cloud: func(t testing.TB) publishtest.Cloud {
		return newAccount(t, alibabatest.Settings{Regions: twoRegions, Pending: 1, Hidden: 1})
	}})
}

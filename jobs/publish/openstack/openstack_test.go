package openstack

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/target"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/openstack/openstacktest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

// fake is the small cloud of package openstacktest as the suite wants it.
type fake struct {
	*openstacktest.Cloud
	target target.Target
	clouds string // path of its clouds.yaml
}

// newFake starts a cloud with the regions "north" and "south", whose application credential is in a clouds.yaml.
func newFake(t testing.TB) *fake {
	c := openstacktest.New(t, "north", "south")
	c.Regions["south"].Import = nil // an older one, which takes direct uploads only
	to := target.Target{Name: "test-cloud", Provider: "openstack", Regions: []string{"*"}, Settings: map[string]string{"cloud": "test"}}
	return &fake{c, to, writeCloudsYAML(t, c.CloudsYAML("test"))}
}

func writeCloudsYAML(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "clouds.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// settingEnvironment guards what testing notes of Setenv: two publishers may be made at once.
var settingEnvironment sync.Mutex

func (f *fake) Publisher(t testing.TB, line *publishtest.Line, j *journal.Journal) publish.Publisher {
	settingEnvironment.Lock()
	defer settingEnvironment.Unlock()
	if os.Getenv("OS_CLIENT_CONFIG_FILE") != f.clouds { // a test may have several clouds
		t.Setenv("OS_CLIENT_CONFIG_FILE", f.clouds)
	}
	return hasty(t, f.target, line, j)
}

// hasty returns a Publisher that waits for milliseconds where others wait for seconds.
func hasty(t testing.TB, to target.Target, line *publishtest.Line, j *journal.Journal) *Publisher {
	t.Helper()
	p, err := New(to, j, line.Transport(nil))
	if err != nil {
		t.Fatal(err)
	}
	p.patience = patience{pause: time.Millisecond, retries: 8, settling: 20 * time.Second}
	return p
}

func (f *fake) Dump(testing.TB) string {
	var lines []string
	for name, region := range f.Regions {
		lines = append(lines, dumpImages(name, region.Images())...)
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// dumpImages describes images without what differs between two equal publications.
func dumpImages(region string, all []openstacktest.Image) []string {
	var lines []string
	for _, i := range all {
		var properties []string
		for name, v := range i.Properties {
			switch name {
			case "id", "self", "file", "schema", "created_at", "updated_at", "direct_url", "stores", "checksum":
				continue
			case markDeprecated, markHidden:
				v = "some time"
			}
			properties = append(properties, name+"="+v)
		}
		slices.Sort(properties)
		slices.Sort(i.Tags)
		lines = append(lines, fmt.Sprintf("%s %s %s %s hidden=%v protected=%v %v %x %v\n", region, i.Name, i.Status, i.Visibility, i.Hidden, i.Protected, i.Tags, sha256.Sum256(i.Data), properties))
	}
	return lines
}

func (f *fake) Secrets() []string { return []string{openstacktest.Secret, openstacktest.Password} }

func (f *fake) Lose(testing.TB) bool {
	all := f.Regions["north"].Images()
	if len(all) == 0 {
		return false
	}
	f.Regions["north"].Delete(all[len(all)-1].ID)
	return true
}

// Alter has the newest image tell of another distribution.
func (f *fake) Alter(testing.TB) bool {
	all := f.Regions["north"].Images()
	if len(all) == 0 {
		return false
	}
	f.Regions["north"].Set(all[len(all)-1].ID, "os_distro", "ubuntu")
	return true
}

func TestSuite(t *testing.T) {
	publishtest.Run(t, publishtest.Provider{Name: "openstack", Vendor: "genericcloud", Cloud: func(t testing.TB) publishtest.Cloud { return newFake(t) }})
}

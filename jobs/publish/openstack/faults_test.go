package openstack

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/target"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/openstack/openstacktest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

// TestWhatGoesWrong tells, row by row, what a person reads.
func TestWhatGoesWrong(t *testing.T) {
	name := "debian-13-genericcloud-amd64-daily-20260814-1"
	for _, row := range []struct {
		summary string
		spoil   func(t *testing.T, f *fake)
		kind    fault.Kind
		want    string // in the error
		hint    string
	}{
		{"the application credential has expired", func(_ *testing.T, f *fake) { f.CredentialExpires = time.Now().Add(-time.Hour) },
			fault.Input, "refuses the credentials: 401 Unauthorized", "make a new one"},
		{"the clocks differ", func(_ *testing.T, f *fake) {
			f.CredentialExpires = time.Now().Add(time.Minute)
			f.Skew = 2 * time.Hour
		}, fault.Input, "refuses the credentials", "the clocks differ by 2h0m0s"},
		{"another project than the target's", func(_ *testing.T, f *fake) { f.target.Account = "another" },
			fault.Input, "the credentials are for project cloud-images (" + openstacktest.ProjectID + "), where target \"test-cloud\" is project another", "application credential of the target's project"},
		{"a role is missing", func(_ *testing.T, f *fake) { f.Roles = []string{"reader"} },
			fault.Input, "create the image: the credentials may not do this: 403 Forbidden: You are not authorized to complete add_image action.", "whoami"},
		{"the role that publishes is missing", func(_ *testing.T, f *fake) { f.Roles = []string{"member"} },
			fault.Input, "publish image", "whoami"},
		{"the quota is used up", func(_ *testing.T, f *fake) {
			f.Regions["north"].Quota, f.Regions["north"].Import = 1, nil
			f.Regions["north"].Put(map[string]any{"name": "other"})
		}, fault.Outside, "a quota of the project is used up: 413", "have old images pruned"},
		{"the name is taken by something that is not ours", func(_ *testing.T, f *fake) { f.Regions["north"].Put(map[string]any{"name": name}) },
			fault.Input, "has the name " + name + " and is not of debcloud", "rename or delete it"},
		{"another image is published under the name", func(_ *testing.T, f *fake) {
			f.Regions["north"].Put(map[string]any{"name": name, markDigest: "sha512:other"})
		}, fault.Input, name + " is published already, as image", "another version"},
		{"an operator deactivated the image", func(t *testing.T, f *fake) {
			publishOnce(t, f, publish.Private)
			f.Regions["north"].Set(f.Regions["north"].Images()[0].ID, "status", "deactivated")
		}, fault.Input, "is deactivated, which is not expected", "operator"},
		{"someone else is sending it, and does not end", func(t *testing.T, f *fake) {
			publishOnce(t, f, publish.Private)
			f.Regions["north"].Set(f.Regions["north"].Images()[0].ID, "status", "saving")
		}, fault.Outside, "has been saving since", "wait for the other publisher"},
		{"a region vanished", func(_ *testing.T, f *fake) { f.target.Regions = []string{"west"} },
			fault.Input, `the cloud has no image service in region "west"; it has north, south`, "correct the target's regions"},
		{"the store keeps other bytes", func(_ *testing.T, f *fake) { f.Regions["north"].Spoil = true },
			fault.Outside, "where what was sent has", ""},
		{"Keystone does not answer", func(t *testing.T, f *fake) {
			f.clouds = writeCloudsYAML(t, strings.ReplaceAll(f.CloudsYAML("test"), f.URL(), "http://127.0.0.1:1/v3"))
		}, fault.Outside, "does not answer", "auth_url"},
		{"no such cloud in clouds.yaml", func(_ *testing.T, f *fake) { f.target.Settings["cloud"] = "nowhere" },
			fault.Input, `the credentials of cloud "nowhere" cannot be read`, "OS_CLIENT_CONFIG_FILE"},
	} {
		t.Run(row.summary, func(t *testing.T) {
			f := newFake(t)
			f.target.Regions = []string{"north"}
			row.spoil(t, f)
			p := f.Publisher(t, &publishtest.Line{}, openJournal(t)).(*Publisher)
			p.patience.retries, p.patience.settling = 2, 50*time.Millisecond
			_, err := p.Publish(t.Context(), publishtest.Image(t, publishtest.Options{}), publish.Public)
			if err == nil || !strings.Contains(err.Error(), row.want) || fault.KindOf(err) != row.kind || !strings.Contains(fault.HintOf(err), row.hint) {
				t.Errorf("the error is %v, of kind %d, hint %q", err, fault.KindOf(err), fault.HintOf(err))
			}
			if err != nil && (strings.Contains(err.Error(), openstacktest.Secret) || strings.Contains(err.Error(), "\n") && !strings.Contains(err.Error(), "regions failed")) {
				t.Errorf("the error has a secret or several lines: %v", err)
			}
		})
	}
}

func publishOnce(t *testing.T, f *fake, stage publish.Stage) {
	t.Helper()
	p := f.Publisher(t, &publishtest.Line{}, openJournal(t))
	if _, err := p.Publish(t.Context(), publishtest.Image(t, publishtest.Options{}), stage); err != nil {
		t.Fatal(err)
	}
}

// TestOneRegionFails demands that the others are published all the same, and that the next run completes the one.
func TestOneRegionFails(t *testing.T) {
	f := newFake(t)
	f.target.Regions = []string{"south", "vanished", "north"}
	f.Regions["north"].Spoil = true
	img := publishtest.Image(t, publishtest.Options{})
	p := f.Publisher(t, &publishtest.Line{}, openJournal(t)).(*Publisher)
	p.patience.retries = 2
	done, err := p.Publish(t.Context(), img, publish.Public)
	if done == nil || len(done.Uploads) != 1 || err == nil || fault.KindOf(err) != fault.Outside || !strings.Contains(err.Error(), "2 of 3 regions failed") {
		t.Fatalf("published %+v, error %v", done, err)
	}
	f.Regions["north"].Spoil = false
	done, err = p.Publish(t.Context(), img, publish.Public)
	if len(done.Uploads) != 2 || fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), `"vanished"`) {
		t.Errorf("the second time: %+v, error %v", done, err)
	}
}

// TestRegionThatCannotBeAsked: what an earlier run published there stays in the documents. What it did not, and what is not public where that is the stage,
// does not come into them.
func TestRegionThatCannotBeAsked(t *testing.T) {
	for _, row := range []struct {
		summary       string
		earlier, then publish.Stage
		journal       bool // the earlier one's
		uploads       int
	}{
		{"public before", publish.Public, publish.Public, true, 2},
		{"private before", publish.Private, publish.Private, true, 2},
		{"public before, private now", publish.Public, publish.Private, true, 2},
		{"private before, public now", publish.Private, publish.Public, true, 1},
		{"nothing is known", publish.Public, publish.Public, false, 1},
	} {
		f, j := newFake(t), openJournal(t)
		img := publishtest.Image(t, publishtest.Options{})
		want := must(f.Publisher(t, &publishtest.Line{}, j).Publish(t.Context(), img, row.earlier))(t)
		f.Intercept = func(w http.ResponseWriter, r *http.Request, serve func()) {
			if strings.HasPrefix(r.URL.Path, "/image/south") {
				http.Error(w, "later", http.StatusServiceUnavailable)
				return
			}
			serve()
		}
		if !row.journal {
			j = openJournal(t)
		}
		p := f.Publisher(t, &publishtest.Line{}, j).(*Publisher)
		p.patience.retries = 2
		done, err := p.Publish(t.Context(), img, row.then)
		if fault.KindOf(err) != fault.Outside || !strings.Contains(err.Error(), "1 of 2 regions failed: region south: ask the image service for its versions: ") {
			t.Errorf("%s: the error is %v", row.summary, err)
		}
		if done == nil || len(done.Uploads) != row.uploads || row.uploads == 2 && !reflect.DeepEqual(done.Uploads, want.Uploads) {
			t.Errorf("%s: the publication is %+v", row.summary, done)
		}
	}
}

// TestOtherClouds takes the suite's first case through clouds that are not like the usual one.
func TestOtherClouds(t *testing.T) {
	for _, row := range []struct {
		summary string
		change  func(t *testing.T, f *fake)
		format  string // in Glance
	}{
		{"imports are converted to raw", func(_ *testing.T, f *fake) { f.Regions["north"].Converts = true }, "raw"},
		{"raw images are wanted", func(_ *testing.T, f *fake) { f.target.Settings["format"] = "raw" }, "raw"},
		{"lists lag behind", func(_ *testing.T, f *fake) { f.Regions["north"].Lag = 4 }, "qcow2"},
		{"imports take long", func(_ *testing.T, f *fake) { f.Regions["north"].Polls = 8 }, "qcow2"},
		{"a password, with the domains", func(t *testing.T, f *fake) {
			f.clouds = writeCloudsYAML(t, passwordYAML(f.URL(), "user_domain_name: Default, project_domain_name: Default"))
		}, "qcow2"},
		{"the environment", func(t *testing.T, f *fake) {
			delete(f.target.Settings, "cloud")
			t.Setenv("OS_AUTH_URL", f.URL())
			t.Setenv("OS_USERNAME", openstacktest.UserName)
			t.Setenv("OS_PASSWORD", openstacktest.Password)
			t.Setenv("OS_USER_DOMAIN_NAME", "Default")
			t.Setenv("OS_PROJECT_NAME", openstacktest.ProjectName)
			t.Setenv("OS_PROJECT_DOMAIN_ID", "default")
		}, "qcow2"},
		{"images are hashed by SHA-256", func(_ *testing.T, f *fake) { f.Regions["north"].Hash = "sha256" }, "qcow2"},
		{"raw images are hashed by SHA-256", func(_ *testing.T, f *fake) {
			f.Regions["north"].Hash = "sha256"
			f.target.Settings["format"] = "raw"
		}, "raw"},
		{"images are converted to raw and hashed by SHA-256", func(_ *testing.T, f *fake) {
			f.Regions["north"].Hash = "sha256"
			f.Regions["north"].Converts = true
		}, "raw"},
		{"a community image", func(_ *testing.T, f *fake) {
			f.target.Settings["visibility"] = "community"
			f.Roles = []string{"member"}
		}, "qcow2"},
	} {
		t.Run(row.summary, func(t *testing.T) {
			f := newFake(t)
			f.target.Regions = []string{"north"}
			row.change(t, f)
			twoVersions(t, f.Publisher(t, &publishtest.Line{}, openJournal(t)))
			for _, i := range f.Regions["north"].Images() {
				if i.Properties["disk_format"] != row.format || i.Status != "active" {
					t.Errorf("%s is %s, %s", i.Name, i.Properties["disk_format"], i.Status)
				}
			}
		})
	}
}

// TestAlteredBySHA256: an image is held against its documents also where that takes the same pass as the cloud's hash, whether it was altered in its
// data or in a hole.
func TestAlteredBySHA256(t *testing.T) {
	for _, at := range []int64{0, 1<<20 + 77} {
		f, j := newFake(t), openJournal(t)
		f.target.Regions = []string{"north"}
		f.Regions["north"].Hash = "sha256"
		f.Regions["north"].Put(map[string]any{"name": "cirros", "owner": "someone", "visibility": "public", "os_hash_algo": "sha256", "os_hash_value": "00"})
		img := publishtest.Image(t, publishtest.Options{Altered: []int64{at}})
		_, err := f.Publisher(t, &publishtest.Line{}, j).Publish(t.Context(), img, publish.Private)
		if fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), "altered") {
			t.Errorf("altered at %d: the error is %v", at, err)
		}
		for _, i := range f.Regions["north"].Images() {
			if i.Name != "cirros" {
				t.Errorf("altered at %d: the cloud has %s", at, i.Name)
			}
		}
	}
}

// TestAlgorithm: what is sent is hashed as the cloud's images are, so that it need not be read again.
func TestAlgorithm(t *testing.T) {
	for _, row := range []struct{ summary, there, want string }{
		{"no image is there", "", "sha512"},
		{"one by SHA-256 is there", "sha256", "sha256"},
		{"one of before there were such hashes is there", "-", "sha512"},
	} {
		f, j := newFake(t), openJournal(t)
		f.target.Regions = []string{"north"}
		f.Regions["north"].Hash = "sha256"
		if row.there != "" {
			someone := map[string]any{"name": "cirros", "owner": "someone", "visibility": "public"}
			if row.there != "-" {
				someone["os_hash_algo"], someone["os_hash_value"] = row.there, "00"
			}
			f.Regions["north"].Put(someone)
		}
		img := publishtest.Image(t, publishtest.Options{})
		if _, err := f.Publisher(t, &publishtest.Line{}, j).Publish(t.Context(), img, publish.Private); err != nil {
			t.Fatalf("%s: %v", row.summary, err)
		}
		e, err := j.Lock(t.Context(), journal.Key{Target: f.target.Name, Digest: img.Digest.String(), Image: img.Name()})
		if err != nil {
			t.Fatal(err)
		}
		have, err := journal.Step(t.Context(), e, "image north", func(context.Context, bool) (made, error) { return made{}, errors.New("not done") })
		e.Unlock()
		if err != nil || have.Algorithm != row.want || have.Sum == "" {
			t.Errorf("%s: the journal has %+v, %v", row.summary, have, err)
		}
	}
}

// TestUnknownAlgorithm: nothing is made that could not be verified.
func TestUnknownAlgorithm(t *testing.T) {
	f := newFake(t)
	f.target.Regions = []string{"north"}
	f.Regions["north"].Put(map[string]any{"name": "cirros", "os_hash_algo": "blake3", "os_hash_value": "00"})
	_, err := f.Publisher(t, &publishtest.Line{}, openJournal(t)).Publish(t.Context(), publishtest.Image(t, publishtest.Options{}), publish.Private)
	if fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), `"blake3"`) || !strings.Contains(fault.HintOf(err), "hashing_algorithm") {
		t.Errorf("the error is %v, hint %q", err, fault.HintOf(err))
	}
	if all := f.Regions["north"].Images(); len(all) != 1 {
		t.Errorf("there are %d images", len(all))
	}
}

func passwordYAML(url, domains string) string {
	return fmt.Sprintf("clouds: {test: {auth: {auth_url: %s, username: %s, password: %s, project_name: %s, %s}}}\n", url, openstacktest.UserName, openstacktest.Password, openstacktest.ProjectName, domains)
}

func TestCredentialsThatGuess(t *testing.T) {
	for domains, want := range map[string]string{
		"project_domain_name: Default": `user "publisher" without the domain of the user`,
		"default_domain: default":      `without the domain`,
	} {
		f := newFake(t)
		f.clouds = writeCloudsYAML(t, passwordYAML(f.URL(), domains))
		_, err := f.Publisher(t, &publishtest.Line{}, nil).(*Publisher).Whoami(t.Context())
		if fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", domains, err)
		}
	}
	t.Setenv("OS_AUTH_URL", "")
	p, err := New(target.Target{Name: "x", Provider: "openstack"}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Whoami(t.Context()); fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), "no OpenStack credentials are there") {
		t.Errorf("no credentials at all: %v", err)
	}
}

func TestSettings(t *testing.T) {
	for setting, want := range map[string]string{
		"format=vmdk":        `setting format "vmdk", which is none of qcow2, raw`,
		"visibility=private": `setting visibility "private", which is none of public, community`,
		"firmware=coreboot":  `setting firmware "coreboot", which is none of bios, uefi`,
		"password=x":         `the setting "password", which provider openstack does not know`,
	} {
		key, value, _ := strings.Cut(setting, "=")
		_, err := New(target.Target{Name: "x", Provider: "openstack", Settings: map[string]string{key: value}}, nil, nil)
		if fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", setting, err)
		}
	}
}

func TestWhoami(t *testing.T) {
	f := newFake(t)
	f.CredentialExpires = time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	f.Roles = []string{"member"}
	who, err := f.Publisher(t, &publishtest.Line{}, nil).(*Publisher).Whoami(t.Context())
	if err != nil || who.Account != openstacktest.ProjectID || !who.Until.Equal(f.CredentialExpires) || len(who.Missing) != 1 || !strings.Contains(who.Missing[0], "publicize_image") {
		t.Errorf("%+v, %v", who, err)
	}
}

// TestTokensAreRenewed revokes the token at every tenth request.
func TestTokensAreRenewed(t *testing.T) {
	f := newFake(t)
	n := 0
	f.Intercept = func(_ http.ResponseWriter, r *http.Request, serve func()) {
		f.Lock()
		n++
		revoke := n%10 == 0 && r.Method != "PUT"
		f.Unlock()
		if revoke {
			f.Revoke()
		}
		serve()
	}
	publishOnce(t, f, publish.Public)
}

// TestZerosAreNotSent counts what reaches the cloud.
func TestZerosAreNotSent(t *testing.T) {
	f := newFake(t)
	f.target.Regions = []string{"north"}
	img := publishtest.Image(t, publishtest.Options{Size: 64 << 20})
	must(f.Publisher(t, &publishtest.Line{}, openJournal(t)).Publish(context.WithoutCancel(t.Context()), img, publish.Private))(t)
	sent := int64(len(f.Regions["north"].Images()[0].Data))
	data := int64(64<<20/16 + 64<<20/8 + 64<<10) // text, noise and the cluster of the last sector
	if sent > data+(1<<20) {
		t.Errorf("%d bytes were sent of an image that has %d of data", sent, data)
	}
}

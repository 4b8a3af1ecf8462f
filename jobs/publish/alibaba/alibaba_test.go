package alibaba

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/target"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/alibaba/alibabatest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

const (
	singapore = "ap-southeast-1"
	frankfurt = "eu-central-1"
	name      = "debian-13-genericcloud-amd64-daily-20260814-1"
)

// publishOne publishes an image of the suite.
func (a *account) publishOne(t testing.TB, o publishtest.Options, stage publish.Stage) (*publish.Publication, error) {
	t.Helper()
	return a.open(t, newJournal(t), nil).Publish(t.Context(), publishtest.Image(t, o), stage)
}

func demandFault(t *testing.T, err error, kind fault.Kind, words ...string) {
	t.Helper()
	if err == nil || fault.KindOf(err) != kind {
		t.Errorf("the error is %v, of kind %v", err, fault.KindOf(err))
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error()+" "+fault.HintOf(err), w) {
			t.Errorf("%q is not in %q, hint %q", w, err, fault.HintOf(err))
		}
	}
}

// TestSaysWhatIsWrong has one row for each thing that goes wrong at Alibaba's side: one sentence each, of the right kind, with what to do.
func TestSaysWhatIsWrong(t *testing.T) {
	for _, row := range []struct {
		summary  string
		settings alibabatest.Settings
		change   func(*account)
		kind     fault.Kind
		words    []string
	}{
		{"a quota", alibabatest.Settings{Images: 0}, func(a *account) { a.quota("QuotaExceed.Image", "CopyImage") }, fault.Outside, []string{"1 of 2 regions failed", "eu-central-1: CopyImage in ap-southeast-1", "a quota of the account is reached", "debcloud prune"}},
		{"a wrong secret", alibabatest.Settings{}, func(a *account) { a.environment["ALIBABA_CLOUD_ACCESS_KEY_SECRET"] = "another" }, fault.Input, []string{"refuses the signature", "SignatureDoesNotMatch"}},
		{"an unknown key", alibabatest.Settings{}, func(a *account) { a.environment["ALIBABA_CLOUD_ACCESS_KEY_ID"] = "LTAIother" }, fault.Input, []string{"does not know these credentials", "whoami"}},
		{"no credentials", alibabatest.Settings{}, func(a *account) { a.environment = nil }, fault.Input, []string{"there are no credentials for Alibaba Cloud", "README.md"}},
		{"another account", alibabatest.Settings{Account: "6543210987654321"}, nil, fault.Input, []string{"of account 6543210987654321", "names account 1234567890123456"}},
		{"a missing right", alibabatest.Settings{Denied: []string{"ecs:ImportImage"}}, nil, fault.Input, []string{"ImportImage in ap-southeast-1: the credentials have no right to this (Forbidden.RAM", "policy"}},
		{"a missing right on the bucket", alibabatest.Settings{Denied: []string{"oss:PutObject"}}, nil, fault.Input, []string{"on bucket debian-images in ap-southeast-1: the credentials have no right", "policy"}},
		{"no role for ECS", alibabatest.Settings{NoRole: true}, nil, fault.Input, []string{"ECS may not read the bucket", "AliyunECSImageImportDefaultRole"}},
		{"a bucket elsewhere", alibabatest.Settings{BucketRegion: frankfurt}, nil, fault.Input, []string{"the bucket is not there or in another region", "home region"}},
		{"no bucket", alibabatest.Settings{Bucket: "other"}, nil, fault.Input, []string{"the bucket is not there or in another region"}},
		{"no agreement", alibabatest.Settings{NoAgreement: true}, nil, fault.Input, []string{"has not signed the agreement", "ECS console"}},
		{"a region without community images", alibabatest.Settings{NoPublic: []string{frankfurt}}, nil, fault.Input, []string{"1 of 2 regions failed: eu-central-1: ModifyImageSharePermission in eu-central-1: this region has no community images"}},
		{"a region that takes no copies", alibabatest.Settings{NoCopy: []string{frankfurt}}, nil, fault.Input, []string{"1 of 2 regions failed", "images are not copied to this region"}},
		{"an object that is damaged on its way", alibabatest.Settings{Damage: true}, nil, fault.Outside, []string{"arrived with CRC-64 1 where what was sent has"}},
		{"parts that are damaged on their way", alibabatest.Settings{DamageParts: 999}, nil, fault.Outside, []string{" of object debcloud/", "arrived with CRC-64", "where what was sent has"}},
		{"copies that always fail", alibabatest.Settings{FailCopies: 99}, nil, fault.Outside, []string{"1 of 2 regions failed", "was not made: ECS gave it up"}},
		{"imports that always fail", alibabatest.Settings{FailImports: 99}, nil, fault.Outside, []string{"was not made: ECS gave it up", "made anew"}},
		{"a debt", alibabatest.Settings{}, func(a *account) { a.quota("Account.Arrearage", "ImportImage") }, fault.Input, []string{"the account has a debt"}},
		{"a name that is not ours", alibabatest.Settings{}, func(a *account) {
			a.AddImage(singapore, alibabatest.Image{Name: name, Status: "Available"})
		}, fault.Input, []string{"the name \"" + name + "\" is taken in ap-southeast-1 by image m-", "which debcloud did not make"}},
		{"a name that is not ours, elsewhere", alibabatest.Settings{}, func(a *account) {
			a.AddImage(frankfurt, alibabatest.Image{Name: name, Status: "Available"})
		}, fault.Input, []string{"1 of 2 regions failed", "is taken in eu-central-1 by image m-"}},
		{"an object that is not ours", alibabatest.Settings{}, func(a *account) {
			p, err := open("x", a.settings, func(string) string { return "" }, nil, hasty, nil)
			if err != nil {
				t.Fatal(err)
			}
			img := publishtest.Image(t, publishtest.Options{})
			a.PutObject((&publication{Publisher: p, img: img, name: img.Name()}).object(), []byte("x"))
		}, fault.Input, []string{"object debcloud/" + name, "in bucket debian-images is not ours"}},
		{"a clock that is off and answers without a time", alibabatest.Settings{}, func(a *account) { a.quota("IllegalTimestamp", "ImportImage") }, fault.Outside, []string{"refuses the time of the request", "set the clock"}},
		{"an expired token", alibabatest.Settings{}, func(a *account) { a.quota("InvalidSecurityToken.Expired", "CopyImage") }, fault.Outside, []string{"the credentials are expired", "running the job again"}},
	} {
		t.Run(row.summary, func(t *testing.T) {
			t.Parallel()
			row.settings.Regions = twoRegions
			a := newAccount(t, row.settings)
			if row.change != nil {
				row.change(a)
			}
			_, err := a.publishOne(t, publishtest.Options{}, publish.Public)
			demandFault(t, err, row.kind, row.words...)
			if strings.ContainsAny(fmt.Sprint(err), "\n") {
				t.Errorf("the error has several lines: %q", err)
			}
		})
	}
}

// TestDamagedPart sends a part again that did not arrive as it was sent.
func TestDamagedPart(t *testing.T) {
	a := newAccount(t, alibabatest.Settings{Regions: twoRegions, DamageParts: 2})
	if _, err := a.publishOne(t, publishtest.Options{}, publish.Private); err != nil {
		t.Fatal(err)
	}
	posts := slices.DeleteFunc(a.Calls(), func(call string) bool { return !strings.HasPrefix(call, "oss:PutObject POST ") })
	if len(posts) != 2 {
		t.Errorf("%q: want one upload that is begun and completed; a wrong part is found before it is", posts)
	}
}

// quota has every call of an action refused with a code.
func (a *account) quota(code, action string) {
	a.Before(func(call string) *alibabatest.Failure {
		if strings.HasPrefix(call, "ecs:"+action+" ") {
			return &alibabatest.Failure{Status: 403, Code: code, Message: "No."}
		}
		return nil
	})
}

// TestGetsThere has what a publication takes in its stride.
func TestGetsThere(t *testing.T) {
	for _, row := range []struct {
		summary  string
		settings alibabatest.Settings
	}{
		{"throttling", alibabatest.Settings{TooFast: 3}},
		{"a clock that is off", alibabatest.Settings{Skew: 2 * time.Hour}},
		{"an import that fails once", alibabatest.Settings{FailImports: 1, Pending: 1}},
		{"a copy that fails twice", alibabatest.Settings{FailCopies: 2}},
		{"a copy at a time", alibabatest.Settings{OneCopy: true, Pending: 3}},
		{"images that are shown late, and their tags later", alibabatest.Settings{Hidden: 3, Untagged: 3, Pending: 9}},
		{"copies that lose boot mode and NVMe support", alibabatest.Settings{Forgetful: true}},
	} {
		t.Run(row.summary, func(t *testing.T) {
			t.Parallel()
			want := newAccount(t, alibabatest.Settings{Regions: append(twoRegions, "us-west-1")})
			row.settings.Regions = want.settings.Regions
			a := newAccount(t, row.settings)
			for _, one := range []*account{want, a} {
				for _, version := range []string{"20260814-1", "20260815-1"} {
					if _, err := one.publishOne(t, publishtest.Options{Version: version}, publish.Public); err != nil {
						t.Fatal(err)
					}
				}
			}
			if got := a.Dump(t); got != want.Dump(t) {
				t.Errorf("the cloud has\n%swhere it should have\n%s", got, want.Dump(t))
			}
		})
	}
}

// TestOneRegionFails: the others get their image, the documents tell of them, and the same command mends the one that failed, though the
// home's image, which is public by then, cannot be copied.
func TestOneRegionFails(t *testing.T) {
	want := newAccount(t, alibabatest.Settings{Regions: append(twoRegions, "us-west-1")})
	a := newAccount(t, alibabatest.Settings{Regions: want.settings.Regions})
	a.Before(func(call string) *alibabatest.Failure {
		if strings.HasPrefix(call, "ecs:DescribeImages "+frankfurt) {
			return &alibabatest.Failure{Status: 503, Code: "ServiceUnavailable", Message: "later"}
		}
		return nil
	})
	j := newJournal(t)
	img := publishtest.Image(t, publishtest.Options{})
	got, err := a.open(t, j, nil).Publish(t.Context(), img, publish.Public)
	demandFault(t, err, fault.Outside, "1 of 3 regions failed: eu-central-1: DescribeImages in eu-central-1")
	if got == nil || len(got.Uploads) != 2 {
		t.Fatalf("the publication is %+v", got)
	}
	a.Before(nil)
	if got, err = a.open(t, j, nil).Publish(t.Context(), img, publish.Public); err != nil || len(got.Uploads) != 3 {
		t.Fatalf("again: %+v, %v", got, err)
	}
	if count(a, "ecs:DeleteSnapshot") != 1 {
		t.Error("no source was made and removed again")
	}
	if _, err := want.publishOne(t, publishtest.Options{}, publish.Public); err != nil {
		t.Fatal(err)
	}
	if got := a.Dump(t); got != want.Dump(t) {
		t.Errorf("the cloud has\n%swhere it should have\n%s", got, want.Dump(t))
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
		{"private before, public now", publish.Private, publish.Public, true, 1},
		{"nothing is known", publish.Public, publish.Public, false, 1},
	} {
		a, j := newAccount(t, alibabatest.Settings{Regions: twoRegions}), newJournal(t)
		img := publishtest.Image(t, publishtest.Options{})
		want, err := a.open(t, j, nil).Publish(t.Context(), img, row.earlier)
		if err != nil {
			t.Fatal(err)
		}
		a.Before(func(call string) *alibabatest.Failure {
			if strings.Contains(call, " "+frankfurt) {
				return &alibabatest.Failure{Status: 503, Code: "ServiceUnavailable", Message: "later"}
			}
			return nil
		})
		if !row.journal {
			j = newJournal(t)
		}
		done, err := a.open(t, j, nil).Publish(t.Context(), img, row.then)
		demandFault(t, err, fault.Outside, "1 of 2 regions failed: eu-central-1: DescribeImages in eu-central-1")
		if done == nil || len(done.Uploads) != row.uploads || row.uploads == 2 && !reflect.DeepEqual(done.Uploads, want.Uploads) {
			t.Errorf("%s: the publication is %+v", row.summary, done)
		}
	}
}

// TestRegionVanishes: one that the target names is told, and the others go on; the home's end is final.
func TestRegionVanishes(t *testing.T) {
	a := newAccount(t, alibabatest.Settings{Regions: twoRegions})
	a.RemoveRegion(frankfurt)
	got, err := a.publishOne(t, publishtest.Options{}, publish.Public)
	demandFault(t, err, fault.Input, "1 of 2 regions failed: eu-central-1: Alibaba Cloud has no region \"eu-central-1\" for this account (any more)", "take it out")
	if got == nil || len(got.Uploads) != 1 || got.Uploads[0].Metadata.Labels["upload.cloud.debian.org/region"] != singapore {
		t.Errorf("the publication is %+v", got)
	}
	a.RemoveRegion(singapore)
	_, err = a.publishOne(t, publishtest.Options{}, publish.Public)
	demandFault(t, err, fault.Input, "ap-southeast-1")
}

// TestAllRegions: without a list an image goes to all regions of the partition and to no other.
func TestAllRegions(t *testing.T) {
	a := newAccount(t, alibabatest.Settings{Regions: []string{singapore, "cn-hongkong", "cn-hangzhou", frankfurt}})
	a.settings.Regions = nil
	got, err := a.publishOne(t, publishtest.Options{}, publish.Private)
	if err != nil || len(got.Uploads) != 3 || len(a.Images("cn-hangzhou")) != 0 || len(a.Images("cn-hongkong")) != 1 {
		t.Errorf("the publication is %+v, %v", got, err)
	}
}

// TestUnexpectedState: what someone changed is told, not touched.
func TestUnexpectedState(t *testing.T) {
	for state, change := range map[string]func(*alibabatest.Image){
		`is in state "UnAvailable" where Available was expected`: func(i *alibabatest.Image) { i.Status = "UnAvailable" },
		`size "40" where "1" is needed`:                          func(i *alibabatest.Image) { i.Size = 40 },
	} {
		a := newAccount(t, alibabatest.Settings{Regions: twoRegions})
		if _, err := a.publishOne(t, publishtest.Options{}, publish.Private); err != nil {
			t.Fatal(err)
		}
		a.ChangeImage(frankfurt, a.Images(frankfurt)[0].ID, change)
		_, err := a.publishOne(t, publishtest.Options{}, publish.Public)
		demandFault(t, err, fault.Input, "1 of 2 regions failed: eu-central-1: image m-", state)
	}
}

// TestTwoMachines: two publishers of one image, each with a journal of its own, come to one end.
func TestTwoMachines(t *testing.T) {
	want := newAccount(t, alibabatest.Settings{Regions: twoRegions})
	if _, err := want.publishOne(t, publishtest.Options{}, publish.Public); err != nil {
		t.Fatal(err)
	}
	a := newAccount(t, alibabatest.Settings{Regions: twoRegions, Pending: 2, Hidden: 1})
	done := make(chan error, 2)
	for range 2 {
		p, img := a.open(t, newJournal(t), nil), publishtest.Image(t, publishtest.Options{})
		go func() {
			_, err := p.Publish(t.Context(), img, publish.Public)
			done <- err
		}()
	}
	for range 2 {
		// One may find that the other removed what it was about to import: it says so, and the same command goes on.
		if err := <-done; err != nil && fault.KindOf(err) != fault.Outside {
			t.Error(err)
		}
	}
	if _, err := a.publishOne(t, publishtest.Options{}, publish.Public); err != nil {
		t.Fatal(err)
	}
	if got := a.Dump(t); got != want.Dump(t) {
		t.Errorf("the cloud has\n%swhere it should have\n%s", got, want.Dump(t))
	}
}

// TestResumesUpload: what OSS has is not sent again, with the journal and without.
func TestResumesUpload(t *testing.T) {
	uncut := newAccount(t, alibabatest.Settings{Regions: twoRegions})
	if _, err := uncut.publishOne(t, publishtest.Options{Size: 16 << 20}, publish.Private); err != nil {
		t.Fatal(err)
	}
	all := count(uncut, "oss:PutObject PUT")
	for _, lost := range []bool{false, true} {
		a := newAccount(t, alibabatest.Settings{Regions: twoRegions})
		j, img := newJournal(t), publishtest.Image(t, publishtest.Options{Size: 16 << 20})
		ctx, cancel := context.WithCancelCause(t.Context())
		stop := errors.New("killed")
		var puts atomic.Int64
		a.Before(func(call string) *alibabatest.Failure {
			if strings.HasPrefix(call, "oss:PutObject PUT") {
				if puts.Add(1) == 3 {
					cancel(stop)
				}
			}
			return nil
		})
		if _, err := a.open(t, j, nil).Publish(ctx, img, publish.Private); !errors.Is(err, stop) {
			t.Fatal(err)
		}
		if lost {
			j = newJournal(t)
		}
		before := puts.Load()
		if _, err := a.open(t, j, nil).Publish(t.Context(), img, publish.Private); err != nil {
			t.Fatal(err)
		}
		if again, begun := int(puts.Load()-before), count(a, "oss:PutObject POST"); again >= all || begun != 2 { // one upload begun, and completed
			t.Errorf("journal lost %v: of %d parts %d were sent by the second run, and uploads were begun or completed %d times", lost, all, again, begun)
		}
	}
}

// count tells how many calls begin with words.
func count(a *account, words string) (n int) {
	for _, c := range a.Calls() {
		if strings.HasPrefix(c, words) {
			n++
		}
	}
	return n
}

// TestZerosAreNotSent: an image of zeros that are no hole is only tables.
func TestZerosAreNotSent(t *testing.T) {
	a := newAccount(t, alibabatest.Settings{Regions: twoRegions, Discard: true})
	var sent atomic.Int64
	through := countBody{a.Transport(), &sent}
	img := publishtest.Image(t, publishtest.Options{Size: 64 << 20}) // 12 MiB of data
	if _, err := a.open(t, newJournal(t), through).Publish(t.Context(), img, publish.Private); err != nil {
		t.Fatal(err)
	}
	if n := sent.Load(); n > 13<<20 || n < 8<<20 {
		t.Errorf("%d bytes were sent of an image with 12 MiB of data", n)
	}
}

type countBody struct {
	next http.RoundTripper
	sent *atomic.Int64
}

func (c countBody) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodPut {
		c.sent.Add(r.ContentLength)
	}
	return c.next.RoundTrip(r)
}

// TestDeprecationByTag: where ECS takes community images for shared ones, predecessors are still marked, once.
func TestDeprecationByTag(t *testing.T) {
	a := newAccount(t, alibabatest.Settings{Regions: twoRegions, PublicIsShare: true})
	for _, version := range []string{"20260814-1", "20260815-1"} {
		if _, err := a.publishOne(t, publishtest.Options{Version: version}, publish.Public); err != nil {
			t.Fatal(err)
		}
	}
	got, err := a.publishOne(t, publishtest.Options{Version: "20260815-1"}, publish.Public)
	if err != nil || got.Changed {
		t.Errorf("again: %+v, %v", got, err)
	}
	for n, i := range a.Images(singapore) {
		if marked := i.Tags[tagDeprecated] != ""; i.Status != "Available" || marked != (n == 0) {
			t.Errorf("%s is %s with the tags %v", i.Name, i.Status, i.Tags)
		}
	}
}

// TestSettings has a row for each setting that cannot be.
func TestSettings(t *testing.T) {
	good := target.Target{Name: "alibaba", Provider: "alibaba", Regions: []string{singapore}, Settings: map[string]string{"bucket": "debian-images"}}
	for _, row := range []struct {
		summary string
		change  func(*target.Target)
		words   string
	}{
		{"none", func(*target.Target) {}, ""},
		{"another provider", func(t *target.Target) { t.Provider = "aws" }, `is of provider "aws", not alibaba`},
		{"no bucket", func(t *target.Target) { t.Settings = nil }, `lacks the setting "bucket"`},
		{"a bucket in capitals", func(t *target.Target) { t.Settings = map[string]string{"bucket": "Images"} }, `bucket "Images" is not a name that OSS takes`},
		{"an unknown setting", func(t *target.Target) { t.Settings = map[string]string{"bucket": "debian-images", "color": "red"} }, `has the setting "color"`},
		{"an unknown partition", func(t *target.Target) { t.Partition = "moon" }, `partition "moon" is neither international nor china`},
		{"a region of China in the international partition", func(t *target.Target) { t.Regions = []string{"cn-hangzhou"} }, `region "cn-hangzhou" is none of partition international`},
		{"Hong Kong in the international partition", func(t *target.Target) { t.Regions = []string{"cn-hongkong"} }, ""},
		{"Hohhot in the international partition", func(t *target.Target) { t.Regions = []string{"cn-huhehaote"} }, `region "cn-huhehaote" is none of`},
		{"China", func(t *target.Target) { t.Partition, t.Regions = "china", []string{"cn-hangzhou"} }, ""},
		{"Frankfurt in China", func(t *target.Target) { t.Partition, t.Regions = "china", []string{frankfurt} }, `region "eu-central-1" is none of partition china`},
		{"an account in letters", func(t *target.Target) { t.Account = "debian" }, `account "debian" is not digits`},
		{"a role that is none", func(t *target.Target) { t.Settings = map[string]string{"bucket": "debian-images", "role": "debcloud"} }, `role "debcloud" is not the ARN`},
		{"a boot mode that is none", func(t *target.Target) {
			t.Settings = map[string]string{"bucket": "debian-images", "bootMode": "UEFI-Preferred"}
		}, `bootMode "UEFI-Preferred" is not BIOS or UEFI`},
	} {
		one := good
		row.change(&one)
		_, err := New(one, nil, nil)
		if row.words == "" && err != nil || row.words != "" && (err == nil || fault.KindOf(err) != fault.Input || !strings.Contains(err.Error(), row.words)) {
			t.Errorf("%s: %v", row.summary, err)
		}
	}
}

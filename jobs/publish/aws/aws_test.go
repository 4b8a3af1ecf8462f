package aws

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/fault"
	"salsa.debian.org/cloud-team/debcloud/internal/image"
	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
	"salsa.debian.org/cloud-team/debcloud/internal/target"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/aws/awstest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

func newJournal(t testing.TB) *journal.Journal {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "debcloud-aws-") // syncing to a busy disk takes long
	if err != nil {
		dir = t.TempDir()
	}
	j, err := journal.Open(t.Context(), filepath.Join(dir, "journal.db"), journal.Wait)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close(); os.RemoveAll(dir) })
	return j
}

// publish publishes an image in a process of its own.
func (a *account) publish(t testing.TB, o publishtest.Options, stage publish.Stage) (*publish.Publication, error) {
	t.Helper()
	if o.Vendor == "" {
		o.Vendor = "ec2"
	}
	return a.open(t, newJournal(t), nil).Publish(t.Context(), publishtest.Image(t, o), stage)
}

func (a *account) demand(t testing.TB, o publishtest.Options, stage publish.Stage) *publish.Publication {
	t.Helper()
	p, err := a.publish(t, o, stage)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var twoRegions = []string{"us-east-1", "eu-west-1"}

// TestWhatAnImageIsRegisteredWith holds what instances get by the registration alone.
func TestWhatAnImageIsRegisteredWith(t *testing.T) {
	signIn(t)
	for _, row := range []struct {
		summary          string
		o                publishtest.Options
		tpm              bool
		name, arch, boot string
		tpmSupport       string
	}{
		{"amd64 boots by UEFI where the machine can", publishtest.Options{}, false, "debian-13-amd64-daily-20260814-1", "x86_64", "uefi-preferred", ""},
		{"arm64 boots by UEFI only", publishtest.Options{Arch: "arm64"}, false, "debian-13-arm64-daily-20260814-1", "arm64", "uefi", ""},
		{"a TPM needs UEFI only", publishtest.Options{}, true, "debian-13-amd64-daily-20260814-1", "x86_64", "uefi", "v2.0"},
		{"a release does not say that it is one", publishtest.Options{Type: "release"}, false, "debian-13-amd64-20260814-1", "x86_64", "uefi-preferred", ""},
		{"an image for another vendor says for which", publishtest.Options{Vendor: "genericcloud"}, false, "debian-13-genericcloud-amd64-daily-20260814-1", "x86_64", "uefi-preferred", ""},
	} {
		t.Run(row.summary, func(t *testing.T) {
			a := newAccount(t, awstest.Settings{Regions: twoRegions, Pending: 2, Hidden: 2})
			a.settings.TPM = row.tpm
			p := a.demand(t, row.o, publish.Private)
			for n, region := range []string{"eu-west-1", "us-east-1"} {
				i := a.Images(region)[0]
				if i.Name != row.name || i.Architecture != row.arch || i.BootMode != row.boot || i.TPM != row.tpmSupport {
					t.Errorf("%s: %s, %s, boot mode %s, TPM %q", region, i.Name, i.Architecture, i.BootMode, i.TPM)
				}
				if i.IMDS != "v2.0" || !i.ENA || i.SRIOV != "simple" || i.VolumeType != "gp3" || i.RootDevice != "/dev/xvda" || !i.DeleteOnTermination || i.Public {
					t.Errorf("%s: %+v", region, i)
				}
				if u := p.Uploads[n]; u.Data.Ref != i.ID || u.Metadata.Labels[manifest.LabelAWSRegion] != region || u.Data.Provider != "ec2."+region+".amazonaws.com" {
					t.Errorf("%s: the upload document says %+v", region, u)
				}
			}
		})
	}
}

func TestTheSnapshotIsTheImage(t *testing.T) {
	signIn(t)
	a := newAccount(t, awstest.Settings{})
	o := publishtest.Options{Vendor: "ec2", Size: 9<<20 + 4096} // the last block is not a whole one
	img := publishtest.Image(t, o)
	if _, err := a.open(t, newJournal(t), nil).Publish(t.Context(), img, publish.Private); err != nil {
		t.Fatal(err)
	}
	f, err := img.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, o.Size)
	if _, err := f.ReadAt(want, 0); err != nil {
		t.Fatal(err)
	}
	blocks := 0
	for piece := range slices.Chunk(want, awstest.BlockSize) {
		if !bytes.Equal(piece, make([]byte, len(piece))) {
			blocks++
		}
	}
	s := a.Snapshots("us-east-1")[0]
	puts, _ := a.Blocks()
	if !bytes.Equal(s.Bytes(o.Size), want) || s.Blocks() != blocks || int(puts) != blocks || s.SizeGB != 1 {
		t.Errorf("%d blocks in %d calls where the image has %d, equal %v", s.Blocks(), puts, blocks, bytes.Equal(s.Bytes(o.Size), want))
	}
}

func TestParameters(t *testing.T) {
	signIn(t)
	a := newAccount(t, awstest.Settings{Hidden: 1})
	named := func() map[string]string {
		images, out := map[string]string{}, map[string]string{}
		for _, i := range a.Images("us-east-1") {
			images[i.ID] = i.Name
		}
		for name, p := range a.Parameters("us-east-1") {
			out[name] = images[p.Value]
		}
		return out
	}
	for _, step := range []struct {
		summary string
		o       publishtest.Options
		stage   publish.Stage
		want    map[string]string
	}{
		{"a private image has none", publishtest.Options{Version: "20260814-9"}, publish.Private, nil},
		{"a public one has its version's and takes latest", publishtest.Options{Version: "20260814-9"}, publish.Public, map[string]string{
			"/debian/daily/trixie/20260814-9/amd64": "debian-13-amd64-daily-20260814-9", "/debian/daily/13/20260814-9/amd64": "debian-13-amd64-daily-20260814-9",
			"/debian/daily/trixie/latest/amd64": "debian-13-amd64-daily-20260814-9", "/debian/daily/13/latest/amd64": "debian-13-amd64-daily-20260814-9",
		}},
		{"ten comes after nine", publishtest.Options{Version: "20260814-10", Seed: 1}, publish.Public, map[string]string{
			"/debian/daily/trixie/latest/amd64": "debian-13-amd64-daily-20260814-10", "/debian/daily/trixie/20260814-9/amd64": "debian-13-amd64-daily-20260814-9",
		}},
		{"an older one does not take latest", publishtest.Options{Version: "20260813-1", Seed: 2}, publish.Public, map[string]string{
			"/debian/daily/13/latest/amd64": "debian-13-amd64-daily-20260814-10", "/debian/daily/13/20260813-1/amd64": "debian-13-amd64-daily-20260813-1",
		}},
		{"a release leaves the dailies' alone", publishtest.Options{Version: "20260814-9", Type: "release"}, publish.Public, map[string]string{
			"/debian/release/trixie/latest/amd64": "debian-13-amd64-20260814-9", "/debian/daily/trixie/latest/amd64": "debian-13-amd64-daily-20260814-10",
		}},
		{"dev images have none", publishtest.Options{Version: "20260815-1", Type: image.Dev}, publish.Public, map[string]string{"/debian/dev/trixie/latest/amd64": ""}},
	} {
		a.demand(t, step.o, step.stage)
		have := named()
		if step.want == nil && len(have) > 0 {
			t.Errorf("%s: %v", step.summary, have)
		}
		for name, image := range step.want {
			if have[name] != image {
				t.Errorf("%s: %s names %q, not %q", step.summary, name, have[name], image)
			}
		}
	}
	for name, p := range a.Parameters("us-east-1") {
		if p.DataType != "aws:ec2:image" {
			t.Errorf("%s is of data type %q", name, p.DataType)
		}
	}
}

// TestRegions follows what becomes of the others where one region fails.
func TestRegions(t *testing.T) {
	signIn(t)
	three := []string{"us-east-1", "ap-south-1", "eu-west-1"}
	for _, row := range []struct {
		summary string
		spoil   func(*account)
		kind    fault.Kind
		want    string // of the error, "" for none
		hint    string
	}{
		{"copies that AWS gives up are made again", func(a *account) {
			failed := false
			a.After(func(c awstest.Call) {
				if images := a.Images("eu-west-1"); c.Region == "eu-west-1" && c.Action == "CopyImage" && !failed && len(images) > 0 {
					failed = true
					a.ChangeImage("eu-west-1", images[0].ID, func(i *awstest.Image) { i.Fail("internal error") })
				}
			})
		}, 0, "", ""},
		{"a region that is down comes back", func(a *account) {
			down := 25
			a.Before(func(c awstest.Call) *awstest.Failure {
				if c.Region == "eu-west-1" && down > 0 {
					down--
					return &awstest.Failure{Status: 500, Code: "InternalError", Message: "An internal error has occurred"}
				}
				return nil
			})
		}, 0, "", ""},
		{"a region that stays down", func(a *account) {
			a.Before(func(c awstest.Call) *awstest.Failure {
				if c.Region == "eu-west-1" {
					return &awstest.Failure{Status: 503, Code: "Unavailable", Message: "The server is overloaded"}
				}
				return nil
			})
		}, fault.Outside, "1 of 3 regions failed: eu-west-1: DescribeImages in eu-west-1: Unavailable: The server is overloaded", ""},
		{"a quota of public images", func(a *account) {
			a.Set(func(s *awstest.Settings) { s.PublicImages = 1 })
			a.AddImage("eu-west-1", awstest.Image{Name: "ours", Public: true, Created: time.Now(), Tags: map[string]string{}})
		}, fault.Outside, "1 of 3 regions failed: eu-west-1: ModifyImageAttribute in eu-west-1: a quota of the account is reached (ResourceLimitExceeded", "debcloud prune"},
		{"a region that was not enabled", func(a *account) {
			a.Set(func(s *awstest.Settings) {
				s.Regions, s.NotOptedIn = []string{"us-east-1", "ap-south-1"}, []string{"eu-west-1"}
			})
		}, fault.Input, `1 of 3 regions failed: eu-west-1: region "eu-west-1" is not enabled for the account`, "account:EnableRegion"},
		{"a region that vanished", func(a *account) {
			a.Set(func(s *awstest.Settings) { s.Regions = []string{"us-east-1", "ap-south-1"} })
		}, fault.Input, `1 of 3 regions failed: eu-west-1: AWS has no region "eu-west-1" (any more)`, "take it out of the target's regions"},
		{"an account whose organisation forbids public images", func(a *account) {
			a.Block("eu-west-1", "block-new-sharing", "")
			a.Before(func(c awstest.Call) *awstest.Failure {
				if c.Action == "DisableImageBlockPublicAccess" {
					return &awstest.Failure{Code: "OperationNotPermitted", Message: "managed by a declarative policy"}
				}
				return nil
			})
		}, fault.Input, "eu-west-1: DisableImageBlockPublicAccess in eu-west-1: the account blocks public sharing", "no organisation's policy forbids it"},
	} {
		t.Run(row.summary, func(t *testing.T) {
			a := newAccount(t, awstest.Settings{Regions: three})
			row.spoil(a)
			p, err := a.publish(t, publishtest.Options{}, publish.Public)
			regions := 3
			if row.want != "" {
				regions = 2
				demandError(t, err, row.kind, row.want, row.hint)
			} else if err != nil {
				t.Fatal(err)
			}
			if p == nil || len(p.Uploads) != regions {
				t.Fatalf("%d regions are told as published", len(p.Uploads))
			}
			for _, region := range []string{"us-east-1", "ap-south-1"} {
				if i := a.Images(region); len(i) != 1 || !i[0].Public {
					t.Errorf("%s has %+v", region, i)
				}
			}
			if row.want != "" {
				return
			}
			if n := len(a.Snapshots("eu-west-1")); n != 1 {
				t.Errorf("%d snapshots are left in eu-west-1", n)
			}
		})
	}
}

// TestRegionThatCannotBeAsked: what an earlier run published there stays in the documents. What it did not, and what is not public where that is the stage,
// does not come into them.
func TestRegionThatCannotBeAsked(t *testing.T) {
	signIn(t)
	for _, row := range []struct {
		summary       string
		earlier, then publish.Stage
		journal       bool   // the earlier one's
		action        string // that is throttled, "" for all
		uploads       int
	}{
		{"public before", publish.Public, publish.Public, true, "", 2},
		{"public before, and only parameters fail", publish.Public, publish.Public, true, "GetParameter", 2},
		{"private before", publish.Private, publish.Private, true, "", 2},
		{"private before, public now", publish.Private, publish.Public, true, "", 1},
		{"nothing is known", publish.Public, publish.Public, false, "", 1},
	} {
		a, j := newAccount(t, awstest.Settings{Regions: twoRegions}), newJournal(t)
		img := publishtest.Image(t, publishtest.Options{Vendor: "ec2"})
		want, err := a.open(t, j, nil).Publish(t.Context(), img, row.earlier)
		if err != nil {
			t.Fatal(err)
		}
		a.Before(func(c awstest.Call) *awstest.Failure {
			if c.Region == "eu-west-1" && (row.action == "" || row.action == c.Action) {
				return &awstest.Failure{Status: 503, Code: "RequestLimitExceeded", Message: "Request limit exceeded."}
			}
			return nil
		})
		if !row.journal {
			j = newJournal(t)
		}
		done, err := a.open(t, j, nil).Publish(t.Context(), img, row.then)
		demandError(t, err, fault.Outside, "1 of 2 regions failed: eu-west-1: ", "later")
		if done == nil || len(done.Uploads) != row.uploads || row.uploads == 2 && !reflect.DeepEqual(done.Uploads, want.Uploads) {
			t.Errorf("%s: the publication is %+v", row.summary, done)
		}
	}
}

// TestCopyThatIsNotWhole: what AWS has not finished is in no document.
func TestCopyThatIsNotWhole(t *testing.T) {
	signIn(t)
	a := newAccount(t, awstest.Settings{Regions: twoRegions, Pending: 3})
	var copied atomic.Bool
	a.After(func(c awstest.Call) {
		looked := copied.Load() && c.Action == "DescribeImages" && c.Region == "eu-west-1" // so that the step of the copy ends
		if c.Action == "CopyImage" {
			copied.Store(true)
		}
		if looked {
			a.Before(func(c awstest.Call) *awstest.Failure {
				if c.Region == "eu-west-1" {
					return &awstest.Failure{Status: 503, Code: "RequestLimitExceeded", Message: "Request limit exceeded."}
				}
				return nil
			})
		}
	})
	p, err := a.publish(t, publishtest.Options{}, publish.Private)
	demandError(t, err, fault.Outside, "1 of 2 regions failed: eu-west-1: ", "later")
	if p == nil || len(p.Uploads) != 1 {
		t.Errorf("the publication is %+v", p)
	}
}

func demandError(t *testing.T, err error, kind fault.Kind, want, hint string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) || fault.KindOf(err) != kind || !strings.Contains(fault.HintOf(err), hint) {
		t.Errorf("the error is %v, of kind %v, with the hint %q", err, fault.KindOf(err), fault.HintOf(err))
	}
}

func TestBadInput(t *testing.T) {
	signIn(t)
	refuse := func(action, code, message string) func(*testing.T, *account) {
		return func(_ *testing.T, a *account) {
			a.Before(func(c awstest.Call) *awstest.Failure {
				if c.Action == action {
					return &awstest.Failure{Code: code, Message: message}
				}
				return nil
			})
		}
	}
	for _, row := range []struct {
		summary string
		spoil   func(*testing.T, *account)
		o       publishtest.Options
		kind    fault.Kind
		want    string
		hint    string
	}{
		{"the credentials of another account", func(_ *testing.T, a *account) { a.Set(func(s *awstest.Settings) { s.Account = "999999999999" }) }, publishtest.Options{},
			fault.Input, "the credentials are of account 999999999999 (arn:aws:iam::999999999999:user/publisher) where the target names account 123456789012", "assume a role of account 123456789012"},
		{"the credentials of another partition", func(_ *testing.T, a *account) {
			a.settings = settings{Partition: "aws-cn", Endpoint: a.URL}
		}, publishtest.Options{},
			fault.Input, "the credentials are of arn:aws:iam::123456789012:user/publisher, which is not in partition aws-cn", "each has its own"},
		{"a key that AWS does not know", func(t *testing.T, _ *account) { t.Setenv("AWS_ACCESS_KEY_ID", "AKIAUNKNOWN") }, publishtest.Options{},
			fault.Input, "GetCallerIdentity in us-east-1: AWS does not know these credentials (InvalidClientTokenId", "whoami"},
		{"a secret that is not the key's", func(t *testing.T, _ *account) { t.Setenv("AWS_SECRET_ACCESS_KEY", "another") }, publishtest.Options{},
			fault.Outside, "AWS refuses the signature or the time of the request (SignatureDoesNotMatch", "set the clock"},
		{"a clock that is off and that AWS does not correct", func(_ *testing.T, a *account) {
			a.Set(func(s *awstest.Settings) { s.Skew, s.NoDate = time.Hour, true })
		}, publishtest.Options{}, fault.Outside, "AWS refuses the signature or the time of the request (SignatureDoesNotMatch: Signature not yet current or expired", "set the clock"},
		{"a session that ends on the way", refuse("PutSnapshotBlock", "ExpiredTokenException", "The security token included in the request is expired"), publishtest.Options{},
			fault.Outside, "PutSnapshotBlock in us-east-1: the credentials are expired", "it goes on where it stopped"},
		{"a right that is missing", func(_ *testing.T, a *account) {
			a.Set(func(s *awstest.Settings) { s.Denied = []string{"ec2:RegisterImage"} })
		}, publishtest.Options{},
			fault.Input, "RegisterImage in us-east-1: the credentials have no right to this (UnauthorizedOperation: You are not authorized", "README.md has the policy"},
		{"a quota of snapshots", func(_ *testing.T, a *account) {
			a.AddImage("us-east-1", awstest.Image{Name: "other", Tags: map[string]string{}, Created: time.Now()})
			a.Set(func(s *awstest.Settings) { s.Snapshots = 1 })
		}, publishtest.Options{}, fault.Outside, "StartSnapshot in us-east-1: a quota of the account is reached (ServiceQuotaExceededException", "Service Quotas"},
		{"a name that someone else's image has", func(_ *testing.T, a *account) {
			a.AddImage("us-east-1", awstest.Image{Name: "debian-13-amd64-daily-20260814-1", Tags: map[string]string{}, Created: time.Now()})
		}, publishtest.Options{}, fault.Input, `the name "debian-13-amd64-daily-20260814-1" is taken in us-east-1 by image ami-`, "rename or remove that image"},
		{"an image in another state than expected", func(t *testing.T, a *account) {
			a.demand(t, publishtest.Options{}, publish.Private)
			a.ChangeImage("us-east-1", a.Images("us-east-1")[0].ID, func(i *awstest.Image) { i.State = "disabled" })
		}, publishtest.Options{}, fault.Input, `is in state "disabled" where available was expected`, "enable or restore it"},
		{"an image that someone changed", func(t *testing.T, a *account) {
			a.demand(t, publishtest.Options{}, publish.Private)
			a.ChangeImage("us-east-1", a.Images("us-east-1")[0].ID, func(i *awstest.Image) { i.IMDS = "" })
		}, publishtest.Options{}, fault.Input, `is not what was made: IMDS support "" where "v2.0" is needed`, "deregister it"},
		{"an architecture that AWS has not", func(*testing.T, *account) {}, publishtest.Options{Arch: "ppc64el"}, fault.Input, `architecture "ppc64el" has no machines at AWS`, ""},
		{"calls that are always too many", refuse("DescribeRegions", "RequestLimitExceeded", "Request limit exceeded."), publishtest.Options{},
			fault.Outside, "DescribeRegions in us-east-1: AWS refuses the calls as too many", "later"},
		{"nobody answers", func(_ *testing.T, a *account) { a.Close() }, publishtest.Options{}, fault.Outside, "GetCallerIdentity in us-east-1: AWS does not answer: ", "check the network"},
		{"a parameter that names another image", func(t *testing.T, a *account) {
			other := a.demand(t, publishtest.Options{Version: "20260813-1", Seed: 9}, publish.Public)
			a.SetParameter("us-east-1", "/debian/daily/13/20260814-1/amd64", other.Uploads[0].Data.Ref)
		}, publishtest.Options{}, fault.Input, "parameter /debian/daily/13/20260814-1/amd64 in us-east-1 names image ami-", "remove it if it is wrong"},
	} {
		t.Run(row.summary, func(t *testing.T) {
			a := newAccount(t, awstest.Settings{})
			row.spoil(t, a)
			_, err := a.publish(t, row.o, publish.Public)
			demandError(t, err, row.kind, row.want, row.hint)
			if err != nil && strings.Contains(err.Error(), "RequestID") {
				t.Errorf("the error has what is for machines: %v", err)
			}
		})
	}
}

func TestNoCredentials(t *testing.T) {
	signIn(t)
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	a := newAccount(t, awstest.Settings{})
	_, err := a.publish(t, publishtest.Options{}, publish.Private)
	demandError(t, err, fault.Input, "there are no credentials for AWS, neither in the environment nor in files", "an identity token and a role in GitLab")
}

func TestAClockThatIsOffIsCorrected(t *testing.T) {
	signIn(t)
	a := newAccount(t, awstest.Settings{Skew: 40 * time.Minute})
	a.demand(t, publishtest.Options{}, publish.Public)
}

func TestBlockedSharingIsLifted(t *testing.T) {
	signIn(t)
	a := newAccount(t, awstest.Settings{Regions: twoRegions, Pending: 3})
	a.Block("eu-west-1", "block-new-sharing", "block-all-sharing")
	a.demand(t, publishtest.Options{}, publish.Private)
	if n := a.Count("DisableImageBlockPublicAccess") + a.Count("DisableSnapshotBlockPublicAccess"); n != 0 {
		t.Errorf("a private image lifted %d blocks", n)
	}
	a.demand(t, publishtest.Options{}, publish.Public)
	if n, m := a.Count("DisableImageBlockPublicAccess"), a.Count("DisableSnapshotBlockPublicAccess"); n != 1 || m != 1 {
		t.Errorf("%d blocks of images and %d of snapshots were lifted", n, m)
	}
	for _, s := range a.Snapshots("eu-west-1") {
		if !s.Public {
			t.Error("the snapshot is not public")
		}
	}
}

// TestASnapshotThatAWSGaveUp is that of a run which was killed and resumed only after AWS's time limit.
func TestASnapshotThatAWSGaveUp(t *testing.T) {
	signIn(t)
	a := newAccount(t, awstest.Settings{Hidden: 1})
	a.Before(func(c awstest.Call) *awstest.Failure {
		if c.Action == "CompleteSnapshot" {
			return &awstest.Failure{Status: 403, Code: "AccessDeniedException", Message: "no"}
		}
		return nil
	})
	if _, err := a.publish(t, publishtest.Options{}, publish.Private); err == nil {
		t.Fatal("it was published")
	}
	a.Before(nil)
	a.ChangeSnapshot("us-east-1", a.Snapshots("us-east-1")[0].ID, func(s *awstest.Snapshot) { s.State = "error" })
	a.demand(t, publishtest.Options{}, publish.Private)
	if s := a.Snapshots("us-east-1"); len(s) != 1 || s[0].State != "completed" {
		t.Errorf("%d snapshots are left", len(s))
	}
}

// TestASnapshotThatLostABlock is made anew.
func TestASnapshotThatLostABlock(t *testing.T) {
	signIn(t)
	a := newAccount(t, awstest.Settings{})
	lost := 0
	a.After(func(c awstest.Call) {
		if c.Action == "CompleteSnapshot" && lost == 0 {
			lost++
			a.ChangeSnapshot("us-east-1", c.Target, (*awstest.Snapshot).Lose)
		}
	})
	a.demand(t, publishtest.Options{}, publish.Private)
	if s := a.Snapshots("us-east-1"); len(s) != 1 || lost != 1 || a.Count("CompleteSnapshot") != 2 {
		t.Errorf("%d snapshots after %d losses", len(s), lost)
	}
}

func TestThrottledAllTheTime(t *testing.T) {
	signIn(t)
	a := newAccount(t, awstest.Settings{Regions: twoRegions, TooFast: 3, Pending: 1, Hidden: 1})
	a.demand(t, publishtest.Options{}, publish.Public)
}

func TestSettings(t *testing.T) {
	for _, row := range []struct {
		summary string
		t       target.Target
		want    string // of the error, else home, and the number of regions
	}{
		{"nothing is needed", target.Target{}, "us-east-1 0"},
		{"the first region is the home", target.Target{Regions: []string{"eu-west-1", "us-east-1"}}, "eu-west-1 2"},
		{"all regions", target.Target{Regions: []string{"*"}}, "us-east-1 0"},
		{"a home of one's own joins the regions", target.Target{Regions: []string{"eu-west-1"}, Settings: map[string]string{"home": "us-east-2"}}, "us-east-2 2"},
		{"China", target.Target{Partition: "aws-cn", Regions: []string{"cn-north-1", "cn-northwest-1"}}, "cn-north-1 2"},
		{"GovCloud", target.Target{Partition: "aws-us-gov"}, "us-gov-west-1 0"},
		{"regions of two partitions", target.Target{Regions: []string{"us-east-1", "cn-north-1"}}, `region "cn-north-1" is none of partition aws`},
		{"GovCloud is not the public partition", target.Target{Regions: []string{"us-gov-west-1"}}, `region "us-gov-west-1" is none of partition aws`},
		{"no such partition", target.Target{Partition: "aws-moon"}, `partition "aws-moon" is none of aws, aws-cn, aws-us-gov`},
		{"an account that is no number", target.Target{Account: "debian"}, `account "debian" is not twelve digits`},
		{"a role of another partition", target.Target{Settings: map[string]string{"role": "arn:aws-cn:iam::123456789012:role/p"}}, "is not the ARN of a role in partition aws"},
		{"a prefix that AWS keeps for itself", target.Target{Settings: map[string]string{"parameterPrefix": "/aws/service/debian"}}, "is not a path that SSM takes"},
		{"a prefix with a slash too many", target.Target{Settings: map[string]string{"parameterPrefix": "/debian/"}}, "is not a path that SSM takes"},
		{"a TPM perhaps", target.Target{Settings: map[string]string{"tpm": "maybe"}}, `tpm "maybe"`},
		{"an unknown setting", target.Target{Settings: map[string]string{"secret": "x"}}, `has the setting "secret", which provider aws does not know`},
		{"another provider", target.Target{Provider: "azure"}, `is of provider "azure", not aws`},
	} {
		row.t.Name = "t"
		if row.t.Provider == "" {
			row.t.Provider = "aws"
		}
		s, err := settingsOf(row.t)
		if err == nil {
			s, err = s.complete()
		}
		got := s.Home + " " + string(rune('0'+len(s.Regions)))
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, row.want) {
			t.Errorf("%s: %s", row.summary, got)
		}
	}
}

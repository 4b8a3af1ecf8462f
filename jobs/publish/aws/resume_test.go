package aws

import (
	"context"
	"sync"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/aws/awstest"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

func (a *account) Address() string   { return a.URL }
func (a *account) At(address string) { a.settings.Endpoint = address }

func (a *account) WhenPieces(n int, do func()) {
	var once sync.Once
	a.After(func(awstest.Call) {
		if a.Pieces() >= n {
			once.Do(do)
		}
	})
}

func TestKilledInAnUpload(t *testing.T) {
	signIn(t)
	publishtest.Killed(t, suite)
}

// many is an image of 64 blocks.
var many = publishtest.Options{Vendor: "ec2", Size: 64 * blockSize, Every: blockSize, Seed: 2}

// altered is that image with a byte changed in three blocks.
var altered = publishtest.Options{Vendor: "ec2", Size: 64 * blockSize, Every: blockSize, Seed: 2, Altered: []int64{0, blockSize, 2 * blockSize}}

// publishCut publishes until all blocks have come, some of which are not acknowledged.
func (a *account) publishCut(t *testing.T, img *publish.Image, j *journal.Journal) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	a.WhenPieces(64, cancel)
	if _, err := a.open(t, j, nil).Publish(ctx, img, publish.Private); err == nil {
		t.Fatal("the upload was not cut")
	}
	a.After(nil)
}

// TestWhatBecameOfAPendingSnapshot: whatever happened to it since the upload was cut, the image is what it should be in the end, and no block is
// taken for sent that is not there.
func TestWhatBecameOfAPendingSnapshot(t *testing.T) {
	signIn(t)
	img := publishtest.Image(t, many)
	for _, row := range []struct {
		summary     string
		altered     bool
		meets       func(*awstest.Snapshot)
		least, most int // blocks that the second run sends
	}{
		{"nothing", false, func(*awstest.Snapshot) {}, 0, workers},
		{"AWS lost its blocks", false, func(s *awstest.Snapshot) {
			for s.Blocks() > 0 {
				s.Lose()
			}
		}, 64, 64 + workers},
		{"AWS gave it up", false, func(s *awstest.Snapshot) { s.State = "error" }, 64, 64},
		{"the image was an altered one then", true, func(*awstest.Snapshot) {}, 3, 3 + workers},
	} {
		t.Run(row.summary, func(t *testing.T) {
			a, j, cut := newAccount(t, awstest.Settings{}), newJournal(t), img
			if row.altered {
				cut = publishtest.Image(t, altered)
			}
			a.publishCut(t, cut, j)
			pending := a.Snapshots("us-east-1")
			if len(pending) != 1 || pending[0].State != "pending" {
				t.Fatalf("the cut upload left %+v", pending)
			}
			a.ChangeSnapshot("us-east-1", pending[0].ID, row.meets)
			before := a.Pieces()
			if _, err := a.open(t, j, nil).Publish(t.Context(), img, publish.Private); err != nil {
				t.Fatal(err)
			}
			if sent := a.Pieces() - before; sent < row.least || sent > row.most {
				t.Errorf("%d blocks were sent, want %d to %d", sent, row.least, row.most)
			}
			demandImage(t, a, img)
		})
	}
}

// demandImage demands that the image's is the only snapshot in the home region, bit for bit.
func demandImage(t *testing.T, a *account, img *publish.Image) {
	t.Helper()
	all := a.Snapshots("us-east-1")
	if len(all) != 1 || all[0].State != "completed" {
		t.Fatalf("there are the snapshots %+v", all)
	}
	f, err := img.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, img.Size())
	if _, err := f.ReadAt(want, 0); err != nil {
		t.Fatal(err)
	}
	if string(all[0].Bytes(img.Size())) != string(want) {
		t.Error("the snapshot is not the image")
	}
}

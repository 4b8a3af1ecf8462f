package azure

import (
	"bytes"
	"context"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/jobs/publish"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/journal"
	"salsa.debian.org/cloud-team/debcloud/jobs/publish/publishtest"
)

func (f *fake) Address() string   { return f.target.Settings["endpoint"] }
func (f *fake) At(address string) { f.target.Settings["endpoint"] = address }

func (f *fake) WhenPieces(n int, do func()) {
	f.Lock()
	defer f.Unlock()
	f.OnWrite = func(writes int) {
		if writes >= n {
			f.OnWrite = nil
			do()
		}
	}
}

func TestKilledInAnUpload(t *testing.T) { publishtest.Killed(t, suite) }

// many is an image of 16 blocks, most of which have zeros at their end.
var many = publishtest.Options{Vendor: "azure", Size: 16 * blockSize, Every: blockSize, Seed: 2}

// altered is that image with a byte changed in its second block, and one where it has zeros.
var altered = publishtest.Options{Vendor: "azure", Size: 16 * blockSize, Every: blockSize, Seed: 2, Altered: []int64{blockSize, 3*blockSize - 512}}

// TestWhatBecameOfADisk: whatever happened to it since the upload was cut, the image is what it should be in the end, and no page is taken for right that is not.
func TestWhatBecameOfADisk(t *testing.T) {
	const blocks, all = 16, 16 + 1 // with the footer
	img := testImage(t, many)
	for _, row := range []struct {
		summary     string
		altered     bool
		meets       func(*fake)
		least, most int // writes of the second run
		clears      int
	}{
		{"nothing", false, func(*fake) {}, 1, 1 + senders, 0},
		{"Azure lost its pages", false, func(f *fake) { f.ForgetPages() }, all, all, 0},
		{"its pages cannot be listed", false, func(f *fake) { f.NoList = true }, all, all, 0},
		{"it was replaced by another disk", false, func(f *fake) { f.ReplaceDisks() }, all, all, 0},
		{"the image was an altered one then", true, func(*fake) {}, 1 + 2, 1 + 2 + senders, 1},
	} {
		t.Run(row.summary, func(t *testing.T) {
			f, j, cut := newFake(t), openJournal(t), img
			if row.altered {
				cut = testImage(t, altered)
			}
			ctx, cancel := context.WithCancel(t.Context())
			f.WhenPieces(blocks, cancel) // some are not acknowledged, then
			if _, err := f.publisher(t, &publishtest.Line{}, j).Publish(ctx, cut, publish.Private); err == nil || len(f.Disks()) != 1 {
				t.Fatalf("the upload was not cut: %v, disks %v", err, f.Disks())
			}
			row.meets(f)
			before := f.Pieces()
			f.demandPublished(t, j, img)
			if n := f.Pieces() - before; n < row.least || n > row.most || f.Clears() != row.clears {
				t.Errorf("pages were written %d times and cleared %d times, want %d to %d and %d", n, f.Clears(), row.least, row.most, row.clears)
			}
		})
	}
}

// TestCutWhenAllPagesAreThere: nothing is sent again where only the disk's tag is missing.
func TestCutWhenAllPagesAreThere(t *testing.T) {
	img := testImage(t, many)
	for _, request := range []*before{{method: "POST", ending: "/endGetAccess"}, {method: "PATCH", ending: "/disks/" + diskName(img)}} {
		f, j := newFake(t), openJournal(t)
		ctx, cancel := context.WithCancel(t.Context())
		request.do = cancel
		if _, err := f.through(t, request, j).Publish(ctx, img, publish.Private); err == nil || len(f.Disks()) != 1 {
			t.Fatalf("before %s: the publication was not cut: %v, disks %v", request.ending, err, f.Disks())
		}
		before := f.Pieces()
		f.demandPublished(t, j, img)
		if n := f.Pieces() - before; n != 0 {
			t.Errorf("before %s: pages were written %d times again", request.ending, n)
		}
	}
}

// demandPublished publishes and demands that the version is the image, bit for bit, and no disk is left.
func (f *fake) demandPublished(t *testing.T, j *journal.Journal, img *publish.Image) {
	t.Helper()
	if _, err := f.publisher(t, &publishtest.Line{}, j).Publish(t.Context(), img, publish.Private); err != nil {
		t.Fatal(err)
	}
	file, err := img.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, img.Size())
	if _, err := file.ReadAt(want, 0); err != nil {
		t.Fatal(err)
	}
	if all := f.Versions(); len(all) != 1 || !bytes.Equal(all[0].Data, want) || len(f.Disks()) != 0 {
		t.Errorf("%d versions, disks %v, or another image", len(all), f.Disks())
	}
}

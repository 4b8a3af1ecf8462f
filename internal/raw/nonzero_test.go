package raw_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/raw"
)

// TestNonZero finds clusters whatever byte of theirs is not zero, the shorter one at the end, too, and says when the image is shorter.
func TestNonZero(t *testing.T) {
	const cluster, size = raw.Cluster, 8*raw.Cluster + 1000
	disk := make([]byte, size)
	for n, at := range []int{0, 4095, 4096, cluster - 1, -1, -1, 17, -1, 999} { // in each cluster, none
		if at >= 0 {
			disk[n*cluster+at] = 1
		}
	}
	want := []raw.Extent{{Offset: 0, Length: 4 * cluster}, {Offset: 6 * cluster, Length: cluster}, {Offset: 8 * cluster, Length: 1000}}
	got, err := raw.NonZero(t.Context(), bytes.NewReader(disk), []raw.Extent{{Offset: 0, Length: 2 * cluster}, {Offset: 2 * cluster, Length: size - 2*cluster}})
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v %v, want %v", got, err, want)
	}
	for _, length := range []int64{7*cluster + 10, 8*cluster - 1} {
		if _, err := raw.NonZero(t.Context(), bytes.NewReader(make([]byte, length)), []raw.Extent{{Offset: 0, Length: size}}); !errors.Is(err, io.EOF) {
			t.Errorf("of an image of %d bytes: %v", length, err)
		}
	}
}

package azure

import (
	"math/rand/v2"
	"slices"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/raw"
)

// TestExtents compares sets of extents with sets of single bytes.
func TestExtents(t *testing.T) {
	const size = 24
	random := rand.New(rand.NewPCG(1, 2))
	some := func() (extents []raw.Extent, bytes [size]bool) {
		for range random.IntN(5) {
			e := raw.Extent{Offset: random.Int64N(size)}
			e.Length = 1 + random.Int64N(size-e.Offset)/2
			extents = append(extents, e)
			for i := range e.Length {
				bytes[e.Offset+i] = true
			}
		}
		return joined(extents), bytes
	}
	// of makes extents of bytes, as short a list as there is.
	of := func(bytes [size]bool) (extents []raw.Extent) {
		for i, in := range bytes {
			if in {
				extents = append(extents, raw.Extent{Offset: int64(i), Length: 1})
			}
		}
		return joined(extents)
	}
	for range 2000 {
		a, inA := some()
		b, inB := some()
		if !slices.Equal(a, of(inA)) {
			t.Fatalf("joined: %v, want %v", a, of(inA))
		}
		var want [size]bool
		for i := range want {
			want[i] = inA[i] && !inB[i]
		}
		if got := without(a, b); !slices.Equal(got, of(want)) {
			t.Fatalf("%v without %v: %v, want %v", a, b, got, of(want))
		}
		for _, one := range []raw.Extent{{Offset: random.Int64N(size), Length: 1}, {Offset: random.Int64N(size - 4), Length: 4}} {
			if got, want := covers(a, one), len(without([]raw.Extent{one}, a)) == 0; got != want {
				t.Fatalf("%v covers %v: %v", a, one, got)
			}
		}
	}
}

package sha256pair

import (
	"crypto/sha256"
	"math/rand/v2"
	"testing"
)

// hold holds Sum against Go's own, by which it falls back.
func hold(t *testing.T, a, b []byte) {
	t.Helper()
	gotA, gotB := Sum(a, b)
	if wantA, wantB := sha256.Sum256(a), sha256.Sum256(b); gotA != wantA || gotB != wantB {
		t.Fatalf("%d and %d bytes: %x and %x, want %x and %x", len(a), len(b), gotA, gotB, wantA, wantB)
	}
}

// TestSum takes texts of each length around those at which the padding needs another block, from each place that may be badly aligned.
func TestSum(t *testing.T) {
	text := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{1}).Read(text)
	for n := range 400 {
		for from := range 17 {
			hold(t, text[from:from+n], text[1000+2*from:1000+2*from+n])
		}
	}
	hold(t, text[:1<<19], text[1<<19:])
	hold(t, text, text)
	hold(t, text[:1<<19], text[:1<<18])
	hold(t, nil, text[:64])
}

func FuzzSum(f *testing.F) {
	f.Add([]byte("two texts of the same length, of which each has more than the one block of 64 bytes that makes a pair of them"), false)
	f.Add([]byte("short"), true)
	f.Fuzz(func(t *testing.T, text []byte, odd bool) {
		half := len(text) / 2
		if odd {
			hold(t, text[:half], text[half:])
		}
		hold(t, text[:half], text[half:2*half])
	})
}

// BenchmarkSum holds two blocks of a fingerprint at once against one behind the other.
func BenchmarkSum(b *testing.B) {
	text := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{1}).Read(text)
	half := len(text) / 2
	for _, way := range []struct {
		name string
		sum  func()
	}{
		{"pair", func() { Sum(text[:half], text[half:]) }},
		{"go", func() { sha256.Sum256(text[:half]); sha256.Sum256(text[half:]) }},
	} {
		b.Run(way.name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				way.sum()
			}
		})
	}
}

// TestStream writes a text in pieces of every kind, some of which are summed by themselves, and holds all sums against Go's own.
func TestStream(t *testing.T) {
	if NewStream() == nil {
		t.Skip("the processor has no instructions for SHA-256")
	}
	text := make([]byte, 1<<20)
	random := rand.NewChaCha8([32]byte{2})
	random.Read(text)
	pick := rand.New(random)
	for range 300 {
		s, at := NewStream(), 0
		for range 1 + pick.IntN(9) {
			n := []int{pick.IntN(200), 64 * pick.IntN(20), 1 << 16}[pick.IntN(3)]
			p := text[at : at+n]
			at += n
			if pick.IntN(2) == 0 {
				s.Write(p)
			} else if got := s.WritePart(p); got != sha256.Sum256(p) {
				t.Fatalf("%d bytes at %d: %x", n, at-n, got)
			}
			if got := s.Sum(); got != sha256.Sum256(text[:at]) {
				t.Fatalf("the first %d bytes: %x", at, got)
			}
		}
	}
}

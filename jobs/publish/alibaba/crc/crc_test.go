package crc_test

import (
	"hash/crc64"
	"math/rand/v2"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/jobs/publish/alibaba/crc"
)

// TestCombine cuts texts anywhere: the sums of the two pieces make that of the whole.
func TestCombine(t *testing.T) {
	text := make([]byte, 1<<20+7)
	rand.NewChaCha8([32]byte{1}).Read(text)
	for _, at := range []int{0, 1, 8, 4095, 4096, 1 << 19, len(text) - 1, len(text)} {
		if got := crc.Combine(crc.Sum(text[:at]), crc.Sum(text[at:]), int64(len(text)-at)); got != crc.Sum(text) {
			t.Errorf("cut at %d: %x, want %x", at, got, crc.Sum(text))
		}
	}
}

// TestSum holds Sum against Go's own, at every length and place around those at which it goes another way.
func TestSum(t *testing.T) {
	text := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{1}).Read(text)
	ecma := crc64.MakeTable(crc64.ECMA)
	for n := range 600 {
		for from := range 17 {
			if got, want := crc.Sum(text[from:from+n]), crc64.Checksum(text[from:from+n], ecma); got != want {
				t.Fatalf("%d bytes from %d on: %x, want %x", n, from, got, want)
			}
		}
	}
	if got, want := crc.Sum(text), crc64.Checksum(text, ecma); got != want {
		t.Errorf("%d bytes: %x, want %x", len(text), got, want)
	}
}

// BenchmarkSum holds Sum against Go's own.
func BenchmarkSum(b *testing.B) {
	text := make([]byte, 16<<20)
	rand.NewChaCha8([32]byte{1}).Read(text)
	ecma := crc64.MakeTable(crc64.ECMA)
	for _, way := range []struct {
		name string
		sum  func([]byte) uint64
	}{{"ours", crc.Sum}, {"go", func(p []byte) uint64 { return crc64.Checksum(p, ecma) }}} {
		b.Run(way.name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				way.sum(text)
			}
		})
	}
}

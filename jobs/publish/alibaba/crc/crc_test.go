package crc_test

import (
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

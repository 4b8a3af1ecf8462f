package alibabatest

import (
	"crypto/sha512"
	"fmt"

	"salsa.debian.org/cloud-team/debcloud/internal/qcow2/qcow2test"
)

// disk returns the digest and size, in bytes, of the raw disk that an uncompressed qcow2 image holds.
func (s Settings) disk(image []byte) (string, int64, error) {
	if s.Discard {
		return "", 0, nil
	}
	raw, err := qcow2test.Raw(image)
	return fmt.Sprintf("%x", sha512.Sum512(raw)), int64(len(raw)), err
}

// combine returns the CRC-64 of two texts behind each other, by theirs and the length of the second, as zlib's crc32_combine does: the first one is
// shifted by that many zero bytes, which is linear.
func combine(first, second uint64, length int64) uint64 {
	const poly = 0xC96C5795D7870F42 // of ECMA-182, reflected
	times := func(m *[64]uint64, v uint64) (sum uint64) {
		for i := 0; v != 0; i, v = i+1, v>>1 {
			if v&1 != 0 {
				sum ^= m[i]
			}
		}
		return sum
	}
	square := func(m *[64]uint64) *[64]uint64 {
		var out [64]uint64
		for i := range m {
			out[i] = times(m, m[i])
		}
		return &out
	}
	one := &[64]uint64{poly} // a shift by one bit
	for i := 1; i < 64; i++ {
		one[i] = 1 << (i - 1)
	}
	shift := square(square(square(one))) // by a byte
	for ; length > 0; length >>= 1 {
		if length&1 != 0 {
			first = times(shift, first)
		}
		shift = square(shift)
	}
	return first ^ second
}

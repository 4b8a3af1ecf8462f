// Package crc has the CRC-64 that OSS keeps of every part and object.
package crc

import "hash/crc64"

var table = crc64.MakeTable(crc64.ECMA)

// Sum returns the CRC-64 of p.
func Sum(p []byte) uint64 { return crc64.Checksum(p, table) }

// Combine returns the CRC-64 of two texts behind each other, by theirs and the length of the second, as zlib's crc32_combine does: the first one is
// shifted by that many zero bytes, which is linear.
func Combine(first, second uint64, length int64) uint64 {
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

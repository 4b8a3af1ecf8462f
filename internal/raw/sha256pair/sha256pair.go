// Package sha256pair sums two texts by SHA-256 at once, or one in two ways. An instruction of the processor's for SHA-256 waits for the one before it, longer than it works:
// a second text fills the gaps, and the two take little more than the half of what they take behind each other.
package sha256pair

import (
	"crypto/sha256"
	"encoding/binary"
)

// state is that of a text, in the order in which the instructions take it: see words.
type state [8]uint32

var (
	// initial is the state of an empty text: FIPS 180-4, 5.3.3.
	initial = state{0x9b05688c, 0x510e527f, 0xbb67ae85, 0x6a09e667, 0x5be0cd19, 0x1f83d9ab, 0xa54ff53a, 0x3c6ef372}
	// words tells where in a state its words from A to H are.
	words = [len(state{})]int{3, 2, 7, 6, 1, 0, 5, 4}
)

// Sum returns the SHA-256 of a and that of b. Where they differ in length, or the processor has no such instructions, they are summed by crypto/sha256.
func Sum(a, b []byte) (sumA, sumB [sha256.Size]byte) {
	if !pairs || len(a) != len(b) || len(a) < sha256.BlockSize {
		return sha256.Sum256(a), sha256.Sum256(b)
	}
	states := [2]state{initial, initial}
	blocks(&states, &a[0], &b[0], len(a)/sha256.BlockSize)
	endA, n := last(a)
	endB, _ := last(b)
	blocks(&states, &endA[0], &endB[0], n)
	return states[0].sum(), states[1].sum()
}

// last returns what is left of a text behind its whole blocks, padded, and how many blocks that makes.
func last(text []byte) (end [2 * sha256.BlockSize]byte, n int) {
	return padded(text[len(text)/sha256.BlockSize*sha256.BlockSize:], int64(len(text)))
}

// padded returns the end of a text of size bytes, less than a block, with what comes behind it (FIPS 180-4, 5.1.1).
func padded(rest []byte, size int64) (end [2 * sha256.BlockSize]byte, n int) {
	at := copy(end[:], rest)
	end[at] = 0x80
	n = (at+8)/sha256.BlockSize + 1
	binary.BigEndian.PutUint64(end[n*sha256.BlockSize-8:], uint64(size)*8)
	return end, n
}

func (s *state) sum() (out [sha256.Size]byte) {
	for i, at := range words {
		binary.BigEndian.PutUint32(out[4*i:], s[at])
	}
	return out
}

package raw

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
)

// SumBlock is the size, in bytes, of the blocks that a Fingerprint is made of. It is that of EBS's blocks, whose digests AWS wants:
// one digest then serves both.
const SumBlock = 512 << 10

// Fingerprint is a Sink that identifies an image by its data alone, so that reading the holes of a mostly empty one costs
// nothing: the SHA-256 of its size, and of the number and the SHA-256 of each SumBlock that has a byte other than zero, the
// last one filled up with zeros. It does not depend on where the file system keeps holes, and the digests of the blocks can be
// made side by side, as Send does.
type Fingerprint struct {
	hash  hash.Hash
	sum   hash.Hash // of the block that is read
	block int64     // its number
	done  int64     // how many of its bytes are in sum; 0: it has nothing but zeros so far
}

// NewFingerprint returns the Fingerprint of an image of size bytes.
func NewFingerprint(size int64) *Fingerprint {
	f := &Fingerprint{hash: sha256.New(), sum: sha256.New()}
	f.hash.Write(number(size))
	return f
}

func number(n int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }

// Data adds the clusters of p that are not zero.
func (f *Fingerprint) Data(offset int64, p []byte) error {
	return Clusters(offset, p, func(offset int64, cluster []byte) error {
		if Zero(cluster) {
			return nil
		}
		if block := offset / SumBlock; block != f.block {
			f.end()
			f.block = block
		}
		f.fill(offset % SumBlock)
		f.sum.Write(cluster)
		f.done += int64(len(cluster))
		return nil
	})
}

// fill adds zeros to a block until it has n bytes.
func (f *Fingerprint) fill(n int64) {
	_ = Digest{f.sum}.Hole(0, n-f.done) // a hash takes everything
	f.done = n
}

// end adds the block that was read.
func (f *Fingerprint) end() {
	if f.done == 0 {
		return
	}
	f.fill(SumBlock)
	f.hash.Write(number(f.block))
	f.hash.Write(f.sum.Sum(nil))
	f.sum.Reset()
	f.done = 0
}

// Hole adds nothing.
func (f *Fingerprint) Hole(int64, int64) error { return nil }

// Close ends the last block.
func (f *Fingerprint) Close() error {
	f.end()
	return nil
}

// Sum returns the 32 bytes of the fingerprint, after Close.
func (f *Fingerprint) Sum() []byte { return f.hash.Sum(nil) }

// appendSums appends the numbers and digests of the SumBlocks of p that are not all zeros, as a Fingerprint has them. known, where it is
// not nil, is the digest of p, which is one block then.
func appendSums(out []byte, offset int64, p []byte, known *[sha256.Size]byte) []byte {
	for ; len(p) > 0; offset += SumBlock {
		n := min(SumBlock, len(p))
		if !allZero(p[:n]) {
			sum := known
			if sum == nil {
				s := sumOf(p[:n])
				sum = &s
			}
			out = append(append(out, number(offset/SumBlock)...), sum[:]...)
		}
		p = p[n:]
	}
	return out
}

// sumOf is the digest of a block that zeros fill up.
func sumOf(p []byte) [sha256.Size]byte {
	if len(p) == SumBlock {
		return sha256.Sum256(p)
	}
	h := sha256.New()
	h.Write(p)
	_ = Digest{h}.Hole(0, int64(SumBlock-len(p)))
	return [sha256.Size]byte(h.Sum(nil))
}

package raw

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"io"

	"salsa.debian.org/cloud-team/debcloud/internal/raw/sha256pair"
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
	sums  sums
	part  []byte // the block that is put together of pieces: room for one, from its first piece on
	block int64  // its number
	done  int64  // how many of its bytes there are; 0: it has nothing but zeros so far
	kept  []byte // room for a block that waits in sums
}

// NewFingerprint returns the Fingerprint of an image of size bytes.
func NewFingerprint(size int64) *Fingerprint {
	f := &Fingerprint{hash: sha256.New()}
	f.sums.to = f.hash
	f.hash.Write(number(size))
	return f
}

func number(n int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }

// Data adds the blocks of p.
func (f *Fingerprint) Data(offset int64, p []byte) error {
	for len(p) > 0 {
		within := offset % SumBlock
		n := min(SumBlock-within, int64(len(p)))
		f.take(offset/SumBlock, within, p[:n])
		offset, p = offset+n, p[n:]
	}
	f.keep()
	return nil
}

// take adds what p has of a block. A whole one is not copied.
func (f *Fingerprint) take(block, within int64, p []byte) {
	if block != f.block {
		f.end()
	}
	if len(p) == SumBlock {
		f.sums.add(block, p)
		return
	}
	if allZero(p) {
		return
	}
	f.part = room(f.part)
	clear(f.part[f.done:within])
	copy(f.part[within:], p)
	f.block, f.done = block, within+int64(len(p))
}

// known adds a whole block of which the SHA-256 is known.
func (f *Fingerprint) known(block int64, p []byte, sum [sha256.Size]byte) {
	if allZero(p) {
		return
	}
	f.end()
	f.sums.end()
	f.sums.write(block, sum)
}

// end adds the block that was put together.
func (f *Fingerprint) end() {
	if f.done == 0 {
		return
	}
	clear(f.part[f.done:])
	f.sums.add(f.block, f.part)
	f.part, f.kept = f.kept, f.part // where it waits, nothing else does
	f.done = 0
}

// keep copies a block that waits, and is the caller's again after Data.
func (f *Fingerprint) keep() {
	if held := f.sums.held; held != nil {
		f.kept = room(f.kept)
		copy(f.kept, held) // nothing, where it lies there
		f.sums.held = f.kept
	}
}

// room returns buf, or, where that is nil, a new buffer for a block.
func room(buf []byte) []byte {
	if buf == nil {
		return make([]byte, SumBlock)
	}
	return buf
}

// Hole adds nothing.
func (f *Fingerprint) Hole(int64, int64) error { return nil }

// Close ends the last block.
func (f *Fingerprint) Close() error {
	f.end()
	f.sums.end()
	return nil
}

// Sum returns the 32 bytes of the fingerprint, after Close.
func (f *Fingerprint) Sum() []byte { return f.hash.Sum(nil) }

// sums writes, as a Fingerprint has them, the numbers and digests of SumBlocks that are not all zeros. It keeps one until there is another, so that
// both are summed at once.
type sums struct {
	to    io.Writer // one that never fails
	held  []byte    // a whole block that waits, nil where there is none
	block int64     // its number
}

// add takes a block, which stays as it is until the next call of add or end. The last block of an image may be shorter: zeros fill it up.
func (s *sums) add(block int64, p []byte) {
	switch {
	case allZero(p):
	case len(p) < SumBlock:
		s.add(block, append(p[:len(p):len(p)], make([]byte, SumBlock-len(p))...))
	case s.held == nil:
		s.block, s.held = block, p
	default:
		first, second := sha256pair.Sum(s.held, p)
		s.write(s.block, first)
		s.write(block, second)
		s.held = nil
	}
}

// end writes the block that waits.
func (s *sums) end() {
	if s.held != nil {
		s.write(s.block, sha256.Sum256(s.held))
		s.held = nil
	}
}

func (s *sums) write(block int64, sum [sha256.Size]byte) {
	_, _ = s.to.Write(append(number(block), sum[:]...))
}

// sumsOf returns what the blocks of p, which lies at offset, add to a Fingerprint.
func sumsOf(offset int64, p []byte) []byte {
	var out bytes.Buffer
	s := sums{to: &out}
	for block := offset / SumBlock; len(p) > 0; block++ {
		n := min(SumBlock, len(p))
		s.add(block, p[:n])
		p = p[n:]
	}
	s.end()
	return out.Bytes()
}

package sha256pair

import "crypto/sha256"

// Stream is the SHA-256 of a text that comes in pieces. A piece can have a sum of its own from the same pass.
type Stream struct {
	state state
	part  [sha256.BlockSize]byte // of a block that is not whole yet
	size  int64                  // bytes so far
}

// NewStream returns nil where the processor has no instructions that make one pass of two worth it.
func NewStream() *Stream {
	if !pairs {
		return nil
	}
	return &Stream{state: initial}
}

// Write adds p. It never fails.
func (s *Stream) Write(p []byte) (int, error) {
	s.write(p)
	return len(p), nil
}

// WritePart adds p, and returns the SHA-256 of p alone.
func (s *Stream) WritePart(p []byte) [sha256.Size]byte {
	if s.size%sha256.BlockSize != 0 || len(p) < sha256.BlockSize {
		s.write(p)
		return sha256.Sum256(p)
	}
	both := [2]state{s.write(p)}
	end, n := last(p)
	twice(&both, &end[0], n)
	return both[0].sum()
}

// write adds p, and returns the state that its whole blocks alone lead to, where it begins with one.
func (s *Stream) write(p []byte) (alone state) {
	if had := int(s.size % sha256.BlockSize); had > 0 {
		n := copy(s.part[had:], p)
		s.size += int64(n)
		if p = p[n:]; had+n < sha256.BlockSize {
			return alone
		}
		s.blocks(s.part[:])
	}
	s.size += int64(len(p))
	whole := len(p) / sha256.BlockSize * sha256.BlockSize
	copy(s.part[:], p[whole:])
	if whole == 0 {
		return alone
	}
	return s.blocks(p[:whole])
}

func (s *Stream) blocks(p []byte) (alone state) {
	both := [2]state{s.state, initial}
	twice(&both, &p[0], len(p)/sha256.BlockSize)
	s.state = both[0]
	return both[1]
}

// Sum returns the SHA-256 of the text so far.
func (s *Stream) Sum() [sha256.Size]byte {
	end, n := padded(s.part[:s.size%sha256.BlockSize], s.size)
	both := [2]state{s.state}
	twice(&both, &end[0], n)
	return both[0].sum()
}

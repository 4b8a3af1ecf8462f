package raw

import (
	"crypto/sha256"
	"io"

	"salsa.debian.org/cloud-team/debcloud/internal/raw/sha256pair"
)

// Hashed is a Sink that makes an image's Fingerprint and, of what another Sink writes of it, the SHA-256. A block that both have whole is
// hashed for both in one pass.
type Hashed struct {
	print  *Fingerprint
	stream *sha256pair.Stream
	sink   Sink
	block  []byte             // that the other Sink has now, nil where it is not whole
	sum    *[sha256.Size]byte // of block, where the other Sink wrote it
}

// NewHashed has stream take what the Sink writes that sink returns. The caller reads print and stream after Close.
func NewHashed(print *Fingerprint, stream *sha256pair.Stream, sink func(io.Writer) Sink) *Hashed {
	h := &Hashed{print: print, stream: stream}
	h.sink = sink(hashedWriter{h})
	return h
}

// Data gives p to both, block by block.
func (h *Hashed) Data(offset int64, p []byte) error {
	for len(p) > 0 {
		n := min(SumBlock-offset%SumBlock, int64(len(p)))
		if err := h.piece(offset, p[:n]); err != nil {
			return err
		}
		offset, p = offset+n, p[n:]
	}
	return nil
}

func (h *Hashed) piece(offset int64, p []byte) error {
	h.block, h.sum = nil, nil
	if len(p) == SumBlock {
		h.block = p
	}
	if err := h.sink.Data(offset, p); err != nil {
		return err
	}
	if h.sum == nil {
		return h.print.Data(offset, p)
	}
	h.print.known(offset/SumBlock, p, *h.sum)
	return nil
}

// Hole gives a hole to both.
func (h *Hashed) Hole(offset, length int64) error {
	if err := h.sink.Hole(offset, length); err != nil {
		return err
	}
	return h.print.Hole(offset, length)
}

// Close ends both.
func (h *Hashed) Close() error {
	h.block = nil
	if err := h.sink.Close(); err != nil {
		return err
	}
	return h.print.Close()
}

type hashedWriter struct{ h *Hashed }

// Write adds p to the stream.
func (w hashedWriter) Write(p []byte) (int, error) {
	if len(p) != SumBlock || len(w.h.block) == 0 || &p[0] != &w.h.block[0] {
		return w.h.stream.Write(p)
	}
	sum := w.h.stream.WritePart(p)
	w.h.sum = &sum
	return len(p), nil
}

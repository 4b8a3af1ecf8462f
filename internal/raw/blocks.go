package raw

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// Block is one aligned piece of an image that is not all zeros.
type Block struct {
	Index  int64 // Offset / block size
	Offset int64
	Data   []byte            // of a whole block but at the image's end; the caller's again after put returned
	SHA256 [sha256.Size]byte // of Data, where Upload.Digest is set
	// Print identifies Data and its place, where the block size is a multiple of SumBlock: it is the SHA-256 of what the block adds to the
	// image's Fingerprint, and so costs next to nothing.
	Print [sha256.Size]byte
}

// Upload says how Send cuts an image into blocks.
type Upload struct {
	BlockSize int64 // bytes, a multiple of Cluster
	Workers   int   // how many blocks are sent at once; as many at most, and no more than 8, are read ahead
	Pad       bool  // fill up the last block with zeros to a whole one
	Digest    bool  // make the digest of each block, and Sent.Linear
	// Skip, where it is set, tells which blocks need not be sent. They are read all the same, for what Sent says and for Check. The
	// workers call it, and Data is the caller's again after it returned.
	Skip func(Block) bool
	// Check, where it is set, is given the whole image as it is read, and closed at its end, so that it can refuse an image
	// that is not the expected one, as a Digest. What a Fingerprint says is in Sent, at less cost.
	Check Sink
	// Done is told of each byte that was sent, skipped, or is a hole.
	Done func(n int64)
}

// Sent is what Send did.
type Sent struct {
	Blocks int64 // handed to put
	Bytes  int64 // of them
	// Fingerprint is that of the image, where the block size is a multiple of SumBlock. The workers make it.
	Fingerprint [sha256.Size]byte
	// Linear is, where Upload.Digest is set, the SHA-256 of the SHA-256 digests of all non-zero blocks, skipped ones too, in the order of their index: EBS's LINEAR.
	Linear [sha256.Size]byte
	All    int64 // non-zero blocks, skipped ones too
}

// ahead is how many blocks lie ready for the workers. More only cost memory, which is dear where it was not touched before.
const ahead = 8

// Send reads the image f once, its holes not at all, and hands every block that has a byte other than zero to put, in
// Workers goroutines, in no certain order. put's first error ends all. A put that may be tried again does so itself.
func Send(ctx context.Context, f *os.File, u Upload, put func(context.Context, Block) error) (Sent, error) {
	if u.BlockSize <= 0 || u.BlockSize%Cluster != 0 || u.Workers < 1 {
		return Sent{}, fmt.Errorf("blocks of %d bytes by %d workers cannot be sent", u.BlockSize, u.Workers)
	}
	extents, size, err := Map(f)
	if err != nil {
		return Sent{}, err
	}
	s := &sender{u: u, f: f, size: size, put: put, free: make(chan []byte, u.Workers+min(u.Workers, ahead))}
	for range cap(s.free) {
		s.free <- nil // allocated at first use
	}
	outer := ctx
	group, ctx := errgroup.WithContext(outer)
	queue := make(chan *queued, ahead)
	group.Go(func() error {
		defer close(queue)
		return s.read(ctx, widen(extents, u.BlockSize, size), queue)
	})
	for range u.Workers {
		group.Go(func() error { return s.drain(ctx, queue) })
	}
	err = group.Wait()
	if outer.Err() != nil {
		err = context.Cause(outer) // rather than what the end of ctx did to some put
	}
	return s.sent(), err
}

// widen makes the extents whole blocks and joins those that meet.
func widen(extents []Extent, block, size int64) []Extent {
	var out []Extent
	for _, e := range extents {
		start, end := e.Offset/block*block, min((e.Offset+e.Length+block-1)/block*block, size)
		if n := len(out); n > 0 && out[n-1].Offset+out[n-1].Length >= start {
			out[n-1].Length = max(out[n-1].Length, end-out[n-1].Offset)
			continue
		}
		out = append(out, Extent{start, end - start})
	}
	return out
}

// queued is a block on its way to a worker.
type queued struct {
	Block
	ordinal int   // among the non-zero blocks
	length  int64 // without padding
}

type sender struct {
	u    Upload
	f    *os.File
	size int64
	put  func(context.Context, Block) error
	free chan []byte

	mu            sync.Mutex
	sums          [][sha256.Size]byte // by the order of the non-zero blocks
	prints        [][]byte            // likewise: what each adds to the Fingerprint
	blocks, bytes atomic.Int64
}

// read queues the blocks that are not all zeros.
func (s *sender) read(ctx context.Context, extents []Extent, queue chan<- *queued) error {
	at := int64(0)
	for _, e := range extents {
		if err := s.hole(at, e.Offset); err != nil {
			return err
		}
		for at = e.Offset; at < e.Offset+e.Length; at += s.u.BlockSize {
			if err := s.readBlock(ctx, at, queue); err != nil {
				return err
			}
		}
		at = min(at, s.size)
	}
	if err := s.hole(at, s.size); err != nil || s.u.Check == nil {
		return err
	}
	return s.u.Check.Close()
}

func (s *sender) hole(from, to int64) error {
	if to <= from {
		return nil
	}
	s.done(to - from)
	if s.u.Check == nil {
		return nil
	}
	return s.u.Check.Hole(from, to-from)
}

func (s *sender) done(n int64) {
	if s.u.Done != nil {
		s.u.Done(n)
	}
}

func (s *sender) readBlock(ctx context.Context, at int64, queue chan<- *queued) error {
	var buf []byte
	select {
	case buf = <-s.free:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if buf == nil {
		buf = make([]byte, s.u.BlockSize)
	}
	n := min(s.u.BlockSize, s.size-at)
	if _, err := s.f.ReadAt(buf[:n], at); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read the image at byte %d: %w", at, err)
	}
	if s.u.Check != nil {
		if err := s.u.Check.Data(at, buf[:n]); err != nil {
			return err
		}
	}
	if allZero(buf[:n]) {
		s.free <- buf
		s.done(n)
		return nil
	}
	length := n
	if s.u.Pad {
		clear(buf[n:])
		n = s.u.BlockSize
	}
	s.mu.Lock()
	s.sums, s.prints = append(s.sums, [sha256.Size]byte{}), append(s.prints, nil)
	q := &queued{Block{Index: at / s.u.BlockSize, Offset: at, Data: buf[:n]}, len(s.sums) - 1, length}
	s.mu.Unlock()
	select {
	case queue <- q:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *sender) drain(ctx context.Context, queue <-chan *queued) error {
	for q := range queue {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		s.digest(q)
		if s.u.Skip == nil || !s.u.Skip(q.Block) {
			if err := s.put(ctx, q.Block); err != nil {
				return err
			}
			s.blocks.Add(1)
			s.bytes.Add(int64(len(q.Data)))
		}
		s.done(q.length)
		s.free <- q.Data[:s.u.BlockSize]
	}
	return nil
}

// digest makes the digests of a block that are wanted. EBS's block is a SumBlock, and gets one.
func (s *sender) digest(q *queued) {
	if s.u.Digest {
		q.SHA256 = sha256.Sum256(q.Data)
	}
	var prints []byte
	switch {
	case s.u.BlockSize%SumBlock != 0:
	case s.u.Digest && len(q.Data) == SumBlock:
		prints = append(number(q.Offset/SumBlock), q.SHA256[:]...)
	default:
		prints = sumsOf(q.Offset, q.Data)
	}
	if prints != nil {
		q.Print = sha256.Sum256(prints)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sums[q.ordinal], s.prints[q.ordinal] = q.SHA256, prints
}

func (s *sender) sent() Sent {
	out := Sent{Blocks: s.blocks.Load(), Bytes: s.bytes.Load(), All: int64(len(s.sums))}
	linear, fingerprint := sha256.New(), sha256.New()
	fingerprint.Write(number(s.size))
	for i, sum := range s.sums {
		linear.Write(sum[:])
		fingerprint.Write(s.prints[i])
	}
	if s.u.Digest {
		linear.Sum(out.Linear[:0])
	}
	if s.u.BlockSize%SumBlock == 0 {
		fingerprint.Sum(out.Fingerprint[:0])
	}
	return out
}

// allZero tells whether p, of any length, holds nothing but zero bytes.
func allZero(p []byte) bool {
	for len(p) > 0 {
		n := min(Cluster, len(p))
		if !Zero(p[:n]) {
			return false
		}
		p = p[n:]
	}
	return true
}

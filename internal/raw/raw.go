// Package raw reads a raw disk image once and hands its contents to any number of sinks side by side.
//
// Publishing makes several formats and digests of one image. Each is a Sink; the image is read from disk once,
// its holes not at all, and the memory in flight is bounded whatever the image's size.
package raw

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Cluster is the unit, in bytes, in which data and holes are told apart: extents begin and end on it, but for the
// image's end. It is qcow2's default cluster, so that no sink has to join pieces.
const Cluster = 64 << 10

const (
	chunkSize = 1 << 20 // bytes read at once, up to the next multiple of it: whole blocks of a Fingerprint then come in one piece
	chunks    = 12      // chunks in flight, all sinks together
)

// Extent is a run of bytes that holds data.
type Extent struct{ Offset, Length int64 }

// Sink takes the contents of an image in rising order, without gap or overlap.
type Sink interface {
	// Data takes bytes that are not a hole; they may still be zero. p is the caller's again after the return.
	// All but the last piece of an image are whole clusters.
	Data(offset int64, p []byte) error
	// Hole takes the place of length zero bytes.
	Hole(offset, length int64) error
	// Close is called once, after the last piece of an image that was read to its end.
	Close() error
}

// Map returns the extents of f that hold data, as the file system knows them, and f's size in bytes. Where
// the file system knows no holes, all of f is one extent.
func Map(f *os.File) ([]Extent, int64, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	size := info.Size()
	var extents []Extent
	for at := int64(0); at < size; {
		start, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if errors.Is(err, unix.EINVAL) {
			return []Extent{{0, size}}, size, nil
		}
		if err != nil {
			return nil, 0, fmt.Errorf("find the data of %s: %w", f.Name(), err)
		}
		end, err := unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return nil, 0, fmt.Errorf("find the holes of %s: %w", f.Name(), err)
		}
		at = end
		extents = appendRounded(extents, start, end, size)
	}
	return extents, size, nil
}

// appendRounded widens [start, end) to whole clusters and joins it with the last extent where they meet.
func appendRounded(extents []Extent, start, end, size int64) []Extent {
	start -= start % Cluster
	end = min((end+Cluster-1)/Cluster*Cluster, size)
	if n := len(extents); n > 0 {
		if last := &extents[n-1]; last.Offset+last.Length >= start {
			last.Length = max(last.Length, end-last.Offset)
			return extents
		}
	}
	return append(extents, Extent{start, end - start})
}

// piece is a chunk of data, shared by all sinks, or a hole where buf is nil.
type piece struct {
	offset, length int64
	buf            []byte
	users          atomic.Int32
}

// Copy reads the extents of the image r, which has size bytes, and gives everything to every sink. Each sink runs in a goroutine of
// its own; the slowest sets the pace. done is told of each byte that was read or skipped. After an error, or when ctx
// ends, the sinks are not closed.
func Copy(ctx context.Context, r io.ReaderAt, extents []Extent, size int64, done func(int64), sinks ...Sink) error {
	outer := ctx
	group, ctx := errgroup.WithContext(outer)
	free := make(chan []byte, chunks)
	for range chunks {
		free <- nil // allocated at first use
	}
	lanes := make([]chan *piece, len(sinks))
	for i, sink := range sinks {
		lanes[i] = make(chan *piece, chunks)
		group.Go(func() error { return drain(ctx, lanes[i], sink, free) })
	}
	group.Go(func() error {
		defer func() {
			for _, lane := range lanes {
				close(lane)
			}
		}()
		return read(ctx, r, extents, size, func(p *piece) error {
			p.users.Store(int32(len(lanes)))
			for _, lane := range lanes {
				select {
				case lane <- p:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
			done(p.length)
			return nil
		}, free)
	})
	err := group.Wait()
	if outer.Err() != nil {
		return context.Cause(outer) // rather than what the end of ctx did to some sink
	}
	return err
}

// read emits the image as chunks of data and as holes.
func read(ctx context.Context, r io.ReaderAt, extents []Extent, size int64, emit func(*piece) error, free chan []byte) error {
	at := int64(0)
	for _, e := range append(extents[:len(extents):len(extents)], Extent{size, 0}) {
		if e.Offset > at {
			if err := emit(&piece{offset: at, length: e.Offset - at}); err != nil {
				return err
			}
		}
		for at = e.Offset; at < e.Offset+e.Length; {
			var buf []byte
			select {
			case buf = <-free:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			if buf == nil {
				buf = make([]byte, chunkSize)
			}
			n := min(chunkSize-at%chunkSize, e.Offset+e.Length-at)
			if _, err := io.ReadFull(io.NewSectionReader(r, at, n), buf[:n]); err != nil {
				return fmt.Errorf("read the image at byte %d: %w", at, err)
			}
			if err := emit(&piece{offset: at, length: n, buf: buf}); err != nil {
				return err
			}
			at += n
		}
	}
	return nil
}

func drain(ctx context.Context, lane <-chan *piece, sink Sink, free chan<- []byte) error {
	for p := range lane {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var err error
		if p.buf == nil {
			err = sink.Hole(p.offset, p.length)
		} else {
			err = sink.Data(p.offset, p.buf[:p.length])
			if p.users.Add(-1) == 0 {
				free <- p.buf
			}
		}
		if err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return sink.Close()
}

var zeros [Cluster]byte

// Zero tells whether p, which is at most a cluster, holds nothing but zero bytes.
func Zero(p []byte) bool { return bytes.Equal(p, zeros[:len(p)]) }

// Clusters calls each for every cluster of p, which lies at offset.
func Clusters(offset int64, p []byte, each func(offset int64, cluster []byte) error) error {
	for len(p) > 0 {
		n := min(Cluster, len(p))
		if err := each(offset, p[:n]); err != nil {
			return err
		}
		offset, p = offset+int64(n), p[n:]
	}
	return nil
}

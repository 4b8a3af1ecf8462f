package qcow2

import (
	"context"
	"io"

	"salsa.debian.org/cloud-team/debcloud/internal/raw"
)

const probe = 4 << 10 // bytes of a cluster that are read first: most that has data begins with some

// NonZero returns the clusters of extents that hold something else than zeros, as NewStream wants them. Of those that do it reads little.
func NonZero(ctx context.Context, disk io.ReaderAt, extents []raw.Extent) ([]raw.Extent, error) {
	var data []raw.Extent
	buf := make([]byte, raw.Cluster)
	for _, e := range extents {
		for at, end := e.Offset, e.Offset+e.Length; at < end; at += raw.Cluster {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			cluster := buf[:min(raw.Cluster, end-at)]
			zero, err := isZero(disk, at, cluster)
			if err != nil {
				return nil, err
			}
			last := len(data) - 1
			switch {
			case zero:
			case last >= 0 && data[last].Offset+data[last].Length == at:
				data[last].Length += int64(len(cluster))
			default:
				data = append(data, raw.Extent{Offset: at, Length: int64(len(cluster))})
			}
		}
	}
	return data, nil
}

// isZero tells whether the cluster at an offset has nothing but zeros. buf has its length.
func isZero(disk io.ReaderAt, at int64, buf []byte) (bool, error) {
	for first := min(probe, len(buf)); len(buf) > 0; first = len(buf) {
		if n, err := disk.ReadAt(buf[:first], at); n < first {
			return false, err
		}
		if !raw.Zero(buf[:first]) {
			return false, nil
		}
		at, buf = at+int64(first), buf[first:]
	}
	return true, nil
}

// Sink returns a raw.Sink that writes the image to w, from first byte to last, while the raw one is read: what is compared with its
// documents is then what is sent. end is closed after the last byte.
func (s *Stream) Sink(w io.Writer, end io.Closer) raw.Sink {
	return &sink{w: w, end: end, head: s.head, data: s.extents}
}

type sink struct {
	w    io.Writer
	end  io.Closer
	head []byte       // not written yet
	data []raw.Extent // not passed yet
}

// Data writes those clusters of p that the tables name.
func (s *sink) Data(offset int64, p []byte) error {
	if err := s.begin(); err != nil {
		return err
	}
	return raw.Clusters(offset, p, func(offset int64, cluster []byte) error {
		for len(s.data) > 0 && s.data[0].Offset+s.data[0].Length <= offset {
			s.data = s.data[1:]
		}
		if len(s.data) == 0 || offset < s.data[0].Offset {
			return nil
		}
		if _, err := s.w.Write(cluster); err != nil || len(cluster) == clusterSize {
			return err
		}
		_, err := s.w.Write(filling[len(cluster):])
		return err
	})
}

var filling [clusterSize]byte // of the last cluster

func (s *sink) begin() error {
	head := s.head
	s.head = nil
	if len(head) == 0 {
		return nil
	}
	_, err := s.w.Write(head)
	return err
}

// Hole writes nothing: what is not allocated reads as zeros.
func (s *sink) Hole(int64, int64) error { return nil }

// Close writes the head of an image without data, and ends the stream.
func (s *sink) Close() error {
	if err := s.begin(); err != nil {
		return err
	}
	return s.end.Close()
}

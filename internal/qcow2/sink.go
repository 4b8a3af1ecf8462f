package qcow2

import (
	"io"

	"salsa.debian.org/cloud-team/debcloud/internal/raw"
)

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

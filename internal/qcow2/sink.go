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

// Data writes those clusters of p that the tables name, and what lies behind each other at once.
func (s *sink) Data(offset int64, p []byte) error {
	if err := s.begin(); err != nil {
		return err
	}
	for end := offset + int64(len(p)); len(s.data) > 0 && s.data[0].Offset < end; s.data = s.data[1:] {
		e := s.data[0]
		until := e.Offset + e.Length
		if from, to := max(e.Offset, offset), min(until, end); from < to {
			if _, err := s.w.Write(p[from-offset : to-offset]); err != nil {
				return err
			}
		}
		if until > end {
			return nil // more of it comes
		}
		if rest := until % clusterSize; rest > 0 {
			if _, err := s.w.Write(filling[rest:]); err != nil {
				return err
			}
		}
	}
	return nil
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

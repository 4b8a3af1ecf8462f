package qcow2

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"sort"

	"salsa.debian.org/cloud-team/debcloud/internal/raw"
)

// Stream is an uncompressed qcow2 image of a raw one, without a file of its own: which clusters hold data says where everything
// lies, so tables come first and the data is read from the raw image when it is asked for.
type Stream struct {
	disk     io.ReaderAt
	diskSize int64 // bytes that can be read of disk
	head     []byte
	extents  []raw.Extent
	starts   []int64 // where the extents begin in the image
	size     int64
}

// NewStream returns the image of disk, which has size bytes. extents are rising, do not overlap and begin and end on
// clusters, but for the disk's end; what lies between them reads as zeros and takes no room.
func NewStream(disk io.ReaderAt, size int64, extents []raw.Extent) (*Stream, error) {
	s := &Stream{disk: disk, diskSize: size, extents: extents}
	virtual := divideUp(size, 512) * 512
	tables := divideUp(divideUp(virtual, clusterSize), l2Entries)
	l2 := make([][]uint64, tables)
	data, used := int64(0), int64(0)
	for end, i := int64(0), 0; i < len(extents); i++ {
		e := extents[i]
		if e.Offset < end || e.Offset%clusterSize != 0 || e.Length <= 0 || e.Offset+e.Length > size || e.Length%clusterSize != 0 && e.Offset+e.Length != size {
			return nil, fmt.Errorf("extent of %d bytes at %d does not fit behind byte %d of a disk of %d", e.Length, e.Offset, end, size)
		}
		end = e.Offset + e.Length
		s.starts = append(s.starts, data*clusterSize) // counted from the first data cluster, whose place is not known yet
		for c := e.Offset / clusterSize; c*clusterSize < end; c++ {
			if l2[c/l2Entries] == nil {
				l2[c/l2Entries] = make([]uint64, l2Entries)
				used++
			}
			l2[c/l2Entries][c%l2Entries] = uint64(data)
			l2[c/l2Entries][c%l2Entries]++ // zero means that there is no data
			data++
		}
	}
	return s, s.layOut(virtual, l2, used, data)
}

// layOut writes the head: header, L1 table, refcount table, refcount blocks, L2 tables. l2 holds data cluster numbers, from 1.
func (s *Stream) layOut(virtual int64, l2 [][]uint64, l2Used, data int64) error {
	l1Clusters := max(1, divideUp(int64(len(l2))*8, clusterSize))
	blocks, refTable := int64(1), int64(1)
	for {
		refTable = divideUp(blocks*8, clusterSize)
		need := divideUp(1+l1Clusters+refTable+blocks+l2Used+data, blockRefs)
		if need <= blocks {
			break
		}
		blocks = need
	}
	refAt := 1 + l1Clusters
	l2At := refAt + refTable + blocks
	dataAt := l2At + l2Used
	head := make([]byte, dataAt*clusterSize)
	put := func(cluster int64, v any) error {
		b, err := binary.Append(nil, binary.BigEndian, v)
		copy(head[cluster*clusterSize:], b)
		return err
	}
	l1, next := make([]uint64, len(l2)), l2At
	for i, table := range l2 {
		if table == nil {
			continue
		}
		for j, n := range table {
			if n != 0 {
				table[j] = (n-1+uint64(dataAt))*clusterSize | flagCopied
			}
		}
		l1[i] = uint64(next)*clusterSize | flagCopied
		if err := put(next, table); err != nil {
			return err
		}
		next++
	}
	table := make([]uint64, blocks)
	for i := range table {
		table[i] = uint64(refAt+refTable+int64(i)) * clusterSize
	}
	refs := make([]uint16, dataAt+data)
	for i := range refs {
		refs[i] = 1
	}
	for _, part := range []struct {
		cluster int64
		v       any
	}{{0, header(virtual, len(l2), refAt*clusterSize, refTable)}, {1, l1}, {refAt, table}, {refAt + refTable, refs}} {
		if err := put(part.cluster, part.v); err != nil {
			return err
		}
	}
	for i := range s.starts {
		s.starts[i] += dataAt * clusterSize
	}
	s.head, s.size = head, (dataAt+data)*clusterSize
	return nil
}

// Size returns the image's size in bytes.
func (s *Stream) Size() int64 { return s.size }

// Head returns what comes before the data: header and tables. Behind it lie the clusters of the extents, in their order, the last one
// filled with zeros.
func (s *Stream) Head() []byte { return s.head }

// ReadAt implements io.ReaderAt. It may be called from several goroutines.
func (s *Stream) ReadAt(p []byte, at int64) (int, error) {
	n := 0
	for n < len(p) && at+int64(n) < s.size {
		m, err := s.readPart(p[n:], at+int64(n))
		n += m
		if err != nil {
			return n, err
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// readPart reads from the head or from one extent. The last cluster of a disk that ends within it is filled with zeros.
func (s *Stream) readPart(p []byte, at int64) (int, error) {
	if at < int64(len(s.head)) {
		return copy(p, s.head[at:]), nil
	}
	i := sort.Search(len(s.starts), func(i int) bool { return s.starts[i] > at }) - 1
	within, e := at-s.starts[i], s.extents[i]
	if within >= e.Length {
		n := min(int64(len(p)), divideUp(e.Length, clusterSize)*clusterSize-within)
		return copy(p, bytes.Repeat([]byte{0}, int(n))), nil
	}
	p = p[:min(int64(len(p)), e.Length-within)]
	n, err := s.disk.ReadAt(p, e.Offset+within)
	if n == len(p) {
		err = nil
	} else if err == io.EOF {
		err = fmt.Errorf("the image ends at byte %d, where it had %d bytes when it was opened: %w", e.Offset+within+int64(n), s.diskSize, io.ErrUnexpectedEOF)
	}
	return n, err
}

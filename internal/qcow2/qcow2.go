// Package qcow2 writes qcow2 images, version 3 ("compat=1.1"): a Writer compressed ones, as a sink of package raw; a Stream
// uncompressed ones, from first byte to last, for places to which one can only send.
//
// It writes what `qemu-img convert -c -O qcow2 -o compat=1.1` writes, from a stream, which qemu-img cannot read. The
// format is QEMU's docs/interop/qcow2.txt. The same contents give the same bytes, whatever the number of threads.
package qcow2

import (
	"bytes"
	"encoding/binary"
	"os"
	"sync"

	"github.com/klauspost/compress/flate"

	"salsa.debian.org/cloud-team/debcloud/internal/raw"
)

const (
	clusterBits = 16
	clusterSize = 1 << clusterBits
	l2Entries   = clusterSize / 8
	blockRefs   = clusterSize / 2 // refcounts, of 16 bits, in a refcount block
	headerSize  = 104

	flagCopied     = 1 << 63 // refcount is exactly one
	flagCompressed = 1 << 62
	sectorShift    = 62 - (clusterBits - 8) // of the number of further sectors in a compressed cluster's entry

	// Readers inflate with a window of 2^12 bytes (QEMU, block/qcow2-threads.c), so no match may reach further back.
	window = 4096
)

// Writer is a raw.Sink. Make it with NewWriter; end it with Close, or with Abort where Close was not reached.
type Writer struct {
	file *os.File
	size int64 // of the disk, bytes, whole sectors

	l2   [][]uint64 // one table per L1 entry, nil where nothing is allocated
	refs []uint16   // refcount of each host cluster
	next int64      // first free host cluster
	pack int64      // where the next compressed cluster may begin, within or at the end of an allocated host cluster

	queue   chan *cluster // to the compressors
	order   chan *cluster // the same, in rising order, to the one that writes
	end     sync.Once
	workers sync.WaitGroup
	written chan error
	failed  chan struct{} // closed when writing failed
	failure error         // why, once failed is closed
	spare   sync.Pool     // of *cluster
}

// cluster is one cluster on its way through compression.
type cluster struct {
	index  int64 // in the disk
	data   []byte
	packed bytes.Buffer
	done   chan struct{}
}

// NewWriter writes to the empty file f a disk of size bytes, rounded up to sectors of 512, compressing in so many threads.
func NewWriter(f *os.File, size int64, threads int) *Writer {
	size = (size + 511) / 512 * 512
	w := &Writer{
		file: f, size: size,
		l2:    make([][]uint64, divideUp(divideUp(size, clusterSize), l2Entries)),
		queue: make(chan *cluster, 2*threads), order: make(chan *cluster, 4*threads),
		written: make(chan error, 1), failed: make(chan struct{}),
	}
	w.spare.New = func() any { return &cluster{data: make([]byte, clusterSize)} }
	w.allocate(1 + w.l1Clusters())
	w.pack = w.next * clusterSize
	for range threads {
		w.workers.Go(w.compress)
	}
	go func() { w.written <- w.write() }()
	return w
}

func divideUp(a, b int64) int64 { return (a + b - 1) / b }

func (w *Writer) l1Clusters() int64 { return max(1, divideUp(int64(len(w.l2))*8, clusterSize)) }

// Data compresses and writes the clusters of p that are not zero.
func (w *Writer) Data(offset int64, p []byte) error {
	return raw.Clusters(offset, p, func(offset int64, data []byte) error {
		if raw.Zero(data) {
			return nil
		}
		c := w.spare.Get().(*cluster)
		c.index, c.done = offset/clusterSize, make(chan struct{})
		clear(c.data[copy(c.data, data):])
		select {
		case w.order <- c:
			w.queue <- c
			return nil
		case <-w.failed:
			return w.failure
		}
	})
}

// Hole writes nothing: what is not allocated reads as zeros.
func (w *Writer) Hole(int64, int64) error { return nil }

// Close writes the tables and the header. It leaves the file open.
func (w *Writer) Close() error {
	if err := w.stop(); err != nil {
		return err
	}
	return w.finish()
}

// Abort stops the threads. After Close it does nothing.
func (w *Writer) Abort() { _ = w.stop() }

func (w *Writer) stop() (err error) {
	w.end.Do(func() {
		close(w.queue)
		close(w.order)
		w.workers.Wait()
		err = <-w.written
	})
	return err
}

func (w *Writer) compress() {
	deflate, err := flate.NewWriterWindow(nil, window)
	if err != nil {
		panic(err) // the window is a constant that the library takes
	}
	for c := range w.queue {
		c.packed.Reset()
		deflate.Reset(&c.packed)
		_, _ = deflate.Write(c.data) // a bytes.Buffer takes everything
		_ = deflate.Close()
		close(c.done)
	}
}

// write places clusters in rising order. After an error it only drains, so that no one blocks.
func (w *Writer) write() (err error) {
	for c := range w.order {
		if err != nil {
			continue
		}
		<-c.done
		if err = w.place(c); err != nil {
			w.failure = err
			close(w.failed)
		}
		w.spare.Put(c)
	}
	return err
}

func (w *Writer) place(c *cluster) error {
	table := &w.l2[c.index/l2Entries]
	if *table == nil {
		*table = make([]uint64, l2Entries)
	}
	entry := &(*table)[c.index%l2Entries]
	if c.packed.Len() >= clusterSize {
		at := w.allocate(1) * clusterSize
		*entry = uint64(at) | flagCopied
		_, err := w.file.WriteAt(c.data, at)
		return err
	}
	at := w.packAt(int64(c.packed.Len()))
	sectors := (at+int64(c.packed.Len())-1)/512 - at/512
	*entry = uint64(at) | uint64(sectors)<<sectorShift | flagCompressed
	_, err := w.file.WriteAt(c.packed.Bytes(), at)
	return err
}

// packAt finds room for n bytes, n < clusterSize: behind the last compressed cluster, over into the next host
// cluster where that one is free, else in a new host cluster. Every host cluster it touches gains a reference.
func (w *Writer) packAt(n int64) int64 {
	room := divideUp(w.pack, clusterSize)*clusterSize - w.pack
	if room < n && w.pack+room != w.next*clusterSize {
		w.pack = w.next * clusterSize
	}
	at := w.pack
	w.pack += n
	for c := at / clusterSize; c <= (w.pack-1)/clusterSize; c++ {
		if c == w.next {
			w.allocate(1)
		} else {
			w.refs[c]++
		}
	}
	return at
}

// allocate takes n host clusters and returns the first one's number.
func (w *Writer) allocate(n int64) int64 {
	first := w.next
	for range n {
		w.refs = append(w.refs, 1)
	}
	w.next += n
	return first
}

// finish writes L2 tables and refcounts behind the data, then the L1 table and the header at the front.
func (w *Writer) finish() error {
	l1 := make([]uint64, len(w.l2))
	for i, table := range w.l2 {
		if table == nil {
			continue
		}
		at := w.allocate(1) * clusterSize
		l1[i] = uint64(at) | flagCopied
		if err := w.put(at, table); err != nil {
			return err
		}
	}
	table, tableClusters, err := w.finishRefs()
	if err != nil {
		return err
	}
	if err := w.put(clusterSize, l1); err != nil {
		return err
	}
	if err := w.put(0, header(w.size, len(w.l2), table, tableClusters)); err != nil {
		return err
	}
	return w.file.Truncate(w.next * clusterSize)
}

// finishRefs allocates the refcount table and blocks, which count themselves too, and writes them.
func (w *Writer) finishRefs() (at, tableClusters int64, err error) {
	blocks := int64(1)
	for {
		tableClusters = divideUp(blocks*8, clusterSize)
		need := divideUp(w.next+tableClusters+blocks, blockRefs)
		if need <= blocks {
			break
		}
		blocks = need
	}
	at = w.allocate(tableClusters+blocks) * clusterSize
	first := at + tableClusters*clusterSize
	table := make([]uint64, blocks)
	for i := range table {
		table[i] = uint64(first + int64(i)*clusterSize)
	}
	if err := w.put(at, table); err != nil {
		return 0, 0, err
	}
	return at, tableClusters, w.put(first, w.refs)
}

func (w *Writer) put(at int64, v any) error {
	b, err := binary.Append(nil, binary.BigEndian, v)
	if err != nil {
		return err
	}
	_, err = w.file.WriteAt(b, at)
	return err
}

// header describes a disk of size bytes whose L1 table, of l1 entries, is the second host cluster.
func header(size int64, l1 int, refTable, refTableClusters int64) any {
	return struct {
		Magic, Version                            uint32
		BackingOffset                             uint64
		BackingSize, ClusterBits                  uint32
		Size                                      uint64
		Crypt, L1Size                             uint32
		L1Offset, RefTable                        uint64
		RefTableClusters, Snapshots               uint32
		SnapshotsOffset                           uint64
		Incompatible, Compatible, AutoClear       uint64
		RefcountOrder, HeaderLength               uint32
		EndOfExtensions, EndOfExtensionsZeroBytes uint32
	}{
		Magic: 0x514649fb, Version: 3, ClusterBits: clusterBits, Size: uint64(size),
		L1Size: uint32(l1), L1Offset: clusterSize,
		RefTable: uint64(refTable), RefTableClusters: uint32(refTableClusters),
		RefcountOrder: 4, HeaderLength: headerSize,
	}
}

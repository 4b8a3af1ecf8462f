package raw_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	"salsa.debian.org/cloud-team/debcloud/internal/raw"
	"salsa.debian.org/cloud-team/debcloud/internal/raw/sha256pair"
)

// store keeps the blocks that it was sent.
type store struct {
	mu     sync.Mutex
	blocks map[int64]raw.Block
}

func (s *store) put(_ context.Context, b raw.Block) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, twice := s.blocks[b.Index]; twice {
		return errors.New("a block was sent twice")
	}
	b.Data = bytes.Clone(b.Data)
	s.blocks[b.Index] = b
	return nil
}

func TestSendLeavesOutZeros(t *testing.T) {
	const block = 128 << 10
	for _, row := range []struct {
		summary string
		size    int64
		data    []raw.Extent
		want    []int64 // indices
	}{
		{"an empty file", 0, nil, nil},
		{"one hole", 1 << 20, nil, nil},
		{"data at both ends", 1 << 20, []raw.Extent{{0, 4096}, {1<<20 - 4096, 4096}}, []int64{0, 7}},
		{"data across two blocks", 1 << 20, []raw.Extent{{block - 100, 200}}, []int64{0, 1}},
		{"two extents in one block", 1 << 20, []raw.Extent{{0, 100}, {70 << 10, 100}}, []int64{0}},
		{"an image that ends in a block", 2*block + 512, []raw.Extent{{2 * block, 512}}, []int64{2}},
	} {
		t.Run(row.summary, func(t *testing.T) {
			f := image(t, row.size, row.data...)
			// Zeros that the file system keeps as data are not sent either.
			if row.size > 6*block {
				f.WriteAt(make([]byte, block), 4*block)
			}
			want, err := os.ReadFile(f.Name())
			if err != nil {
				t.Fatal(err)
			}
			s := &store{blocks: map[int64]raw.Block{}}
			digest, fingerprint := sha512.New(), raw.NewFingerprint(row.size)
			var done int64
			var mu sync.Mutex
			u := raw.Upload{BlockSize: block, Workers: 3, Pad: true, Digest: true, Check: raw.Digest{Hash: digest}, Done: func(n int64) { mu.Lock(); done += n; mu.Unlock() }}
			sent, err := raw.Send(t.Context(), f, u, s.put)
			if err != nil {
				t.Fatal(err)
			}
			if sum := sha512.Sum512(want); !bytes.Equal(digest.Sum(nil), sum[:]) {
				t.Error("the check saw another image")
			}
			linear := sha256.New()
			got := make([]byte, (row.size+block-1)/block*block)
			for _, i := range row.want {
				b := s.blocks[i]
				if len(b.Data) != block || b.Offset != i*block || b.SHA256 != sha256.Sum256(b.Data) {
					t.Errorf("block %d has %d bytes at %d", i, len(b.Data), b.Offset)
				}
				copy(got[b.Offset:], b.Data)
				linear.Write(b.SHA256[:])
			}
			if !bytes.Equal(got[:row.size], want) || len(s.blocks) != len(row.want) || sent.Blocks != int64(len(row.want)) || sent.All != sent.Blocks {
				t.Errorf("%d blocks were sent, want %v; %+v", len(s.blocks), row.want, sent)
			}
			if !bytes.Equal(sent.Linear[:], linear.Sum(nil)) || done != row.size {
				t.Errorf("linear checksum differs, or %d of %d bytes are done", done, row.size)
			}
			// The same image without its block of zeros has the same fingerprint, and another image another one.
			u.Check = fingerprint
			u.Skip = func(b raw.Block) bool {
				first := s.blocks[b.Index]
				if !bytes.Equal(b.Data, first.Data) {
					t.Errorf("block %d is another one when it is read again", b.Index)
				}
				return b.Index == 0
			}
			again, err := raw.Send(t.Context(), f, u, func(_ context.Context, b raw.Block) error {
				if b.Index == 0 {
					t.Error("a block was sent that was to be skipped")
				}
				return nil
			})
			if err != nil || again.Linear != sent.Linear || again.All != sent.All {
				t.Errorf("with blocks skipped: %+v, before %+v, %v", again, sent, err)
			}
			plain := raw.NewFingerprint(row.size)
			g := image(t, row.size, row.data...)
			extents, size, _ := raw.Map(g)
			if err := raw.Copy(t.Context(), g, extents, size, nothing, plain); err != nil || !bytes.Equal(plain.Sum(), fingerprint.Sum()) {
				t.Errorf("one image has two fingerprints, %v", err)
			}
			longer := raw.NewFingerprint(row.size + 512)
			if err := raw.Copy(t.Context(), g, extents, size, nothing, longer); err != nil || bytes.Equal(longer.Sum(), fingerprint.Sum()) {
				t.Errorf("two images have one fingerprint, %v", err)
			}
		})
	}
}

// fingerprintOf is a Fingerprint as its comment has it.
func fingerprintOf(image []byte) []byte {
	h := sha256.New()
	size := len(image)
	binary.Write(h, binary.BigEndian, int64(size))
	image = append(image, make([]byte, raw.SumBlock)...)
	for at := 0; at < size; at += raw.SumBlock {
		if block := image[at : at+raw.SumBlock]; bytes.Trim(block, "\x00") != nil {
			sum := sha256.Sum256(block)
			binary.Write(h, binary.BigEndian, int64(at/raw.SumBlock))
			h.Write(sum[:])
		}
	}
	return h.Sum(nil)
}

// inPieces gives a sink an image of random bytes, zeros and holes in pieces of any length, in one buffer that is written over after each.
func inPieces(t *testing.T, seed byte, open func(size int64) raw.Sink) (image []byte) {
	t.Helper()
	random := rand.NewChaCha8([32]byte{seed})
	number := func(n int) int { return int(random.Uint64() % uint64(n)) }
	image = make([]byte, number(80*raw.Cluster))
	sink, piece := open(int64(len(image))), make([]byte, 24*raw.Cluster)
	for at := 0; at < len(image); {
		n := min((1+number(24))*raw.Cluster, len(image)-at)
		kind := number(5)
		if kind == 0 {
			if err := sink.Hole(int64(at), int64(n)); err != nil {
				t.Fatal(err)
			}
			at += n
			continue
		}
		for from := at; from < at+n; from += raw.Cluster { // of which some stay zeros, where the kind is 1, or all, where it is 4
			if kind == 2 || kind == 3 || kind == 1 && number(2) == 0 {
				random.Read(image[from:min(from+raw.Cluster, at+n)])
			}
		}
		copy(piece, image[at:at+n])
		if err := sink.Data(int64(at), piece[:n]); err != nil {
			t.Fatal(err)
		}
		random.Read(piece)
		at += n
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	return image
}

// TestFingerprintOfPieces: a sink's fingerprint does not depend on how the image comes.
func TestFingerprintOfPieces(t *testing.T) {
	for seed := range byte(40) {
		var sink *raw.Fingerprint
		image := inPieces(t, seed, func(size int64) raw.Sink { sink = raw.NewFingerprint(size); return sink })
		if !bytes.Equal(sink.Sum(), fingerprintOf(image)) {
			t.Errorf("seed %d: the sink has another fingerprint of %d bytes", seed, len(image))
		}
	}
}

// scribe writes a head of a block's size, then either all that it is given, or what it is given of clusters that are not zero.
type scribe struct {
	w    io.Writer
	all  bool
	head []byte
}

func (s *scribe) Data(offset int64, p []byte) error {
	s.begin()
	if s.all {
		_, err := s.w.Write(p)
		return err
	}
	return raw.Clusters(offset, p, func(_ int64, cluster []byte) (err error) {
		if !raw.Zero(cluster) {
			_, err = s.w.Write(cluster)
		}
		return err
	})
}

func (s *scribe) begin() {
	s.w.Write(s.head)
	s.head = nil
}

func (s *scribe) Hole(int64, int64) error { return nil }
func (s *scribe) Close() error            { s.begin(); return nil }

// TestHashed: whatever the other sink writes of an image, the fingerprint is the image's and the hash that of what was written.
func TestHashed(t *testing.T) {
	if sha256pair.NewStream() == nil {
		t.Skip("the processor has no instructions for SHA-256")
	}
	for seed := range byte(40) {
		print, stream, wrote := new(raw.Fingerprint), sha256pair.NewStream(), new(bytes.Buffer)
		image := inPieces(t, seed, func(size int64) raw.Sink {
			print = raw.NewFingerprint(size)
			return raw.NewHashed(print, stream, func(w io.Writer) raw.Sink {
				head := bytes.Repeat([]byte{7}, []int{raw.SumBlock, 100, 0}[seed%3])
				return &scribe{io.MultiWriter(w, wrote), seed%2 == 0, head}
			})
		})
		if !bytes.Equal(print.Sum(), fingerprintOf(image)) {
			t.Errorf("seed %d: another fingerprint of %d bytes", seed, len(image))
		}
		if stream.Sum() != sha256.Sum256(wrote.Bytes()) {
			t.Errorf("seed %d: another hash of the %d bytes that were written", seed, wrote.Len())
		}
	}
}

// TestFingerprints: a sink's and Send's are what the comment says, whatever the block size.
func TestFingerprints(t *testing.T) {
	const mib = 1 << 20
	for _, row := range []struct {
		summary string
		size    int64
		data    []raw.Extent
	}{
		{"an empty file", 0, nil},
		{"one hole", 3 * mib, nil},
		{"no hole", 3 * mib, []raw.Extent{{0, 3 * mib}}},
		{"the end and the beginning of blocks", 9 * mib, []raw.Extent{{raw.SumBlock - 1, 2}, {4*mib - 1, 1}, {6 * mib, 1}}},
		{"two pieces of one block with a hole between", 9 * mib, []raw.Extent{{mib, 1}, {mib + 300<<10, 1}}},
		{"an image that ends in a block", 5*mib + 512, []raw.Extent{{mib, mib}, {5 * mib, 512}}},
		{"less than a block", 21, []raw.Extent{{0, 21}}},
	} {
		t.Run(row.summary, func(t *testing.T) {
			f := image(t, row.size, row.data...)
			all, err := os.ReadFile(f.Name())
			if err != nil {
				t.Fatal(err)
			}
			want := fingerprintOf(all)
			adds := map[int64][]byte{} // to the fingerprint, by offset
			padded := append(all[:len(all):len(all)], make([]byte, raw.SumBlock)...)
			for at := int64(0); at < row.size; at += raw.SumBlock {
				if block := padded[at : at+raw.SumBlock]; bytes.Trim(block, "\x00") != nil {
					sum := sha256.Sum256(block)
					adds[at] = append(binary.BigEndian.AppendUint64(nil, uint64(at/raw.SumBlock)), sum[:]...)
				}
			}
			sink := raw.NewFingerprint(row.size)
			extents, size, err := raw.Map(f)
			if err != nil {
				t.Fatal(err)
			}
			if err := raw.Copy(t.Context(), f, extents, size, nothing, sink); err != nil || !bytes.Equal(sink.Sum(), want) {
				t.Errorf("the sink has another fingerprint: %v", err)
			}
			for _, u := range []raw.Upload{
				{BlockSize: raw.SumBlock, Workers: 3, Pad: true, Digest: true}, {BlockSize: raw.SumBlock, Workers: 3, Digest: true},
				{BlockSize: 4 * mib, Workers: 1}, {BlockSize: 4 * mib, Workers: 2, Digest: true}, {BlockSize: 2 * mib, Workers: 2, Pad: true, Digest: true},
			} {
				sent, err := raw.Send(t.Context(), f, u, func(_ context.Context, b raw.Block) error {
					var added []byte
					for at := b.Offset; at < b.Offset+u.BlockSize; at += raw.SumBlock {
						added = append(added, adds[at]...)
					}
					if b.Print != sha256.Sum256(added) {
						t.Errorf("%+v: block %d has another print", u, b.Index)
					}
					return nil
				})
				if err != nil || !bytes.Equal(sent.Fingerprint[:], want) {
					t.Errorf("%+v: another fingerprint: %v", u, err)
				}
			}
		})
	}
}

func TestSendEnds(t *testing.T) {
	f := image(t, 8<<20, raw.Extent{Offset: 0, Length: 8 << 20})
	u := raw.Upload{BlockSize: 64 << 10, Workers: 4}
	if _, err := raw.Send(t.Context(), f, u, func(_ context.Context, b raw.Block) error {
		if b.Index == 20 {
			return errFull
		}
		return nil
	}); !errors.Is(err, errFull) {
		t.Errorf("put failed: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stopped")
	if _, err := raw.Send(ctx, f, u, func(ctx context.Context, _ raw.Block) error {
		cancel(stop)
		<-ctx.Done()
		return ctx.Err()
	}); !errors.Is(err, stop) {
		t.Errorf("cancelled: %v", err)
	}
	u.Check = refusing{}
	if _, err := raw.Send(t.Context(), f, u, func(context.Context, raw.Block) error { return nil }); !errors.Is(err, errFull) {
		t.Errorf("the check failed at the end: %v", err)
	}
	u.BlockSize = 1000
	if _, err := raw.Send(t.Context(), f, u, nil); err == nil {
		t.Error("blocks of 1000 bytes were sent")
	}
}

// refusing finds at the end that the image is another one.
type refusing struct{}

func (refusing) Data(int64, []byte) error { return nil }
func (refusing) Hole(_, _ int64) error    { return nil }
func (refusing) Close() error             { return errFull }

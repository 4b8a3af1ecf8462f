package raw

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
)

// Fingerprint is a Sink that identifies an image by its data alone, so that reading the holes of a mostly empty one costs
// nothing: the SHA-256 of its size, and of offset and contents of each Cluster that has a byte other than zero. It does not
// depend on where the file system keeps holes.
type Fingerprint struct{ hash hash.Hash }

// NewFingerprint returns the Fingerprint of an image of size bytes.
func NewFingerprint(size int64) *Fingerprint {
	f := &Fingerprint{sha256.New()}
	f.number(size)
	return f
}

func (f *Fingerprint) number(n int64) {
	f.hash.Write(binary.BigEndian.AppendUint64(nil, uint64(n)))
}

// Data adds the clusters of p that are not zero.
func (f *Fingerprint) Data(offset int64, p []byte) error {
	return Clusters(offset, p, func(offset int64, cluster []byte) error {
		if Zero(cluster) {
			return nil
		}
		f.number(offset)
		f.hash.Write(cluster)
		return nil
	})
}

// Hole adds nothing.
func (f *Fingerprint) Hole(int64, int64) error { return nil }

// Close does nothing.
func (f *Fingerprint) Close() error { return nil }

// Sum returns the 32 bytes of the fingerprint.
func (f *Fingerprint) Sum() []byte { return f.hash.Sum(nil) }

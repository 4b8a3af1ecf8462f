package raw

import (
	"hash"
	"os"
)

// Digest feeds the whole contents, holes as zero bytes, to a hash.
type Digest struct{ Hash hash.Hash }

func (d Digest) Data(_ int64, p []byte) error { d.Hash.Write(p); return nil }

func (d Digest) Hole(_, length int64) error {
	for ; length > 0; length -= Cluster {
		d.Hash.Write(zeros[:min(Cluster, length)])
	}
	return nil
}

func (d Digest) Close() error { return nil }

// File writes a sparse copy: clusters of zeros become holes, whether they were ones before or not.
type File struct {
	File *os.File
	size int64
}

func (f *File) Data(offset int64, p []byte) error {
	f.size = offset + int64(len(p))
	return Clusters(offset, p, func(offset int64, cluster []byte) error {
		if Zero(cluster) {
			return nil
		}
		_, err := f.File.WriteAt(cluster, offset)
		return err
	})
}

func (f *File) Hole(offset, length int64) error {
	f.size = offset + length
	return nil
}

// Close gives the file its size. It leaves it open.
func (f *File) Close() error { return f.File.Truncate(f.size) }

package manifest

import (
	"context"
	"crypto/sha512"
	"os"

	"salsa.debian.org/cloud-team/debcloud/internal/progress"
	"salsa.debian.org/cloud-team/debcloud/internal/raw"
)

// DigestOfFile returns the digest of all of the file's bytes. Holes count as zero bytes, but are not read.
func DigestOfFile(ctx context.Context, path string) (Digest, error) {
	f, err := os.Open(path)
	if err != nil {
		return Digest{}, err
	}
	defer f.Close()
	extents, size, err := raw.Map(f)
	if err != nil {
		return Digest{}, err
	}
	task := progress.Start(ctx, "digest", size, true)
	defer task.Abort()
	h := sha512.New()
	if err := raw.Copy(ctx, f, extents, size, task.Add, raw.Digest{Hash: h}); err != nil {
		return Digest{}, err
	}
	task.Done()
	return Digest(h.Sum(nil)), nil
}

package manifest

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"os"

	"salsa.debian.org/cloud-team/debcloud/internal/progress"
	"salsa.debian.org/cloud-team/debcloud/internal/raw"
)

// DigestOfFile returns the digest of all of the file's bytes. Holes count as zero bytes, but are not read.
func DigestOfFile(ctx context.Context, path string) (Digest, error) {
	h := sha512.New()
	if err := readImage(ctx, path, "digest", func(int64) []raw.Sink { return []raw.Sink{raw.Digest{Hash: h}} }); err != nil {
		return Digest{}, err
	}
	return Digest(h.Sum(nil)), nil
}

// SumsOfFile returns the digest of the raw image at path and its fingerprint, as AnnotationFingerprint has it, of one reading.
func SumsOfFile(ctx context.Context, path string) (Digest, string, error) {
	h := sha512.New()
	var f *raw.Fingerprint
	err := readImage(ctx, path, "digest", func(size int64) []raw.Sink {
		f = raw.NewFingerprint(size)
		return []raw.Sink{raw.Digest{Hash: h}, f}
	})
	if err != nil {
		return Digest{}, "", err
	}
	return Digest(h.Sum(nil)), fingerprintText(f), nil
}

func fingerprintOfFile(ctx context.Context, path string) (string, error) {
	var f *raw.Fingerprint
	err := readImage(ctx, path, "verify", func(size int64) []raw.Sink {
		f = raw.NewFingerprint(size)
		return []raw.Sink{f}
	})
	if err != nil {
		return "", err
	}
	return fingerprintText(f), nil
}

func fingerprintText(f *raw.Fingerprint) string { return "sha256:" + hex.EncodeToString(f.Sum()) }

func readImage(ctx context.Context, path, doing string, sinks func(size int64) []raw.Sink) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	extents, size, err := raw.Map(f)
	if err != nil {
		return err
	}
	task := progress.Start(ctx, doing, size, true)
	defer task.Abort()
	if err := raw.Copy(ctx, f, extents, size, task.Add, sinks(size)...); err != nil {
		return err
	}
	task.Done()
	return nil
}

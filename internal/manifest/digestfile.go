package manifest

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"os"
	"strings"

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
	return Digest(h.Sum(nil)), FormatFingerprint(f.Sum()), nil
}

// FormatFingerprint writes a raw.Fingerprint as AnnotationFingerprint has it. The prefix tells it from those that older documents have,
// which were made of other blocks.
func FormatFingerprint(sum []byte) string { return fingerprintPrefix + hex.EncodeToString(sum) }

const fingerprintPrefix = "sha256-blocks:"

// Fingerprint returns the document's AnnotationFingerprint, "" where it has none of the kind that raw.Fingerprint makes.
func (m *Metadata) Fingerprint() string {
	if f := m.Annotations[AnnotationFingerprint]; strings.HasPrefix(f, fingerprintPrefix) {
		return f
	}
	return ""
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
	return FormatFingerprint(f.Sum()), nil
}

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

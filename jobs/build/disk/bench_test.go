package disk

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"salsa.debian.org/cloud-team/debcloud/internal/manifest"
)

// BenchmarkWrite assembles 3 GiB and 30 GiB images; the goal is 10 s for 3 GiB. The tree is DEBCLOUD_BENCH_TREE, or else
// one with as many bytes and files as trixie genericcloud has.
func BenchmarkWrite(b *testing.B) {
	s := benchSpec(b)
	for _, gib := range []int64{3, 30} {
		b.Run(fmt.Sprintf("%dGiB", gib), func(b *testing.B) {
			s.Size = gib << 30
			image := filepath.Join(b.TempDir(), "disk.raw")
			for b.Loop() {
				if _, err := Write(b.Context(), s, image); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("%dGiB-digest", gib), func(b *testing.B) {
			s.Size = gib << 30
			image := filepath.Join(b.TempDir(), "disk.raw")
			if _, err := Write(b.Context(), s, image); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(s.Size)
			for b.Loop() {
				if _, err := manifest.DigestOfFile(b.Context(), image); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func benchSpec(b *testing.B) Spec {
	if tree := os.Getenv("DEBCLOUD_BENCH_TREE"); tree != "" {
		return Spec{Tree: tree, Arch: "amd64", Seed: "bench", Time: time.Unix(1750000000, 0)}
	}
	s := specOf(b)
	const files, total = 21000, 560 << 20
	content := make([]byte, 16*total/files)
	for i := range content {
		content[i] = byte(i*i>>7 | 1)
	}
	for i := range files {
		// Sizes from small to 5 times the mean, so that the sum is near the total.
		size := total / files / 4 * (1 + i%8*i%8/2)
		put(b, s.Tree, fmt.Sprintf("usr/share/%d/%d", i%1500, i), string(content[:min(size, len(content))]), 0o644)
	}
	return s
}

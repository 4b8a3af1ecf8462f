package sha256pair

import "golang.org/x/sys/cpu"

var pairs = cpu.X86.HasSSSE3 && cpu.X86.HasSSE41 && hasSHA()

// hasSHA asks for the SHA extensions, of which golang.org/x/sys/cpu does not know: CPUID, leaf 7, EBX, bit 29.
func hasSHA() bool {
	last, _ := cpuid(0)
	_, b := cpuid(7)
	return last >= 7 && b&(1<<29) != 0
}

// cpuid returns EAX and EBX of a leaf of CPUID, of its first subleaf.
func cpuid(leaf uint32) (a, b uint32)

// blocks takes states over n more blocks of two texts, n > 0.
//
//go:noescape
func blocks(states *[2]state, a, b *byte, n int)

// twice takes states over n more blocks of one text, n > 0.
//
//go:noescape
func twice(states *[2]state, text *byte, n int)

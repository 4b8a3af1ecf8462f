package main

import (
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// heapSize is what a pipeline of today's size takes, in bytes.
const heapSize = 32 << 20

// prepareHeap readies the process for one short evaluation. Most of its time would go into page faults, which cost up to 20 µs
// each in a virtual machine: so the memory comes in huge pages, where the kernel has them (THP "madvise"), and garbage is not
// worth collecting before that is used up.
func prepareHeap() {
	debug.SetGCPercent(-1)
	region := make([]byte, heapSize) // fresh from the kernel, so Go does not touch it
	_ = unix.Madvise(region[(2<<20):], unix.MADV_HUGEPAGE)
	runtime.KeepAlive(region)
	region = nil
	runtime.GC()
	debug.SetMemoryLimit(heapSize + 8<<20)
}

package main

import (
	"runtime/debug"
	"unsafe"

	"golang.org/x/sys/unix"
)

// heapSize is what a pipeline of today's size takes, in bytes.
const heapSize = 32 << 20

// prepareHeap readies the process for one short evaluation. Most of its time would go into page faults, which cost up to 20 µs
// each in a virtual machine: so the memory comes in huge pages, where the kernel has them (THP "madvise"), and garbage is not
// worth collecting before that is used up.
func prepareHeap() {
	debug.SetGCPercent(-1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var top byte // near the end of the stack, also after that has grown
		adviseStack(&top, nil)
	}()
	<-done
	debug.SetMemoryLimit(2 * heapSize)
}

// spareHeap is for a pipeline of any size: it takes time rather than memory.
func spareHeap() {
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(heapSize + 8<<20)
}

// adviseStack asks for huge pages where its goroutine's stack lies. Its frame, which is never touched and has room for the argument of byValue twice,
// makes that heapSize large, as stacks are powers of two. Go gives it back to the heap when the goroutine ends; an object would
// wait for a collection of garbage, which takes 5 ms.
//
//go:noinline
func adviseStack(top *byte, never *[heapSize * 15 / 32]byte) {
	if never != nil {
		byValue(*never)
	}
	const huge = 2 << 20
	bottom := (uintptr(unsafe.Pointer(top)) - heapSize + huge) &^ (huge - 1)
	_, _, _ = unix.Syscall(unix.SYS_MADVISE, bottom, heapSize, unix.MADV_HUGEPAGE)
	// What this frame has touched lies in the lowest huge page, where small ones are now.
	_, _, _ = unix.Syscall(unix.SYS_MADVISE, bottom, huge, unix.MADV_COLLAPSE)
}

//go:noinline
func byValue([heapSize * 15 / 32]byte) {}

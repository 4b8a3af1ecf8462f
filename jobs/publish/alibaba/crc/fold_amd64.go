package crc

import "golang.org/x/sys/cpu"

var folds = cpu.X86.HasPCLMULQDQ

// fold takes sums, which stand for 64 bytes, over n more blocks of 64 bytes, n > 0. by are the powers of x that a half of a lane is multiplied with.
//
//go:noescape
func fold(sums *[8]uint64, blocks *byte, n int, by *[2]uint64)

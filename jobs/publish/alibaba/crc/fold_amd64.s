#include "textflag.h"

// func fold(sums *[8]uint64, blocks *byte, n int, by *[2]uint64)
//
// A step takes four 16 byte lanes 64 bytes on: each half of a lane times its constant, and the next block added.
TEXT ·fold(SB), NOSPLIT, $0-32
	MOVQ  sums+0(FP), DI
	MOVQ  blocks+8(FP), SI
	MOVQ  n+16(FP), CX
	MOVQ  by+24(FP), DX
	MOVOU (DX), X12
	MOVOU 0(DI), X0
	MOVOU 16(DI), X1
	MOVOU 32(DI), X2
	MOVOU 48(DI), X3

step:
	MOVOU     0(SI), X4
	MOVOU     16(SI), X5
	MOVOU     32(SI), X6
	MOVOU     48(SI), X7
	MOVO      X0, X8
	MOVO      X1, X9
	MOVO      X2, X10
	MOVO      X3, X11
	PCLMULQDQ $0x00, X12, X8
	PCLMULQDQ $0x00, X12, X9
	PCLMULQDQ $0x00, X12, X10
	PCLMULQDQ $0x00, X12, X11
	PCLMULQDQ $0x11, X12, X0
	PCLMULQDQ $0x11, X12, X1
	PCLMULQDQ $0x11, X12, X2
	PCLMULQDQ $0x11, X12, X3
	PXOR      X4, X8
	PXOR      X5, X9
	PXOR      X6, X10
	PXOR      X7, X11
	PXOR      X8, X0
	PXOR      X9, X1
	PXOR      X10, X2
	PXOR      X11, X3
	ADDQ      $64, SI
	DECQ      CX
	JNZ       step
	MOVOU     X0, 0(DI)
	MOVOU     X1, 16(DI)
	MOVOU     X2, 32(DI)
	MOVOU     X3, 48(DI)
	RET

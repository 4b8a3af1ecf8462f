#include "textflag.h"

// FIPS 180-4, 4.2.2, 4 to a step.
DATA constants<>+0x00(SB)/8, $0x71374491428a2f98
DATA constants<>+0x08(SB)/8, $0xe9b5dba5b5c0fbcf
DATA constants<>+0x10(SB)/8, $0x59f111f13956c25b
DATA constants<>+0x18(SB)/8, $0xab1c5ed5923f82a4
DATA constants<>+0x20(SB)/8, $0x12835b01d807aa98
DATA constants<>+0x28(SB)/8, $0x550c7dc3243185be
DATA constants<>+0x30(SB)/8, $0x80deb1fe72be5d74
DATA constants<>+0x38(SB)/8, $0xc19bf1749bdc06a7
DATA constants<>+0x40(SB)/8, $0xefbe4786e49b69c1
DATA constants<>+0x48(SB)/8, $0x240ca1cc0fc19dc6
DATA constants<>+0x50(SB)/8, $0x4a7484aa2de92c6f
DATA constants<>+0x58(SB)/8, $0x76f988da5cb0a9dc
DATA constants<>+0x60(SB)/8, $0xa831c66d983e5152
DATA constants<>+0x68(SB)/8, $0xbf597fc7b00327c8
DATA constants<>+0x70(SB)/8, $0xd5a79147c6e00bf3
DATA constants<>+0x78(SB)/8, $0x1429296706ca6351
DATA constants<>+0x80(SB)/8, $0x2e1b213827b70a85
DATA constants<>+0x88(SB)/8, $0x53380d134d2c6dfc
DATA constants<>+0x90(SB)/8, $0x766a0abb650a7354
DATA constants<>+0x98(SB)/8, $0x92722c8581c2c92e
DATA constants<>+0xa0(SB)/8, $0xa81a664ba2bfe8a1
DATA constants<>+0xa8(SB)/8, $0xc76c51a3c24b8b70
DATA constants<>+0xb0(SB)/8, $0xd6990624d192e819
DATA constants<>+0xb8(SB)/8, $0x106aa070f40e3585
DATA constants<>+0xc0(SB)/8, $0x1e376c0819a4c116
DATA constants<>+0xc8(SB)/8, $0x34b0bcb52748774c
DATA constants<>+0xd0(SB)/8, $0x4ed8aa4a391c0cb3
DATA constants<>+0xd8(SB)/8, $0x682e6ff35b9cca4f
DATA constants<>+0xe0(SB)/8, $0x78a5636f748f82ee
DATA constants<>+0xe8(SB)/8, $0x8cc7020884c87814
DATA constants<>+0xf0(SB)/8, $0xa4506ceb90befffa
DATA constants<>+0xf8(SB)/8, $0xc67178f2bef9a3f7
GLOBL constants<>(SB), RODATA|NOPTR, $256

// swap turns the bytes of 4 words.
DATA swap<>+0(SB)/8, $0x0405060700010203
DATA swap<>+8(SB)/8, $0x0c0d0e0f08090a0b
GLOBL swap<>(SB), RODATA|NOPTR, $16

// A lane is a text: its state in two registers (ABEF, CDGH) and, in four more, 16 words of its message, of which each step makes the next 4.
// X0 is what SHA256RNDS2 takes besides its operands.

// LOAD takes 4 words of a block.
#define LOAD(at, text, m) \
	MOVOU  at(text), m \
	PSHUFB X15, m

// ROUNDS does 4 rounds with the words m, whose constants lie at k.
#define ROUNDS(k, m, abef, cdgh) \
	MOVO        m, X0          \
	PADDD       k(AX), X0      \
	SHA256RNDS2 X0, abef, cdgh \
	PSHUFD      $0x0e, X0, X0  \
	SHA256RNDS2 X0, cdgh, abef

// NEXT makes of the last 16 words, m0 the oldest, the next 4, in m0.
#define NEXT(m0, m1, m2, m3) \
	SHA256MSG1 m1, m0      \
	MOVO       m3, X13     \
	PALIGNR    $4, m2, X13 \
	PADDD      X13, m0     \
	SHA256MSG2 m3, m0

// FIRST and STEP are 4 rounds of both lanes: with the words of the blocks, and with those made of them.
#define FIRST(at, a, b) \
	LOAD(at, SI, a)       \
	LOAD(at, BX, b)       \
	ROUNDS(at, a, X1, X2) \
	ROUNDS(at, b, X7, X8)

#define STEP(k, a0, a1, a2, a3, b0, b1, b2, b3) \
	NEXT(a0, a1, a2, a3)  \
	NEXT(b0, b1, b2, b3)  \
	ROUNDS(k, a0, X1, X2) \
	ROUNDS(k, b0, X7, X8)

// ADD adds to a half of a state what it was before the block, and keeps it.
#define ADD(at, half) \
	MOVOU at(DI), X13 \
	PADDD X13, half   \
	MOVOU half, at(DI)

// func blocks(states *[2]state, a, b *byte, n int)
TEXT ·blocks(SB), NOSPLIT, $0-32
	MOVQ  states+0(FP), DI
	MOVQ  a+8(FP), SI
	MOVQ  b+16(FP), BX
	MOVQ  n+24(FP), CX
	LEAQ  constants<>(SB), AX
	MOVOU swap<>(SB), X15
	MOVOU 0(DI), X1
	MOVOU 16(DI), X2
	MOVOU 32(DI), X7
	MOVOU 48(DI), X8

block:
	FIRST(0, X3, X9)
	FIRST(16, X4, X10)
	FIRST(32, X5, X11)
	FIRST(48, X6, X12)
	STEP(64, X3, X4, X5, X6, X9, X10, X11, X12)
	STEP(80, X4, X5, X6, X3, X10, X11, X12, X9)
	STEP(96, X5, X6, X3, X4, X11, X12, X9, X10)
	STEP(112, X6, X3, X4, X5, X12, X9, X10, X11)
	STEP(128, X3, X4, X5, X6, X9, X10, X11, X12)
	STEP(144, X4, X5, X6, X3, X10, X11, X12, X9)
	STEP(160, X5, X6, X3, X4, X11, X12, X9, X10)
	STEP(176, X6, X3, X4, X5, X12, X9, X10, X11)
	STEP(192, X3, X4, X5, X6, X9, X10, X11, X12)
	STEP(208, X4, X5, X6, X3, X10, X11, X12, X9)
	STEP(224, X5, X6, X3, X4, X11, X12, X9, X10)
	STEP(240, X6, X3, X4, X5, X12, X9, X10, X11)
	ADD(0, X1)
	ADD(16, X2)
	ADD(32, X7)
	ADD(48, X8)
	ADDQ $64, SI
	ADDQ $64, BX
	DECQ CX
	JNZ  block
	RET

// TWICE does 4 rounds with the words m in both states.
#define TWICE(k, m) \
	MOVO        m, X0         \
	PADDD       k(AX), X0     \
	SHA256RNDS2 X0, X1, X2    \
	SHA256RNDS2 X0, X7, X8    \
	PSHUFD      $0x0e, X0, X0 \
	SHA256RNDS2 X0, X2, X1    \
	SHA256RNDS2 X0, X8, X7

#define TWICEFIRST(at, m) \
	LOAD(at, SI, m) \
	TWICE(at, m)

#define TWICESTEP(k, m0, m1, m2, m3) \
	NEXT(m0, m1, m2, m3) \
	TWICE(k, m0)

// func twice(states *[2]state, text *byte, n int)
TEXT ·twice(SB), NOSPLIT, $0-24
	MOVQ  states+0(FP), DI
	MOVQ  text+8(FP), SI
	MOVQ  n+16(FP), CX
	LEAQ  constants<>(SB), AX
	MOVOU swap<>(SB), X15
	MOVOU 0(DI), X1
	MOVOU 16(DI), X2
	MOVOU 32(DI), X7
	MOVOU 48(DI), X8

block:
	TWICEFIRST(0, X3)
	TWICEFIRST(16, X4)
	TWICEFIRST(32, X5)
	TWICEFIRST(48, X6)
	TWICESTEP(64, X3, X4, X5, X6)
	TWICESTEP(80, X4, X5, X6, X3)
	TWICESTEP(96, X5, X6, X3, X4)
	TWICESTEP(112, X6, X3, X4, X5)
	TWICESTEP(128, X3, X4, X5, X6)
	TWICESTEP(144, X4, X5, X6, X3)
	TWICESTEP(160, X5, X6, X3, X4)
	TWICESTEP(176, X6, X3, X4, X5)
	TWICESTEP(192, X3, X4, X5, X6)
	TWICESTEP(208, X4, X5, X6, X3)
	TWICESTEP(224, X5, X6, X3, X4)
	TWICESTEP(240, X6, X3, X4, X5)
	ADD(0, X1)
	ADD(16, X2)
	ADD(32, X7)
	ADD(48, X8)
	ADDQ $64, SI
	DECQ CX
	JNZ  block
	RET

// func cpuid(leaf uint32) (a, b uint32)
TEXT ·cpuid(SB), NOSPLIT, $0-16
	MOVL leaf+0(FP), AX
	XORL CX, CX
	CPUID
	MOVL AX, a+8(FP)
	MOVL BX, b+12(FP)
	RET

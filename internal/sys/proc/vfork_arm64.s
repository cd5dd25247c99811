#include "textflag.h"

// func vfork(args unsafe.Pointer, size uintptr) (pid, errno uintptr)
//
// clone3(args, size) for a child that shares this memory and stack. A leaf: its return address is in a register.
TEXT ·vfork(SB),NOSPLIT,$0-32
	MOVD	args+0(FP), R0
	MOVD	size+8(FP), R1
	MOVD	$435, R8 // SYS_clone3
	SVC
	CMN	$4095, R0
	BCC	ok
	MOVD	$-1, R4
	MOVD	R4, pid+16(FP)
	NEG	R0, R0
	MOVD	R0, errno+24(FP)
	RET
ok:
	MOVD	R0, pid+16(FP)
	MOVD	ZR, errno+24(FP)
	RET

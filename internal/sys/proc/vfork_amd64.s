#include "textflag.h"

// func vfork(args unsafe.Pointer, size uintptr) (pid, errno uintptr)
//
// clone3(args, size) for a child that shares this memory and stack. The child returns first and its calls overwrite the return
// address on the stack, so the parent's copy is kept in a register meanwhile.
TEXT ·vfork(SB),NOSPLIT|NOFRAME,$0-32
	MOVQ	args+0(FP), DI
	MOVQ	size+8(FP), SI
	MOVQ	$435, AX // SYS_clone3
	POPQ	R12
	SYSCALL
	PUSHQ	R12
	CMPQ	AX, $0xfffffffffffff001
	JLS	ok
	MOVQ	$-1, pid+16(FP)
	NEGQ	AX
	MOVQ	AX, errno+24(FP)
	RET
ok:
	MOVQ	AX, pid+16(FP)
	MOVQ	$0, errno+24(FP)
	RET

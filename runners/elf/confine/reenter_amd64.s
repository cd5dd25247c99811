#include "textflag.h"

// reentry is a whole program, copied out of this one into a file of its own (reenter.go): it starts with argc, argv and envp on its
// stack, makes of itself what reenterTable says, and executes the program named there with the same arguments and environment.
// It has no data but the table at reenterTable, and no address of its own in it.
TEXT ·reentry(SB),NOSPLIT|NOFRAME,$0-0
	MOVQ	SP, BX
	MOVQ	$0x10020000, DI // CLONE_NEWUSER | CLONE_NEWNS
	MOVQ	$272, AX // unshare
	SYSCALL
	TESTQ	AX, AX
	JNE	fail
	MOVQ	$0x401000, R12
	MOVQ	$3, R13
next:
	MOVQ	0(R12), DI
	MOVQ	$1, SI // O_WRONLY
	MOVQ	$0, DX
	MOVQ	$2, AX // open
	SYSCALL
	TESTQ	AX, AX
	JLT	fail
	MOVQ	AX, DI
	MOVQ	8(R12), SI
	MOVQ	16(R12), DX
	MOVQ	$1, AX // write
	SYSCALL
	TESTQ	AX, AX
	JLT	fail
	MOVQ	$3, AX // close
	SYSCALL
	ADDQ	$24, R12
	DECQ	R13
	JNE	next
	MOVQ	0(R12), DI
	MOVQ	8(R12), SI
	MOVQ	$126, AX // capset
	SYSCALL
	TESTQ	AX, AX
	JLT	fail
	MOVQ	$63, R13
raise: // what the kernel doesn't know it refuses
	MOVQ	$47, DI // PR_CAP_AMBIENT
	MOVQ	$2, SI // PR_CAP_AMBIENT_RAISE
	MOVQ	R13, DX
	MOVQ	$0, R10
	MOVQ	$0, R8
	MOVQ	$157, AX // prctl
	SYSCALL
	DECQ	R13
	JGE	raise
	MOVQ	16(R12), DI
	LEAQ	8(BX), SI
	MOVQ	0(BX), DX
	LEAQ	16(BX)(DX*8), DX
	MOVQ	$59, AX // execve
	SYSCALL
fail:
	MOVQ	$111, DI
	MOVQ	$231, AX // exit_group
	SYSCALL
	LONG	$0x646e6521 // reenterEnd

// func reentryPC() unsafe.Pointer
TEXT ·reentryPC(SB),NOSPLIT,$0-8
	LEAQ	·reentry(SB), AX
	MOVQ	AX, ret+0(FP)
	RET

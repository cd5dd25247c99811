#include "textflag.h"

// reentry is as in reenter_amd64.s. Large numbers are put together, or they would be constants behind the code.
TEXT ·reentry(SB),NOSPLIT|NOFRAME,$0-0
	MOVD	RSP, R19
	MOVD	$0x1002, R0 // CLONE_NEWUSER | CLONE_NEWNS
	LSL	$16, R0, R0
	MOVD	$97, R8 // unshare
	SVC
	CBNZ	R0, fail
	MOVD	$0x401, R20
	LSL	$12, R20, R20
	MOVD	$3, R21
next:
	MOVD	$-100, R0 // AT_FDCWD
	MOVD	0(R20), R1
	MOVD	$1, R2 // O_WRONLY
	MOVD	$0, R3
	MOVD	$56, R8 // openat
	SVC
	CMP	$0, R0
	BLT	fail
	MOVD	R0, R22
	MOVD	8(R20), R1
	MOVD	16(R20), R2
	MOVD	$64, R8 // write
	SVC
	CMP	$0, R0
	BLT	fail
	MOVD	R22, R0
	MOVD	$57, R8 // close
	SVC
	ADD	$24, R20
	SUB	$1, R21
	CBNZ	R21, next
	MOVD	0(R20), R0
	MOVD	8(R20), R1
	MOVD	$91, R8 // capset
	SVC
	CMP	$0, R0
	BLT	fail
	MOVD	$63, R21
raise:
	MOVD	$47, R0 // PR_CAP_AMBIENT
	MOVD	$2, R1 // PR_CAP_AMBIENT_RAISE
	MOVD	R21, R2
	MOVD	$0, R3
	MOVD	$0, R4
	MOVD	$167, R8 // prctl
	SVC
	SUB	$1, R21
	CMP	$0, R21
	BGE	raise
	MOVD	16(R20), R0
	ADD	$8, R19, R1
	MOVD	0(R19), R2
	LSL	$3, R2, R2
	ADD	R19, R2, R2
	ADD	$16, R2, R2
	MOVD	$221, R8 // execve
	SVC
fail:
	MOVD	$111, R0
	MOVD	$94, R8 // exit_group
	SVC
	WORD	$0x646e6521 // reenterEnd

// func reentryPC() unsafe.Pointer
TEXT ·reentryPC(SB),NOSPLIT,$0-8
	MOVD	$·reentry(SB), R0
	MOVD	R0, ret+0(FP)
	RET

// stamp [ARG]: writes when it began, 8 bytes of CLOCK_MONOTONIC's nanoseconds, to the FIFO "started" beside it and, without ARG,
// waits for a signal. A static program without libc, so that its own start costs next to nothing, and one that reports from
// within any sandbox which shows it its own directory, at /pkg or as the working directory.
//
//	gcc -O2 -static -nostdlib -fno-stack-protector -fno-pie -no-pie -Wl,--build-id=none -Wl,-z,noseparate-code -o stamp stamp.c
#include <fcntl.h>
#include <sys/syscall.h>
#include <time.h>

static long call(long n, long a, long b, long c) {
	long r;
	__asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return r;
}

__attribute__((used)) static void begin(long *stack) {
	struct timespec t;
	call(SYS_clock_gettime, CLOCK_MONOTONIC, (long)&t, 0);
	long ns = t.tv_sec * 1000000000 + t.tv_nsec;
	long fd = call(SYS_open, (long)"/pkg/started", O_WRONLY, 0);
	if (fd < 0)
		fd = call(SYS_open, (long)"started", O_WRONLY, 0);
	if (call(SYS_write, fd, (long)&ns, sizeof ns) != sizeof ns)
		call(SYS_exit_group, 1, 0, 0);
	if (stack[0] > 1)
		call(SYS_exit_group, 0, 0, 0);
	for (;;)
		call(SYS_pause, 0, 0, 0);
}

__asm__(".globl _start\n_start: mov %rsp,%rdi\n and $-16,%rsp\n call begin\n");

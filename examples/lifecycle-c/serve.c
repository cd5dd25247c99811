/* A component in C: it says that it is ready, waits for Stop, and leaves. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

int main(void)
{
	static const unsigned char ready[] = { 0x0a, 0x00 };
	static const unsigned char status[] = { 0x12, 4, 'i', 'd', 'l', 'e' };
	unsigned char packet[4096];
	const char *number = getenv("CMGR_LIFECYCLE_FD");
	ssize_t n;
	int fd;

	if (!number) {
		fprintf(stderr, "serve: no lifecycle channel\n");
		return 1;
	}
	fd = atoi(number);
	fcntl(fd, F_SETFD, FD_CLOEXEC); /* not for children: they would keep it open */

	send(fd, ready, sizeof ready, MSG_NOSIGNAL);
	send(fd, status, sizeof status, MSG_NOSIGNAL);
	puts("1 serving");
	fflush(stdout);

	/* Each recv is one message. 0a begins a Stop; what else there may be is ignored; 0 says that the manager has gone. */
	while ((n = recv(fd, packet, sizeof packet, 0)) > 0)
		if (packet[0] == 0x0a)
			break;

	puts("2 leaving");
	return 0;
}

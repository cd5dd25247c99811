/* A port program: serves the files below argv[1]. One process a request (raw): standard input is "f" and the name of a file. */
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
	char request[4097], path[8192], buf[65536];
	size_t n = fread(request, 1, sizeof request - 1, stdin);
	FILE *f;

	if (argc < 2 || n < 1 || request[0] != 'f')
		return 1;
	request[n] = 0;
	if (strstr(request, "..") || snprintf(path, sizeof path, "%s/%s", argv[1], request + 1) >= (int)sizeof path
	    || !(f = fopen(path, "rb"))) {
		printf("zno %s", request + 1);
		return 0;
	}
	putchar('y');
	while ((n = fread(buf, 1, sizeof buf, f)) > 0)
		if (fwrite(buf, 1, n, stdout) != n)
			return 1;
	/* The exit status says whether the answer is whole. */
	return ferror(f) || fclose(f) || fflush(stdout);
}

/* What one system call costs: `calls CALL COUNT` prints nanoseconds of CPU time a call. `open` is an open and a close,
 * `fork` also waits for the child, whose own time does not count. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int zero;

static int call_getppid(void)
{
	return syscall(SYS_getppid) >= 0;
}

static int call_read(void)
{
	char byte;

	return read(zero, &byte, 1) == 1;
}

static int call_open(void)
{
	int fd = open("calls.file", O_RDONLY);

	return fd >= 0 && close(fd) == 0;
}

static int call_fork(void)
{
	pid_t child = fork();

	if (child == 0)
		_exit(0);
	return child > 0 && waitpid(child, NULL, 0) == child;
}

static double now(void)
{
	struct timespec time;

	/* Not the wall's: what else runs on the machine does not count. */
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
	return time.tv_sec * 1e9 + time.tv_nsec;
}

static const struct {
	const char *name;
	int (*call)(void);
} calls[] = { { "getppid", call_getppid }, { "read", call_read }, { "open", call_open }, { "fork", call_fork } };

int main(int argc, char **argv)
{
	long count = argc == 3 ? atol(argv[2]) : 0, i;
	double began;
	size_t n;

	zero = open("/dev/zero", O_RDONLY);
	close(open("calls.file", O_CREAT | O_WRONLY, 0600));
	for (n = 0; n < sizeof(calls) / sizeof(*calls); n++) {
		if (count <= 0 || strcmp(argv[1], calls[n].name) != 0)
			continue;
		began = now();
		for (i = 0; i < count; i++) {
			if (!calls[n].call()) {
				perror(calls[n].name);
				return 1;
			}
		}
		printf("%.2f\n", (now() - began) / count);
		return 0;
	}
	fprintf(stderr, "usage: calls getppid|read|open|fork COUNT\n");
	return 2;
}

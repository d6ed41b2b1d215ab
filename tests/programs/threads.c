/*
 * Processes all of whose threads end at the same moment, each by itself, and none by exit_group: which was the last, and
 * so the end of the process, is for the kernel to say.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 8

static atomic_int waiting;

static void *end(void *unused)
{
	atomic_fetch_add(&waiting, 1);
	while (atomic_load(&waiting) <= THREADS)
		;
	syscall(SYS_exit, 7);
	return unused;
}

int main(int argc, char **argv)
{
	int processes = argc > 1 ? atoi(argv[1]) : 1;

	while (processes-- > 0) {
		if (fork() == 0) {
			pthread_t thread;

			for (int i = 0; i < THREADS; i++)
				pthread_create(&thread, NULL, end, NULL);
			end(NULL);
		}
		wait(NULL);
	}
	return 0;
}
